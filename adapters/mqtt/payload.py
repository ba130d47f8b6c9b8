"""Payloads to columns, many messages at once. Pure: bytes, offsets and receive times in, arrays out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from iiot_dask.core.config import TimeUnit, Topic
from iiot_dask.core.quality import Quality

from ..common.digits import decimal, to_float, to_integer
from ..common.jit import compiled
from . import iso, json_shape
from . import json_scan as scan

# ruff: noqa: SIM110 -- a compiled loop knows no generators

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# What became of a message.
SAMPLE, MALFORMED, NO_VALUE, WRONG_TYPE, BAD_TIME, TOO_LARGE = range(6)

REASONS: dict[int, str] = {
    MALFORMED: "payload does not parse",
    NO_VALUE: "payload holds no value at the configured path",
    WRONG_TYPE: "value is no number or boolean",
    BAD_TIME: "time is unusable; the receive time stands in",
    TOO_LARGE: "payload is larger than payload_bytes_max",
}

POWER: dict[TimeUnit, int] = {"s": 9, "ms": 6, "us": 3, "ns": 0, "iso": -1}
"""Ten to this power is the unit in ns; -1 = text."""

# Plain integers, because that is what a compiled function takes.
_NO_VALUE_QUALITY = int(Quality.BAD_NO_VALUE)
_REPLACED_QUALITY = int(Quality.UNCERTAIN_TIME_REPLACED)
_TIME_LIMIT = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Columns:
    """One entry a message, all of equal length; entries whose `outcome` is no sample hold nothing of use.

    `value` float64, `time` int64 ns, `quality` uint8, `outcome` uint8 (`SAMPLE` and `BAD_TIME` are samples).
    """

    value: Floats
    time: Ints
    quality: npt.NDArray[np.uint8]
    outcome: npt.NDArray[np.uint8]

    @property
    def samples(self) -> npt.NDArray[np.bool_]:
        """Which entries are samples."""
        good: npt.NDArray[np.bool_] = (self.outcome == SAMPLE) | (self.outcome == BAD_TIME)
        return good


Decoder = Callable[[Bytes, Ints, Ints, Ints], Columns]
"""(buffer, payload offsets, payload sizes, receive times in ns) -> columns."""


def decoder(topic: Topic) -> Decoder:
    """The decoder of one route; the formats are `json` and `raw` (Sparkplug has state and its own module).

    Examples
    --------
    >>> decode = decoder(Topic(filter="f/+", tag="t/{1}"))
    >>> data = np.frombuffer(b'{"v":20.5,"ts":1}{"v":', np.uint8)
    >>> columns = decode(data, np.array([0, 17]), np.array([17, 5]), np.array([7, 8]))
    >>> columns.value.tolist()[0], columns.time.tolist()[0], columns.outcome.tolist()
    (20.5, 1000000, [0, 1])
    """
    if topic.payload == "raw":
        return raw
    value, time, power = scan.Path.of(topic.value), scan.Path.of(topic.time), POWER[topic.time_unit]

    def decode(data: Bytes, starts: Ints, sizes: Ints, received: Ints) -> Columns:
        return json_columns(data, starts, sizes, received, value, time, power)

    return decode


def json_columns(
    data: Bytes, starts: Ints, sizes: Ints, received: Ints, value_path: scan.Path, time_path: scan.Path, power: int
) -> Columns:
    """JSON documents: number or boolean (or either as text) at `value_path`, time at `time_path`.

    A null value becomes NaN with `BAD_NO_VALUE`. A missing or unusable time is replaced by the receive time and
    marked `UNCERTAIN_TIME_REPLACED`.
    """
    n = len(starts)
    rows = np.empty((n, scan.COLUMNS), np.int64)
    values, times = np.empty(n), np.empty(n, np.int64)
    json_shape.scan(
        data, starts, sizes, value_path.text, value_path.starts, value_path.index, time_path.text, time_path.starts,
        time_path.index, power, rows, values, times,
    )  # fmt: skip
    quality, outcome = np.zeros(n, np.uint8), np.zeros(n, np.uint8)
    finish(data, rows, received, power, values, times, quality, outcome)
    for k in np.flatnonzero(rows[:, scan.STATUS] == scan.FALLBACK).tolist():
        # Rare by construction: escaped keys and numbers at the edge of a double.
        document = data[starts[k] : starts[k] + sizes[k]].tobytes()
        values[k], times[k], quality[k], outcome[k] = slow(document, value_path, time_path, power, int(received[k]))
    return Columns(values, times, quality, outcome)


@compiled
def _escaped(data: Bytes, start: int, stop: int) -> bool:
    for k in range(start, stop):
        if data[k] == 92:  # backslash
            return True
    return False


@compiled
def _text_number(data: Bytes, start: int, stop: int) -> tuple[float, bool, bool]:
    """The number in a text, whether it is one, and whether that could be decided."""
    end, negative, digits, power, more, _ = decimal(data, start, stop)
    if end != stop:
        return np.nan, False, not _escaped(data, start, stop)
    value, sure = to_float(negative, digits, power, more)
    return value, True, sure


@compiled
def _text_time(data: Bytes, start: int, stop: int, power: int) -> tuple[int, bool]:
    if power < 0:
        return iso.parse(data, start, stop)
    end, negative, digits, exponent, more, _ = decimal(data, start, stop)
    if end != stop:
        return 0, False
    return to_integer(negative, digits, exponent + power, more)


@compiled
def finish(
    data: Bytes,
    rows: Ints,
    received: Ints,
    power: int,
    values: Floats,
    times: Ints,
    quality: npt.NDArray[np.uint8],
    outcome: npt.NDArray[np.uint8],
) -> None:
    """Turn what `json_shape.scan` found into samples: numbers in text, times in text, replaced times, qualities.

    What needs the slow reader is left marked `FALLBACK` in `rows`.
    """
    for k in range(rows.shape[0]):
        row = rows[k]
        if row[scan.STATUS] == scan.MALFORMED:
            outcome[k] = MALFORMED
            continue
        kind = row[scan.VALUE_KIND]
        if kind == scan.TEXT:
            first = row[scan.VALUE_START] + 1
            values[k], legal, sure = _text_number(data, first, first + row[scan.VALUE_LEN] - 2)
            if not sure:
                row[scan.STATUS] = scan.FALLBACK
            if not legal:
                outcome[k] = WRONG_TYPE
                continue
        elif kind == scan.NULL:
            quality[k] = _NO_VALUE_QUALITY
        elif kind == scan.MISSING:
            outcome[k] = NO_VALUE
            continue
        elif kind == scan.CONTAINER:
            outcome[k] = WRONG_TYPE
            continue
        timed = row[scan.TIME_KIND] == scan.NUMBER
        if row[scan.TIME_KIND] == scan.TEXT:
            first = row[scan.TIME_START] + 1
            times[k], timed = _text_time(data, first, first + row[scan.TIME_LEN] - 2, power)
            if not timed and _escaped(data, first, first + row[scan.TIME_LEN] - 2):
                row[scan.STATUS] = scan.FALLBACK
        if not timed:
            times[k] = received[k]
            quality[k] = max(quality[k], _REPLACED_QUALITY)
            if row[scan.TIME_KIND] != scan.MISSING and row[scan.TIME_KIND] != scan.NULL:
                outcome[k] = BAD_TIME


def slow(
    document: bytes, value_path: scan.Path, time_path: scan.Path, power: int, received_ns: int
) -> tuple[float, int, int, int]:
    r"""One JSON document by orjson and `decimal`: what the compiled reader could not decide, and its naive twin.

    Returns
    -------
    tuple
        Value, time (ns), quality, outcome.

    Examples
    --------
    >>> slow(b'{"\\u0076": 1.5, "ts": 2}', scan.Path.of("v"), scan.Path.of("ts"), 6, 9)
    (1.5, 2000000, 0, 0)
    """
    nan = float("nan")
    try:
        orjson.loads(document)
        # Strictness is orjson's; the standard library keeps every digit of a time.
        whole = json.loads(document, parse_float=_exact)
    except (ValueError, RecursionError):
        return nan, 0, 0, MALFORMED
    value = _walk(whole, value_path)
    quality = 0
    if isinstance(value, str):
        value = _numeral(value)
    if value is _ABSENT:
        return nan, 0, 0, NO_VALUE
    if value is None:
        value, quality = nan, _NO_VALUE_QUALITY
    if not isinstance(value, (int, float, Decimal)):
        return nan, 0, 0, WRONG_TYPE
    time = _walk(whole, time_path) if len(time_path.index) else _ABSENT
    ns = _time(time, power)
    if ns is not None:
        return float(value), ns, quality, SAMPLE
    outcome = SAMPLE if time is _ABSENT or time is None else BAD_TIME
    return float(value), received_ns, max(quality, _REPLACED_QUALITY), outcome


_ABSENT: Any = object()


def _exact(text: str) -> Decimal | float:
    try:
        return Decimal(text)
    except ArithmeticError:
        # An exponent beyond even `decimal`; orjson has read the document, so the number is 0.
        return float(text)


def _walk(whole: Any, path: scan.Path) -> Any:
    here = whole
    for k, index in enumerate(path.index.tolist()):
        if isinstance(here, dict):
            here = here.get(path.text[path.starts[k] : path.starts[k + 1]].tobytes().decode(), _ABSENT)
        elif isinstance(here, list):
            here = here[index] if 0 <= index < len(here) else _ABSENT
        else:
            return _ABSENT
    return here


def _numeral(text: str) -> Any:
    """The number a text is, else the text itself."""
    data = np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
    if len(data) and decimal(data, 0, len(data))[0] == len(data):
        number = float(text)
        return number if abs(number) != float("inf") else text
    return text


def _time(time: Any, power: int) -> int | None:
    if isinstance(time, str):
        data = np.frombuffer(time.encode("utf-8", "replace"), np.uint8)
        ns, legal = _text_time(data, 0, len(data), power)
        return int(ns) if legal else None
    if isinstance(time, bool) or not isinstance(time, (int, Decimal)) or power < 0:
        return None
    scaled = Decimal(time).scaleb(power)
    if not -_TIME_LIMIT <= scaled <= _TIME_LIMIT:
        return None
    return int(scaled.to_integral_value())


@compiled
def _letters(data: Bytes, start: int, stop: int, word: Bytes) -> bool:
    """Whether ``data[start:stop]`` is the lower-case word, in any case."""
    if stop - start != len(word):
        return False
    for k in range(len(word)):
        if data[start + k] | 32 != word[k]:
            return False
    return True


_TRUE, _FALSE, _NAN = (np.frombuffer(w, np.uint8) for w in (b"true", b"false", b"nan"))


@compiled
def raw_scan(
    data: Bytes,
    starts: Ints,
    sizes: Ints,
    values: Floats,
    quality: npt.NDArray[np.uint8],
    outcome: npt.NDArray[np.uint8],
    sure: npt.NDArray[np.bool_],
) -> None:
    """Text payloads: a decimal number, `true`, `false` or `nan`, blanks around it allowed; arrays are filled."""
    for k in range(len(starts)):
        at, stop = starts[k], starts[k] + sizes[k]
        while at < stop and data[at] <= 32:
            at += 1
        while stop > at and data[stop - 1] <= 32:
            stop -= 1
        sure[k], outcome[k], values[k], quality[k] = True, SAMPLE, np.nan, _REPLACED_QUALITY
        if _letters(data, at, stop, _TRUE):
            values[k] = 1.0
        elif _letters(data, at, stop, _FALSE):
            values[k] = 0.0
        elif _letters(data, at, stop, _NAN):
            quality[k] = _NO_VALUE_QUALITY
        else:
            minus = at < stop and data[at] == 45
            if at < stop and (data[at] == 45 or data[at] == 43):
                at += 1
            while at + 1 < stop and data[at] == 48 and 48 <= data[at + 1] <= 57:
                at += 1
            end, negative, digits, power, more, _ = decimal(data, at, stop)
            if end != stop or negative:
                outcome[k] = MALFORMED
            else:
                values[k], sure[k] = to_float(minus, digits, power, more)


def raw(data: Bytes, starts: Ints, sizes: Ints, received: Ints) -> Columns:
    r"""Text numbers; there is no time in them, so the receive time stands in.

    Examples
    --------
    >>> data = np.frombuffer(b" 21.50\n", np.uint8)
    >>> raw(data, np.array([0]), np.array([7]), np.array([5])).value.tolist()
    [21.5]
    """
    n = len(starts)
    values, quality, outcome = np.empty(n), np.empty(n, np.uint8), np.empty(n, np.uint8)
    sure = np.empty(n, np.bool_)
    raw_scan(data, starts, sizes, values, quality, outcome, sure)
    for k in np.flatnonzero(~sure).tolist():
        # At the edge of a double: the interpreter decides.
        values[k] = float(data[starts[k] : starts[k] + sizes[k]].tobytes())
        if not np.isfinite(values[k]):
            outcome[k] = MALFORMED
    return Columns(values, received.copy(), quality, outcome)
