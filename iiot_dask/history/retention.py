"""What is kept, how long, how finely. Pure: a policy and a moment in, steps out.

Samples older than `raw` are rolled up into windows of the first tier; windows older than a tier's `keep` into those of the
next; what the last tier no longer keeps goes. While samples are kept nothing is rolled up: statistics of chunks answer, and late
rows are merged on read. A late row that comes after its time was rolled up is added to the windows at the next round; one that
repeats a (tag, time) already rolled up counts again, because what it repeats is no longer there to compare with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from iiot_dask.core.config import HistoryKeeping
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import SpanLike, span_ns, span_text
from iiot_dask.history.layout import DAY_NS


@dataclass(frozen=True, slots=True)
class Tier:
    """Windows of `every` ns, kept `keep` ns (None: for ever)."""

    every: int
    keep: int | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """From ``"1m"`` (for ever) or ``"1m=730d"``.

        Raises
        ------
        ConfigError
            If it is neither.

        Examples
        --------
        >>> Tier.of("1m=2d"), Tier.of("1h").keep
        (Tier(every=60000000000, keep=172800000000000), None)
        """
        every, _, keep = text.partition("=")
        return cls(span_ns(every), span_ns(keep) if keep else None)


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of `source` window length (0: samples) older than `before` ns become windows of `target` (0: nothing)."""

    source: int
    target: int
    before: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long samples are kept (`raw` ns; None: for ever), and the tiers they become after, finest first.

    Raises
    ------
    ConfigError
        If a window length does not divide a day or is no multiple of the one before, or a span does not grow.
    """

    raw: int | None = None
    tiers: tuple[Tier, ...] = ()

    def __post_init__(self) -> None:
        if self.raw is None and self.tiers:
            msg = "tiers are given, but not how long samples are kept (raw): nothing would ever be rolled up"
            raise ConfigError(msg)
        if self.raw is not None and self.raw <= 0:
            msg = f"raw retention {self.raw!r} ns: more than 0 is wanted"
            raise ConfigError(msg)
        every, keep = 1, self.raw
        for tier in self.tiers:
            name = f"tier of {span_text(tier.every) if tier.every >= 0 else tier.every}"
            if tier.every <= every or tier.every % every or DAY_NS % tier.every:
                msg = f"{name}: a window divides a day and is a multiple of the tier before ({span_text(every)})"
                raise ConfigError(msg)
            if keep is None or (tier.keep is not None and tier.keep <= keep):
                msg = f"{name}: it is kept longer than what it stands for ({'for ever' if keep is None else span_text(keep)})"
                raise ConfigError(msg)
            every, keep = tier.every, tier.keep

    @classmethod
    def of(cls, raw: SpanLike | None, tiers: Iterable[str] = ()) -> Self:
        """From texts: ``Retention.of("90d", ["1m=730d", "1h"])``.

        Examples
        --------
        >>> Retention.of("90d", ["1m=730d", "1h"]).text()
        'samples 90d, 1m windows 730d, 1h windows for ever'
        """
        return cls(None if raw is None else span_ns(raw), tuple(Tier.of(text) for text in tiers))

    @classmethod
    def configured(cls, keeping: HistoryKeeping) -> Self:
        """From the section `[history]` of a plant file."""
        return cls(keeping.keep, tuple(Tier.of(text) for text in keeping.tiers))

    def text(self) -> str:
        """The policy in words."""
        parts = ["samples for ever" if self.raw is None else f"samples {span_text(self.raw)}"]
        parts += [
            f"{span_text(t.every)} windows {'for ever' if t.keep is None else span_text(t.keep)}" for t in self.tiers
        ]
        return ", ".join(parts)

    def steps(self, now_ns: int) -> Iterator[Step]:
        """What to do at a moment, finest first. Limits lie on whole windows of the target, of a day where spans allow.

        Examples
        --------
        >>> policy = Retention.of("2d", ["1h=10d", "1d"])
        >>> [(s.source // 10**9, s.target // 10**9, s.before // DAY_NS) for s in policy.steps(20 * DAY_NS + 5)]
        [(0, 3600, 18), (3600, 86400, 10)]
        """
        source, keep = 0, self.raw
        for tier in (*self.tiers, None):
            if keep is None:
                return
            target = 0 if tier is None else tier.every
            grid = DAY_NS if keep >= 2 * DAY_NS else max(target, 1)
            yield Step(source, target, (now_ns - keep) // grid * grid)
            if tier is None:
                return
            source, keep = tier.every, tier.keep
