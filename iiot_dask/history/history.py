"""`History`: the table as users see it. Each method is thin; the work is in the module of its name."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.times import SpanLike, TimeLike, span_ns, time_ns
from iiot_dask.history import block, delta, intake, layout
from iiot_dask.history import compact as compaction
from iiot_dask.history.export import Exported, Progress, export
from iiot_dask.history.index import Index
from iiot_dask.history.info import Info, info_of
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.normal import normal
from iiot_dask.history.orphans import appending, caring, sweep
from iiot_dask.history.outputs import Outputs, Sealing, Tally
from iiot_dask.history.queries import Queries, Tags
from iiot_dask.history.retain import Retained, retain
from iiot_dask.history.retention import Retention
from iiot_dask.history.store import Store
from iiot_dask.history.tagtable import TagTable
from iiot_dask.history.vacuum import Vacuumed, vacuum
from iiot_dask.history.verify import Verification, verify


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an append made durable: `rows` given, `stored` after duplicates within it, files, bytes, table version."""

    rows: int
    stored: int
    files: int
    bytes: int
    version: int


class History(Queries):
    """A history of samples in a directory or an object store; created if absent. Safe to use from threads.

    Parameters
    ----------
    url
        Directory or URL (``s3://`` and what else Delta Lake knows).
    storage_options
        Keys of the object store.
    version
        Read the table as it was at this version; such a history refuses writes.
    clock
        Source of the write order.

    Raises
    ------
    ConfigError
        If the place holds something else or can not be used.
    VersionError
        If the table is of a newer format.

    Examples
    --------
    >>> import tempfile, polars as pl
    >>> h = History(tempfile.mkdtemp())
    >>> receipt = h.append(pl.DataFrame({"tag": ["a", "a", "b"], "time": [1, 2, 3], "value": [1.0, 3.0, 5.0]}))
    >>> receipt.rows, h.scan("a").select("value").collect().to_series().to_list()
    (3, [1.0, 3.0])
    >>> h.aggregate("1s").select("tag", "count", "mean").collect().rows()
    [('a', 2, 2.0), ('b', 1, 5.0)]
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, str] | None = None,
        *,
        version: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = Store(url, storage_options)
        self.clock: Clock = clock or SystemClock()
        self.log = delta.Log(self.store, layout.TABLE_NAME, layout.FORMAT, layout.TABLE, ("day", "shard"), version)
        self.tags = TagTable(self.store.child("_tags"))
        self.index = Index(self.store)
        self.tail = None
        self._lock = threading.Lock()
        self._order = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between calls; this is for `with`."""

    def as_of(self, moment: int | TimeLike) -> History:
        """The history as it was at a version of the table, or at a time: read-only.

        Parameters
        ----------
        moment
            A version (int), or a time as text or `datetime`: the last version committed by then. Older versions can be read
            as long as `vacuum` leaves their files and the log its commits (6 hours of single commits, then its checkpoints).

        Raises
        ------
        ConfigError
            If there is no such version, or it can not be read any more.

        Examples
        --------
        >>> import tempfile, polars as pl
        >>> h = History(tempfile.mkdtemp())
        >>> first = h.append(pl.DataFrame({"tag": ["a"], "time": [1], "value": [1.0]})).version
        >>> _ = h.append(pl.DataFrame({"tag": ["a"], "time": [1], "value": [2.0]}))
        >>> h.as_of(first).scan().collect()["value"].to_list()
        [1.0]
        """
        version = moment if isinstance(moment, int) else self.log.version_at(time_ns(moment))
        return History(self.store.url, self.store.options, version=version, clock=self.clock)

    # -- writing ------------------------------------------------------------------------------------------------

    def append(self, frame: Any) -> Receipt:
        """Write rows; durable and visible on return.

        Parameters
        ----------
        frame
            Polars, pandas or anything with ``__arrow_c_stream__``: tag, time, value[, quality]; see `normal.normal`. Rows may
            be late, out of order or repeat a (tag, time): the last written wins.

        Raises
        ------
        SchemaError
            If a column is missing or of the wrong type.
        ConfigError
            If a new tag name is not legal. Nothing is written in either case.
        CapacityError
            If the storage refuses.
        """
        rows = normal(frame)
        if not len(rows.time):
            return Receipt(0, 0, 0, 0, self.log.refresh())
        ids = self.tags.ensure(rows.names).astype(np.int64)
        columns = block.sort_rows(ids[rows.tag], rows.time, rows.value, rows.quality)
        name = f"append-{uuid.uuid4().hex}"
        with appending(self.store):
            entries = block.write_columns(self.store, columns, name, shard=0, order=self.clock.now_ns())
            version = self.add(entries)
        return Receipt(
            len(rows.time), sum(e.rows for e in entries), len(entries), sum(e.size for e in entries), version
        )

    def load(
        self,
        tag: npt.NDArray[np.integer],
        time: npt.NDArray[np.int64],
        value: npt.NDArray[np.float64],
        quality: npt.NDArray[np.uint8],
    ) -> Receipt:
        """Write samples in bulk, sealed at once instead of as hot blocks; durable and visible on return.

        For imports: one call should hold all a day has of a tag, or some million samples; compaction joins the rest.

        Parameters
        ----------
        tag
            Ids of `tags.ensure`.
        time, value, quality
            int64 ns since 1970-01-01 UTC, float64, uint8; equal lengths, any order; of equal (tag, time) the last stays.

        Raises
        ------
        CapacityError
            If the storage refuses.
        ChecksumError
            If what was stored is not what was given; nothing is committed.
        """
        if not len(time):
            return Receipt(0, 0, 0, 0, self.log.refresh())
        columns = block.sort_rows(tag, time, value, quality)
        sealing = Sealing(1, self.clock.now_ns(), frozenset(), layout.CHUNK_ROWS_MIN, f"load-{uuid.uuid4().hex}")
        with appending(self.store):
            outputs = Outputs(self, sealing)
            outputs.take(columns)
            entries = outputs.finish()
            Tally(len(columns[0])).count(columns, len(columns[0])).prove(self, entries)
            version = self.add(entries)
        return Receipt(len(time), sum(e.rows for e in entries), len(entries), sum(e.size for e in entries), version)

    def next_order(self) -> int:
        """A write order above every one given or seen before, usually the time in ns; a commit gives its own."""
        self.log.refresh()
        with self._lock:
            self._order = max(self.clock.now_ns(), self._order + 1, self.log.last_order() + 1)
            return self._order

    def add(self, entries: Sequence[FileEntry], transaction: tuple[str, int] | None = None) -> int:
        """Commit written files; the table version now seen. Their rows count as written after everything committed before.

        Raises
        ------
        CapacityError
            If the storage refuses, or other writers win every time.
        """
        actions = [delta.add(e.path, e.size, {"day": e.day, "shard": str(e.shard)}, e.stats) for e in entries]
        self.log.refresh()
        if not self.log.commit(actions, transaction=transaction, stamp=self.clock.now_ns()):
            msg = f"committing {len(entries)} files to {self.url!r}: other writers won every time"
            raise CapacityError(msg)
        return self.log.refresh()

    # -- care ---------------------------------------------------------------------------------------------------

    def info(self) -> Info:
        """How much the history holds: samples, tags, files, bytes, bytes a sample, ratio to 16 bytes, time range."""
        version = self.log.refresh()
        self.tags.refresh()
        return info_of(self.url, version, len(self.tags), self.log.files())

    def files(self) -> list[str]:
        """Paths (or URLs) of the live data files, for any Parquet reader: statistics columns are plain, samples are blobs."""
        self.log.refresh()
        return [f"{self.url}/{path}" for path in self.log.files()["path"].to_list()]

    def compact(
        self,
        progress: Progress | None = None,
        *,
        dry_run: bool = False,
        rows_max: int = compaction.ROWS_MAX,
        chunk_rows_min: int = layout.CHUNK_ROWS_MIN,
        client: Any | None = None,
    ) -> compaction.Compaction:
        """Seal hot blocks into chunks of one tag, merge small sealed files, drop what was written again; clear what crashes left.

        Each merge is one atomic commit that is proved before it is made; appends and readers go on meanwhile. Files merged
        stay on disk for readers of older versions until `vacuum`.

        Parameters
        ----------
        progress
            Called with (samples done, samples to do).
        dry_run
            Only say what would be merged.
        rows_max
            Samples merged at a time; some 100 bytes of memory each.
        chunk_rows_min
            A tag with fewer samples a day stays in a block, which is smaller but has no statistics of its own. Lower it to
            let other readers (DuckDB, Spark) see every tag's statistics; blocks sealed earlier are then taken up again.
        client
            A Dask client whose workers do the merges, several at once; the commits stay here.

        Raises
        ------
        ConfigError
            If `chunk_rows_min` is below 1.
        ChecksumError
            If a file is damaged or a merge does not add up; nothing of that merge is committed.
        CapacityError
            If the storage refuses.
        """
        if chunk_rows_min < 1:
            msg = f"chunk_rows_min {chunk_rows_min!r}: 1 or more is allowed"
            raise ConfigError(msg)
        if self.log.at is None and not dry_run:
            with caring(self.store):
                sweep(self)
                return compaction.compact(
                    self, progress, rows_max=rows_max, chunk_rows_min=chunk_rows_min, client=client
                )
        return compaction.compact(
            self, progress, dry_run=dry_run, rows_max=rows_max, chunk_rows_min=chunk_rows_min, client=client
        )

    def retain(
        self,
        policy: Retention,
        progress: Progress | None = None,
        *,
        dry_run: bool = True,
        rows_max: int = compaction.ROWS_MAX,
        client: Any | None = None,
    ) -> Retained:
        """Roll up or drop what is past its time, by default only say what; see `retention` for the rules.

        Parameters
        ----------
        policy
            How long samples are kept, and the tiers of windows they become after.
        progress
            Called with (rows done, rows to do).
        dry_run
            Only say what would be done.
        rows_max
            Samples decoded at a time; some 100 bytes of memory each.
        client
            A Dask client whose workers do the reading and writing, as many days at once as they have threads.

        Raises
        ------
        ChecksumError
            If a file is damaged or a step does not add up; nothing of that step is committed.
        CapacityError
            If the storage refuses, or other writers change the same files again and again.

        Examples
        --------
        >>> import tempfile, datetime as dt, polars as pl
        >>> h = History(tempfile.mkdtemp())
        >>> now = dt.datetime.now(dt.UTC)
        >>> times = [now - dt.timedelta(days=9), now]
        >>> _ = h.append(pl.DataFrame({"tag": ["a", "a"], "time": times, "value": [1.0, 2.0]}))
        >>> done = h.retain(Retention.of("2d", ["1h"]), dry_run=False)
        >>> done.samples, done.windows_made, h.scan().collect().height
        (1, 1, 1)
        """
        if not dry_run:
            with caring(self.store):
                return retain(self, policy, progress, dry_run=False, rows_max=rows_max, client=client)
        return retain(self, policy, progress, dry_run=dry_run, rows_max=rows_max, client=client)

    def verify(self, progress: Progress | None = None, *, client: Any | None = None) -> Verification:
        """Read every file and check it against every hash and checksum there is; damage is named, never raised.

        `progress` is called with (files done, files); `client`: a Dask client whose workers do the reading.
        """
        return verify(self, progress, client)

    def vacuum(self, retention: SpanLike = "1d", *, dry_run: bool = True) -> Vacuumed:
        """Delete files that compaction replaced, or a crash left behind, more than `retention` ago; by default only name them.

        Versions of the table that need a deleted file can not be read any more. Keep the retention longer than the longest
        query and the longest wait of a stream for its commit.

        Raises
        ------
        ConfigError
            If `retention` is not a span.
        CapacityError
            If the storage refuses.
        """
        return vacuum(self, span_ns(retention), dry_run=dry_run)

    def export(
        self,
        path: str | os.PathLike[str],
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        progress: Progress | None = None,
        *,
        partition: str | None = None,
        resume: bool = False,
    ) -> Exported:
        """Write the committed samples as plain Parquet (tag, time, value, quality) into the new or empty directory `path`.

        Parameters
        ----------
        progress
            Called with (samples done, samples).
        partition
            None: files of some million samples, by tag then time; ``"day"`` or ``"month"`` (UTC): a folder each, as Hive does.
        resume
            Go on with an export of the same question that was interrupted; it reads the version the first try read.

        Raises
        ------
        ConfigError
            If the directory is not empty, or holds another export.
        CapacityError
            If the disk refuses.
        """
        return export(self, Path(path), tags, start, end, progress, partition=partition, resume=resume)

    def import_(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        columns: intake.Columns | None = None,
        dry_run: bool = False,
        resume: bool = True,
        progress: Progress | None = None,
    ) -> intake.Imported:
        """Take in Parquet and CSV files, long (tag, time, value[, quality]) or wide (time and a column a tag).

        Rows that can not be samples are left out and counted by reason with examples; everything else is stored.

        Parameters
        ----------
        source
            A file, a folder, a glob, or several.
        columns
            Names of the columns, the time zone of times without one, the unit of times that are whole numbers.
        dry_run
            Check everything and write nothing.
        resume
            Go on where an import of the same, unchanged files was interrupted.
        progress
            Called with (rows read, rows).

        Raises
        ------
        ConfigError
            If there are no such files, or a column, zone or unit is missing.
        DataError
            If a file can not be read.
        """
        given = [source] if isinstance(source, (str, os.PathLike)) else list(source)
        return intake.take(
            self,
            [Path(p) for p in given],
            columns or intake.Columns(),
            dry_run=dry_run,
            resume=resume,
            progress=progress,
        )

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()
