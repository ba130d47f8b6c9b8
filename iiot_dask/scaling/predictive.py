"""`ForecastPolicy`: `reactive`, and ahead of it the forecast while it is known and has lately been right."""

from __future__ import annotations

from datetime import datetime
from math import isnan, nan
from typing import Any, Literal, Protocol

from iiot_dask.core.times import time_ns
from iiot_dask.scaling.calendar import DAY_NS
from iiot_dask.scaling.limits import Limits
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.reactive import ReactivePolicy
from iiot_dask.scaling.sizing import Sizing

PREMIUM_MAX = 0.3
"""What the forecast may add to the cost of following the load, on average over days."""
PREMIUM_DAYS = 3.0
"""Memory of that average, days of the plant: over one alone a calm half would forget what the busy half cost."""
PREMIUM_WARM = 1.0
"""Days before the average counts."""


class Model(Protocol):
    """What a forecast must answer; `Forecast`, `Contest` and challengers do."""

    @property
    def known(self) -> bool:
        """Whether it has seen enough to answer."""
        ...

    @property
    def confident(self) -> bool:
        """Whether it has lately been right."""
        ...

    @property
    def precise(self) -> bool:
        """Whether it has lately been so close that workers it sees no need for may go at once."""
        ...

    def learn(self, now_ns: int, rate: float, *, trusted: bool = True) -> None:
        """Take in the load at an instant, messages/s."""
        ...

    def expect(self, now_ns: int) -> float:
        """The load to be ready for when a worker asked for now has booted, messages/s; NaN while unknown."""
        ...

    def to_bytes(self) -> bytes:
        """What was learnt."""
        ...

    def load(self, payload: bytes) -> object:
        """Continue from what `to_bytes` wrote."""
        ...


class ForecastPolicy(ReactivePolicy):
    """`reactive`, and ahead of it the forecast while it is known and has lately been right.

    Parameters
    ----------
    sizing, limits, learn_capacity
        As of `ReactivePolicy`.
    forecast
        The model of the load.
    mode
        ``"live"``, or ``"shadow"``: forecast, explain and score, but decide as `reactive` would.
    premium_max
        What the forecast may add to the cost of following the load, on average over some days, as a share.
    premium_ns
        A day of the plant, ns.

    Examples
    --------
    >>> from iiot_dask.scaling.policy import policy
    >>> p = policy("forecast", capacity=1000.0, boot_s=2.0, maximum=10, day_s=60.0)
    >>> for t in range(170): _ = p.decide(t * 10**9, Observed(rate=4000.0 if t % 60 >= 30 else 300.0, ready=1))
    >>> [p.decide(t * 10**9, Observed(rate=300.0, ready=1)) for t in (201, 209)]
    [1, 6]
    >>> p.explain().forecast, p.explain().reactive
    (6, 1)
    """

    def __init__(
        self,
        sizing: Sizing,
        forecast: Model,
        limits: Limits | None = None,
        *,
        mode: Literal["live", "shadow"] = "live",
        learn_capacity: bool = True,
        premium_max: float = PREMIUM_MAX,
        premium_ns: int = DAY_NS,
    ) -> None:
        super().__init__(sizing, limits, learn_capacity=learn_capacity)
        self.forecast = forecast
        self.mode = mode
        self.premium_max = premium_max
        self.premium_ns = premium_ns
        self._base, self._extra, self._paid_time = 0.0, 0.0, 0.0
        self._paid_ns: int | None = None

    def decide(self, now: datetime | int, observed: Observed | None) -> int:
        """Workers wanted now."""
        at = time_ns(now)
        need, why = self._need(at, observed)
        if observed is not None:
            self.forecast.learn(at, observed.rate, trusted=observed.trusted)
        if not self.forecast.known:
            return self._settle(at, need, observed, need, None, nan, f"{why}; forecast: first cycle not over")
        expected = self.forecast.expect(at)
        if isnan(expected) or not self.forecast.confident:
            return self._settle(at, need, observed, need, None, expected, f"{why}; forecast not trusted now")
        ahead = need + self._share(at, need, self.workers(expected)) * (self.workers(expected) - need)
        if self.mode == "shadow":
            shown = f"{why}; shadow: {expected:.0f}/s expected would need {ahead:.2f}"
            return self._settle(at, need, observed, need, ahead, expected, shown)
        if ahead > need:
            why = f"load {expected:.0f}/s expected, needs {ahead:.2f}"
        return self._settle(at, max(need, ahead), observed, need, ahead, expected, why, sure=self.forecast.precise)

    def _share(self, at: int, need: float, ahead: float) -> float:
        """How much of what the forecast asks for beyond the present need is affordable, 0..1.

        Over some days the forecast may add `premium_max` to what following the load would cost; a load that can not be
        forecast would otherwise buy its few timely workers with many idle ones.
        """
        passed = 0.0 if self._paid_ns is None else (at - self._paid_ns) / self.premium_ns
        self._paid_ns = at
        # Weighted like a mean at first: a cold start knows no premium yet.
        self._paid_time = min(PREMIUM_DAYS, self._paid_time + passed)
        weight = min(1.0, passed / self._paid_time) if self._paid_time > 0 else 1.0
        self._base += weight * (need - self._base)
        self._extra += weight * (max(0.0, ahead - need) - self._extra)
        # A forecast that is right buys only what will be needed; where a boot is a large part of a short day, that is much.
        if (
            self.forecast.precise
            or self._extra <= self.premium_max * self._base
            or ahead <= need
            or self._paid_time < PREMIUM_WARM
        ):
            return 1.0
        return self.premium_max * self._base / self._extra

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "premium": [self._base, self._extra, self._paid_time, self._paid_ns]}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        if "premium" in state:
            self._base, self._extra, self._paid_time, self._paid_ns = state["premium"]

    def _learnt(self) -> bytes:
        return self.forecast.to_bytes()

    def _relearn(self, payload: bytes) -> None:
        self.forecast.load(payload)
