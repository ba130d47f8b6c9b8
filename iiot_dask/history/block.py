"""Samples become files: rows encoded, Parquet written with page checksums, named by content. No access to the Delta log.

`write_block` runs on whatever worker holds the data. The same rows under the same name give the same bytes and so the
same file: a replay overwrites what the first try left behind, and what no commit names, no reader sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from iiot_dask.core.batch import Batch
from iiot_dask.history import layout
from iiot_dask.history.blobs import Blobs, encode_block
from iiot_dask.history.kernels import bounds_of, cells_kernel, count_kernel, group, part_kernel, statistics
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.store import Store

Columns = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint8]]
"""tag id, time, value, quality; sorted by tag then time, one row a (tag, time)."""

ROWS_A_DAY_MIN = 4_096
"""A day with this many samples in one write gets a file of its own even beyond `layout.DAYS_MAX` days."""
CELLS_MAX = 40_000
"""Rows further apart than so many days (or hours) are not sorted by counting."""
ROW_GROUP = {layout.BLOCK: 16, layout.CHUNK: 64, layout.ROLLUP: 64}
"""Rows of a row group: what a read of one row costs at most (0.5-2 MB)."""


def write_block(
    root: str,
    batch: Batch,
    name: str,
    *,
    shard: int = 0,
    order: int | None = None,
    storage_options: Mapping[str, str] | None = None,
) -> list[FileEntry]:
    """Write a batch as block files, one a UTC day; nothing is committed.

    Parameters
    ----------
    root
        Directory or URL of the history.
    batch
        Rows in the order written; of rows with equal (tag, time) the last stays.
    name
        Part of the file names: the same for the same rows, different for any others (letters, digits, ``_.-``).
    shard
        Number for the partition column.
    order
        Larger = written later, decides between blocks that hold the same (tag, time); default: the newest `received`, ns.

    Returns
    -------
    list of FileEntry
        What a commit adds; empty for an empty batch. Their `rows` may sum to less than the batch's if it had duplicates.

    Raises
    ------
    CapacityError
        If the storage refuses.
    ConfigError
        If `name` or `root` is not usable.

    Examples
    --------
    >>> import tempfile
    >>> batch = Batch.of(tag=[1, 0, 1], time=[5, 6, 5], value=[1.0, 2.0, 3.0], received=[9, 9, 9])
    >>> [entry] = write_block(tempfile.mkdtemp(), batch, "example")
    >>> entry.rows, entry.day, entry.stats["maxValues"]["tag_max"]
    (2, '1970-01-01', 1)
    """
    if not len(batch):
        return []
    written = int(batch.received.max()) if order is None else order
    columns = sort_rows(batch.tag, batch.time, batch.value, batch.quality)
    return write_columns(Store(root, storage_options), columns, name, shard=shard, order=written)


def sort_rows(
    tag: npt.NDArray[np.integer],
    time: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8],
) -> Columns:
    """Rows sorted by tag id then time, of equal (tag, time) the last in the input only."""
    ids, local = _dense(tag)
    position, time, value, quality = group(local, time, value, quality, len(ids))
    return ids[position], time, value, quality


def _dense(tag: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Distinct ids, ascending, and each row's position among them."""
    top = int(tag.max()) + 1
    if top > 8 * len(tag) + 1_000_000:
        ids, local = np.unique(tag, return_inverse=True)
        return ids.astype(np.int64), local.astype(np.int64)
    seen = np.zeros(top, np.bool_)
    seen[tag] = True
    ids = np.flatnonzero(seen)
    return ids, (np.cumsum(seen) - 1)[tag]


def write_columns(store: Store, columns: Columns, name: str, *, shard: int, order: int) -> list[FileEntry]:
    """Write sorted rows as block files, one a day."""
    entries = []
    for part, (day, rows) in enumerate(days(columns)):
        head, blobs = encode_blocks(list(_slices(rows)), order)
        entries.append(write_file(store, layout.BLOCK, name, part, day, shard, head, blobs))
    return entries


