"""InfluxDB line protocol to columns, compiled: one pass over a body, no object per line.

Rules of this file. What the scanner accepts it reads exactly as `slow.parse` would; whatever it does not recognise
(blanks in odd places, numbers at the edge of a double, anything malformed) it leaves to that parser, line by line. A
series or field is looked up only once its whole line has been accepted, so a malformed line names no tag.

A *series* is the raw bytes before the first unescaped space, a *pair* a series with the raw bytes of a field key. Both
are numbered at first sight and looked up by prediction first (what followed last time), then through an
open-addressing hash.

Source: the line protocol reference of InfluxDB 1.8 and 2.7 (elements, whitespace, special characters, data types).
"""

# ruff: noqa: PLR1714 -- a compiled function knows no sets

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.digits import decimal, to_float
from ..common.jit import compiled
from ..common.table import NOTHING, intern, same

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

# Why `scan` came back.
END, FULL, GROW = range(3)
# Columns of the counters a call adds to.
LINES, STRINGS = range(2)
COUNTERS = 2

_TAB, _LF, _CR, _SPACE, _QUOTE, _HASH, _COMMA, _EQUALS, _BACKSLASH = 9, 10, 13, 32, 34, 35, 44, 61, 92
_LAST_NS = 9_223_372_036_854_775_806


@compiled
def line_end(data: Bytes, at: int, stop: int) -> int:
    """Where the line that begins at `at` ends: its newline, or `stop`.

    A newline inside the quotes of a field value belongs to the value; a backslash takes the next byte with it.
    """
    fields, quoted, after_equals = False, False, False
    while at < stop:
        c = data[at]
        if c == _BACKSLASH:
            at += 2
            after_equals = False
            continue
        if quoted:
            quoted = c != _QUOTE
        elif c == _LF:
            return at
        else:
            quoted = fields and after_equals and c == _QUOTE
            fields = fields or c == _SPACE
            after_equals = c == _EQUALS
        at += 1
    return stop


@compiled
def _predicted(data: Bytes, at: int, stop: int, end: int, guess: int, owner: int, pool: Bytes, spans: Ints) -> bool:
    """Whether entry `guess` stands at `at` and is followed by the byte `end`."""
    if guess < 0:
        return False
    first, size = spans[guess, 0], spans[guess, 1]
    if at + size >= stop or data[at + size] != end or spans[guess, 2] != owner:
        return False
    return same(data[at : at + size], pool[first : first + size])


@compiled
def _to_space(data: Bytes, at: int, stop: int) -> int:
    """Offset of the unescaped space that ends a plain series (no empty key or value, no tab); -1 = not plain."""
    begin = at
    # What the part of the series read now may be: 0 measurement, 1 tag key, 2 tag value.
    part, first = 0, at
    while at < stop:
        c = data[at]
        if c == _BACKSLASH:
            if at + 1 >= stop or data[at + 1] < _SPACE:
                return -1
            at += 2
            continue
        if c == _SPACE:
            if at == first or part == 1:
                return -1
            return at
        if c < _SPACE or (c == _HASH and at == begin):
            return -1
        if c == _COMMA:
            if at == first or part == 1:
                return -1
            part, first = 1, at + 1
        elif c == _EQUALS and part > 0:
            if at == first or part == 2:
                return -1
            part, first = 2, at + 1
        at += 1
    return -1


@compiled
def _word(data: Bytes, at: int, stop: int) -> tuple[int, float]:
    """A boolean at `at`: offset after it (-1 = none) and its value."""
    c = data[at]
    yes = c == 116 or c == 84
    if not yes and c != 102 and c != 70:
        return -1, 0.0
    n = 4 if yes else 5
    word = (116, 114, 117, 101, 101) if yes else (102, 97, 108, 115, 101)
    if at + n <= stop and (data[at + 1] | 32) == word[1]:
        upper = c < 97 and data[at + 1] < 97
        for k in range(1, n):
            if data[at + k] != (word[k] - 32 if upper else word[k]):
                return -1, 0.0
        return at + n, 1.0 if yes else 0.0
    return at + 1, 1.0 if yes else 0.0


@compiled
def _value(data: Bytes, at: int, stop: int) -> tuple[int, int, float]:
    """A field value at `at`: offset after it (-1 = left to the slow parser), 1 a number or 0 a text, the number."""
    if at >= stop:
        return -1, 0, 0.0
    if data[at] == _QUOTE:
        at += 1
        while at < stop and data[at] != _QUOTE:
            at += 2 if data[at] == _BACKSLASH else 1
        return (at + 1 if at < stop else -1), 0, 0.0
    end, negative, digits, power, more, integer = decimal(data, at, stop)
    if end < 0:
        end, value = _word(data, at, stop)
        return end, 1, value
    if end < stop and (data[end] == 105 or data[end] == 117):  # i, u
        signed = data[end] == 105
        if not integer or power or more or (negative and not signed):
            return -1, 1, 0.0
        if signed and digits > np.uint64(0x7FFFFFFFFFFFFFFF):
            return -1, 1, 0.0
        value = float(digits)
        return end + 1, 1, -value if negative and digits else value
    value, sure = to_float(negative, digits, power, more)
    return (end if sure else -1), 1, value


