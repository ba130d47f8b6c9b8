"""Windows of time: of a fixed length, counted from local midnights, or calendar units of a time zone. Pure.

A window is known by its start. Starts are ``anchor + k * every``, where the anchor is the last one at or before a time:
a single one (1970-01-01 UTC) for fixed windows, every local midnight for shorter windows in a zone, and every start
itself for days, weeks, months, quarters and years.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit
from iiot_dask.core.times import SPAN_NS_MAX, SpanLike, span_ns
from iiot_dask.history.index import NS_MAX, NS_MIN

Times = npt.NDArray[np.int64]
DAY_NS = 86_400 * 10**9
_CALENDAR = re.compile(r"\s*(\d+)\s*(w|mo|q|y)\s*")
_MONTHS = {"mo": 1, "q": 3, "y": 12}
_MONTHS_MAX = 12 * 292


@dataclass(frozen=True, slots=True)
class Windows:
    """Where windows begin: `anchors` (int64 ns, ascending, at least one) and their length `every_ns` between anchors."""

    anchors: Times
    every_ns: int

    def start_of(self, time: Times) -> Times:
        """Start of the window of each time, ns; a window that begins before int64 does is labelled with its first time.

        Examples
        --------
        >>> Windows(np.zeros(1, np.int64), 10).start_of(np.array([-1, 0, 10, -(2**63)])).tolist()
        [-10, 0, 10, -9223372036854775808]
        """
        out = np.empty(len(time), np.int64)
        starts_kernel(np.ascontiguousarray(time), self.anchors, self.every_ns, out)
        return out

    def runs(self, at: Times, time: Times) -> tuple[Times, Times]:
        """Bounds of the runs of samples of equal (tag, window), and the start of each one's window.

        `at`: int64, bounds of the tags; `time`: int64 ns, ascending within a tag.
        """
        bounds, starts = np.empty(len(time) + 1, np.int64), np.empty(len(time), np.int64)
        n = runs_kernel(at, time, self.anchors, self.every_ns, bounds, starts)
        return bounds[: n + 1], starts[:n]

    def end_of(self, start: Times) -> Times:
        """The end (exclusive) of windows by their starts, ns; at most the last int64."""
        out = np.empty(len(start), np.int64)
        ends_kernel(np.ascontiguousarray(start), self.anchors, self.every_ns, out)
        return out


@njit
def window_of(time: int, anchors: Any, every: int) -> Any:
    """(start, end) of the window of a time; ends are exclusive and clipped to int64."""
    low, high = np.int64(-9223372036854775808), np.int64(9223372036854775807)
    place = np.searchsorted(anchors, time, side="right")
    if place == 0 and len(anchors) > 1:
        return low, anchors[0]
    anchor = anchors[max(place - 1, 0)]
    cell = (time - anchor) // every
    if cell < 0 and cell == low // every and low % every != 0:
        # The first window of all begins before int64 does; its end is inside.
        start, end = low, (cell + 1) * every
    else:
        start = anchor + cell * every
        left = every - (time - start)
        end = high if time > 0 and left > high - time else time + left
    if place < len(anchors) and anchors[place] < end:
        end = anchors[place]
    return start, end


@njit
def starts_kernel(time: Any, anchors: Any, every: int, out: Any) -> None:
    """`window_of` each time, the start."""
    for i in range(len(time)):
        out[i] = window_of(time[i], anchors, every)[0]


@njit
def ends_kernel(start: Any, anchors: Any, every: int, out: Any) -> None:
    """`window_of` each time, the end."""
    for i in range(len(start)):
        out[i] = window_of(start[i], anchors, every)[1]


@njit
def runs_kernel(at: Any, time: Any, anchors: Any, every: int, bounds: Any, starts: Any) -> int:
    """Bounds of runs of equal (tag, window) over sorted samples, and each one's window; returns how many."""
    n = 0
    for t in range(len(at) - 1):
        start, end = np.int64(0), np.int64(0)
        for i in range(at[t], at[t + 1]):
            # The very last nanosecond is inside the window that ends there.
            if i == at[t] or (time[i] >= end and end < 9223372036854775807):
                start, end = window_of(time[i], anchors, every)
                bounds[n] = i
                starts[n] = start
                n += 1
    bounds[n] = at[-1]
    return n