def days(columns: Columns) -> Iterator[tuple[str, Columns]]:
    """The rows of each day; the days beyond `DAYS_MAX` that have few rows come together, under the oldest."""
    found = _cells(columns[1], layout.DAY_NS)
    if found is None:
        yield from _scattered_days(columns)
        return
    low, counts = found
    if len(counts) == 1:
        yield layout.day_text(low * layout.DAY_NS), columns
        return
    there = np.flatnonzero(counts)
    few = there[: -layout.DAYS_MAX]
    few = few[counts[few] < ROWS_A_DAY_MIN]
    own = np.setdiff1d(there, few)
    # Cell by cell in the order they are to be written: those that come together first.
    if len(few):
        day = columns[1] // layout.DAY_NS - low
        yield layout.day_text((low + int(few[0])) * layout.DAY_NS), where(columns, np.isin(day, few))
        keep = np.isin(day, own)
        columns = where(columns, keep)
        counts = np.where(np.isin(np.arange(len(counts)), own), counts, 0)
    for cell, rows in _parted(columns, layout.DAY_NS, low, counts):
        yield layout.day_text((low + cell) * layout.DAY_NS), rows


def _scattered_days(columns: Columns) -> Iterator[tuple[str, Columns]]:
    """`days` for times all over the centuries (a wild clock)."""
    day = columns[1] // layout.DAY_NS
    days, counts = np.unique(day, return_counts=True)
    own = counts >= ROWS_A_DAY_MIN
    own[-layout.DAYS_MAX :] = True
    if not own.all():
        rest = np.isin(day, days[~own])
        yield layout.day_text(int(days[~own][0]) * layout.DAY_NS), where(columns, rest)
    for d in days[own].tolist():
        yield layout.day_text(d * layout.DAY_NS), where(columns, day == d)


def _cells(time: npt.NDArray[np.int64], length_ns: int) -> tuple[int, npt.NDArray[np.int64]] | None:
    """The first cell of `length_ns` that has rows, and how many each from there on has; None if they are too far apart."""
    low, high = cells_kernel(time, length_ns)
    if high - low >= CELLS_MAX:
        return None
    counts = np.zeros(high - low + 1, np.int64)
    count_kernel(time, length_ns, low, counts)
    return low, counts


def _parted(columns: Columns, length_ns: int, low: int, counts: npt.NDArray[np.int64]) -> Iterator[tuple[int, Columns]]:
    """The rows of each cell that has any, in order; one pass over all of them."""
    ends = np.cumsum(counts)
    tag, time, value, quality = columns
    out = np.empty_like(tag), np.empty_like(time), np.empty_like(value), np.empty_like(quality)
    part_kernel(*columns, length_ns, low, ends - counts, *out)
    for cell in np.flatnonzero(counts).tolist():
        a, b = int(ends[cell] - counts[cell]), int(ends[cell])
        yield cell, (out[0][a:b], out[1][a:b], out[2][a:b], out[3][a:b])


def where(columns: Columns, mask: npt.NDArray[np.bool_]) -> Columns:
    """The rows where a mask is true."""
    tag, time, value, quality = columns
    return tag[mask], time[mask], value[mask], quality[mask]


