"""Samples of a group, decoded into place: chunks that stand alone go straight to their slice of the result.

A group's rows are split first. *Alone* is a chunk that lies in the group's time range and within whose range no other row
has a sample of its tag; what a block holds is known by decoding it, so a block drags only those chunks along that it
really touches. Everything else is *loose*: decoded, merged (last write wins) and put between the chunks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iiot_dask import codec
from iiot_dask.codec import bulk
from iiot_dask.core.errors import ChecksumError, CodecError, DataError, VersionError
from iiot_dask.core.jit import njit
from iiot_dask.history.block import Columns
from iiot_dask.history.index import FileIndex, Rows, overlap_of_chunks, read_groups
from iiot_dask.history.kernels import group as merged
from iiot_dask.history.read import Group, read_samples, wanted
from iiot_dask.history.store import Store

ALL = ("time", "value", "quality")
"""The columns a row's samples have, beside its tag."""

_DTYPES: dict[str, Any] = {"time": np.int64, "value": np.float64, "quality": np.uint8}


@njit
def touched_kernel(at: Any, time: Any, tag: Any, start: Any, end: Any, out: Any) -> None:
    """``out[i]`` = whether a sample of tag[i] lies in ``start[i]..end[i]``; samples of tag t are ``time[at[t]:at[t + 1]]``."""
    for i in range(len(tag)):
        a, b = at[tag[i]], at[tag[i] + 1]
        p = a + np.searchsorted(time[a:b], start[i])
        out[i] = p < b and time[p] <= end[i]


@njit
def place_kernel(tag: Any, start: Any, count: Any, loose_tag: Any, loose_time: Any, at: Any, loose_at: Any) -> None:
    """Where chunks and loose samples go, both sorted by tag then time, no loose one inside a chunk of its tag."""
    i = j = out = 0
    while i < len(tag) or j < len(loose_tag):
        first = j == len(loose_tag)
        if i < len(tag) and not first:
            first = tag[i] < loose_tag[j] or (tag[i] == loose_tag[j] and start[i] < loose_time[j])
        if first:
            at[i] = out
            out += count[i]
            i += 1
        else:
            loose_at[j] = out
            out += 1
            j += 1


@dataclass(frozen=True, slots=True)
class Split:
    """A group's rows: chunks `alone` (by tag, then time; `tag`: their positions in ``group.ids``), and `loose` samples.

    `loose`: sorted, one a (tag, time), tags as positions; `held`: samples of the group its rows held, those written again
    included.
    """

    group: Group
    alone: Rows
    tag: npt.NDArray[np.int64]
    loose: Columns
    held: int