def windows(every: SpanLike, zone: str | None, first: int, last: int) -> Windows:
    """The windows of a query.

    Parameters
    ----------
    every
        A span above 0, or a calendar unit: ``"1w"`` (from Monday), ``"1mo"``, ``"1q"``, ``"1y"``.
    zone
        IANA time zone; None: UTC. In a zone a span is shorter than a day (counted from local midnight; the last one
        before midnight may be cut short) or whole days.
    first, last
        Range of times that will be asked about, ns.

    Raises
    ------
    ConfigError
        If `every` is 0, negative, too long or not possible in a zone, or there is no such zone.

    Examples
    --------
    >>> berlin = windows("1d", "Europe/Berlin", 0, 0)
    >>> berlin.start_of(np.array([0])).tolist()  # 1970-01-01 00:00 in Berlin is 23:00 UTC
    [-3600000000000]
    """
    found = _CALENDAR.fullmatch(every) if isinstance(every, str) else None
    if found is None:
        length = span_ns(every)
        if length <= 0:
            msg = f"window length {every!r} is 0; a span above 0 is wanted, such as '1h'"
            raise ConfigError(msg)
        if zone is None:
            return Windows(np.zeros(1, np.int64), length)
        if length < DAY_NS:
            return Windows(_days(zone_of(zone), 1, 0, first, last), length)
        if length % DAY_NS:
            msg = f"window length {every!r} in zone {zone!r}; less than a day, whole days, or w, mo, q, y are allowed"
            raise ConfigError(msg)
        return Windows(_days(zone_of(zone), length // DAY_NS, 0, first, last), SPAN_NS_MAX)
    number, unit = int(found[1]), found[2]
    months = number * _MONTHS.get(unit, 1)
    if not 1 <= months <= _MONTHS_MAX:
        msg = f"window length {every!r}; 1 to {_MONTHS_MAX} months (or as many weeks) are allowed"
        raise ConfigError(msg)
    where = zone_of(zone or "UTC")
    if unit == "w":
        # 1970-01-05 was a Monday.
        return Windows(_days(where, 7 * number, 4, first, last), SPAN_NS_MAX)
    return Windows(_months(where, months, first, last), SPAN_NS_MAX)


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """A time zone by its IANA name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        msg = f"time zone {name!r} is not known; an IANA name such as 'Europe/Berlin' is wanted"
        raise ConfigError(msg) from error


def _days(zone: zoneinfo.ZoneInfo, step: int, origin: int, first: int, last: int) -> Times:
    low = (first // DAY_NS - 1 - origin) // step * step + origin
    days = np.arange(low, last // DAY_NS + 2 + step, step, dtype=np.int64)
    return _instants(zone, days.astype("datetime64[D]"))


def _months(zone: zoneinfo.ZoneInfo, step: int, first: int, last: int) -> Times:
    low, high = (int(np.datetime64(t // DAY_NS, "D").astype("datetime64[M]").astype(np.int64)) for t in (first, last))
    months = np.arange((low - 1) // step * step, high + 2 + step, step, dtype=np.int64)
    return _instants(zone, months.astype("datetime64[M]").astype("datetime64[D]"))


def _instants(zone: zoneinfo.ZoneInfo, dates: npt.NDArray[np.datetime64]) -> Times:
    """Local midnights as int64 ns, those outside int64 left out; a midnight that does not exist is the end of its gap."""
    out = []
    for day in dates.astype(np.int64).tolist():
        # Where the calendar's years end (1 and 9999) int64 ns have ended long before.
        moment = dt.datetime(1970, 1, 1, tzinfo=zone).replace(tzinfo=None) + dt.timedelta(days=day)
        offset = moment.replace(tzinfo=zone).utcoffset() or dt.timedelta(0)
        out.append(day * DAY_NS - (offset.days * 86_400 + offset.seconds) * 10**9)
    inside = sorted({t for t in out if NS_MIN <= t <= NS_MAX})
    return np.array(inside or [0], np.int64)
