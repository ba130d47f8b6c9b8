"""`Queries`: everything a history can be asked, over one primitive, `select`. Each method is thin."""

from __future__ import annotations

import copy
import threading
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import SpanLike, TimeLike, span_ns, time_ns
from iiot_dask.history import aggregate, delta, many, read, scan, weighted
from iiot_dask.history import resample as gridding
from iiot_dask.history import windows as cutting
from iiot_dask.history.arrow import Samples
from iiot_dask.history.frames import PARTITION_ROWS, dask_frame
from iiot_dask.history.index import NS_MAX, NS_MIN, Index, Rows, prune
from iiot_dask.history.latest import Nearest, nearest
from iiot_dask.history.place import ALL, join, split
from iiot_dask.history.read import Group, in_order, plan
from iiot_dask.history.rollup import is_rollup
from iiot_dask.history.scan import Bounds
from iiot_dask.history.sql import asked
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
            size = ahead = None
            if bounds.limit is not None and bounds.limit < read.GROUP_ROWS:
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
        self.tags.refresh()
        ids: npt.NDArray[np.int64] = self.tags.ids(tags).astype(np.int64)
        if bounds is not None:
            ids = bounds.ids(ids, self.tags.series)
        return self._rows(ids, start, last), ids

    def _rows(self, ids: npt.NDArray[np.int64], start: int, last: int) -> Rows:
        """Index rows that may hold samples of tag ids (sorted), committed or in the live tail, as of now."""
        wanted = None if len(ids) == len(self.tags) else ids
        with with_tail(self.tail, self.log) as tail:
            paths = prune(self.log.files(), wanted, start, last) if len(ids) else []
            paths = [path for path in paths if not is_rollup(path)]
            rows = self.index.rows(paths, wanted, start, last, self.log.orders())
            return rows if tail is None else tail.added_to(rows, wanted, start, last)

    def with_tail(self, tail: Tail | None) -> Self:
        """The same history with another live tail; everything else is shared."""
        out = copy.copy(self)
        out.tail = tail
        return out

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
        time_weighted: str | None = None,
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
        time_weighted
            ``"step"`` or ``"linear"``: one more column, ``time_mean``, in which each value counts for as long as it held,
            or straight lines between neighbours are averaged (see `weighted`). Every sample is decoded for it.

        Raises
        ------
        ConfigError
            If `every` is not a span above 0, a time is not a time, or there is no such zone or rule.
        ChecksumError
            On collecting, if a file is damaged.
        """
        first, last = limits(start, end)
        cutting.windows(every, zone, 0, 0)  # what is wrong with them is said now, not on collecting
        schema = aggregate.SCHEMA
        if time_weighted is not None:
            weighted.check(time_weighted)
            schema = pl.Schema({**schema, "time_mean": pl.Float64()})

        def batches(bounds: Bounds, columns: list[str]) -> Generator[pl.DataFrame, None, None]:
            del columns  # windows are few; projecting them saves nothing
            # A filter on time or value of windows is not one on samples: only its tag part is used.
            rows, ids = self.select(tags, first, last, bounds)
            rolled = self.rolled(ids, first, last)
            cut = _cut(every, zone, (rows, rolled))
            more = aggregate.from_rollups(self.store, rolled, ids, first, last, cut)
            found = aggregate.windows_of(self.store, rows, ids, first, last, cut, more)
            frame = aggregate.frame_of(found, self.tags.series(ids))
            if time_weighted is not None:
                means = self._time_means(rows, ids, first, last, cut, time_weighted)
                keys = pl.DataFrame({"tag": found["tag"], "window": found["window"]})
                mean = keys.join(means, on=["tag", "window"], how="left", maintain_order="left")["time_mean"]
                # A window that lasts no time (one sample at its very end) has the mean of its samples.
                frame = frame.with_columns(time_mean=mean.fill_null(frame["mean"]))
            yield frame

        return scan.lazy(schema, batches)

    def _time_means(
        self, rows: Rows, ids: npt.NDArray[np.int64], first: int, last: int, cut: cutting.Windows, rule: str
    ) -> pl.DataFrame:
        before = self._nearest(ids, max(first - 1, NS_MIN), good=True)
        after = self._nearest(ids, min(last + 1, NS_MAX), good=True, forward=True) if rule == "linear" else None
        return weighted.time_means(self.store, rows, ids, first, last, cut, rule, before, after)

    def _nearest(self, ids: npt.NDArray[np.int64], moment: int, *, good: bool, forward: bool = False) -> Nearest:
        def rows_of(some: npt.NDArray[np.int64]) -> Rows:
            return self._rows(some, moment, NS_MAX) if forward else self._rows(some, NS_MIN, moment)

        return nearest(self.store, rows_of, ids, moment, good=good, forward=forward)

    def latest(self, tags: Tags = "*", *, good: bool = False) -> pl.DataFrame:
        """The last sample of each tag: tag, time, value, quality. Tags without one are absent.

        Parameters
        ----------
        tags
            Glob or globs.
        good
            The last sample that is not bad and not NaN (its quality is then shown as 0).

        Raises
        ------
        ChecksumError
            If a file is damaged.
        """
        return self._at(NS_MAX, tags, good=good)

    def at(self, time: TimeLike, tags: Tags = "*", *, good: bool = False) -> pl.DataFrame:
        """What each tag showed at a time: its last sample at or before it, as `latest` has them.

        Raises
        ------
        ConfigError
            If `time` is not a time.
        ChecksumError
            If a file is damaged.

        Examples
        --------
        >>> import tempfile
        >>> from iiot_dask.history import History
        >>> h = History(tempfile.mkdtemp())
        >>> _ = h.append(pl.DataFrame({"tag": ["a", "a", "b"], "time": [10, 20, 15], "value": [1.0, 2.0, 3.0]}))
        >>> h.at(15).select("tag", "value").rows(), h.latest("a")["value"].to_list()
        ([('a', 1.0), ('b', 3.0)], [2.0])
        """
        return self._at(time_ns(time), tags, good=good)

    def _at(self, moment: int, tags: Tags, *, good: bool) -> pl.DataFrame:
        self.tags.refresh()
        ids: npt.NDArray[np.int64] = self.tags.ids(tags).astype(np.int64)
        found = self._nearest(ids, moment, good=good)
        columns: dict[str, npt.NDArray[Any]] = {"time": found.time, "value": found.value, "quality": found.quality}
        shown = {name: scan.series(name, np.ascontiguousarray(c[found.found])) for name, c in columns.items()}
        return pl.DataFrame({"tag": self.tags.series(ids[found.found]), **shown}, schema=scan.SCHEMA)

    def resample(
        self,
        every: SpanLike,
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        rule: gridding.Rule = "step",
        gap: SpanLike | None = None,
    ) -> pl.LazyFrame:
        """Every tag on one grid of times, as a LazyFrame: tag, time, value (null where nothing is known).

        Bad samples and NaN are left out. ``.collect().pivot("tag", index="time", values="value")`` makes a column a tag.

        Parameters
        ----------
        every
            Step of the grid; its points are multiples of it since 1970-01-01 UTC.
        start, end
            ``start <= time < end``; None: the first or last sample of these tags.
        rule
            ``"step"`` (the last value holds), ``"linear"``, or a mapping from globs to these whose first match decides.
        gap
            Longest span a value is held or a line is drawn over; None: any.

        Raises
        ------
        ConfigError
            If the step is not above 0, the grid has more than `resample.POINTS_MAX` points, or a rule is none.
        ChecksumError
            On collecting, if a file is damaged.
        """
        first, last = limits(start, end)
        step, longest = span_ns(every), NS_MAX if gap is None else span_ns(gap)
        if step <= 0:
            msg = f"step {every!r} is 0; a span above 0 is wanted, such as '1s'"
            raise ConfigError(msg)
        gridding.lines_of(rule, pl.Series([], dtype=pl.String))

        def batches(bounds: Bounds, columns: list[str]) -> Generator[pl.DataFrame, None, None]:
            del columns
            rows, ids = self.select(tags, NS_MIN, NS_MAX, bounds)
            head = rows.head
            a = first if start is not None else int(head["start_ns"].min(initial=NS_MAX))
            b = last if end is not None else int(head["end_ns"].max(initial=NS_MIN))
            names = self.tags.series(ids)
            grid = gridding.grid_of(step, a, b, len(ids)) if a <= b else gridding.Grid(0, step, 0)
            lines = gridding.lines_of(rule, names)
            yield from gridding.resampled(self.store, self._rows, ids, names, grid, lines, longest)

        return scan.lazy(gridding.SCHEMA, batches)

    def arrow(
        self,
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        columns: Sequence[str] | None = None,
    ) -> Samples:
        """The samples of `scan` for any reader of Arrow streams (``__arrow_c_stream__``), such as DuckDB and pyarrow.

        Raises
        ------
        ConfigError
            If a time is not a time, or a column is none of tag, time, value, quality.
        ChecksumError
            On reading, if a file is damaged.
        """
        wanted = scan.SCHEMA.names() if columns is None else list(columns)
        for name in wanted:
            if name not in scan.SCHEMA:
                msg = f"column {name!r}; {', '.join(scan.SCHEMA)} are there"
                raise ConfigError(msg)
        limits(start, end)
        ordered = [name for name in scan.SCHEMA if name in wanted]
        return Samples(lambda: self.frames(tags, start, end, columns=ordered), ordered)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.arrow().__arrow_c_stream__(requested_schema)

    def sql(self, query: str) -> pl.LazyFrame:
        """A question in SQL (Polars' dialect) over history and live tail alike.

        Tables: ``samples`` (tag, time, value, quality), ``latest``, ``tags`` (tag), and ``windows_1h``, ``windows_10s``, …
        (any span, as `aggregate` has them). Conditions on tag, time and value are pushed down.

        Raises
        ------
        ConfigError
            If the query is not one Polars understands, or names another table.

        Examples
        --------
        >>> import tempfile
        >>> from iiot_dask.history import History
        >>> h = History(tempfile.mkdtemp())
        >>> _ = h.append(pl.DataFrame({"tag": ["a", "a", "b"], "time": [1, 2, 3], "value": [1.0, 3.0, 5.0]}))
        >>> h.sql("select tag, avg(value) as mean from samples where value < 4 group by tag").collect().rows()
        [('a', 2.0)]
        """
        return asked(self, query)

    def map(
        self,
        function: many.Function,
        tags: Tags = "*",
        start: TimeLike | None = None,
        end: TimeLike | None = None,
        *,
        by: str = "tag",
        client: Any = None,
        retries: int = 2,
        rows: int = many.TASK_ROWS,
        progress: many.Progress | None = None,
    ) -> pl.DataFrame:
        """Call a function for each tag, or for stretches of time of all of them, on a Dask cluster; the results as a frame.

        Parameters
        ----------
        function
            Given the samples (tag, time, value, quality; sorted) as a Polars frame; gives a frame, a mapping (one row) or a
            single value (column ``result``). The tag (or ``start`` of the stretch) is added as a column.
        by
            ``"tag"``, or ``"time"``: one call for a stretch of about `rows` samples.
        client
            Where to: a `distributed.Client` of any cluster that reads the same storage; None: threads of this process.
        retries
            How often a task that failed is tried again.
        rows
            Samples of one task, about; with ``by="tag"`` it holds as many whole tags.
        progress
            Called with (tasks done, tasks).

        Raises
        ------
        MapError
            If the function failed in spite of retries: it names the tag and what was raised. Other tasks are cancelled, as
            they are by Ctrl-C.
        ConfigError
            If an argument is wrong.
        """
        first, last = limits(start, end)
        return many.mapped(
            self, function, tags, first, last, by=by, client=client, retries=retries, rows=rows, progress=progress
        )


def _cut(every: SpanLike, zone: str | None, parts: Sequence[Rows]) -> cutting.Windows:
    some = [rows.head for rows in parts if len(rows)]
    first = min((int(head["start_ns"].min()) for head in some), default=0)
    last = max((int(head["end_ns"].max()) for head in some), default=0)
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
