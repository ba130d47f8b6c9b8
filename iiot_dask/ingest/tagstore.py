"""The catalogue's file: one SQLite table, checked row by row when it is read.

Names are unique because the one writer looks them up in memory first, and a reader refuses a file where they are not: an
index would double the file and the time to register.

Rules. One connection in one process writes, with a rollback journal and ``synchronous=FULL``: SQLite before 3.51.3 can
corrupt a WAL with several connections, a rollback journal lets other processes read at any time. SQLite has no checksum,
so every row carries a 64-bit fingerprint and the table their number and sum: a flipped bit is found, never served.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iiot_dask.core.errors import CapacityError, ChecksumError, InUseError, VersionError

FORMAT = 1
BUSY_S = 120.0
"""Longest wait for another process's lock, s; reading 10 million tags takes 30 s."""
CHUNK_ROWS = 100_000
CACHE_KB = 65_536
MASK = (1 << 64) - 1

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tags (
    id INTEGER PRIMARY KEY, tag TEXT NOT NULL, device TEXT NOT NULL, adapter TEXT NOT NULL,
    address TEXT NOT NULL, unit TEXT, kind TEXT, period_ns INTEGER, fingerprint INTEGER NOT NULL
);
INSERT INTO meta VALUES ('version', 0), ('rows', 0), ('sum', 0);
"""
_PUT = "INSERT OR REPLACE INTO tags VALUES (?,?,?,?,?,?,?,?,?)"
Row = tuple[int, str, str, str, str, str | None, str | None, int | None, int]
"""id, tag, device, adapter, address, unit, kind, period_ns, fingerprint (as int64)."""


class TagStore:
    """The table behind a `Catalogue`.

    Parameters
    ----------
    path
        The database file.
    create
        Make it if missing.

    Raises
    ------
    ChecksumError
        If the file is no sound database.
    VersionError
        If a newer program made it.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        fresh = not path.exists()
        uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
        try:
            self._db = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                self._open(fresh=fresh)
            except BaseException:
                self._db.close()
                raise
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def _open(self, *, fresh: bool) -> None:
        for pragma in ("journal_mode=DELETE", "synchronous=FULL", "cell_size_check=ON", f"cache_size=-{CACHE_KB}"):
            self._db.execute(f"PRAGMA {pragma}")
        if fresh or not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._db.executescript(f"BEGIN IMMEDIATE;{_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > FORMAT:
            msg = f"{self.path} has format version {version}; this program reads up to {FORMAT}"
            raise VersionError(msg)

    def _mapped(self, error: sqlite3.Error) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        msg = f"catalogue {self.path}: {error}"
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return InUseError(msg)
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_CONSTRAINT")):
            return ChecksumError(msg)
        return CapacityError(msg)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is of one moment, however much another process writes."""
        try:
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def meta(self) -> dict[str, int]:
        """``version`` (grows with each change), ``rows`` and ``sum`` of fingerprints (as int64)."""
        try:
            found = dict(self._db.execute("SELECT key, value FROM meta"))
        except sqlite3.Error as error:
            raise self._mapped(error) from error
        if set(found) != {"version", "rows", "sum"}:
            msg = f"catalogue {self.path}: meta holds {sorted(found)}; expected rows, sum, version"
            raise ChecksumError(msg)
        return found

    def read(self) -> Iterator[list[Row]]:
        """All rows by ascending id, in chunks of at most `CHUNK_ROWS`."""
        try:
            cursor = self._db.execute("SELECT * FROM tags ORDER BY id")
            while rows := cursor.fetchmany(CHUNK_ROWS):
                yield rows
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def put(self, rows: Sequence[Row], *, version: int, count: int, total: int) -> None:
        """Insert or replace `rows` and set the meta values, durable on return, all or nothing.

        Raises
        ------
        CapacityError
            If the disk is full or fails.
        InUseError
            If another process holds a lock for `BUSY_S` seconds.
        """
        meta = [(version, "version"), (count, "rows"), (signed(total), "sum")]
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(_PUT, rows)
                self._db.executemany("UPDATE meta SET value = ? WHERE key = ?", meta)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def signed(value: int) -> int:
    """A uint64 as the int64 of the same bits, which is what SQLite stores.

    Examples
    --------
    >>> signed(2**64 - 1), signed(5)
    (-1, 5)
    """
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def column(rows: Sequence[Any], index: int) -> list[Any]:
    """One column of fetched rows."""
    return [row[index] for row in rows]
