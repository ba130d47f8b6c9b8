"""`TagTable`: the dictionary tag name <-> dense id, a small Delta table of its own beside the data.

Ids are dense from 0, given once and never changed. Each file holds the names of a run of ids; a commit is tried exactly
at the next version of the log, so of two writers that number new tags at once one fails, reads, and numbers again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from iiot_dask.core.errors import CapacityError, ChecksumError, DataError, UnknownTagError
from iiot_dask.core.tags import check_tag
from iiot_dask.history import delta
from iiot_dask.history.globs import first_illegal, matching
from iiot_dask.history.layout import FORMAT, file_hash
from iiot_dask.history.store import Store
from iiot_dask.ingest.strings import StringTable

TABLE_NAME = "iiot_dask.tags"
ATTEMPTS_MAX = 100
"""Commits tried before giving up on a table that others keep changing."""

_SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("tag", pa.string())])
_FILE = re.compile(r"names-(\d+)-(\d+)-([0-9a-f]{32})\.parquet")


Names: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
"""Tag names as a Python sequence or an Arrow string array; no nulls."""


class TagTable:
    """Numbers tags; safe to use from threads and from several processes.

    Parameters
    ----------
    store
        Where the table lies; it is made if absent.

    Examples
    --------
    >>> import tempfile
    >>> tags = TagTable(Store(tempfile.mkdtemp()))
    >>> tags.ensure(["b", "a", "b"]).tolist(), tags.ensure(["a", "c"]).tolist()
    ([0, 1, 0], [1, 2])
    >>> tags.ids("*").tolist(), tags.names()
    ([0, 1, 2], ['b', 'a', 'c'])
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._log = delta.Log(store, TABLE_NAME, FORMAT, _SCHEMA, ())
        self._table = StringTable()
        self._series: pl.Series | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._table)

    def refresh(self) -> None:
        """Take in what other processes added.

        Raises
        ------
        ChecksumError
            If a file of the table is damaged.
        DataError
            If a file is missing or the ids have a gap.
        """
        with self._lock:
            before = self._log.version
            if self._log.refresh() == before and len(self._table):
                return
            files = sorted((int(m[1]), int(m[2]), m[3], m[0]) for m in map(_FILE.fullmatch, self._log.paths()) if m)
            for first, count, digest, path in files:
                known = len(self._table)
                if first + count <= known:
                    continue
                if first != known:
                    msg = f"tag table {self.store.url!r} has no names for ids {known} to {first - 1}"
                    raise DataError(msg)
                self._table.add(self._read(path, digest, first, count))
                if len(self._table) != first + count:
                    msg = f"tag table file {path!r} under {self.store.url!r} repeats a name"
                    raise DataError(msg)

    def _read(self, path: str, digest: str, first: int, count: int) -> pa.Array:
        content = self.store.get(path)
        if file_hash(memoryview(content)) != digest:
            msg = f"tag table file {path!r} under {self.store.url!r} is damaged: its bytes do not have the hash in its name"
            raise ChecksumError(msg)
        table = pq.read_table(pa.BufferReader(content))
        names = table.column("tag").cast(pa.large_string()).combine_chunks()
        ids = table.column("id").to_numpy()
        if len(names) != count or names.null_count or not np.array_equal(ids, np.arange(first, first + count)):
            msg = f"tag table file {path!r} holds {len(names)} names; its name says {count} from id {first}"
            raise DataError(msg)
        return names

    def ensure(self, names: Names) -> npt.NDArray[np.uint32]:
        """Ids of `names` (uint32, same length), numbering the new ones; durable on return.

        Parameters
        ----------
        names
            A sequence of text, or an Arrow string array (for millions at a time).

        Raises
        ------
        ConfigError
            If a new name is not legal (see `core.tags.check_tag`); nothing is numbered then.
        CapacityError
            If other writers win `ATTEMPTS_MAX` commits in a row, or the disk refuses.
        """
        strings = _strings(names)
        with self._lock:
            for _ in range(ATTEMPTS_MAX):
                at = self._table.find(strings)
                new = strings.filter(pa.array(at < 0))
                if not len(new):
                    return at.astype(np.uint32)
                distinct = pl.Series(new).unique(maintain_order=True)
                bad = first_illegal(distinct)
                if bad is not None:
                    check_tag(distinct[bad])
                self._add(distinct.to_arrow(compat_level=pl.CompatLevel.oldest()))
                # Won or lost, what counts is what the log now says; ids and log must never be out of step.
                self.refresh()
        msg = f"tag table {self.store.url!r}: {ATTEMPTS_MAX} commits in a row lost to other writers"
        raise CapacityError(msg)

    def _add(self, names: pa.Array) -> None:
        first = len(self._table)
        sink = pa.BufferOutputStream()
        ids = pa.array(np.arange(first, first + len(names), dtype=np.int64))
        table = pa.table([ids, names.cast(pa.string())], schema=_SCHEMA)
        # Plain text under zstd is smaller and quicker than a dictionary in which nothing repeats.
        pq.write_table(table, sink, compression="zstd", use_dictionary=False)
        content = sink.getvalue()
        path = f"names-{first}-{len(names)}-{file_hash(memoryview(content))}.parquet"
        self.store.put(path, content)
        stats: dict[str, Any] = {
            "numRecords": len(names),
            "minValues": {"id": first},
            "maxValues": {"id": first + len(names) - 1},
            "nullCount": {"id": 0, "tag": 0},
        }
        self._log.commit([delta.add(path, content.size, {}, stats)], exact=True)

    def ids_of(self, names: Names) -> npt.NDArray[np.uint32]:
        """Ids of `names`, uint32.

        Raises
        ------
        UnknownTagError
            Naming the first that is not in the table.
        """
        strings = _strings(names)
        with self._lock:
            at = self._table.find(strings)
            if len(at) and int(at.min()) < 0:
                missing = strings[int(np.argmin(at))].as_py()
                msg = f"tag {missing!r} is not in the history; it knows {len(self._table)} tags"
                raise UnknownTagError(msg)
            return at.astype(np.uint32)

    def ids(self, glob: str | Sequence[str] = "*") -> npt.NDArray[np.uint32]:
        """Ids a glob (or any of several) selects, ascending, uint32; none is fine. Rules: `core.tags.matches`."""
        globs = [glob] if isinstance(glob, str) else list(glob)
        if "*" in globs:
            return np.arange(len(self), dtype=np.uint32)
        if not any(c in g for g in globs for c in "*?["):
            with self._lock:
                at = np.unique(self._table.find(_printable(globs)))
            return at[at >= 0].astype(np.uint32)
        return matching(self._all(), globs).astype(np.uint32)

    def names(self) -> list[str]:
        """All names; position = id."""
        return self._all().to_list()

    def _all(self) -> pl.Series:
        """All names; rebuilt only after tags were added."""
        with self._lock:
            if self._series is None or len(self._series) != len(self._table):
                self._series = pl.Series("tag", self._table.arrow(), dtype=pl.String)
            return self._series

    def series(self, ids: npt.NDArray[np.integer]) -> pl.Series:
        """Names of `ids` as a Polars String series called ``tag``.

        Raises
        ------
        DataError
            If an id has no name.
        """
        names = self._all()
        if len(ids) and int(ids.max()) >= len(names):
            msg = f"tag id {int(ids.max())} has no name in {self.store.url!r}; it knows {len(names)} tags"
            raise DataError(msg)
        if len(ids) == len(names) and (not len(ids) or (int(ids[0]) == 0 and bool((np.diff(ids) == 1).all()))):
            return names
        return names.gather(pl.Series(np.asarray(ids, np.uint32)))


def _strings(names: Names) -> pa.Array:
    if isinstance(names, pa.ChunkedArray):
        names = names.combine_chunks()
    if isinstance(names, pa.Array):
        return names if names.type == pa.large_string() else names.cast(pa.large_string())
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError:
        for name in names:
            check_tag(name)  # says which
        raise  # pragma: no cover -- one of them can not be encoded


def _printable(globs: Sequence[str]) -> list[str]:
    """Those that can be a name at all: a lone surrogate has no UTF-8 form."""
    return [g for g in globs if not any("\ud800" <= c <= "\udfff" for c in g)]