@compiled
def _time(data: Bytes, at: int, stop: int, unit_ns: int) -> tuple[int, int]:
    """A timestamp at `at`: offset after it (-1 = left to the slow parser) and ns."""
    negative = at < stop and data[at] == 45
    if negative:
        at += 1
    first, whole = at, np.uint64(0)
    while at < stop and 48 <= data[at] <= 57:
        if at - first == 19:
            return -1, 0
        whole = whole * np.uint64(10) + np.uint64(data[at] - 48)
        at += 1
    if at == first or whole > np.uint64(_LAST_NS // unit_ns):
        return -1, 0
    ns = int(np.int64(whole)) * unit_ns
    return at, -ns if negative else ns


@compiled
def scan(
    data: Bytes, at: int, stop: int, unit_ns: int, now_ns: int, now_quality: int,
    series_slots: Ints, series_hashes: npt.NDArray[np.uint64], series_pool: Bytes, series_spans: Ints,
    series_state: Ints,
    pair_slots: Ints, pair_hashes: npt.NDArray[np.uint64], pair_pool: Bytes, pair_spans: Ints, pair_state: Ints,
    keys: Ints, pair: Ints, time: Ints, value: npt.NDArray[np.float64], quality: npt.NDArray[np.uint8],
    line: Ints, left: Ints, counters: Ints, last: Ints,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Read lines from `at` on.

    Parameters
    ----------
    data, stop
        uint8: the body, its end.
    unit_ns
        ns of one unit of the timestamps.
    now_ns, now_quality
        Time and quality of lines without a timestamp.
    series_*, pair_*
        Two tables as `intern` takes them; a pair's owner is its series.
    keys
        int64[rows, 2], scratch: where the field keys of the line in hand are.
    pair, time, value, quality, line
        One entry a row, filled: number of the pair (`NOTHING` = the table is full), ns, float64, quality, offset of
        the row's line.
    left
        int64[n, 3], filled: start, end and number of rows before it of each line for the slow parser.
    counters
        int64[`COUNTERS`]: accepted lines, and text values that were left out, are added.
    last
        int64[1]: series of the newest row, where prediction begins.

    Returns
    -------
    tuple of int
        Where it stopped, why (`END`; `FULL` = rows or `left` must be emptied; `GROW` = a table must grow), rows, lines
        left.
    """
    rows, lefts = 0, 0
    while at < stop:
        if data[at] == _LF:
            at += 1
            continue
        if lefts == len(left):
            return at, FULL, rows, lefts
        begin = at
        guess = series_spans[last[0], 3] if last[0] >= 0 else NOTHING
        known = _predicted(data, at, stop, _SPACE, guess, 0, series_pool, series_spans)
        gap = at + series_spans[guess, 1] if known else _to_space(data, at, stop)
        fields, texts, good = 0, 0, gap >= 0
        at = gap + 1
        while good:
            if rows + fields == len(pair):
                return begin, FULL, rows, lefts
            first = at
            while at < stop and data[at] != _EQUALS:
                c = data[at]
                if c <= _SPACE or c == _COMMA or (c == _BACKSLASH and (at + 1 >= stop or data[at + 1] < _SPACE)):
                    at = stop
                    break
                at += 2 if c == _BACKSLASH else 1
            if at >= stop or at == first:
                good = False
                break
            size = at - first
            at, number, got = _value(data, at + 1, stop)
            if at < 0:
                good = False
                break
            if number:
                keys[rows + fields, 0], keys[rows + fields, 1] = first, size
                value[rows + fields] = got
                fields += 1
            else:
                texts += 1
            if at < stop and data[at] == _COMMA:
                at += 1
                continue
            break
        ns, of_time = now_ns, now_quality
        if good and at < stop and data[at] == _SPACE:
            at, ns = _time(data, at + 1, stop, unit_ns)
            good, of_time = at >= 0, 0
        if good and at < stop and data[at] == _CR and at + 1 < stop:
            at += 1
        if not good or (at < stop and data[at] != _LF):
            at = line_end(data, begin, stop)
            left[lefts, 0], left[lefts, 1], left[lefts, 2] = begin, at, rows
            lefts += 1
            continue
        if fields:
            series = guess
            if not known:
                series = intern(
                    data, begin, gap - begin, 0, series_slots, series_hashes, series_pool, series_spans, series_state
                )
                if series == -2:
                    return begin, GROW, rows, lefts
                if last[0] >= 0 and series >= 0:
                    series_spans[last[0], 3] = series
            before = NOTHING if series < 0 else series_spans[series, 4]
            for k in range(rows, rows + fields):
                number = NOTHING
                if series >= 0:
                    hint = before if k == rows else (pair_spans[before, 3] if before >= 0 else NOTHING)
                    if _predicted(data, keys[k, 0], stop, _EQUALS, hint, series, pair_pool, pair_spans) and (
                        pair_spans[hint, 1] == keys[k, 1]
                    ):
                        number = hint
                    else:
                        number = intern(
                            data, keys[k, 0], keys[k, 1], series, pair_slots, pair_hashes, pair_pool, pair_spans,
                            pair_state,
                        )  # fmt: skip
                        if number == -2:
                            return begin, GROW, rows, lefts
                        if number >= 0:
                            if k == rows:
                                series_spans[series, 4] = number
                            elif before >= 0:
                                pair_spans[before, 3] = number
                    before = number
                pair[k], time[k], quality[k], line[k] = number, ns, of_time, begin
            if series >= 0:
                last[0] = series
        rows += fields
        counters[LINES] += 1
        counters[STRINGS] += texts
        at += 1
    return at, END, rows, lefts
