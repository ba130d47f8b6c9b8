"""`TagTable`: the dictionary tag name <-> dense id, a small Delta table of its own beside the data.

Ids are dense from 0, given once and never changed. Each file holds the names of a run of ids; a commit is tried exactly
at the next version of the log, so of two writers that number new tags at once one fails, reads, and numbers again.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from iiot_dask.core.errors import CapacityError, ChecksumError, DataError, UnknownTagError
from iiot_dask.core.tags import check_tag, matches
from iiot_dask.history import delta
from iiot_dask.history.layout import FORMAT, file_hash
from iiot_dask.history.store import Store

TABLE_NAME = "iiot_dask.tags"
ATTEMPTS_MAX = 100
"""Commits tried before giving up on a table that others keep changing."""

_SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("tag", pa.string())])
_FILE = re.compile(r"names-(\d+)-(\d+)-([0-9a-f]{32})\.parquet")


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
        self._names: list[str] = []
        self._ids: dict[str, int] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._names)

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
            self._log.refresh()
            files = sorted((int(m[1]), int(m[2]), m[3], m[0]) for m in map(_FILE.fullmatch, self._log.paths()) if m)
            for first, count, digest, path in files:
                if first + count <= len(self._names):
                    continue
                if first != len(self._names):
                    msg = f"tag table {self.store.url!r} has no names for ids {len(self._names)} to {first - 1}"
                    raise DataError(msg)
                self._take(self._read(path, digest, first, count))

    def _read(self, path: str, digest: str, first: int, count: int) -> list[str]:
        content = self.store.get(path)
        if file_hash(memoryview(content)) != digest:
            msg = f"tag table file {path!r} under {self.store.url!r} is damaged: its bytes do not have the hash in its name"
            raise ChecksumError(msg)
        table = pq.read_table(pa.BufferReader(content))
        names: list[str] = table.column("tag").to_pylist()
        if len(names) != count or table.column("id").to_pylist() != list(range(first, first + count)):
            msg = f"tag table file {path!r} holds {len(names)} names; its name says {count} from id {first}"
            raise DataError(msg)
        return names

    def _take(self, names: list[str]) -> None:
        self._ids.update(zip(names, range(len(self._names), len(self._names) + len(names)), strict=True))
        self._names.extend(names)

    def ensure(self, names: Sequence[str]) -> npt.NDArray[np.uint32]:
        """Ids of `names` (uint32, same length), numbering the new ones; durable on return.

        Raises
        ------
        ConfigError
            If a new name is not legal (see `core.tags.check_tag`); nothing is numbered then.
        CapacityError
            If other writers win `ATTEMPTS_MAX` commits in a row, or the disk refuses.
        """
        with self._lock:
            for _ in range(ATTEMPTS_MAX):
                new = [name for name in dict.fromkeys(names) if name not in self._ids]
                for name in new:
                    check_tag(name)
                if not new:
                    return self._look_up(names)
                self._add(new)
                # Won or lost, what counts is what the log now says; ids and log must never be out of step.
                self.refresh()
        msg = f"tag table {self.store.url!r}: {ATTEMPTS_MAX} commits in a row lost to other writers"
        raise CapacityError(msg)

    def _add(self, names: list[str]) -> None:
        first = len(self._names)
        sink = pa.BufferOutputStream()
        ids = pa.array(np.arange(first, first + len(names), dtype=np.int64))
        pq.write_table(pa.table([ids, pa.array(names, pa.string())], schema=_SCHEMA), sink, compression="zstd")
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

    def _look_up(self, names: Sequence[str]) -> npt.NDArray[np.uint32]:
        return np.fromiter((self._ids[name] for name in names), np.uint32, len(names))

    def ids_of(self, names: Sequence[str]) -> npt.NDArray[np.uint32]:
        """Ids of `names`, uint32.

        Raises
        ------
        UnknownTagError
            If one is not in the table.
        """
        with self._lock:
            missing = [name for name in names if name not in self._ids]
            if missing:
                msg = f"tag {missing[0]!r} is not in the history; it knows {len(self._names)} tags"
                raise UnknownTagError(msg)
            return self._look_up(names)

    def ids(self, glob: str | Sequence[str] = "*") -> npt.NDArray[np.uint32]:
        """Ids a glob (or any of several) selects, ascending, uint32; none is fine. Rules: `core.tags.matches`."""
        with self._lock:
            globs = [glob] if isinstance(glob, str) else list(glob)
            if not any(c in g for g in globs for c in "*?["):
                hits = sorted({self._ids[g] for g in globs if g in self._ids})
                return np.array(hits, np.uint32)
            return matches(self._names, globs).astype(np.uint32)

    def names(self) -> list[str]:
        """All names; position = id."""
        with self._lock:
            return list(self._names)

    def series(self, ids: npt.NDArray[np.integer]) -> pl.Series:
        """Names of `ids` as a Polars String series called ``tag``.

        Raises
        ------
        DataError
            If an id has no name.
        """
        with self._lock:
            if len(ids) and int(ids.max()) >= len(self._names):
                msg = f"tag id {int(ids.max())} has no name in {self.store.url!r}; it knows {len(self._names)} tags"
                raise DataError(msg)
            return pl.Series("tag", [self._names[i] for i in ids.tolist()], dtype=pl.String)
