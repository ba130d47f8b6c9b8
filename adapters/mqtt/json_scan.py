"""A strict JSON reader that keeps only what it was asked for: the value at one path and the time at another.

Rules of this file: a document is read to its end and every byte of it is checked (RFC 8259, as strict as orjson), so a
damaged one is told even when both fields came first; of a repeated key the last counts; what can not be decided here
exactly (an escaped key, a number at the edge of what a double holds) is marked `FALLBACK`, never guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..common.digits import decimal, to_float, to_integer
from ..common.jit import compiled
from .utf8 import sequence

# ruff: noqa: SIM110, PLR1714 -- a compiled loop knows neither generators nor sets

# Columns of a result row.
STATUS, VALUE_KIND, TIME_KIND, VALUE_START, VALUE_LEN, TIME_START, TIME_LEN = range(7)
COLUMNS = 7

# STATUS: is the document JSON?
OK, MALFORMED, FALLBACK = range(3)

# VALUE_KIND, TIME_KIND: what stands at the path.
MISSING, NUMBER, BOOLEAN, NULL, TEXT, CONTAINER, UNFIT = range(7)

# Columns of a mark: a number or text of a document, where it lies (offsets from the document's start), and what it is for.
MARK_START, MARK_END, MARK_KIND, MARK_ROLES = range(4)
MARK_COLUMNS = 4
ROLE_VALUE, ROLE_TIME = 1, 2

DEPTH_MAX = 512
"""Deepest nesting read; a document that goes deeper is malformed (orjson stops at 1,024)."""

_QUOTE, _BACKSLASH, _COMMA, _COLON = ord('"'), ord("\\"), ord(","), ord(":")
_OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_ARRAY, _CLOSE_ARRAY = ord("{"), ord("}"), ord("["), ord("]")
_TRUE = np.frombuffer(b"true", np.uint8)
_FALSE = np.frombuffer(b"false", np.uint8)
_NULL = np.frombuffer(b"null", np.uint8)

_POWER_MAX = 280
"""A number whose power of ten is beyond this may be infinite: left to the fall-back."""


@dataclass(frozen=True, slots=True)
class Path:
    """A way into a JSON document: keys, or positions in arrays, one a level; no level = the document itself.

    `text` holds the levels' bytes end to end, level k being ``text[starts[k]:starts[k + 1]]``; `index` is the level as
    an array position, -1 where it is no number.

    Examples
    --------
    >>> p = Path.of("points.0.v"); bytes(p.text), p.starts.tolist(), p.index.tolist()
    (b'points0v', [0, 6, 7, 8], [-1, 0, -1])
    >>> len(Path.of("").index)
    0
    """

    text: npt.NDArray[np.uint8]
    starts: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]

    @classmethod
    def of(cls, dotted: str | None) -> Path:
        """From keys with dots between them; ``""`` is the document itself."""
        levels = [level.encode() for level in dotted.split(".")] if dotted else []
        starts = np.cumsum([0, *map(len, levels)]).astype(np.int64)
        index = [int(level) if level.isdigit() and len(level) < 10 else -1 for level in levels]
        return cls(np.frombuffer(b"".join(levels), np.uint8), starts, np.array(index, np.int64))


@compiled
def _hex4(data: npt.NDArray[np.uint8], at: int, stop: int) -> int:
    if at + 4 > stop:
        return -1
    value = 0
    for k in range(4):
        c = int(data[at + k])
        if 48 <= c <= 57:
            value = value * 16 + c - 48
        elif 97 <= (c | 32) <= 102:
            value = value * 16 + (c | 32) - 87
        else:
            return -1
    return value


@compiled
def _escape(data: npt.NDArray[np.uint8], at: int, stop: int) -> int:
    """Offset after the escape whose backslash is at `at`; -1 = not legal (lone surrogates are not)."""
    if at + 1 >= stop:
        return -1
    c = data[at + 1]
    if c in (34, 92, 47, 98, 102, 110, 114, 116):  # " \ / b f n r t
        return at + 2
    if c != 117:  # u
        return -1
    code = _hex4(data, at + 2, stop)
    if code < 0 or 0xDC00 <= code <= 0xDFFF:
        return -1
    if code < 0xD800 or code > 0xDBFF:
        return at + 6
    if at + 8 > stop or data[at + 6] != 92 or data[at + 7] != 117:
        return -1
    return at + 12 if 0xDC00 <= _hex4(data, at + 8, stop) <= 0xDFFF else -1


@compiled
def string(data: npt.NDArray[np.uint8], at: int, stop: int) -> tuple[int, bool]:
    """Read the JSON string whose opening quote is at `at`: (offset after it or -1, does it hold an escape?)."""
    at += 1
    escaped = False
    while at < stop:
        c = data[at]
        if c == 34:
            return at + 1, escaped
        if c == 92:
            escaped = True
            at = _escape(data, at, stop)
            if at < 0:
                return -1, escaped
        elif c < 32:
            return -1, escaped
        elif c < 128:
            at += 1
        else:
            size = sequence(data, at, stop)
            if size == 0:
                return -1, escaped
            at += size
    return -1, escaped


@compiled
def _blank(data: npt.NDArray[np.uint8], at: int, stop: int) -> int:
    while at < stop and (data[at] == 32 or data[at] == 10 or data[at] == 13 or data[at] == 9):
        at += 1
    return at


@compiled
def _word(data: npt.NDArray[np.uint8], at: int, stop: int, word: npt.NDArray[np.uint8]) -> bool:
    if at + len(word) > stop:
        return False
    for k in range(len(word)):
        if data[at + k] != word[k]:
            return False
    return True


@compiled
def _same(data: npt.NDArray[np.uint8], start: int, stop: int, text: npt.NDArray[np.uint8], lo: int, hi: int) -> bool:
    if stop - start != hi - lo:
        return False
    for k in range(hi - lo):
        if data[start + k] != text[lo + k]:
            return False
    return True


@compiled
def scalar(
    data: npt.NDArray[np.uint8], at: int, stop: int, want_float: bool, want_time: bool, time_power: int
) -> tuple[int, int, float, int, int, bool]:
    """Read a scalar at `at`: offset after it (-1 = malformed), kind, value, time kind, time in ns, and whether it could be decided."""
    c = data[at]
    if c == 34:
        end, _ = string(data, at, stop)
        return end, TEXT, 0.0, TEXT, 0, True
    if c == 116:
        return at + 4 if _word(data, at, stop, _TRUE) else -1, BOOLEAN, 1.0, UNFIT, 0, True
    if c == 102:
        return at + 5 if _word(data, at, stop, _FALSE) else -1, BOOLEAN, 0.0, UNFIT, 0, True
    if c == 110:
        return at + 4 if _word(data, at, stop, _NULL) else -1, NULL, np.nan, NULL, 0, True
    end, negative, digits, power, more, integer = decimal(data, at, stop)
    if end < 0:
        return -1, MISSING, 0.0, MISSING, 0, True
    value, sure, time_kind, time = 0.0, power <= _POWER_MAX, NUMBER, 0
    if want_float:
        value, sure = to_float(negative, digits, power, more)
        if integer and value == 0.0:
            value = 0.0
    if want_time and sure:
        if time_power < 0:
            time_kind = UNFIT
        else:
            time, fits = to_integer(negative, digits, power + time_power, more)
            if not fits:
                time_kind = UNFIT
    return end, NUMBER, value, time_kind, time, sure


@compiled
def document(
    data: npt.NDArray[np.uint8],
    start: int,
    stop: int,
    value_text: npt.NDArray[np.uint8],
    value_starts: npt.NDArray[np.int64],
    value_index: npt.NDArray[np.int64],
    time_text: npt.NDArray[np.uint8],
    time_starts: npt.NDArray[np.int64],
    time_index: npt.NDArray[np.int64],
    time_power: int,
    array: npt.NDArray[np.int64],
    marks: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
) -> tuple[float, int, int]:
    """Read one document; see `json_shape.scan` for the arguments. `array` is scratch: per depth -1 for an object, else the position.

    Returns
    -------
    float, int, int
        Value and time (ns), as far as `row` says that they are there, and how many numbers and texts were met: the first
        ``len(marks)`` of them are written to `marks`, see `json_shape`.
    """
    met = 0
    value, time = np.nan, 0
    value_levels, time_levels = len(value_index), len(time_index)
    # How many levels of each path the open containers match; the innermost one counts when it equals depth - 1.
    on_value, on_time = 0, 0
    depth, sure = 0, True
    row[:] = 0
    at = _blank(data, start, stop)
    hit_value, hit_time = value_levels == 0, False
    expect = 0  # 0 a value, 1 a key or }, 2 a key, 3 a comma or the end, 4 a value or ]
    while True:
        if expect == 3 and depth == 0:
            at = _blank(data, at, stop)
            if at != stop:
                break
            row[STATUS] = OK if sure else FALLBACK
            return value, time, met
        at = _blank(data, at, stop)
        if at >= stop:
            break
        c = data[at]
        if expect == 3:
            if c == 44:
                at += 1
                if array[depth] < 0:
                    expect = 2
                    continue
                array[depth] += 1
                expect = 0
            elif c == (125 if array[depth] < 0 else 93):
                at += 1
                depth -= 1
                on_value = min(on_value, max(depth - 1, 0))
                on_time = min(on_time, max(depth - 1, 0))
                continue
            else:
                break
            at = _blank(data, at, stop)
            if at >= stop:
                break
            c = data[at]
        elif (expect == 1 and c == 125) or (expect == 4 and c == 93):
            at += 1
            depth -= 1
            on_value = min(on_value, max(depth - 1, 0))
            on_time = min(on_time, max(depth - 1, 0))
            expect = 3
            continue
        if expect == 1 or expect == 2:
            if c != 34:
                break
            end, escaped = string(data, at, stop)
            if end < 0:
                break
            hit_value = on_value == depth - 1 and depth <= value_levels
            hit_time = on_time == depth - 1 and depth <= time_levels
            if escaped:
                sure = sure and not (hit_value or hit_time)
            hit_value = hit_value and _same(
                data, at + 1, end - 1, value_text, value_starts[depth - 1], value_starts[depth]
            )
            hit_time = hit_time and _same(data, at + 1, end - 1, time_text, time_starts[depth - 1], time_starts[depth])
            at = _blank(data, end, stop)
            if at >= stop or data[at] != 58:
                break
            at = _blank(data, at + 1, stop)
            if at >= stop:
                break
            c = data[at]
        elif depth:
            # An element of an array.
            hit_value = on_value == depth - 1 and depth <= value_levels and value_index[depth - 1] == array[depth]
            hit_time = on_time == depth - 1 and depth <= time_levels and time_index[depth - 1] == array[depth]
        if hit_value:
            row[VALUE_KIND] = MISSING
        if hit_time:
            row[TIME_KIND] = MISSING
        last_value, last_time = hit_value and depth == value_levels, hit_time and depth == time_levels
        if c == 123 or c == 91:
            if depth == DEPTH_MAX:
                break
            if last_value:
                row[VALUE_KIND] = CONTAINER
            elif hit_value:
                on_value = depth
            if last_time:
                row[TIME_KIND] = UNFIT
            elif hit_time:
                on_time = depth
            depth += 1
            array[depth] = -1 if c == 123 else 0
            expect = 1 if c == 123 else 4
            at += 1
            continue
        end, kind, number, time_kind, ns, decided = scalar(data, at, stop, last_value, last_time, time_power)
        if end < 0:
            break
        sure = sure and decided
        if kind in (NUMBER, TEXT):
            if met < len(marks):
                mark = marks[met]
                mark[MARK_START], mark[MARK_END], mark[MARK_KIND] = at - start, end - start, kind
                mark[MARK_ROLES] = (ROLE_VALUE if last_value else 0) | (ROLE_TIME if last_time else 0)
            met += 1
        if last_value:
            row[VALUE_KIND], row[VALUE_START], row[VALUE_LEN] = kind, at, end - at
            value = number
        if last_time:
            row[TIME_KIND], row[TIME_START], row[TIME_LEN] = time_kind, at, end - at
            time = ns
        at = end
        expect = 3
    row[STATUS] = MALFORMED
    return value, time, met
