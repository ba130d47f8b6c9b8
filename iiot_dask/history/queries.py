"""`Queries`: everything a history can be asked, over one primitive, `select`. Each method is thin."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.clock import Clock
from iiot_dask.core.times import SpanLike, TimeLike, time_ns
from iiot_dask.history import aggregate, delta, scan
from iiot_dask.history import windows as cutting
from iiot_dask.history.frames import PARTITION_ROWS, dask_frame
from iiot_dask.history.index import NS_MAX, NS_MIN, Index, Rows, prune
from iiot_dask.history.place import ALL, join, split
from iiot_dask.history.read import GROUP_ROWS, Group, in_order, plan
from iiot_dask.history.rollup import is_rollup
from iiot_dask.history.scan import Bounds
from iiot_dask.history.store import Store
from iiot_dask.history.tagtable import TagTable
from iiot_dask.history.tail import Tail, with_tail

Tags = str | Sequence[str]
"""A tag glob or several: `*` crosses `/`, `?` and `[...]` as in fnmatch."""


class Queries:
    """What `History` can be asked."""

    store: Store
    clock: Clock
    log: delta.Log
    tags: TagTable
    index: Index
    tail: Tail | None
    """Rows that are durable elsewhere and not committed yet; they are part of every answer (see `tail`)."""
    _lock: threading.Lock

    @property
    def url(self) -> str:
        """Where the history lies."""
        return self.store.url

    def scan(self, tags: Tags = "*", start: TimeLike | None = None, end: TimeLike | None = None) -> pl.LazyFrame:
        """Samples as a LazyFrame: tag, time, value, quality; sorted by tag id (order of first appearance) then time.

        What is committed when the frame is collected is what it shows. Filters on ``tag``, ``time`` and ``value`` prune
        files and rows, columns that are not selected are not read; ``collect(engine="streaming")`` works in bounded memory.

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
            size, ahead = GROUP_ROWS, None
            if bounds.limit is not None and bounds.limit < GROUP_ROWS:
                size, ahead = max(bounds.limit, 1), 1
            yield from in_order(plan(bounds.rows(rows), ids, low, high, size), lambda g: self._frame(g, columns), ahead)

        return scan.lazy(scan.SCHEMA, batches)

    def frames(
        self,
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        last: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pl.DataFrame]:
        """The samples of `scan`, as eager frames of about a million rows, one after the other; `last` ns is inclusive."""
        low, high = limits(start, end)
        high = high if last is None else last
        wanted = scan.SCHEMA.names() if columns is None else list(columns)
        rows, ids = self.select(tags, low, high)
        yield from in_order(plan(rows, ids, low, high), lambda group: self._frame(group, wanted))

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
        this call. Columns that are not used are not read.

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
        with with_tail(self.tail, self.log) as tail:
            self.tags.refresh()
            ids: npt.NDArray[np.int64] = self.tags.ids(tags).astype(np.int64)
            if bounds is not None:
                ids = bounds.ids(ids, self.tags.series)
            wanted = None if len(ids) == len(self.tags) else ids
            paths = prune(self.log.files(), wanted, start, last) if len(ids) else []
            paths = [path for path in paths if not is_rollup(path)]
            rows = self.index.rows(paths, wanted, start, last, self.log.orders())
            return (rows if tail is None else tail.added_to(rows, wanted, start, last)), ids

    def rolled(self, ids: npt.NDArray[np.int64], start: int, last: int) -> Rows:
        """Roll-up rows (see `rollup`) of tag ids (sorted) that reach into ``start .. last`` ns, of the version last looked at."""
        paths = [path for path in prune(self.log.files(), ids, start, last) if is_rollup(path)]
        return self.index.rows(paths, ids, start, last, self.log.orders())

    def _frame(self, group: Group, columns: Sequence[str]) -> pl.DataFrame:
        decoded = join(self.store, split(self.store, group), [name for name in ALL if name in columns])
        out: dict[str, pl.Series] = {}
        if "tag" in columns:
            held = np.flatnonzero(decoded.counts)
            at = np.repeat(np.arange(len(held), dtype=np.uint32), decoded.counts[held])
            out["tag"] = self.tags.series(group.ids[held]).gather(pl.Series(at))
        out |= {name: scan.series(name, column) for name, column in decoded.columns.items()}
        return pl.DataFrame({name: out[name] for name in scan.SCHEMA if name in out})

    def aggregate(
        self,
        every: SpanLike,
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        zone: str | None = None,
    ) -> pl.LazyFrame:
        """Windows as a LazyFrame: tag, time (start of the window), count, min, max, mean, sum, first, last.

        Over samples that are not bad (quality < 128) and not NaN; windows without any are absent. At `start` and `end`
        windows hold the samples inside only. `sum` and `mean` are exact to rounding: the order of additions depends on how
        the samples lie in chunks.

        Parameters
        ----------
        every
            Window length: a span (windows start at multiples of it since 1970-01-01 UTC) or ``"1w"``, ``"1mo"``, ``"1q"``,
            ``"1y"``; see `windows.windows`.
        tags, start, end
            As for `scan`.
        zone
            IANA time zone in which days and calendar units begin; None: UTC.

        Raises
        ------
        ConfigError
            If `every` is not a span above 0, a time is not a time, or there is no such zone.
        ChecksumError
            On collecting, if a file is damaged.
        """
        first, last = limits(start, end)
        cutting.windows(every, zone, 0, 0)  # what is wrong with them is said now, not on collecting

        def batches(bounds: Bounds, columns: list[str]) -> Generator[pl.DataFrame, None, None]:
            del columns  # windows are few; projecting them saves nothing
            # A filter on time or value of windows is not one on samples: only its tag part is used.
            rows, ids = self.select(tags, first, last, bounds)
            found = aggregate.windows_of(self.store, rows, ids, first, last, self._cut(every, zone, rows))
            yield aggregate.frame_of(found, self.tags.series(ids))

        return scan.lazy(aggregate.SCHEMA, batches)

    @staticmethod
    def _cut(every: SpanLike, zone: str | None, rows: Rows) -> cutting.Windows:
        head = rows.head
        first, last = (int(head["start_ns"].min()), int(head["end_ns"].max())) if len(rows) else (0, 0)
        return cutting.windows(every, zone, first, last)


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
