"""Many JSON documents: the first of a kind is read in full, those built like it by comparing.

The shape of a document is its bytes, with numbers and texts taken out: what stood between them must come again byte by byte,
and in their place any number or text may stand. A document that follows the shape of one that was read is JSON because that
one was, and its value and time stand at the same marks; it is read several times faster. Whatever does not follow (another
key, another order, one blank more) is read in full, and its shape is the next one tried. Results are the same either way.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled
from . import json_scan as full

# ruff: noqa: SIM110 -- a compiled loop knows no generators

MARKS_MAX = 32
"""Documents with more numbers and texts have no shape; they are read in full."""


@compiled
def alike(data: npt.NDArray[np.uint8], a: int, b: int, size: int) -> bool:
    """Whether ``data[a : a + size]`` and ``data[b : b + size]`` are the same bytes."""
    for k in range(size):
        if data[a + k] != data[b + k]:
            return False
    return True


@compiled
def usable(row: npt.NDArray[np.int64], start: int, marks: npt.NDArray[np.int64], met: int) -> bool:
    """Whether others can be held against this document: it was read without doubt, and value and time stand at marks."""
    if row[full.STATUS] != full.OK or met == 0 or met > MARKS_MAX:
        return False
    value, time = -1, -1
    for k in range(met):
        # Of a repeated key the last counts.
        if marks[k, full.MARK_ROLES] & full.ROLE_VALUE:
            value = start + marks[k, full.MARK_START]
        if marks[k, full.MARK_ROLES] & full.ROLE_TIME:
            time = start + marks[k, full.MARK_START]
    if value < 0 or row[full.VALUE_START] != value:
        return False
    if row[full.VALUE_KIND] != full.NUMBER and row[full.VALUE_KIND] != full.TEXT:
        return False
    if time < 0:
        return bool(row[full.TIME_KIND] == full.MISSING)
    return bool(row[full.TIME_START] == time and row[full.TIME_KIND] != full.MISSING)


@compiled
def follow(
    data: npt.NDArray[np.uint8],
    start: int,
    stop: int,
    shape: int,
    size: int,
    marks: npt.NDArray[np.int64],
    count: int,
    time_power: int,
    row: npt.NDArray[np.int64],
) -> tuple[bool, float, int]:
    """Read the document at ``data[start:stop]`` by the shape of the one of `size` bytes at `shape`.

    Returns
    -------
    bool, float, int
        Whether it follows; if so, value and time as of `json_scan.document`, and `row` is filled. Otherwise nothing is said.
    """
    value, time, at, seen = np.nan, 0, start, 0
    row[:] = 0
    for k in range(count):
        gap = marks[k, full.MARK_START] - seen
        if at + gap >= stop or not alike(data, at, shape + seen, gap):
            return False, value, time
        at += gap
        roles = marks[k, full.MARK_ROLES]
        end, kind, number, time_kind, ns, sure = full.scalar(
            data, at, stop, (roles & full.ROLE_VALUE) != 0, (roles & full.ROLE_TIME) != 0, time_power
        )
        if end < 0 or kind != marks[k, full.MARK_KIND] or not sure:
            return False, value, time
        if roles & full.ROLE_VALUE:
            row[full.VALUE_KIND], row[full.VALUE_START], row[full.VALUE_LEN] = kind, at, end - at
            value = number
        if roles & full.ROLE_TIME:
            row[full.TIME_KIND], row[full.TIME_START], row[full.TIME_LEN] = time_kind, at, end - at
            time = ns
        at, seen = end, marks[k, full.MARK_END]
    if size - seen != stop - at or not alike(data, at, shape + seen, size - seen):
        return False, value, time
    row[full.STATUS] = full.OK
    return True, value, time


@compiled
def scan(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    value_text: npt.NDArray[np.uint8],
    value_starts: npt.NDArray[np.int64],
    value_index: npt.NDArray[np.int64],
    time_text: npt.NDArray[np.uint8],
    time_starts: npt.NDArray[np.int64],
    time_index: npt.NDArray[np.int64],
    time_power: int,
    rows: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    times: npt.NDArray[np.int64],
) -> None:
    """Read many documents that lie in one buffer.

    Parameters
    ----------
    data
        uint8, the buffer.
    starts, lengths
        int64, one a document: offset and size, bytes.
    value_text, value_starts, value_index
        `json_scan.Path` of the value.
    time_text, time_starts, time_index
        `json_scan.Path` of the time; a path of no levels means no time.
    time_power
        Ten to this power is the time's unit in ns (9 for seconds); negative = times are text.
    rows
        int64, documents x `json_scan.COLUMNS`, filled: status, what stands at the paths, and where.
    values
        float64, filled; NaN unless there is a number or boolean.
    times
        int64 ns, filled; 0 unless there is a number that fits.
    """
    array = np.empty(full.DEPTH_MAX + 2, np.int64)
    marks = np.empty((MARKS_MAX, full.MARK_COLUMNS), np.int64)
    shape, size, met = -1, 0, 0
    for k in range(len(starts)):
        start, stop = starts[k], starts[k] + lengths[k]
        if shape >= 0:
            follows, value, time = follow(data, start, stop, shape, size, marks, met, time_power, rows[k])
            if follows:
                values[k], times[k] = value, time
                continue
        values[k], times[k], met = full.document(
            data, start, stop, value_text, value_starts, value_index, time_text, time_starts, time_index, time_power,
            array, marks, rows[k],
        )  # fmt: skip
        shape, size = (start, lengths[k]) if usable(rows[k], start, marks, met) else (-1, 0)
