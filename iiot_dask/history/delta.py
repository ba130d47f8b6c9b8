"""The Delta log of one table: the only file that touches `deltalake`'s transactions.

What delta-rs does not do, measured with 1.6.6, and what is done about it here: a repeated application transaction is not
rejected (read, compare, one committer a stream); two commits that remove the same file both succeed, and so does removing
a file that is gone (commits that depend on what was read are tried *exactly* at the next version, and start again from the
log when another writer took it). Table properties of our own are refused, so the format version is in the description.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from iiot_dask.core.errors import CapacityError, ChecksumError, ConfigError, DataError, VersionError, map_errors
from iiot_dask.core.times import time_text
from iiot_dask.history.logcheck import KEY, MASK, Note, entry_hash, note_of
from iiot_dask.history.store import Store

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction, RemoveAction

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CHECKPOINT_COMMITS = 100
"""A checkpoint of the log is written every so many commits."""
LOG_RETENTION = "interval 6 hours"
"""How long single commits stay readable (time travel): a commit every 2 s makes 10,800 files in this time."""


COMMITS_MAX = 100
"""Tries of one commit while other writers keep taking the next version."""
WAIT_S = 0.2
"""Longest wait between two tries; each is a random share of a wait that grows."""


@dataclass(frozen=True, slots=True)
class Add:
    """A file to add: `size` in bytes, partition values as text, statistics in the form of the Delta protocol."""

    path: str
    size: int
    partition: Mapping[str, str]
    stats: Mapping[str, Any]
    data_change: bool = True

    def stamped(self, order: int) -> Add:
        """The same file with another write order."""
        stats = dict(self.stats)
        for side in ("minValues", "maxValues"):
            if "order" in stats[side]:
                stats[side] = {**stats[side], "order": order}
        return replace(self, stats=stats)

    def hash(self) -> int:
        """See `logcheck.entry_hash`."""
        return entry_hash(self.path, self.size, self.partition, self.stats["minValues"], self.stats["maxValues"])

    @property
    def order(self) -> int:
        """Its largest write order; 0 if it has none."""
        return int(self.stats["maxValues"].get("order", 0))

    def action(self) -> AddAction:
        """As `deltalake` wants it."""
        from deltalake.transaction import AddAction

        now_ms = time.time_ns() // 1_000_000
        return AddAction(
            self.path, self.size, dict(self.partition), now_ms, self.data_change, json.dumps(dict(self.stats))
        )


@dataclass(frozen=True, slots=True)
class Remove:
    """A file to remove; `data_change` False: its rows live on in others of the same commit."""

    path: str
    size: int
    partition: Mapping[str, str]
    data_change: bool = False

    def action(self) -> RemoveAction:
        """As `deltalake` wants it."""
        from deltalake.transaction import RemoveAction

        return RemoveAction(self.path, self.data_change, time.time_ns() // 1_000_000, self.size, dict(self.partition))


Action = Add | Remove


def add(
    path: str, size: int, partition: Mapping[str, str], stats: Mapping[str, Any], *, data_change: bool = True
) -> Add:
    """An action that adds a file (`size` in bytes)."""
    return Add(path, size, partition, stats, data_change)


def remove(path: str, size: int, partition: Mapping[str, str], *, data_change: bool = False) -> Remove:
    """An action that removes a file; `data_change` False: its rows live on in others of the same commit."""
    return Remove(path, size, partition, data_change)


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
        self._seen_ns: int | None = None
        self._hashes: dict[str, int] = {}
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
        self.found = version
        if version > self.format:
            msg = f"{self.store.url!r} is of format {version}; this program reads up to {self.format}: install a newer iiot-dask"
            raise VersionError(msg)

    @property
    def version(self) -> int:
        """Version of the log last looked at."""
        return int(self.table.version())

    def version_at(self, moment_ns: int) -> int:
        """The last version committed at or before a time, ns.

        Raises
        ------
        ConfigError
            If the log does not reach back to it.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        self.refresh()
        moment = _EPOCH + timedelta(microseconds=moment_ns // 1000)
        doing = f"looking for the version of {self.store.url!r} at {moment.isoformat()}"
        with map_errors({DeltaError: ConfigError, OSError: ConfigError}, doing):
            table = DeltaTable(self.store.url, storage_options=self.store.options)
            table.load_as_version(moment)
            found = table.history(1)[0]["timestamp"]
        if found * 1_000_000 > moment_ns:
            msg = f"{doing}: the oldest version known is of {time_text(found * 1_000_000)}"
            raise ConfigError(msg)
        return int(table.version())

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
                before, seen = self.version, self._folder_ns()
                if seen is None or seen != self._seen_ns or self._follows():
                    self.table.update_incremental()
                    self._seen_ns = seen
                    if self.version != before:
                        self._check()
        return self.version

    def _folder_ns(self) -> int | None:
        """When the log's folder last changed, ns; None where that is not known (an object store)."""
        local = self.store.local
        return None if local is None else (local / "_delta_log").stat().st_mtime_ns

    def _follows(self) -> bool:
        """Whether a commit follows the version last looked at: a folder's time may stand still for some ms."""
        local = self.store.local
        return local is None or (local / "_delta_log" / f"{self.version + 1:020d}.json").exists()

    def files(self) -> pl.DataFrame:
        """The files of the version last looked at: path, size_bytes, num_records, partition.*, min.*, max.*.

        Raises
        ------
        ChecksumError
            If they are not what the commit of this version says it left (see `logcheck`).
        """
        with self._lock:
            if self._files is None or self._files[0] != self.version:
                actions = pa.table(self.table.get_add_actions(flatten=True))
                frame = (
                    pl.DataFrame(actions)
                    if actions.num_rows
                    else pl.DataFrame({"path": pl.Series([], dtype=pl.String)})
                )
                self._hash(frame)
                note = self._note()
                if note is not None and note.state != self._state():
                    msg = (
                        f"the log of {self.store.url!r} is damaged: version {self.version} lists {frame.height} files that are "
                        "not those its commit left"
                    )
                    raise ChecksumError(msg)
                self._files = (self.version, frame)
            return self._files[1]

    def _hash(self, frame: pl.DataFrame) -> None:
        """Keep the hashes of the live entries; entries never change, so only new ones are computed."""
        old = self._hashes
        paths = frame["path"].to_list()
        self._hashes = {path: old[path] for path in paths if path in old}
        if len(self._hashes) == len(paths):
            return
        new = frame.filter(~pl.col("path").is_in(list(self._hashes)))
        sides = {
            side: [name for name in new.columns if name.startswith(side)] for side in ("partition.", "min.", "max.")
        }
        for row in new.iter_rows(named=True):
            parts = ({n.removeprefix(side): row[n] for n in names} for side, names in sides.items())
            self._hashes[row["path"]] = entry_hash(row["path"], row["size_bytes"], *parts)

    def _state(self) -> int:
        return sum(self._hashes.values()) & MASK

    def _note(self) -> Note | None:
        """What the commit of the version last looked at says of the table; None if it says nothing or is gone."""
        try:
            return note_of(self.store.get(f"_delta_log/{self.version:020d}.json").to_pybytes())
        except ValueError as error:
            # `DataError` (the file is gone: a checkpoint stands for it) is a `ValueError` too.
            if isinstance(error, DataError):
                return None
            msg = f"the log of {self.store.url!r} is damaged: the commit of version {self.version} can not be read"
            raise ChecksumError(msg) from error

    def _now(self) -> Note:
        """The note of this version, computed when its commit has none."""
        note = self._note()
        if note is not None:
            return note
        frame = self.files()
        order = frame["max.order"].max() if "max.order" in frame.columns else 0
        return Note(self._state(), int(order or 0))  # type: ignore[arg-type]

    def paths(self) -> list[str]:
        """Paths of the files, relative to the table."""
        return self.files()["path"].to_list()

    def transaction(self, app_id: str) -> int | None:
        """Last version an application committed under its id, None if it never did."""
        with self._lock:
            return self.table.transaction_version(app_id)

    def last_order(self) -> int:
        """Largest write order given up to the version last looked at; 0 in an empty table."""
        with self._lock:
            return self._now().order

    def orders(self) -> dict[str, int]:
        """Write order of every file, by path; rows of a file that was written later win."""
        frame = self.files()
        if not frame.height:
            return {}
        return dict(zip(frame["path"].to_list(), frame["max.order"].to_list(), strict=True))

    def commit(
        self,
        actions: Iterable[Action],
        *,
        transaction: tuple[str, int] | None = None,
        stamp: int | None = None,
        exact: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:
        """Commit actions as one version, right after the one last looked at; False if other writers were first.

        Parameters
        ----------
        actions
            What to add and remove.
        transaction
            (application id, version) to record.
        stamp
            Give the added files a write order above every one given before, and at least this (a time, ns); None: they keep
            the one they have.
        exact
            Try once. Otherwise, when another writer takes the next version, look and try again, up to `COMMITS_MAX` times:
            right for commits that only add.
        metadata
            Recorded in the commit, for people.

        Raises
        ------
        CapacityError
            If the storage refuses (full disk, permission).
        ChecksumError
            If the log is damaged.
        """
        if self.at is not None:
            msg = f"{self.store.url!r} was opened at version {self.at}; only the newest version can be written to"
            raise ConfigError(msg)
        given = list(actions)
        with self._lock:
            for attempt in range(1 if exact else COMMITS_MAX):
                if attempt:
                    # A random wait, so that writers who met once do not meet at every try.
                    time.sleep(random.uniform(0, min(WAIT_S, 0.005 * 2**attempt)))
                    self.refresh()
                if self.found < self.format and not self._upgrade():
                    continue
                if self._try(given, transaction, stamp, metadata):
                    return True
        return False

    def _try(
        self,
        given: Sequence[Action],
        transaction: tuple[str, int] | None,
        stamp: int | None,
        metadata: Mapping[str, Any] | None,
    ) -> bool:
        from deltalake.transaction import CommitProperties, Transaction

        now = self._now()
        order = None if stamp is None else max(stamp, now.order + 1)
        added = [a if order is None else a.stamped(order) for a in given if isinstance(a, Add)]
        removed = [a for a in given if isinstance(a, Remove)]
        state = now.state + sum(a.hash() for a in added)
        if removed:
            self.files()
            if any(a.path not in self._hashes for a in removed):
                return False
            state -= sum(self._hashes[a.path] for a in removed)
        note = Note(state & MASK, max([now.order, *(a.order for a in added)]))
        properties = CommitProperties(
            custom_metadata={**(metadata or {}), KEY: note.text()},
            max_commit_retries=0,
            app_transactions=[Transaction(*transaction)] if transaction else None,
        )
        return self._guarded(
            lambda: self.table.create_write_transaction(
                [*(a.action() for a in removed), *(a.action() for a in added)],
                "append",
                self.table.schema(),
                self._partition_by,
                commit_properties=properties,
            )
        )

    def _upgrade(self) -> bool:
        """Say in the log that the table is of this program's format, so that older programs refuse it; False if overtaken."""
        from deltalake.transaction import CommitProperties

        now = self._now()
        properties = CommitProperties(custom_metadata={KEY: now.text()}, max_commit_retries=0)
        text = json.dumps({**json.loads(self.table.metadata().description or "{}"), "format": self.format})
        if not self._guarded(lambda: self.table.alter.set_table_description(text, commit_properties=properties)):
            return False
        self.refresh()
        self._check()
        return True

    def _guarded(self, commit: Callable[[], None]) -> bool:
        from deltalake.exceptions import CommitFailedError, DeltaError

        with map_errors({DeltaError: CapacityError, OSError: CapacityError}, f"committing to {self.store.url!r}"):
            try:
                commit()
            except CommitFailedError:
                return False
        return True
