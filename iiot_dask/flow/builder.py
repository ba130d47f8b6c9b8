"""A pipeline: which tags, and what is done with them. It is only a description; engines run it live or over history.

Every method gives a new pipeline, so parts can be shared. The same description gives the same rows live and over history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.tags import matches
from iiot_dask.core.times import SpanLike, TimeLike, span_ns, span_text
from iiot_dask.flow.change import Counter, Delta, Resample
from iiot_dask.flow.group import Beside, Group, TopK
from iiot_dask.flow.marks import one_source
from iiot_dask.flow.operator import Operator
from iiot_dask.flow.pattern import Absence, Move, Peaks
from iiot_dask.flow.pattern import Sequence as Sequential
from iiot_dask.flow.rowwise import Derive, Filter, Map
from iiot_dask.flow.states import Durations, Lasting, Threshold
from iiot_dask.flow.vibration import Vibration
from iiot_dask.flow.window import Session, Window

if TYPE_CHECKING:
    from iiot_dask.flow.runner import Runner
    from iiot_dask.history import History

Lateness = SpanLike | Mapping[str, SpanLike]


@dataclass(frozen=True)
class Pipeline:
    """Tags and operators, in order. Make one with `pipeline`.

    Examples
    --------
    >>> p = pipeline("site1/*").filter(pl.col("quality") < 64).window("10s", ["mean", "p99"]).top_k(3, by="mean")
    >>> print(p.describe())
    tags site1/*
      filter [(col("quality")) < (dyn int: 64)]
      window 10s: mean, p99
      top 3 by mean
    """

    tags: tuple[str, ...]
    operators: tuple[Operator, ...] = ()
    lateness: Mapping[str, int] = field(default_factory=lambda: {"*": 2_000_000_000})
    idle_ns: int = 10_000_000_000
    source: Callable[[Sequence[str]], Sequence[str]] = one_source

    def then(self, operator: Operator) -> Pipeline:
        """The pipeline with one more operator, of your own for instance."""
        return replace(self, operators=(*self.operators, operator))

    def event_time(
        self,
        *,
        lateness: Lateness | None = None,
        idle: SpanLike | None = None,
        source: Callable[[Sequence[str]], Sequence[str]] | None = None,
    ) -> Pipeline:
        """Say how time works.

        Parameters
        ----------
        lateness
            How late rows may be: one span, or spans by tag glob (the first that matches counts).
        idle
            A source without rows for so long does not hold the others back.
        source
            Which source each tag comes from: names in, as many sources out.
        """
        by = self.lateness
        if lateness is not None:
            given = lateness if isinstance(lateness, Mapping) else {"*": lateness}
            by = {glob: span_ns(span) for glob, span in given.items()}
        return replace(
            self, lateness=by, idle_ns=self.idle_ns if idle is None else span_ns(idle), source=source or self.source
        )

    def lateness_of(self, tag: str) -> int:
        """Allowed lateness of a tag, ns; 0 where no glob matches."""
        for glob, span in self.lateness.items():
            if len(matches([tag], glob)):
                return span
        return 0

    def filter(self, *conditions: pl.Expr) -> Pipeline:
        """Keep rows where every condition over tag, time, value, quality and made columns holds."""
        if not conditions:
            msg = "filter: no condition is given"
            raise ConfigError(msg)
        return self.then(Filter(pl.all_horizontal(*conditions) if len(conditions) > 1 else conditions[0]))

    def map(self, function: Callable[[Any], Any] | None = None, *, on: str = "value", **columns: pl.Expr) -> Pipeline:
        """Set columns from row-wise expressions, or `on` from a function of its float64 array (NumPy, numba)."""
        if (function is None) == (not columns):
            msg = "map: give either a function or column=expression, not both and not neither"
            raise ConfigError(msg)
        return self.then(Map(columns, function, on))

    def window(
        self, size: SpanLike, aggregates: Sequence[str] = ("mean",), *, every: SpanLike | None = None, on: str = "value"
    ) -> Pipeline:
        """Aggregates over tumbling windows, or sliding ones of `size` each `every`."""
        length = span_ns(size)
        return self.then(Window(length, length if every is None else span_ns(every), tuple(aggregates), on))

    def session(self, gap: SpanLike, aggregates: Sequence[str] = ("count", "mean"), *, on: str = "value") -> Pipeline:
        """Aggregates over runs of samples no more than `gap` apart."""
        return self.then(Session(span_ns(gap), tuple(aggregates), on))

    def resample(
        self,
        every: SpanLike,
        rule: Literal["step", "linear"] = "step",
        *,
        gap: SpanLike | None = None,
        on: str = "value",
    ) -> Pipeline:
        """Values at multiples of `every`, held or on the line; nothing across gaps longer than `gap` (100 `every`)."""
        step = span_ns(every)
        return self.then(Resample(step, rule, 100 * step if gap is None else span_ns(gap), on))

    def delta(self, *, on: str = "value", into: str = "value") -> Pipeline:
        """The change since the last sample."""
        return self.then(Delta(0, on, into))

    def rate(self, per: SpanLike = "1s", *, on: str = "value", into: str = "value") -> Pipeline:
        """The change since the last sample, per time."""
        span = span_ns(per)
        if span == 0:
            msg = "rate: per must be above 0"
            raise ConfigError(msg)
        return self.then(Delta(span, on, into))

    def counter(self, modulus: float = 0.0, *, on: str = "value", into: str = "value") -> Pipeline:
        """What a counter has counted, over roll-overs of `modulus` and restarts."""
        return self.then(Counter(modulus, on, into))

    def threshold(self, high: float, low: float | None = None, *, on: str = "value", into: str = "active") -> Pipeline:
        """Column `into`: on from `high`, off below `low`."""
        return self.then(Threshold(high, high if low is None else low, on, into))

    def lasting(
        self, span: SpanLike, *, above: float = float("-inf"), below: float = float("inf"), on: str = "value"
    ) -> Pipeline:
        """A row when the value has stayed within (above, below) for `span`."""
        return self.then(Lasting(above, below, span_ns(span), on))

    def durations(self, *, on: str = "value") -> Pipeline:
        """A row a state that ended: how long it lasted."""
        return self.then(Durations(on))

    def beside(self, *, tolerance: SpanLike = 0, keep: bool = False, **tags: str) -> Pipeline:
        """The latest value of other tags beside each row: ``beside(pressure="site1/press/1/pressure")``."""
        return self.then(Beside(tags, span_ns(tolerance), keep))

    def group(
        self, level: int, aggregates: Sequence[str] = ("mean",), *, on: str = "value", prefix: str = ""
    ) -> Pipeline:
        """One row a topology level and time; after a window or a resample."""
        return self.then(Group(level, tuple(aggregates), on, prefix))

    def top_k(self, k: int, *, by: str = "value") -> Pipeline:
        """The `k` largest tags of each time."""
        return self.then(TopK(k, by))

    def derive(self, template: str, *, value: str = "value") -> Pipeline:
        """Rows of new tags (``"{tag}/mean"``) with `value` as their value, to be written back."""
        return self.then(Derive(template, value))

    def peaks(
        self, prominence: float, which: Literal["peak", "valley", "both"] = "peak", *, on: str = "value"
    ) -> Pipeline:
        """Turning points that stand out by `prominence`."""
        return self.then(Peaks(prominence, which, on))

    def rise(self, by: float, within: SpanLike, *, on: str = "value") -> Pipeline:
        """A row when the value has risen by that much within a span."""
        return self.then(Move(abs(by), span_ns(within), on))

    def fall(self, by: float, within: SpanLike, *, on: str = "value") -> Pipeline:
        """A row when the value has fallen by that much within a span."""
        return self.then(Move(-abs(by), span_ns(within), on))

    def sequence(self, *events: pl.Expr, within: SpanLike) -> Pipeline:
        """A row when a tag's samples matched the events in order within a span."""
        return self.then(Sequential(tuple(events), span_ns(within)))

    def absence(self, after: pl.Expr, wanted: pl.Expr, within: SpanLike) -> Pipeline:
        """A row when no `wanted` sample followed an `after` sample within a span."""
        return self.then(Absence(after, wanted, span_ns(within)))

    def vibration(
        self, samples: int, rate_hz: float, bands: Sequence[tuple[float, float]] = (), *, on: str = "value"
    ) -> Pipeline:
        """Blocks of high-rate samples as RMS, kurtosis, crest factor and band energies."""
        return self.then(Vibration(samples, rate_hz, tuple(bands), on))

    @property
    def keyed(self) -> int:
        """How many operators at the front work tag by tag, and so on any share of the tags."""
        for i, operator in enumerate(self.operators):
            if not operator.keyed:
                return i
        return len(self.operators)

    @property
    def span_ns(self) -> int:
        """How far results lie from the rows that change them, ns: what a correction computes anew."""
        return sum(operator.span_ns for operator in self.operators)

    def runner(self) -> Runner:
        """A run of it that you feed yourself: see `Runner`."""
        from iiot_dask.flow.runner import Runner

        return Runner(self)

    def over(
        self, history: History, start: TimeLike | None = None, end: TimeLike | None = None, *, client: Any = None
    ) -> pl.DataFrame:
        """Run it over history on this machine, or with `client` on its Dask cluster; tag, time, … sorted.

        Raises
        ------
        ConfigError
            If a time is wrong.
        """
        from iiot_dask.flow.batch import run_over

        return run_over(self, history, start, end, client=client)

    def describe(self) -> str:
        """The pipeline as lines of text."""
        return "\n".join([f"tags {', '.join(self.tags)}", *(f"  {operator.label}" for operator in self.operators)])

    def _repr_html_(self) -> str:
        """The chain of operators, as boxes."""
        box = "display:inline-block;border:1px solid #888;border-radius:4px;padding:2px 8px;margin:2px"
        late = ", ".join(f"{glob}: {span_text(span)}" for glob, span in self.lateness.items())
        chain = " → ".join(
            f'<span style="{box}">{escape(text)}</span>'
            for text in (f"tags {', '.join(self.tags)}", *(o.label for o in self.operators))
        )
        return f"<div><b>Pipeline</b> (allowed lateness {escape(late)})<br>{chain}</div>"


def pipeline(tags: str | Sequence[str] = "*") -> Pipeline:
    """A pipeline over the tags that one or several globs select.

    Examples
    --------
    >>> pipeline("a/*").rate("1m").keyed
    1
    """
    return Pipeline((tags,) if isinstance(tags, str) else tuple(tags))
