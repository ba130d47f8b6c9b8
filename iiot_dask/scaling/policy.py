"""How many workers are wanted: pure policies, one interface, `decide(now, observed) -> int`.

* `static` always wants the same number.
* `reactive` follows the load and works off a backlog: fast up, slow down.
* `forecast` is the maximum of `reactive` and what the `Forecast` says will be needed when a worker asked for now has
  booted; so a forecast that fails can only cost money, never lateness.

Nothing here knows a cluster, a clock or a thread; the same observations give the same decisions, so a log can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, Self

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import time_ns
from iiot_dask.scaling.calendar import Calendar
from iiot_dask.scaling.decision import Decision, Policy
from iiot_dask.scaling.forecast import Forecast
from iiot_dask.scaling.limits import Limits
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.predictive import ForecastPolicy
from iiot_dask.scaling.reactive import ReactivePolicy
from iiot_dask.scaling.sizing import Sizing

__all__ = ["POLICIES", "Decision", "ForecastPolicy", "Policy", "ReactivePolicy", "StaticPolicy", "policy"]


class StaticPolicy:
    """The same number whatever happens: `workers`, by default the maximum (sized for the peak).

    Examples
    --------
    >>> policy("static", capacity=100.0, maximum=7).decide(0, Observed(1e6))
    7
    """

    def __init__(self, sizing: Sizing, workers: int | None = None) -> None:
        self.sizing = sizing
        self._workers = sizing.clip(sizing.maximum if workers is None else workers)
        self._last = Decision(0, self._workers, self._workers, None, float("nan"), "fixed number")

    def decide(self, now: datetime | int, observed: Observed | None) -> int:  # noqa: ARG002 -- the interface
        """Always the same."""
        self._last = Decision(time_ns(now), self._workers, self._workers, None, float("nan"), "fixed number")
        return self._workers

    def explain(self) -> Decision:
        """The last decision."""
        return self._last

    def to_bytes(self) -> bytes:
        """Nothing is learnt."""
        return b""

    def from_bytes(self, payload: bytes) -> Self:  # noqa: ARG002 -- the interface
        """Nothing is learnt."""
        return self


def _forecast(
    sizing: Sizing,
    *,
    day_ns: int,
    window_s: float,
    quantile: float,
    offset_s: float,
    calendar: Calendar | None,
    limits: Limits | None,
    mode: Literal["live", "shadow"],
    learn_capacity: bool,
    **_: Any,
) -> ForecastPolicy:
    model = Forecast(
        day_ns=day_ns,
        lead_ns=round(sizing.boot_s * 1e9),
        window_ns=round(window_s * 1e9),
        quantile=quantile,
        offset_ns=round(offset_s * 1e9),
        calendar=calendar,
    )
    return ForecastPolicy(sizing, model, limits, mode=mode, learn_capacity=learn_capacity, premium_ns=day_ns)


def _reactive(sizing: Sizing, *, limits: Limits | None, learn_capacity: bool, **_: Any) -> ReactivePolicy:
    return ReactivePolicy(sizing, limits, learn_capacity=learn_capacity)


POLICIES: dict[str, Callable[..., Policy]] = {
    "forecast": _forecast,
    "reactive": _reactive,
    "static": lambda sizing, workers, **_: StaticPolicy(sizing, workers),
}
"""Name -> maker; a policy of your own is one more row."""


def policy(
    name: str,
    *,
    capacity: float,
    boot_s: float = 90.0,
    utilisation: float = 0.7,
    minimum: int = 1,
    maximum: int = 200,
    day_s: float = 86_400.0,
    quantile: float = 0.9,
    window_s: float | None = None,
    hold_s: float | None = None,
    smooth_s: float | None = None,
    dead_band: float = 0.05,
    catch_up_s: float | None = None,
    workers: int | None = None,
    offset_s: float = 0.0,
    calendar: Calendar | None = None,
    limits: Limits | None = None,
    mode: Literal["live", "shadow"] = "live",
    learn_capacity: bool = True,
) -> Policy:
    """A policy by name.

    Parameters
    ----------
    name
        ``"forecast"``, ``"reactive"`` or ``"static"``.
    capacity, boot_s, utilisation, minimum, maximum
        See `Sizing`.
    day_s
        Length of the plant's cycle, seconds; below a day only in simulated time. The defaults of the spans below scale
        with it.
    quantile
        Share of windows the forecast shall cover, 0..1.
    window_s
        The forecast is the maximum over so many seconds behind the boot time; default 5 min of a day.
    hold_s, smooth_s, dead_band, catch_up_s
        See `Sizing`; by default 10 min of a day, a sixth of the boot time up to 15 s, and twice the boot time but at
        least 5 s.
    workers
        Number of the static policy; default `maximum`.
    offset_s
        Local time minus UTC where no `calendar` says it, seconds.
    calendar
        Local time, holidays, planned shifts and events; with shifts the forecast works before any history is there.
    limits
        Budgets, cost limits and schedules.
    mode
        ``"shadow"``: the forecast is made, explained and scored, but decides nothing.
    learn_capacity
        False: `capacity` stands, whatever workers really do.

    Raises
    ------
    ConfigError
        If the name is unknown or a number out of range.

    Examples
    --------
    >>> policy("forecast", capacity=1000.0, boot_s=90, utilisation=0.7).decide(0, Observed(rate=1000.0, ready=1))
    2
    >>> policy("oracle", capacity=1.0)
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: policy 'oracle' is unknown; there are forecast, reactive, static
    """
    if name not in POLICIES:
        msg = f"policy {name!r} is unknown; there are {', '.join(POLICIES)}"
        raise ConfigError(msg)
    if not 0 < day_s < float("inf"):
        msg = f"day_s {day_s!r} is not a positive number of seconds"
        raise ConfigError(msg)
    sizing = Sizing(
        float(capacity),
        float(boot_s),
        float(utilisation),
        int(minimum),
        int(maximum),
        hold_s=day_s / 144 if hold_s is None else float(hold_s),
        smooth_s=min(15.0, float(boot_s) / 6) if smooth_s is None else float(smooth_s),
        dead_band=float(dead_band),
        catch_up_s=max(2.0 * float(boot_s), 5.0) if catch_up_s is None else float(catch_up_s),
    )
    return POLICIES[name](
        sizing,
        day_ns=round(day_s * 1e9),
        window_s=day_s / 288 if window_s is None else window_s,
        quantile=quantile,
        workers=workers,
        offset_s=offset_s,
        calendar=calendar,
        limits=limits,
        mode=mode,
        learn_capacity=learn_capacity,
    )
