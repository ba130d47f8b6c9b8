"""The index of a history: what each row of each file holds, without its samples. Pruning and overlap live here.

A file's index is its fixed-width columns, read once (files never change), kept in a bounded cache, and believed only after
the footer's hash, the page checksums and each row's check agree.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from iiot_dask.core.errors import ChecksumError, DataError, SchemaError, VersionError
from iiot_dask.history import layout
from iiot_dask.history.kernels import in_set_kernel, overlap_kernel
from iiot_dask.history.store import Store

CACHE_ROWS_MAX = 2_000_000
"""Index rows kept in memory (about 150 bytes each)."""
TAIL_BYTES = 65_536
"""First guess at how much of a file's end holds its footer."""

INTS = ("tag_id", "tag_min", "tag_max", "start_ns", "end_ns", "count", "good", "first_ns", "last_ns", "order")
FLOATS = ("min", "max", "sum", "first", "last")
_EMPTY: dict[str, npt.NDArray[Any]] = {
    **{n: np.empty(0, np.int64) for n in INTS},
    **{n: np.empty(0, np.float64) for n in FLOATS},
}
NS_MIN, NS_MAX = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class FileIndex:
    """Rows of one file: `head` arrays by column, the Parquet metadata, first row of each row group (and the end)."""

    path: str
    head: dict[str, npt.NDArray[Any]]
    metadata: Any
    group_starts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LiveFile:
    """Rows that lie in no file of the table (see `tail`): `samples(row)` decodes one."""

    path: str
    samples: Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """Selected rows of many files: `files`, and per row its file's position, its number there and its columns."""

    files: Sequence[FileIndex | LiveFile]
    file: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    head: dict[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.row)

    def take(self, at: npt.NDArray[Any]) -> Rows:
        """The rows at positions, or where a mask is true."""
        return Rows(self.files, self.file[at], self.row[at], {k: v[at] for k, v in self.head.items()})


