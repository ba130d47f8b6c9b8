"""How many workers are wanted: pure policies, one interface, `decide(now, observed) -> int`.

* `static` always wants the same number.
* `reactive` follows the load and works off a backlog: fast up, slow down.
* `forecast` is the maximum of `reactive` and what the `Forecast` says will be needed when a worker asked for now has
  booted; so a forecast that fails can only cost money, never lateness.

Nothing here knows a cluster, a clock or a thread; the same observations give the same decisions, so a log can be replayed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from math import exp, isnan
from typing import Protocol, Self

from iiot_dask.core.errors import ChecksumError, ConfigError, VersionError
from iiot_dask.core.times import time_ns
from iiot_dask.scaling.forecast import Forecast
from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.sizing import Sizing

MAGIC, VERSION = b"IISP", 1
_HEADER = struct.Struct("<4sHI")
_CRC = struct.Struct("<I")
HOLD_BINS = 32
"""Resolution of the hold: its span is kept as so many maxima."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided and why.

    Parameters
    ----------
    time_ns
        When, ns since 1970-01-01 UTC.
    wanted
        Workers wanted.
    reactive
        Workers the present load asks for.
    forecast
        Workers the coming load asks for; None while it is not known or not trusted.
    expected
        The load they are for, messages/s; NaN without a forecast.
    reason
        One sentence.
    """

    time_ns: int
    wanted: int
    reactive: int
    forecast: int | None
    expected: float
    reason: str


class Policy(Protocol):
    """What scales a cluster."""

    def decide(self, now: datetime | int, observed: Observed) -> int:
        """The number of workers wanted at `now` (a datetime, or ns since 1970-01-01 UTC), not earlier than before."""
        ...

    def explain(self) -> Decision:
        """The last decision."""
        ...

    def to_bytes(self) -> bytes:
        """What was learnt."""
        ...

    def from_bytes(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote."""
        ...


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

    def decide(self, now: datetime | int, observed: Observed) -> int:  # noqa: ARG002 -- the interface
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


class ReactivePolicy:
    """Follows the load it sees; a worker is late by its boot time.

    Examples
    --------
    >>> p = policy("reactive", capacity=1000.0, boot_s=10.0, maximum=10)
    >>> p.decide(0, Observed(rate=1400.0, ready=1))
    2
    >>> p.decide(10**9, Observed(rate=100.0, ready=2)), p.explain().reason
    (2, 'load 813/s needs 1.16')
    """

    def __init__(self, sizing: Sizing) -> None:
        self.sizing = sizing
        self._now: int | None = None
        self._smooth = 0.0
        self._wanted = sizing.minimum
        self._bin = 0
        self._wants: deque[float] = deque([0.0], maxlen=HOLD_BINS + 1)
        self._last = Decision(0, sizing.minimum, sizing.minimum, None, float("nan"), "nothing observed yet")

    def decide(self, now: datetime | int, observed: Observed) -> int:
        """Workers wanted now."""
        at = time_ns(now)
        need, why = self._need(at, observed)
        return self._settle(at, need, observed, need, None, float("nan"), why)

    def explain(self) -> Decision:
        """The last decision."""
        return self._last

    # -- parts --------------------------------------------------------------------------------------------------

    def _need(self, at: int, observed: Observed) -> tuple[float, str]:
        """Workers the present asks for, not rounded, and why."""
        z = self.sizing
        if self._now is None:
            self._smooth = observed.rate
        else:
            passed_s = max(0.0, (at - self._now) / 1e9)
            keep = exp(-passed_s / z.smooth_s) if z.smooth_s > 0 else 0.0
            self._smooth = keep * self._smooth + (1 - keep) * observed.rate
        self._now = at
        need = z.workers(self._smooth)
        # Half a second of load is in flight at any time and no backlog.
        excess = observed.backlog - 0.5 * observed.rate
        if excess > 0:
            behind = (observed.rate + excess / z.catch_up_s) / z.capacity
            if behind > need:
                return behind, f"backlog {observed.backlog:.0f} needs {behind:.2f}"
        return need, f"load {self._smooth:.0f}/s needs {need:.2f}"

    def _settle(
        self,
        at: int,
        need: float,
        observed: Observed,
        reactive: float,
        forecast: float | None,
        expected: float,
        why: str,
    ) -> int:
        """From a need to a number: up at once, down after the hold and beyond the dead band."""
        z = self.sizing
        held = self._hold(at, need)
        wanted = self._wanted
        target = z.clip(need)
        if target > wanted:
            if need > wanted + z.dead_band or wanted < z.minimum:
                self._wanted = target
                why += ": up"
            else:
                why += ": within the dead band"
        elif z.clip(held) < wanted and held <= wanted * (1 - z.dead_band):
            if observed.backlog > max(observed.rate, 1.0):
                why += ": held while the backlog drains"
            else:
                self._wanted = min(wanted, z.clip(held + z.dead_band))
                why += ": down" if self._wanted < wanted else ": within the dead band"
        else:
            why += ": held" if target < wanted else ""
        self._wanted = int(min(max(self._wanted, z.minimum), z.maximum))
        ahead = None if forecast is None else z.clip(forecast)
        self._last = Decision(at, self._wanted, z.clip(reactive), ahead, expected, why)
        return self._wanted

    def _hold(self, at: int, need: float) -> float:
        """The largest need of the hold span."""
        span = self.sizing.hold_s / HOLD_BINS
        if span <= 0:
            return need
        number = int(at / 1e9 / span)
        for _ in range(min(max(0, number - self._bin), HOLD_BINS + 1)):
            self._wants.append(0.0)
        self._bin = max(self._bin, number)
        self._wants[-1] = max(self._wants[-1], need)
        return max(self._wants)

    # -- bytes --------------------------------------------------------------------------------------------------

    def _learnt(self) -> bytes:
        return b""

    def _relearn(self, payload: bytes) -> None:
        assert not payload, "only the forecast learns"

    def to_bytes(self) -> bytes:
        """What was learnt and decided, versioned and checksummed."""
        state = {
            "now": self._now, "smooth": self._smooth, "wanted": self._wanted, "bin": self._bin, "wants": list(self._wants),
        }  # fmt: skip
        head = json.dumps(state).encode()
        body = _HEADER.pack(MAGIC, VERSION, len(head)) + head + self._learnt()
        return body + _CRC.pack(zlib.crc32(body))

    def from_bytes(self, payload: bytes) -> Self:
        """Continue from what `to_bytes` wrote; returns this policy.

        Raises
        ------
        ChecksumError
            If bytes are missing or changed.
        VersionError
            If a newer program wrote them.
        """
        if len(payload) < _HEADER.size + _CRC.size or payload[:4] != MAGIC:
            msg = f"{len(payload)} bytes are no policy state (they begin with {payload[:4]!r}, expected {MAGIC!r})"
            raise ChecksumError(msg)
        body = payload[: -_CRC.size]
        if zlib.crc32(body) != _CRC.unpack(payload[-_CRC.size :])[0]:
            msg = f"policy state of {len(payload)} bytes fails its CRC-32: damaged since it was written"
            raise ChecksumError(msg)
        _, version, size = _HEADER.unpack_from(body)
        if version != VERSION:
            msg = f"policy state has version {version}; this program reads version {VERSION}"
            raise VersionError(msg)
        state = json.loads(body[_HEADER.size : _HEADER.size + size])
        self._relearn(body[_HEADER.size + size :])
        self._now, self._smooth, self._bin = state["now"], state["smooth"], state["bin"]
        self._wanted = int(min(max(state["wanted"], self.sizing.minimum), self.sizing.maximum))
        self._wants = deque(state["wants"], maxlen=HOLD_BINS + 1)
        return self


