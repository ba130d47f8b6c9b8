"""`Capacity`: what a worker can really do, learnt from what it did, and how much of it is lost as workers are added.

Each observation with enough work gives a worker's true rate: served over busy time (as DS2, OSDI 2018, reckons). Its inverse,
seconds a message, is fitted as a + b * (workers - 1) by recursive least squares with forgetting: 1 / a is what a worker
alone takes, b / a the share that contention takes from it with every further worker (the linear term of Gunther's universal
scalability law). Without observations the configured number stands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan

from iiot_dask.core.errors import ConfigError
from iiot_dask.scaling.load import Observed

BUSY_MIN = 0.25
"""Below this the overhead of doing nothing hides what a message costs."""
OBSERVATIONS_MIN = 30
FORGET = 0.999
"""Weight of the past at each observation: about a thousand are remembered."""
RANGE = 8.0
"""A learnt capacity is believed between configured / 8 and configured * 8."""
EASE = 1e-3
"""Ridge on the slope: while one size only has been seen, the slope stays at 0."""


@dataclass(slots=True)
class Capacity:
    """Messages/s a worker takes, configured at first, learnt with time. O(1) state.

    Parameters
    ----------
    configured
        Messages/s one worker takes at full use, until learnt.
    learning
        False: what is configured stands.

    Raises
    ------
    ConfigError
        If `configured` is not above 0.

    Examples
    --------
    >>> c = Capacity(1000.0)
    >>> for n in (2, 4, 8) * 20: c.learn(Observed(rate=1.0, ready=n, served=n * 400.0 / (1 + 0.02 * (n - 1)), busy=0.8))
    >>> round(c.alone), round(c.contention, 3)
    (500, 0.02)
    >>> round(c.workers(2000.0, utilisation=0.8), 2)  # 5 if they did not get in each other's way
    5.44
    """

    configured: float
    learning: bool = True
    count: int = 0
    _s: list[float] = field(default_factory=lambda: [0.0] * 5)
    """Forgetting sums of 1, x, xx, y, xy."""

    def __post_init__(self) -> None:
        if not 0 < self.configured < float("inf"):
            msg = f"capacity {self.configured!r} (allowed: above 0)"
            raise ConfigError(msg)

    def learn(self, observed: Observed) -> None:
        """Take in an observation; those without enough work say nothing."""
        rate = observed.true_rate
        if not self.learning or isnan(rate) or rate <= 0 or observed.busy < BUSY_MIN or not observed.trusted:
            return
        # In units of the configured one, so that the ridge has a meaning.
        x, y = observed.ready - 1.0, self.configured / rate
        if not 1 / RANGE <= y <= RANGE:
            return
        for at, value in enumerate((1.0, x, x * x, y, x * y)):
            self._s[at] = FORGET * self._s[at] + value
        self.count += 1

    def _line(self) -> tuple[float, float]:
        """(a, b) of the fit, in configured units; (1, 0) while not learnt."""
        if self.count < OBSERVATIONS_MIN:
            return 1.0, 0.0
        n, sx, sxx, sy, sxy = self._s
        spread = sxx - sx * sx / n + EASE * n
        slope = max(0.0, (sxy - sx * sy / n) / spread)
        return max(1 / RANGE, (sy - slope * sx) / n), slope

    @property
    def alone(self) -> float:
        """What one worker takes, messages/s."""
        return self.configured / self._line()[0]

    @property
    def contention(self) -> float:
        """Share of a worker's capacity that each further worker takes away."""
        a, b = self._line()
        return b / a

    def of(self, workers: float) -> float:
        """What `workers` take together, messages/s."""
        a, b = self._line()
        return self.configured * workers / (a + b * max(0.0, workers - 1))

    def workers(self, rate: float, utilisation: float = 1.0) -> float:
        """Workers for a load at a utilisation, not rounded; infinite where more of them help no more."""
        a, b = self._line()
        load = rate / (self.configured * utilisation)
        if load * a <= 1.0:
            return load * a
        return load * (a - b) / (1.0 - load * b) if load * b < 1.0 else float("inf")

    # -- bytes --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, object]:
        """What was learnt, as plain data."""
        return {"count": self.count, "sums": self._s}

    def restore(self, state: dict[str, object]) -> None:
        """Continue from `state`."""
        self.count, self._s = int(state["count"]), [float(x) for x in state["sums"]]  # type: ignore[call-overload, attr-defined]