@dataclass(frozen=True, slots=True)
class Decoded:
    """Samples sorted by tag then time: `counts` (int64) of each of ``group.ids``, and the columns that were asked for."""

    counts: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]
    held: int

    @property
    def tag(self) -> npt.NDArray[np.int64]:
        """Position in ``group.ids`` of each sample."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def split(store: Store, group: Group) -> Split:
    """Tell chunks that stand alone from what has to be merged.

    Raises
    ------
    ChecksumError
        If a row that had to be decoded is damaged.
    """
    rows = group.rows
    is_block = rows.head["tag_id"] < 0
    chunks = rows.take(~is_block)
    chunks = chunks.take(np.lexsort((chunks.head["start_ns"], chunks.head["tag_id"])))
    tag = np.searchsorted(group.ids, chunks.head["tag_id"]).astype(np.int64)
    head = chunks.head
    mixed = overlap_of_chunks(chunks) | (head["start_ns"] < group.start) | (head["end_ns"] > group.last)
    blocks = rows.take(is_block)
    blocks = blocks.take(_written(blocks))
    parts = _parts(store, group, blocks)
    loose = _merged(group, parts)
    if len(loose[0]):
        at = np.zeros(len(group.ids) + 1, np.int64)
        np.cumsum(np.bincount(loose[0], minlength=len(group.ids)), out=at[1:])
        touched = np.empty(len(chunks), np.bool_)
        touched_kernel(at, loose[1], tag, head["start_ns"], head["end_ns"], touched)
        mixed |= touched
    held = sum(len(p[0]) for p in parts)
    if mixed.any():
        others = chunks.take(mixed)
        more = _parts(store, group, others)
        held += sum(len(p[0]) for p in more)
        order = _written(_both(blocks, others))
        every = parts + more
        loose = _merged(group, [every[i] for i in order.tolist()])
        chunks, tag = chunks.take(~mixed), tag[~mixed]
    return Split(group, chunks, tag, loose, held + int(chunks.head["count"].sum()))


def _written(rows: Rows) -> npt.NDArray[np.int64]:
    """Positions in the order written, the last word last."""
    return np.lexsort((rows.row, rows.file, rows.head["order"]))


def _both(a: Rows, b: Rows) -> Rows:
    head = {k: np.concatenate([a.head[k], b.head[k]]) for k in ("order",)}
    return Rows(a.files, np.concatenate([a.file, b.file]), np.concatenate([a.row, b.row]), head)


def _parts(store: Store, group: Group, rows: Rows) -> list[Columns]:
    tags = rows.head["tag_id"].tolist()
    return [wanted(group, s, tag) for s, tag in zip(read_samples(store, rows), tags, strict=True)]


def _merged(group: Group, parts: list[Columns]) -> Columns:
    """Samples in the order written -> sorted, one a (tag, time)."""
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.uint8)
    tag, time, value, quality = (np.concatenate([p[i] for p in parts]) for i in range(4))
    return merged(tag, time, value, quality, len(group.ids))


def join(store: Store, found: Split, columns: Collection[str] = ALL) -> Decoded:
    """Decode the chunks that stand alone and put everything in order.

    Parameters
    ----------
    columns
        Which of `ALL` are wanted; of the others not a byte is read.

    Raises
    ------
    ChecksumError
        If a chunk is damaged.
    """
    head = found.alone.head
    count = head["count"]
    at, loose_at = np.empty(len(found.alone), np.int64), np.empty(len(found.loose[0]), np.int64)
    place_kernel(found.tag, head["start_ns"], count, found.loose[0], found.loose[1], at, loose_at)
    tags = len(found.group.ids)
    counts = np.bincount(found.tag, weights=count, minlength=tags).astype(np.int64)
    counts += np.bincount(found.loose[0], minlength=tags)
    total = int(counts.sum())
    out = {name: allocate(total, _DTYPES[name]) for name in ALL if name in columns}
    if "quality" in out:
        out["quality"][:] = 0
    for name, column in zip(ALL, found.loose[1:], strict=True):
        if name in out:
            out[name][loose_at] = column
    for file, rows, mine in _by_file(found.alone):
        _decode_file(store, file, rows, count[mine], at[mine], out)
    if "time" in out and len(at):
        first, last = out["time"][at], out["time"][at + count - 1]
        wrong = np.flatnonzero((first != head["start_ns"]) | (last != head["end_ns"]))
        if len(wrong):
            raise _damaged(
                found.alone.files[int(found.alone.file[wrong[0]])].path,
                int(found.alone.row[wrong[0]]),
                "its times are not those of its index entry",
            )
    return Decoded(counts, out, found.held)


def qualities(store: Store, rows: Rows, *, forward: bool) -> npt.NDArray[np.uint8]:
    """Quality of the first (or last) sample of each chunk, without a look at times and values."""
    out = np.zeros(len(rows), np.uint8)
    for file, numbers, mine in _by_file(rows):
        table, local = _read(store, file, numbers, ["quality"])
        column, there = _blobs(table.column("quality"), local)
        for i in np.flatnonzero(there).tolist():
            codes = np.empty(int(rows.head["count"][mine[i]]), np.uint8)
            _decode_one(file, int(numbers[i]), "quality", column.blob(i), codes)
            out[mine[i]] = codes[0 if forward else -1]
    return out


def decode_group(store: Store, group: Group) -> Columns:
    """Samples of a group: position in ``group.ids`` (int64), time, value, quality; sorted, one a (tag, time).

    Where rows overlap, the row of larger `order` wins (of equal orders the later file name).
    """
    return decode_counted(store, group)[0]


def decode_counted(store: Store, group: Group) -> tuple[Columns, int]:
    """`decode_group`, and how many samples the rows held before those written again were dropped."""
    found = join(store, split(store, group))
    return (found.tag, found.columns["time"], found.columns["value"], found.columns["quality"]), found.held


def allocate(n: int, dtype: Any) -> npt.NDArray[Any]:
    """An array in Arrow's memory pool, which keeps pages for the next one: fresh pages cost as much as decoding does."""
    buffer = pa.allocate_buffer(n * np.dtype(dtype).itemsize)
    return np.frombuffer(buffer, dtype, n)


