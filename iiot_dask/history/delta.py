"""The Delta log of one table: the only file that touches `deltalake`'s transactions.

What delta-rs does not do, measured with 1.6.6, and what is done about it here: a repeated application transaction is not
rejected (read, compare, one committer a stream); two commits that remove the same file both succeed, and so does removing
a file that is gone (commits that depend on what was read are tried *exactly* at the next version, and start again from the
log when another writer took it). Table properties of our own are refused, so the format version is in the description.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from iiot_dask.core.errors import CapacityError, ConfigError, DataError, VersionError, map_errors
from iiot_dask.history.store import Store

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

    Action = AddAction | RemoveAction

CHECKPOINT_COMMITS = 100
"""A checkpoint of the log is written every so many commits."""
LOG_RETENTION = "interval 6 hours"
"""How long single commits stay readable (time travel): a commit every 2 s makes 10,800 files in this time."""


def add(
    path: str, size: int, partition: Mapping[str, str], stats: Mapping[str, Any], *, data_change: bool = True
) -> AddAction:
    """An action that adds a file (`size` in bytes)."""
    from deltalake.transaction import AddAction

    return AddAction(path, size, dict(partition), time.time_ns() // 1_000_000, data_change, json.dumps(dict(stats)))


def remove(path: str, size: int, partition: Mapping[str, str], *, data_change: bool = False) -> RemoveAction:
    """An action that removes a file; `data_change` False: its rows live on in others of the same commit."""
    from deltalake.transaction import RemoveAction

    return RemoveAction(path, data_change, time.time_ns() // 1_000_000, size, dict(partition))


class Log:
    """A Delta table's log: open or create, look, commit. Safe to use from threads.

    Parameters
    ----------
    store
        Where the table lies.
    name
        Table name; a table of another name is refused.
    version
        Newest format this program knows; kept in the table's description.
    schema, partition_by
        For a table that has to be made.
    at
        Read this version of the log instead of the newest (time travel); such a log can not commit.

    Raises
    ------
    VersionError
        If the table is of a newer format.
    ConfigError
        If the place holds a Delta table of something else, or can not be opened.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        version: int,
        schema: pa.Schema,
        partition_by: Sequence[str],
        at: int | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.format = version
        self.at = at
        self._schema = schema
        self._partition_by = list(partition_by)
        self._lock = threading.RLock()
        self._files: tuple[int, pl.DataFrame] | None = None
        self.table = self._open()
        self._check()

    def _open(self) -> DeltaTable:
        from deltalake import DeltaTable, Schema
        from deltalake.exceptions import DeltaError, TableNotFoundError

        url, options = self.store.url, self.store.options
        with map_errors({DeltaError: ConfigError, OSError: ConfigError}, f"opening the Delta table {url!r}"):
            try:
                return DeltaTable(url, version=self.at, storage_options=options)
            except TableNotFoundError:
                if self.at is not None:
                    raise
        if self.store.local is not None:
            with map_errors({OSError: ConfigError}, f"making the directory {url!r}"):
                self.store.local.mkdir(parents=True, exist_ok=True)
        with map_errors({DeltaError: ConfigError, OSError: ConfigError}, f"creating the Delta table {url!r}"):
            try:
                DeltaTable.create(
                    url,
                    Schema.from_arrow(self._schema),
                    mode="error",
                    partition_by=self._partition_by,
                    name=self.name,
                    description=json.dumps({"format": self.format}),
                    configuration={
                        "delta.checkpointInterval": str(CHECKPOINT_COMMITS),
                        "delta.logRetentionDuration": LOG_RETENTION,
                    },
                    storage_options=options,
                )
            except DeltaError:
                # Another process may have created it at the same moment; if not, opening says what is wrong.
                return DeltaTable(url, storage_options=options)
            return DeltaTable(url, storage_options=options)

    def _check(self) -> None:
        found = self.table.metadata()
        if found.name != self.name:
            msg = f"{self.store.url!r} is the Delta table {found.name!r}; {self.name!r} is wanted"
            raise ConfigError(msg)
        try:
            version = int(json.loads(found.description or "")["format"])
        except (ValueError, KeyError, TypeError) as error:
            msg = f"{self.store.url!r} says {found.description!r} where its format version should be"
            raise DataError(msg) from error
        if version > self.format:
            msg = f"{self.store.url!r} is of format {version}; this program reads up to {self.format}: install a newer iiot-dask"
            raise VersionError(msg)

    @property
    def version(self) -> int:
        """Version of the log last looked at."""
        return int(self.table.version())

    def refresh(self) -> int:
        """Look for commits of others; the version now seen.

        Raises
        ------
        DataError
            If the log can not be read.
        """
        from deltalake.exceptions import DeltaError

        if self.at is None:
            with (
                self._lock,
                map_errors({DeltaError: DataError, OSError: DataError}, f"reading the log of {self.store.url!r}"),
            ):
                self.table.update_incremental()
        return self.version

    def files(self) -> pl.DataFrame:
        """The files of the version last looked at: path, size_bytes, num_records, partition.*, min.*, max.*."""
        with self._lock:
            if self._files is None or self._files[0] != self.version:
                actions = pa.table(self.table.get_add_actions(flatten=True))
                frame = (
                    pl.DataFrame(actions)
                    if actions.num_rows
                    else pl.DataFrame({"path": pl.Series([], dtype=pl.String)})
                )
                self._files = (self.version, frame)
            return self._files[1]

    def paths(self) -> list[str]:
        """Paths of the files, relative to the table."""
        return self.files()["path"].to_list()

    def transaction(self, app_id: str) -> int | None:
        """Last version an application committed under its id, None if it never did."""
        with self._lock:
            return self.table.transaction_version(app_id)

    def commit(
        self,
        actions: Iterable[Action],
        *,
        transaction: tuple[str, int] | None = None,
        exact: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Commit actions as one version; False if another writer was first (nothing is changed then).

        Parameters
        ----------
        actions
            What to add and remove.
        transaction
            (application id, version) to record.
        exact
            Only as the version right after the one last looked at. Otherwise up to 15 later ones are tried, which is
            right for commits that only add.
        metadata
            Recorded in the commit, for people.

        Raises
        ------
        CapacityError
            If the storage refuses (full disk, permission).
        """
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import CommitProperties, Transaction

        if self.at is not None:
            msg = f"{self.store.url!r} was opened at version {self.at}; only the newest version can be written to"
            raise ConfigError(msg)
        properties = CommitProperties(
            custom_metadata=dict(metadata) if metadata else None,
            max_commit_retries=0 if exact else 15,
            app_transactions=[Transaction(*transaction)] if transaction else None,
        )
        with (
            self._lock,
            map_errors({DeltaError: CapacityError, OSError: CapacityError}, f"committing to {self.store.url!r}"),
        ):
            try:
                self.table.create_write_transaction(
                    list(actions), "append", self.table.schema(), self._partition_by, commit_properties=properties
                )
            except CommitFailedError:
                return False
        return True
