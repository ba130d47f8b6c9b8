"""ISO 8601 / RFC 3339 times to nanoseconds, compiled.

Read here: ``YYYY-MM-DD``, then ``T``, ``t`` or a space, ``HH:MM:SS``, up to nine digits of a fraction after ``.`` or
``,`` (further ones are cut), then ``Z``, ``z``, ``+HH:MM``, ``+HHMM``, ``+HH`` or nothing (= UTC). Anything else is
told as unread. Day count: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled

NS = 1_000_000_000
_SECONDS_MAX = 9_223_372_035
"""Seconds from 1970 whose every ns fits int64, on either side."""


@compiled
def _number(data: npt.NDArray[np.uint8], at: int, size: int) -> int:
    value = 0
    for k in range(size):
        c = int(data[at + k])
        if c < 48 or c > 57:
            return -1
        value = value * 10 + c - 48
    return value


@compiled
def days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the proleptic Gregorian calendar."""
    y = year - (1 if month <= 2 else 0)
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


@compiled
def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@compiled
def _offset(data: npt.NDArray[np.uint8], at: int, stop: int) -> tuple[int, bool]:
    """Seconds east of UTC in ``data[at:stop]``, and whether it is one."""
    if at == stop or (stop - at == 1 and (data[at] | 32) == 122):
        return 0, True
    size = stop - at
    if (data[at] != 43 and data[at] != 45) or size not in (3, 5, 6) or (size == 6 and data[at + 3] != 58):
        return 0, False
    hours = _number(data, at + 1, 2)
    minutes = 0 if size == 3 else _number(data, stop - 2, 2)
    if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
        return 0, False
    seconds = hours * 3600 + minutes * 60
    return (-seconds if data[at] == 45 else seconds), True


@compiled
def parse(data: npt.NDArray[np.uint8], start: int, stop: int) -> tuple[int, bool]:
    """Nanoseconds since 1970-01-01 UTC of the text ``data[start:stop]``, and whether it is a time."""
    if stop - start < 19:
        return 0, False
    year, month, day = _number(data, start, 4), _number(data, start + 5, 2), _number(data, start + 8, 2)
    hour, minute, second = _number(data, start + 11, 2), _number(data, start + 14, 2), _number(data, start + 17, 2)
    if min(year, month, day, hour, minute, second) < 0 or year < 1:
        return 0, False
    if data[start + 4] != 45 or data[start + 7] != 45 or data[start + 13] != 58 or data[start + 16] != 58:
        return 0, False
    if data[start + 10] | 32 not in (116, 32):
        return 0, False
    if not (1 <= month <= 12 and 1 <= day <= _month_days(year, month) and hour < 24 and minute < 60 and second < 60):
        return 0, False
    at, fraction = start + 19, 0
    if at < stop and (data[at] == 46 or data[at] == 44):
        at += 1
        first, scale = at, NS
        while at < stop and 48 <= data[at] <= 57:
            if scale > 1:
                scale //= 10
                fraction += (int(data[at]) - 48) * scale
            at += 1
        if at == first:
            return 0, False
    east, legal = _offset(data, at, stop)
    seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - east
    if not legal or abs(seconds) > _SECONDS_MAX:
        return 0, False
    return seconds * NS + fraction, True


@compiled
def parse_many(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[np.int64],
    legal: npt.NDArray[np.bool_],
) -> None:
    """`parse` for many texts of one buffer; `out` in ns and `legal` are filled."""
    for k in range(len(starts)):
        out[k], legal[k] = parse(data, starts[k], starts[k] + lengths[k])