class ForecastPolicy(ReactivePolicy):
    """`reactive`, and ahead of it the forecast while it is known and has lately been right.

    Examples
    --------
    >>> p = policy("forecast", capacity=1000.0, boot_s=2.0, maximum=10, day_s=60.0)
    >>> for t in range(170): _ = p.decide(t * 10**9, Observed(rate=4000.0 if t % 60 >= 30 else 300.0, ready=1))
    >>> [p.decide(t * 10**9, Observed(rate=300.0, ready=1)) for t in (201, 209)]
    [1, 6]
    >>> p.explain().forecast, p.explain().reactive
    (6, 1)
    """

    def __init__(self, sizing: Sizing, forecast: Forecast) -> None:
        super().__init__(sizing)
        self.forecast = forecast

    def decide(self, now: datetime | int, observed: Observed) -> int:
        """Workers wanted now."""
        at = time_ns(now)
        need, why = self._need(at, observed)
        self.forecast.learn(at, observed.rate)
        if not self.forecast.known:
            return self._settle(at, need, observed, need, None, float("nan"), f"{why}; forecast: first cycle not over")
        expected = self.forecast.expect(at)
        if isnan(expected) or not self.forecast.confident:
            return self._settle(at, need, observed, need, None, expected, f"{why}; forecast not trusted now")
        ahead = self.sizing.workers(expected)
        if ahead > need:
            why = f"load {expected:.0f}/s expected, needs {ahead:.2f}"
        return self._settle(at, max(need, ahead), observed, need, ahead, expected, why)

    def _learnt(self) -> bytes:
        return self.forecast.to_bytes()

    def _relearn(self, payload: bytes) -> None:
        self.forecast.load(payload)


def _forecast(sizing: Sizing, **more: float | str | bool | None) -> ForecastPolicy:
    day_ns, window_s, quantile, offset_s = (more[k] for k in ("day_ns", "window_s", "quantile", "offset_s"))
    return ForecastPolicy(
        sizing,
        Forecast(
            day_ns=int(day_ns or 0),
            lead_ns=round(sizing.boot_s * 1e9),
            window_ns=round(float(window_s or 0) * 1e9),
            quantile=float(quantile or 0),
            offset_ns=round(float(offset_s or 0) * 1e9),
        ),
    )


POLICIES: dict[str, Callable[..., Policy]] = {
    "forecast": _forecast,
    "reactive": lambda sizing, **_: ReactivePolicy(sizing),
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
        Local time minus UTC, seconds.

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
    )
