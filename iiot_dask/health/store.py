"""`IncidentStore`: incidents on disk, newest record of each kept, queryable as a table.

SQLite with one connection, rollback journal and `synchronous=FULL`: an incident that was saved survives power loss.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from iiot_dask.core.errors import DataError, VersionError, map_errors
from iiot_dask.health.incident import Incident

if TYPE_CHECKING:
    import polars as pl

FILE = "incidents.sqlite"
VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS incident (
    incident INTEGER PRIMARY KEY, node TEXT NOT NULL, kind TEXT NOT NULL,
    start_ns INTEGER NOT NULL, detected_ns INTEGER NOT NULL, end_ns INTEGER,
    score REAL NOT NULL, tags TEXT NOT NULL, detail TEXT NOT NULL, parent INTEGER
)
"""
_COLUMNS = "incident, node, kind, start_ns, detected_ns, end_ns, score, tags, detail, parent"
_ERRORS: dict[type[BaseException], type[DataError]] = {sqlite3.DatabaseError: DataError}


def incident_frame(incidents: Sequence[Incident]) -> pl.DataFrame:
    """Incidents as the contract's table; parts of a wider incident are left out.

    Columns: ``incident`` int64, ``node`` str, ``kind`` str, ``start``, ``detected``, ``end`` datetime[ns, UTC] (end null
    while it lasts), ``score`` float64, ``tags`` list[str], ``detail`` str.

    Examples
    --------
    >>> frame = incident_frame([Incident(1, "a/b", "outage", 0, 5, None, 2.0, ("a/b/t",))])
    >>> frame.columns
    ['incident', 'node', 'kind', 'start', 'detected', 'end', 'score', 'tags', 'detail']
    >>> frame["end"].to_list(), frame["tags"].to_list()
    ([None], [['a/b/t']])
    """
    import polars as pl

    moment = pl.Datetime("ns", "UTC")
    shown = [i for i in incidents if i.parent is None]
    return pl.DataFrame(
        {
            "incident": pl.Series([i.incident for i in shown], dtype=pl.Int64),
            "node": pl.Series([i.node for i in shown], dtype=pl.String),
            "kind": pl.Series([i.kind for i in shown], dtype=pl.String),
            "start": pl.Series([i.start_ns for i in shown], dtype=pl.Int64).cast(moment),
            "detected": pl.Series([i.detected_ns for i in shown], dtype=pl.Int64).cast(moment),
            "end": pl.Series([i.end_ns for i in shown], dtype=pl.Int64).cast(moment),
            "score": pl.Series([i.score for i in shown], dtype=pl.Float64),
            "tags": pl.Series([list(i.tags) for i in shown], dtype=pl.List(pl.String)),
            "detail": pl.Series([i.detail for i in shown], dtype=pl.String),
        }
    )


def read_incident_frame(directory: Path | str) -> pl.DataFrame:
    """The incidents kept in a directory, read only, also while a plant runs on it; empty when there are none.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    path = Path(directory) / FILE
    if not path.exists():
        return incident_frame([])
    with map_errors(_ERRORS, f"reading {path}"):
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10)
        with contextlib.closing(database):
            return incident_frame(_select(database, "WHERE parent IS NULL"))


def _select(database: sqlite3.Connection, where: str) -> list[Incident]:
    sql = f"SELECT {_COLUMNS} FROM incident {where} ORDER BY incident"  # noqa: S608 -- constants of this file
    rows: list[tuple[Any, ...]] = database.execute(sql).fetchall()
    return [Incident(*(*row[:7], tuple(json.loads(row[7])), *row[8:])) for row in rows]


class IncidentStore:
    """Incidents in ``DIRECTORY/incidents.sqlite``; thread-safe, one process at a time.

    Parameters
    ----------
    directory
        Made if it does not exist.
    rows_max
        Most incidents kept; beyond it the oldest ended ones go.

    Raises
    ------
    VersionError
        If a newer program wrote the file.
    DataError
        If the file is damaged.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as where, IncidentStore(Path(where)) as store:
    ...     store.save([Incident(1, "a", "silence", 0, 5, None, 2.0, ("a",))])
    ...     store.save([Incident(1, "a", "silence", 0, 5, 9, 2.0, ("a",))])
    ...     store.frame().select("incident", "kind").rows(), store.open_incidents(), store.last_id()
    ([(1, 'silence')], [], 1)
    """

    def __init__(self, directory: Path | str, rows_max: int = 100_000) -> None:
        self.path = Path(directory) / FILE
        self.rows_max = rows_max
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        try:
            with map_errors(_ERRORS, f"opening {self.path}"):
                self._prepare()
        except DataError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.execute("PRAGMA synchronous=FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            msg = f"{self.path} has version {version}; this program reads up to {VERSION}"
            raise VersionError(msg)
        self._db.execute(_TABLE)
        self._db.execute(f"PRAGMA user_version={VERSION}")

    def save(self, incidents: Sequence[Incident]) -> None:
        """Insert or replace by number, durable on return; drops the oldest ended incidents beyond `rows_max`.

        Raises
        ------
        DataError
            If the file can not be written.
        """
        if not incidents:
            return
        rows = [
            (
                i.incident,
                i.node,
                i.kind,
                i.start_ns,
                i.detected_ns,
                i.end_ns,
                i.score,
                json.dumps(i.tags),
                i.detail,
                i.parent,
            )
            for i in incidents
        ]
        with self._lock, map_errors(_ERRORS, f"saving {len(rows)} incidents to {self.path}"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT OR REPLACE INTO incident VALUES (?,?,?,?,?,?,?,?,?,?)", rows)
                self._db.execute(
                    "DELETE FROM incident WHERE incident IN (SELECT incident FROM incident WHERE end_ns IS NOT NULL ORDER BY incident "
                    "LIMIT MAX(0, (SELECT COUNT(*) FROM incident) - ?))",
                    (self.rows_max,),
                )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def open_incidents(self) -> list[Incident]:
        """The incidents that had not ended, oldest first."""
        return self._read("WHERE end_ns IS NULL")

    def all(self) -> list[Incident]:
        """Every incident kept, parts included, oldest first."""
        return self._read("")

    def last_id(self) -> int:
        """The highest number kept; 0 when there is none."""
        with self._lock:
            return int(self._db.execute("SELECT COALESCE(MAX(incident), 0) FROM incident").fetchone()[0])

    def frame(self) -> pl.DataFrame:
        """The contract's table; see `incident_frame`."""
        return incident_frame(self._read("WHERE parent IS NULL"))

    def _read(self, where: str) -> list[Incident]:
        with self._lock, map_errors(_ERRORS, f"reading {self.path}"):
            return _select(self._db, where)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