class Index:
    """Reads and keeps file indexes. Safe to use from threads."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()
        self._cache: OrderedDict[str, FileIndex] = OrderedDict()
        self._rows = 0
        self._whole: tuple[Any, Rows] | None = None

    def file(self, path: str) -> FileIndex:
        """The index of one file.

        Raises
        ------
        ChecksumError
            If the file is damaged.
        DataError
            If it is missing or not one of ours.
        VersionError
            If it has rows of a newer format.
        """
        with self._lock:
            found = self._cache.get(path)
            if found is not None:
                self._cache.move_to_end(path)
                return found
        found = read_index(self.store, path)
        with self._lock:
            if path not in self._cache:
                self._cache[path] = found
                self._rows += len(found.head["count"])
            while self._rows > CACHE_ROWS_MAX and len(self._cache) > 1:
                self._rows -= len(self._cache.popitem(last=False)[1].head["count"])
        return found

    def rows(
        self,
        paths: Iterable[str],
        ids: npt.NDArray[np.integer] | None,
        start: int,
        last: int,
        orders: Mapping[str, int],
    ) -> Rows:
        """Rows of `paths` that may hold samples of `ids` (sorted; None: all tags) with ``start <= time <= last``.

        `orders`: the write order of each path, from the log. The one in the file was written before the commit was made.
        """
        files = [self.file(path) for path in paths]
        order = np.array([orders[f.path] for f in files], np.int64)
        parts = [_selected(f, ids, start, last) for f in files]
        if all(part is None for part in parts):
            return self._joined(files, order)
        rows = [np.arange(len(f.head["count"])) if p is None else p for f, p in zip(files, parts, strict=True)]
        return _join(files, order, rows)

    def _joined(self, files: list[FileIndex], order: npt.NDArray[np.int64]) -> Rows:
        """Every row of files; that of the last call is kept, because the next one is often the same."""
        key = tuple(f.path for f in files), order.tobytes()
        with self._lock:
            if self._whole is not None and self._whole[0] == key:
                return self._whole[1]
        whole = _join(files, order, [np.arange(len(f.head["count"])) for f in files])
        with self._lock:
            self._whole = (key, whole) if len(whole) <= CACHE_ROWS_MAX else None
        return whole


def _selected(
    file: FileIndex, ids: npt.NDArray[np.integer] | None, start: int, last: int
) -> npt.NDArray[np.int64] | None:
    """Numbers of the rows of a file that may hold what is asked for; None: all of them."""
    head = file.head
    keep = (head["end_ns"] >= start) & (head["start_ns"] <= last)
    if ids is not None:
        keep &= in_set(head["tag_min"], head["tag_max"], ids)
    return None if keep.all() else np.flatnonzero(keep)


def _join(files: list[FileIndex], order: npt.NDArray[np.int64], rows: list[npt.NDArray[np.int64]]) -> Rows:
    lengths = [len(r) for r in rows]
    head = {
        name: np.concatenate([f.head[name][r] for f, r in zip(files, rows, strict=True)] or [_EMPTY[name]])
        for name in (*INTS, *FLOATS)
    }
    head["order"] = np.repeat(order, lengths)
    return Rows(files, np.repeat(np.arange(len(files)), lengths), np.concatenate([*rows, np.empty(0, np.int64)]), head)


def in_set(
    low: npt.NDArray[np.int64], high: npt.NDArray[np.int64], wanted: npt.NDArray[np.integer]
) -> npt.NDArray[np.bool_]:
    """Which ranges ``low..high`` hold one of `wanted` (sorted)."""
    out = np.empty(len(low), np.bool_)
    in_set_kernel(np.ascontiguousarray(low), np.ascontiguousarray(high), np.asarray(wanted, np.int64), out)
    return out


def prune(files: pl.DataFrame, ids: npt.NDArray[np.integer] | None, start: int, last: int) -> list[str]:
    """Paths of the files whose bounds in the Delta log admit samples of `ids` (sorted) with ``start <= time <= last``."""
    if not files.height or start > last or (ids is not None and not len(ids)):
        return []
    columns = {name: files[name].to_numpy() for name in ("min.start_ns", "max.end_ns", "min.tag_min", "max.tag_max")}
    keep = (columns["max.end_ns"] >= start) & (columns["min.start_ns"] <= last)
    if ids is not None:
        keep &= in_set(columns["min.tag_min"], columns["max.tag_max"], ids)
    return sorted(files["path"].gather(np.flatnonzero(keep)).to_list())


def open_checked(store: Store, path: str) -> Any:
    """Parquet metadata of a file whose footer has the hash in its name.

    Raises
    ------
    ChecksumError
        If it has not.
    """
    name = layout.parse_name(path)
    with store.open(path) as file:
        size = file.size()
        tail = _tail(file, size, min(size, TAIL_BYTES))
        try:
            length = layout.footer_length(memoryview(tail))
            if length > size:
                msg = f"footer of {length} bytes in a file of {size}"
                raise DataError(msg)  # noqa: TRY301 -- one handler names the file
            if length > len(tail):
                tail = _tail(file, size, length)
            if layout.footer_hash(memoryview(tail)) != name.footer:
                msg = "its footer does not have the hash in its name"
                raise DataError(msg)  # noqa: TRY301
        except DataError as error:
            msg = f"file {path!r} under {store.url!r} is damaged: {error}"
            raise ChecksumError(msg) from error
        return pq.read_metadata(file)


def _tail(file: Any, size: int, length: int) -> bytes:
    file.seek(size - length)
    return bytes(file.read(length))


def read_groups(store: Store, path: str, metadata: Any, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """Row groups of a file, page checksums verified.

    Raises
    ------
    ChecksumError
        If a page is damaged.
    """
    try:
        with store.open(path) as file:
            parquet = pq.ParquetFile(file, metadata=metadata, page_checksum_verification=True)
            return parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        msg = f"file {path!r} under {store.url!r} is damaged: {error}"
        raise ChecksumError(msg) from error


def read_index(store: Store, path: str) -> FileIndex:
    """Read and check the index of one file; see `Index.file`."""
    metadata = open_checked(store, path)
    table = read_groups(store, path, metadata, range(metadata.num_row_groups), layout.HEAD)
    if table.schema.names != list(layout.HEAD):
        msg = f"file {path!r} under {store.url!r} has columns {table.schema.names}; {list(layout.HEAD)} are wanted"
        raise SchemaError(msg)
    newest = max(table.column("format").to_pylist(), default=0)
    if newest > layout.ROW_FORMAT:
        msg = f"file {path!r} is of format {newest}; this program reads up to {layout.ROW_FORMAT}: install a newer iiot-dask"
        raise VersionError(msg)
    head = {name: _numbers(table, name, -1 if name == "tag_id" else 0) for name in INTS}
    head |= {name: _numbers(table, name, float("nan")) for name in FLOATS}
    check = _numbers(table, "check", 0)
    if not np.array_equal(layout.row_check(head), check) or int(head["count"].sum()) != layout.parse_name(path).rows:
        msg = f"file {path!r} under {store.url!r} is damaged: its columns do not agree with the check of its rows"
        raise ChecksumError(msg)
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return FileIndex(path, head, metadata, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _numbers(table: pa.Table, name: str, missing: float) -> npt.NDArray[Any]:
    column = table.column(name)
    if column.null_count:
        column = column.fill_null(missing)
    out: npt.NDArray[Any] = np.array(column.to_numpy())
    return out


def overlapping(rows: Rows) -> npt.NDArray[np.bool_]:
    """Which rows are chunks whose samples no other row can hold: ``False`` = alone, ``True`` = may have to be merged.

    Blocks are always ``True``: what tags they hold is known only after decoding. A chunk is ``True`` if another chunk of
    its tag, or any block with its tag in range, overlaps it in time.
    """
    return _overlaps(rows, np.flatnonzero(rows.head["tag_id"] < 0))


def overlap_of_chunks(rows: Rows) -> npt.NDArray[np.bool_]:
    """The same, of chunks only and among themselves: no row is a block."""
    return _overlaps(rows, np.empty(0, np.int64))


def _overlaps(rows: Rows, blocks: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    head = rows.head
    out = np.ones(len(rows), np.bool_)
    chunks = np.flatnonzero(head["tag_id"] >= 0)
    if not len(chunks):
        return out
    order = chunks[np.lexsort((head["start_ns"][chunks], head["tag_id"][chunks]))]
    tag, start, end = (np.ascontiguousarray(head[k][order]) for k in ("tag_id", "start_ns", "end_ns"))
    low, high, begin, stop = (
        np.ascontiguousarray(head[k][blocks]) for k in ("tag_min", "tag_max", "start_ns", "end_ns")
    )
    flags = np.zeros(len(order), np.bool_)
    overlap_kernel(tag, start, end, low, high, begin, stop, flags)
    out[order] = flags
    return out