def _slices(columns: Columns) -> Iterator[Columns]:
    """The rows of each block row: by hour if that makes few rows (so that one late sample widens no other row's range)."""
    found = _cells(columns[1], layout.HOUR_NS)
    if found is None or len(found[1]) == 1 or np.count_nonzero(found[1]) > max(8, len(columns[1]) // ROWS_A_DAY_MIN):
        yield from _even(columns)
        return
    for _, rows in _parted(columns, layout.HOUR_NS, *found):
        yield from _even(rows)


def _even(columns: Columns) -> Iterator[Columns]:
    tag, time, value, quality = columns
    parts = -(-len(tag) // layout.BLOCK_ROWS_MAX)
    edges = np.linspace(0, len(tag), parts + 1).astype(np.int64)
    for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        yield tag[a:b], time[a:b], value[a:b], quality[a:b]


def encode_blocks(parts: Sequence[Columns], order: int) -> tuple[dict[str, npt.NDArray[Any]], list[Blobs]]:
    """Heads (one array entry a part) and blobs of block rows."""
    blobs = encode_all([(encode_block, part) for part in parts])
    whole = [np.array([0, len(p[0])], np.int64) for p in parts]
    stats = [statistics(p[1], p[2], p[3], b) for p, b in zip(parts, whole, strict=True)]
    head: dict[str, npt.NDArray[Any]] = {key: np.concatenate([s[key] for s in stats]) for key in stats[0]}
    # Of many tags together only counts, bounds and sums mean something.
    head["first"], head["last"] = np.full(len(parts), np.nan), np.full(len(parts), np.nan)
    head["first_ns"], head["last_ns"] = np.zeros(len(parts), np.int64), np.zeros(len(parts), np.int64)
    head["tag_id"] = np.full(len(parts), -1, np.int64)
    head["tag_min"] = np.array([p[0][0] for p in parts], np.int64)
    head["tag_max"] = np.array([p[0][-1] for p in parts], np.int64)
    head["start_ns"] = np.array([p[1].min() for p in parts], np.int64)
    head["end_ns"] = np.array([p[1].max() for p in parts], np.int64)
    head["order"] = np.full(len(parts), order, np.int64)
    return head, blobs


def encode_all(jobs: Sequence[tuple[Any, Sequence[Any]]]) -> list[Any]:
    """Call each (function, arguments), in threads when there are several (the codecs release the GIL)."""
    if len(jobs) < 4:
        return [function(*arguments) for function, arguments in jobs]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda job: job[0](*job[1]), jobs))


def write_file(
    store: Store,
    kind: str,
    name: str,
    part: int,
    day: str,
    shard: int,
    head: Mapping[str, npt.NDArray[Any]],
    blobs: Sequence[Blobs],
    tags: Sequence[str] | None = None,
) -> FileEntry:
    """Write rows as one Parquet file.

    Parameters
    ----------
    head
        The fixed-width columns, arrays of one entry a row.
    blobs
        The encoded samples of each row.
    tags
        Tag name of each row (chunks).
    """
    table = _table(kind, head, blobs, tags)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP[kind],
        write_batch_size=ROW_GROUP[kind],
        write_page_checksum=True,
        compression=dict.fromkeys(table.column_names, "zstd"),
        compression_level=dict.fromkeys(table.column_names, 3),
        use_dictionary=["kind", "tag"],
        write_statistics=["tag_min", "tag_max", "start_ns", "end_ns", "start", "end"],
        store_schema=False,
    )
    content = sink.getvalue()
    rows = int(head["count"].sum())
    path = f"{layout.folder(day, shard)}/{layout.file_name(kind, name, part, rows, memoryview(content))}"
    store.put(path, content)
    return FileEntry(path, content.size, rows, day, shard, layout.log_stats(head, kind))


def _table(
    kind: str, head: Mapping[str, npt.NDArray[Any]], blobs: Sequence[Blobs], tags: Sequence[str] | None
) -> pa.Table:
    n = len(head["count"])
    assert n == len(blobs), "one set of blobs a row"
    no_good = head["good"] == 0
    no_tag = head["tag_id"] < 0
    full = {**head, "check": layout.row_check(head), "format": np.full(n, layout.ROW_FORMAT, np.int32)}
    columns: dict[str, Any] = {"kind": [kind] * n, "tag": list(tags) if tags is not None else [None] * n}
    for name in layout.HEAD[2:]:
        type_ = layout.COLUMNS.field(name).type
        if name in ("start", "end"):
            columns[name] = pa.array(np.floor_divide(head[f"{name}_ns"], 1000)).cast(type_)
        elif name in ("error_bound", "error_max") and name not in head:
            columns[name] = pa.nulls(n, type_)
        else:
            mask = no_tag if name == "tag_id" else no_good if name in ("first_ns", "last_ns") else None
            columns[name] = pa.array(full[name], type_, mask=mask, from_pandas=type_ == pa.float64())
    for name in layout.BLOBS:
        columns[name] = pa.array([getattr(b, name) for b in blobs], pa.binary())
    return pa.table(columns, schema=layout.COLUMNS)


def run_bounds(columns: Columns) -> npt.NDArray[np.int64]:
    """Bounds of the runs of equal tags."""
    return bounds_of(columns[0])
