"""`History`: the table as users see it. Each method is thin; the work is in the module of its name."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.times import SpanLike, TimeLike, span_ns, time_ns
from iiot_dask.history import aggregate, block, delta, layout, scan
from iiot_dask.history import compact as compaction
from iiot_dask.history.export import Exported, Progress, export
from iiot_dask.history.frames import PARTITION_ROWS, dask_frame
from iiot_dask.history.index import NS_MAX, NS_MIN, Index, Rows, prune
from iiot_dask.history.info import Info, info_of
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.normal import normal
from iiot_dask.history.read import Group, decode_group, in_order, plan
from iiot_dask.history.scan import Bounds
from iiot_dask.history.store import Store
from iiot_dask.history.tagtable import TagTable
from iiot_dask.history.vacuum import Vacuumed, vacuum
from iiot_dask.history.verify import Verification, verify

Tags = str | Sequence[str]
"""A tag glob or several: `*` crosses `/`, `?` and `[...]` as in fnmatch."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an append made durable: `rows` given, `stored` after duplicates within it, files, bytes, table version."""

    rows: int
    stored: int
    files: int
    bytes: int
    version: int


class History:
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
    >>> import tempfile, iiot_dask
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
        self._lock = threading.Lock()
        self._order = 0

    @property
    def url(self) -> str:
        """Where the history lies."""
        return self.store.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held open between calls; this is for `with`."""

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
        entries = block.write_columns(self.store, columns, name, shard=0, order=self.clock.now_ns())
        version = self.add(entries)
        return Receipt(
            len(rows.time), sum(e.rows for e in entries), len(entries), sum(e.size for e in entries), version
        )

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

    # -- reading ------------------------------------------------------------------------------------------------

    def scan(self, tags: Tags = "*", start: TimeLike | None = None, end: TimeLike | None = None) -> pl.LazyFrame:
        """Samples as a LazyFrame: tag, time, value, quality; sorted by tag id (order of first appearance) then time.

        What is committed when the frame is collected is what it shows. Filters on ``tag`` and ``time`` prune files and
        rows; ``collect(engine="streaming")`` works in bounded memory.

        Parameters
        ----------
        tags
            Glob or globs.
        start, end
            ``start <= time < end``; None: no limit.

        Raises
        ------
        ConfigError
            If a time is not a time.
        ChecksumError
            On collecting, if a file is damaged.
        """
        first, last = limits(start, end)

        def batches(bounds: Bounds, columns: list[str]) -> Generator[pl.DataFrame, None, None]:
            low, high = max(first, bounds.start), min(last, bounds.last)
            rows, ids = self.select(tags, low, high, bounds)
            yield from in_order(plan(rows, ids, low, high), lambda group: self._frame(group, columns))

        return scan.lazy(scan.SCHEMA, batches)

    def frames(
        self, tags: Tags = "*", start: TimeLike | None = None, end: TimeLike | None = None, *, last: int | None = None
    ) -> Iterator[pl.DataFrame]:
        """The samples of `scan`, as eager frames of about a million rows, one after the other; `last` ns is inclusive."""
        low, high = limits(start, end)
        high = high if last is None else last
        rows, ids = self.select(tags, low, high)
        yield from in_order(plan(rows, ids, low, high), lambda group: self._frame(group, scan.SCHEMA.names()))

    def dask(
        self,
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        index: str | None = None,
        partition_rows: int = PARTITION_ROWS,
    ) -> Any:
        """The rows of `scan` as a `dask.dataframe.DataFrame`: tag, time (ns, UTC), value, quality.

        Partitions are stretches of time, in order, each sorted by tag then time, and read the version of the table seen at
        this call.

        Parameters
        ----------
        tags, start, end
            As for `scan`.
        index
            None, or ``"time"``: time becomes the index, partitions are sorted by it and divisions are known.
        partition_rows
            Samples of a partition, about.

        Raises
        ------
        ConfigError
            If `index` is neither, or a time is not a time.
        """
        first, last = limits(start, end)
        return dask_frame(self, tags, first, last, index, partition_rows)

    def select(
        self, tags: Tags, start: int, last: int, bounds: Bounds | None = None
    ) -> tuple[Rows, npt.NDArray[np.int64]]:
        """Index rows that may hold samples of `tags` with ``start <= time <= last`` ns, and the ids asked for (sorted)."""
        self.log.refresh()
        self.tags.refresh()
        ids: npt.NDArray[np.int64] = self.tags.ids(tags).astype(np.int64)
        if bounds is not None:
            ids = bounds.ids(ids, self.tags.series)
        wanted = None if len(ids) == len(self.tags) else ids
        paths = prune(self.log.files(), wanted, start, last) if len(ids) else []
        return self.index.rows(paths, wanted, start, last, self.log.orders()), ids

    def _frame(self, group: Group, columns: Sequence[str]) -> pl.DataFrame:
        tag, time, value, quality = decode_group(self.store, group)
        out: dict[str, pl.Series] = {}
        if "tag" in columns:
            out["tag"] = self.tags.series(group.ids).gather(pl.Series(tag.astype(np.uint32)))
        out["time"] = pl.Series("time", time).cast(scan.TIME)
        out["value"] = pl.Series("value", value)
        out["quality"] = pl.Series("quality", quality)
        return pl.DataFrame({name: out[name] for name in scan.SCHEMA if name in out})

    def aggregate(
        self, every: SpanLike, tags: Tags = "*", start: TimeLike | None = None, end: TimeLike | None = None
    ) -> pl.LazyFrame:
        """Windows as a LazyFrame: tag, time (start of the window), count, min, max, mean, sum, first, last.

        Over samples that are not bad (quality < 128) and not NaN; windows without any are absent. Windows start at
        multiples of `every` since 1970-01-01 UTC; at `start` and `end` they hold the samples inside only. `sum` and `mean`
        are exact to rounding: the order of additions depends on how the samples lie in chunks.

        Raises
        ------
        ConfigError
            If `every` is not a span above 0, or a time is not a time.
        ChecksumError
            On collecting, if a file is damaged.
        """
        every_ns = span_ns(every)
        if every_ns <= 0:
            msg = f"window length {every!r} is 0; a span above 0 is wanted, such as '1h'"
            raise ConfigError(msg)
        first, last = limits(start, end)

        def batches(bounds: Bounds, columns: list[str]) -> Generator[pl.DataFrame, None, None]:
            del columns  # windows are few; projecting them saves nothing
            # A filter on the time of windows is not one on samples: only its tag part is used.
            rows, ids = self.select(tags, first, last, bounds)
            found = aggregate.windows(self.store, rows, ids, first, last, every_ns)
            yield aggregate.frame_of(found, self.tags.series(ids))

        return scan.lazy(aggregate.SCHEMA, batches)

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
    ) -> compaction.Compaction:
        """Seal hot blocks into chunks of one tag, merge small sealed files, drop what was written again.

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
        return compaction.compact(self, progress, dry_run=dry_run, rows_max=rows_max, chunk_rows_min=chunk_rows_min)

    def verify(self, progress: Progress | None = None) -> Verification:
        """Read every file and check it against every hash and checksum there is; damage is named, never raised.

        `progress` is called with (files done, files).
        """
        return verify(self, progress)

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
    ) -> Exported:
        """Write samples as plain Parquet (tag, time, value, quality) into the new or empty directory `path`.

        Raises
        ------
        ConfigError
            If the directory is not empty.
        CapacityError
            If it can not be made.
        """
        return export(self, Path(path), tags, start, end, progress)

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()


def limits(start: TimeLike | None, end: TimeLike | None) -> tuple[int, int]:
    """``start <= time < end`` as inclusive limits, ns.

    Examples
    --------
    >>> limits("1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z")
    (1000000000, 1999999999)
    """
    first = NS_MIN if start is None else max(NS_MIN, min(time_ns(start), NS_MAX))
    last = NS_MAX if end is None else max(NS_MIN, min(time_ns(end) - 1, NS_MAX))
    return first, last