def _by_file(rows: Rows) -> Iterator[tuple[FileIndex, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(file, row numbers ascending, positions) of each file."""
    order = np.lexsort((rows.row, rows.file))
    edges = np.flatnonzero(np.diff(rows.file[order], prepend=-1, append=-1))
    for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mine = order[a:b]
        file = rows.files[int(rows.file[mine[0]])]
        assert isinstance(file, FileIndex), "a chunk lies in a file"
        yield file, rows.row[mine], mine


def _decode_file(
    store: Store,
    file: FileIndex,
    rows: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    at: npt.NDArray[np.int64],
    out: dict[str, npt.NDArray[Any]],
) -> None:
    names = list(out)
    table, local = _read(store, file, rows, names)
    for name in names:
        column, there = _blobs(table.column(name), local)
        if name == "quality":
            left = np.flatnonzero(there)
        elif name == "time":
            left = bulk.decode_times_into(column, count, at, out[name])
        else:
            left = bulk.decode_values_into(column, count, at, out[name])
        for i in left.tolist():
            _decode_one(file, int(rows[i]), name, column.blob(i), out[name][at[i] : at[i] + count[i]])


def _read(
    store: Store, file: FileIndex, rows: npt.NDArray[np.int64], names: list[str]
) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The row groups that hold `rows` (ascending), and where in them each lies."""
    holder = np.searchsorted(file.group_starts, rows, side="right") - 1
    groups = np.unique(holder)
    table = read_groups(store, file.path, file.metadata, groups.tolist(), names)
    sizes = np.diff(file.group_starts)[groups]
    which = np.searchsorted(groups, holder)
    return table, rows - file.group_starts[groups[which]] + (np.cumsum(sizes) - sizes)[which]


def _blobs(column: pa.ChunkedArray, rows: npt.NDArray[np.int64]) -> tuple[bulk.Column, npt.NDArray[np.bool_]]:
    """Blobs of some rows of a binary column, and which of them are there."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32)[array.offset :].astype(np.int64)
    content = np.frombuffer(data, np.uint8).copy() if data is not None else np.empty(0, np.uint8)
    there = np.ones(len(rows), np.bool_)
    if array.null_count:
        there = array.is_valid().to_numpy(zero_copy_only=False)[rows]
    return bulk.Column(content, bounds[rows], bounds[rows + 1]), there


def _decode_one(file: FileIndex, row: int, name: str, blob: bytes, out: npt.NDArray[Any]) -> None:
    """What the bulk decoder left: other forms, and damage, which is named here."""
    try:
        if name == "quality":
            found: npt.NDArray[Any] = codec.decode_codes(blob, np.uint8, len(out))
        else:
            found = (codec.decode_times if name == "time" else codec.decode_values)(blob, len(out))
        if len(found) != len(out):
            msg = f"the {name} blob holds {len(found)} samples; its row says {len(out)}"
            raise ChecksumError(msg)
    except VersionError:
        raise
    except (DataError, CodecError) as error:
        raise _damaged(file.path, row, str(error)) from error
    out[:] = found


def _damaged(path: str, row: int, why: str) -> ChecksumError:
    return ChecksumError(f"row {row} of file {path!r} is damaged: {why}")
