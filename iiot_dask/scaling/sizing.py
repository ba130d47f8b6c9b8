"""`Sizing`: the numbers every policy shares."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from iiot_dask.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Sizing:
    """The numbers every policy shares.

    Parameters
    ----------
    capacity
        Messages/s one worker takes at full use.
    boot_s
        Time from asking for a worker until it works, seconds.
    utilisation
        Share of its capacity a worker shall be used at, 0..1.
    minimum, maximum
        Fewest and most workers.
    hold_s
        Fewer workers are wanted only after none of the wants of so many seconds needed more.
    smooth_s
        Memory of the load the reactive part looks at, seconds.
    dead_band
        Fewer workers are wanted only when at least this share of them is too much; one more only when the need is this
        share of a worker above the number there is.
    catch_up_s
        A backlog shall be gone after so many seconds.
    """

    capacity: float
    boot_s: float
    utilisation: float
    minimum: int
    maximum: int
    hold_s: float
    smooth_s: float
    dead_band: float
    catch_up_s: float

    def __post_init__(self) -> None:
        wrong = [
            f"{name} {getattr(self, name)!r} (allowed: {allowed})"
            for name, fine, allowed in (
                ("capacity", self.capacity > 0, "above 0"),
                ("boot_s", self.boot_s >= 0, "from 0"),
                ("utilisation", 0 < self.utilisation <= 1, "above 0, up to 1"),
                ("minimum", 0 <= self.minimum <= self.maximum, "from 0 to maximum"),
                ("hold_s", self.hold_s >= 0, "from 0"),
                ("smooth_s", self.smooth_s >= 0, "from 0"),
                ("dead_band", 0 <= self.dead_band < 1, "from 0, below 1"),
                ("catch_up_s", self.catch_up_s > 0, "above 0"),
            )
            if not fine
        ]
        if wrong:
            msg = "policy with " + ", ".join(wrong)
            raise ConfigError(msg)

    def workers(self, rate: float) -> float:
        """Workers for a load, messages/s, at the wanted utilisation; not rounded."""
        return rate / (self.capacity * self.utilisation)

    def clip(self, workers: float) -> int:
        """Whole workers between minimum and maximum."""
        return int(min(max(ceil(workers - 1e-9), self.minimum), self.maximum))
