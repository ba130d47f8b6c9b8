"""What a person may write for a time or a span, and its one internal form: int64 nanoseconds."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta

from iiot_dask.core.errors import ConfigError

TimeLike = str | datetime | int
"""A time: ISO 8601 text, `datetime` (naive = UTC) or ns since 1970-01-01 UTC."""

SpanLike = str | timedelta | int | float
"""A span: text such as ``"250ms"`` or ``"1h30m"``, `timedelta`, or a number of seconds."""

SPAN_NS_MAX = 2**63 - 1
"""Longest span, ns: 292 years."""

_UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def span_ns(value: SpanLike) -> int:
    """A span in nanoseconds.

    Parameters
    ----------
    value
        ``"250ms"``, ``"1h30m"``, a `timedelta`, or a number of seconds. Units: ns us ms s m h d.

    Raises
    ------
    ConfigError
        If it is no span, negative, or longer than int64 ns hold.

    Examples
    --------
    >>> span_ns("250ms"), span_ns("1m30s"), span_ns(0.5), span_ns("0ms")
    (250000000, 90000000000, 500000000, 0)
    >>> span_ns("soon")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: span 'soon' is not a number with a unit (ns us ms s m h d), such as '250ms' or '1h30m'
    """
    if isinstance(value, timedelta):
        out = (value.days * 86400 + value.seconds) * 10**9 + value.microseconds * 1000
    elif isinstance(value, str):
        text = value.strip().replace(" ", "")
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            msg = f"span {value!r} is not a number with a unit (ns us ms s m h d), such as '250ms' or '1h30m'"
            raise ConfigError(msg)
        out = sum(round(float(number) * _UNITS_NS[unit]) for number, unit in parts)
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        msg = f"span {value!r} is neither text such as '250ms', a timedelta nor a finite number of seconds"
        raise ConfigError(msg)
    else:
        out = round(value * 1e9)
    if not 0 <= out <= SPAN_NS_MAX:
        msg = f"span {value!r} is {'negative' if out < 0 else 'too long'}; a span is 0 or more and at most 292 years"
        raise ConfigError(msg)
    return out


def span_text(ns: int) -> str:
    """The shortest text `span_ns` reads back as the same span.

    Examples
    --------
    >>> span_text(1_500_000_000), span_text(3_600_000_000_000), span_text(0)
    ('1500ms', '1h', '0s')
    """
    if ns == 0:
        return "0s"
    for unit in ("d", "h", "m", "s", "ms", "us", "ns"):
        if ns % _UNITS_NS[unit] == 0:
            return f"{ns // _UNITS_NS[unit]}{unit}"
    raise AssertionError(ns)  # pragma: no cover -- every integer is a multiple of 1 ns


def time_ns(value: TimeLike) -> int:
    """A time in nanoseconds since 1970-01-01 UTC.

    Parameters
    ----------
    value
        ISO 8601 text (no zone = UTC), `datetime` (naive = UTC), or ns as int.

    Raises
    ------
    ConfigError
        If it is no ISO 8601 time, or outside what int64 ns hold (years 1677 to 2262).

    Examples
    --------
    >>> time_ns("1970-01-01T00:00:01Z"), time_ns("1970-01-01T01:00:01+01:00"), time_ns(datetime(1970, 1, 1, 0, 0, 1))
    (1000000000, 1000000000, 1000000000)
    """
    if isinstance(value, bool) or not isinstance(value, (str, datetime, int)):
        msg = f"time {value!r} is neither ISO 8601 text, a datetime nor int nanoseconds"
        raise ConfigError(msg)
    if isinstance(value, int):
        return _within(value, value)
    given = value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            msg = f"time {value!r} is not ISO 8601, such as '2026-11-24T06:00:00Z'"
            raise ConfigError(msg) from None
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    delta = value - _EPOCH
    return _within((delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000, given)


def _within(ns: int, given: TimeLike) -> int:
    if not -(2**63) <= ns < 2**63:
        msg = f"time {given!r} does not fit int64 nanoseconds; 1677-09-21T00:12:43Z to 2262-04-11T23:47:16Z are allowed"
        raise ConfigError(msg)
    return ns


def time_text(ns: int) -> str:
    """ISO 8601 UTC text with millisecond digits.

    Examples
    --------
    >>> time_text(1_500_000_000)
    '1970-01-01T00:00:01.500Z'
    """
    moment = _EPOCH + timedelta(microseconds=ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
