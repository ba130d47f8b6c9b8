"""Rows of the index become samples: plan in groups of bounded size, decode, merge where rows overlap.

A *group* is a run of the wanted tags and a time range that hold about `GROUP_ROWS` samples; groups come in order of tag,
then time, and each is decoded on its own, so memory is bounded by a few groups whatever the history's size. A tag with more
samples than that is cut in time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ChecksumError, CodecError, DataError, VersionError
from iiot_dask.history import layout
from iiot_dask.history.blobs import Blobs, Samples, decode
from iiot_dask.history.block import Columns
from iiot_dask.history.index import FileIndex, LiveFile, Rows, read_groups
from iiot_dask.history.store import Store

GROUP_ROWS = 1_000_000
"""Samples of a group, about; a group being decoded takes some 100 bytes a sample."""

WIDE_ROWS = 8_000_000
"""Most samples of a group when rows hold so many tags that small groups would decode them over and over."""

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """Samples to decode together: of the tags `ids` (sorted), with ``start <= time <= last``; `rows` may hold them."""

    ids: npt.NDArray[np.int64]
    start: int
    last: int
    rows: Rows


def plan(rows: Rows, ids: npt.NDArray[np.int64], start: int, last: int, size: int | None = None) -> Iterator[Group]:
    """Cut the samples of `rows` that are of `ids` (sorted) into groups of about `size` samples, in order."""
    size = size or GROUP_ROWS
    if not len(rows) or not len(ids):
        return
    head = rows.head
    low = np.searchsorted(ids, head["tag_min"])
    high = np.searchsorted(ids, head["tag_max"], side="right")
    share = head["count"] / np.maximum(high - low, 1)
    slope = np.zeros(len(ids) + 1)
    np.add.at(slope, low, share)
    np.add.at(slope, high, -share)
    weight = np.cumsum(slope)[:-1]
    at = 0
    total = np.cumsum(weight)
    size = _worthwhile(head["count"], low, high, total, size)
    while at < len(ids):
        before = total[at - 1] if at else 0.0
        stop = max(at + 1, int(np.searchsorted(total, before + size, side="right")))
        part = rows.take((low < stop) & (high > at))
        if len(part):
            starts = _cut(part, start, last, size) if stop == at + 1 and weight[at] > 2 * size else [start]
            for a, b in zip(starts, [*(t - 1 for t in starts[1:]), last], strict=True):
                inside = part
                if len(starts) > 1:
                    inside = part.take((part.head["end_ns"] >= a) & (part.head["start_ns"] <= b))
                yield Group(ids[at:stop], a, b, inside)
        at = stop


def _worthwhile(
    count: npt.NDArray[np.int64],
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    total: npt.NDArray[np.float64],
    size: int,
) -> int:
    """`size`, or more where rows of many tags would otherwise be decoded again for group after group."""
    reach = total[np.maximum(high, 1) - 1] - total[np.minimum(low, len(total) - 1)]
    again = float((count * (1 + np.maximum(reach, 0) / size)).sum() / count.sum())
    return size if again < 1.5 else max(size, min(int(size * again), WIDE_ROWS))


def _cut(rows: Rows, start: int, last: int, size: int) -> list[int]:
    """Times at which stretches of about `size` samples of the rows of one tag begin, the first at `start`."""
    order = np.argsort(rows.head["start_ns"], kind="stable")
    step = np.cumsum(rows.head["count"][order]) // size
    times = rows.head["start_ns"][order][np.flatnonzero(np.diff(step)) + 1]
    return [start, *sorted({t for t in times.tolist() if start < t <= last})]


def read_blobs(store: Store, file: FileIndex, rows: npt.NDArray[np.int64]) -> list[Blobs]:
    """The blobs of rows (ascending) of one file.

    Raises
    ------
    ChecksumError
        If a page is damaged.
    """
    groups = np.unique(np.searchsorted(file.group_starts, rows, side="right") - 1)
    table = read_groups(store, file.path, file.metadata, groups.tolist(), layout.BLOBS)
    sizes = np.diff(file.group_starts)[groups]
    # Position of each wanted row among the rows of the row groups read.
    offset = np.cumsum(sizes) - sizes
    which = np.searchsorted(groups, np.searchsorted(file.group_starts, rows, side="right") - 1)
    table = table.take(rows - file.group_starts[groups[which]] + offset[which])
    columns = [table.column(name).to_pylist() for name in layout.BLOBS]
    return [Blobs(*row) for row in zip(*columns, strict=True)]


def read_samples(store: Store, rows: Rows) -> list[Samples]:
    """Decode rows, in their order.

    Raises
    ------
    ChecksumError
        If a page or a blob is damaged; the message names file and row.
    """
    out: list[Samples | None] = [None] * len(rows)
    order = np.lexsort((rows.row, rows.file))
    edges = np.flatnonzero(np.diff(rows.file[order], prepend=-1, append=-1))
    for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        at = order[a:b]
        file = rows.files[int(rows.file[at[0]])]
        if isinstance(file, LiveFile):
            for position in at.tolist():
                out[position] = file.samples(int(rows.row[position]))
            continue
        for position, blobs in zip(at.tolist(), read_blobs(store, file, rows.row[at]), strict=True):
            out[position] = decode_row(blobs, file.path, int(rows.row[position]), rows, position)
    return [s for s in out if s is not None]


def decode_row(blobs: Blobs, path: str, number: int, rows: Rows, position: int) -> Samples:
    """Decode one row and compare it with its index entry: count, range of times and of tags."""
    head = rows.head
    try:
        found = decode(blobs, int(head["count"][position]))
        if int(found.time.min()) != head["start_ns"][position] or int(found.time.max()) != head["end_ns"][position]:
            msg = "its times are not those of its index entry"
            raise ChecksumError(msg)
        if found.runs is not None and (
            found.runs[0] != head["tag_min"][position] or found.runs[-1] != head["tag_max"][position]
        ):
            msg = "its tags are not those of its index entry"
            raise ChecksumError(msg)
    except VersionError:
        raise
    except (DataError, CodecError) as error:
        msg = f"row {number} of file {path!r} is damaged: {error}"
        raise ChecksumError(msg) from error
    return found


def wanted(group: Group, samples: Samples, tag_id: int) -> Columns:
    """The samples of a decoded row (of tag `tag_id`, or -1: a block) that a group asks for, tags as positions."""
    time, value, quality = samples.time, samples.value, samples.quality
    if samples.runs is None or samples.lengths is None:
        a, b = np.searchsorted(time, group.start), np.searchsorted(time, group.last, side="right")
        tag = np.full(int(b - a), int(np.searchsorted(group.ids, tag_id)), np.int64)
        return tag, time[a:b], value[a:b], quality[a:b]
    at = np.searchsorted(group.ids, samples.runs)
    found = group.ids[np.minimum(at, len(group.ids) - 1)] == samples.runs
    tag = np.repeat(np.where(found, at, -1), samples.lengths)
    if not found.all() or int(time.min()) < group.start or int(time.max()) > group.last:
        keep = (tag >= 0) & (time >= group.start) & (time <= group.last)
        return tag[keep], time[keep], value[keep], quality[keep]
    return tag, time, value, quality


def in_order(groups: Iterable[S], work: Callable[[S], T], ahead: int | None = None) -> Iterator[T]:
    """``work(group)`` for each group, in order, computed `ahead` in threads (default: one more than there are processors)."""
    ahead = ahead or (os.cpu_count() or 1) + 1
    waiting: deque[Future[T]] = deque()  # bounded by `ahead`
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="iiot-history")
    try:
        for group in groups:
            waiting.append(pool.submit(work, group))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Not waited for: an abandoned iterator may be collected on one of these very threads, which can not join itself.
        pool.shutdown(wait=False, cancel_futures=True)
