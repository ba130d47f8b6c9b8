"""A pipeline on a running plant: rows from a live stream, steps on Dask, results to a stream, to sinks, and to a notebook.

The feed is a bounded buffer. When it is full, the oldest rows leave it and their span of time is computed anew from history
later: nothing is lost, because every row that reaches the feed is durable already. Late rows are corrected the same way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from html import escape
from typing import Any, Self

import polars as pl
import structlog

from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.times import SpanLike, span_ns
from iiot_dask.flow.batch import literal, run_over
from iiot_dask.flow.builder import Pipeline
from iiot_dask.flow.chain import Chain
from iiot_dask.flow.marks import END, NEVER
from iiot_dask.flow.router import Route, Router
from iiot_dask.flow.runner import Runner, merged
from iiot_dask.flow.sinks.base import Sink

FEED_ROWS_MAX = 2_000_000
"""Most rows that wait for a step."""
SHOWN_ROWS_MAX = 10_000
"""Result rows kept to be looked at."""
WAIT_S = {"stream": 0.0, "micro-batch": 0.25, "batch": 10.0}
"""How long each path gathers rows before a step, seconds."""
SETTLE_NS = 3_600_000_000_000
"""A correction reads so much before and after the span it gives out, so that operators know what went before, ns."""
CORRECT_S = 10.0
"""Spans that late rows touched wait at most so long for a correction; an idle feed corrects at once."""
IDLE_S = 0.5
"""A step without rows this often, so that watermarks of idle sources move on."""

log = structlog.get_logger("iiot_dask.flow")


class LiveRun:
    """One pipeline at work. Made by `run_live`; a context manager; `stop` ends it.

    Parameters
    ----------
    pipeline
        What to run.
    subscribe
        Starts the feed: called with the pipeline's globs, gives a `streamz.Stream` of Arrow tables.
    release
        Ends the feed: called with that stream.
    history
        Where corrections and backfills read from.
    client
        A `distributed.Client`; None runs the steps in this process.
    sinks
        Where results go, besides `stream`.
    router
        Chooses the path; None is always a fresh one with default rules.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        subscribe: Callable[[tuple[str, ...]], Any],
        history: Any,
        *,
        release: Callable[[Any], None] | None = None,
        client: Any = None,
        sinks: tuple[Sink, ...] = (),
        router: Router | None = None,
        deadline: SpanLike = "1s",
        clock: Clock | None = None,
    ) -> None:
        from streamz import Stream

        self.pipeline = pipeline
        self.stream = Stream(stream_name="pipeline")
        """Results as Polars frames: tag, time, …, and `version` (0; above: a correction of an earlier row)."""
        self.sinks = sinks
        self.router = router or Router()
        self.deadline_s = span_ns(deadline) / 1e9
        self.clock: Clock = clock or SystemClock()
        self.failure: BaseException | None = None
        self.corrected = 0
        self.overflowed = 0
        self.steps = 0
        self._subscribe = subscribe
        self._release = release
        self._history = history
        self._client = client
        self._chain: Chain | Runner = Chain(client, pipeline) if client is not None else Runner(pipeline)
        self._feed: deque[pl.DataFrame] = deque()  # bounded: FEED_ROWS_MAX, in `offer`
        self._waiting = 0
        self._dirty: dict[str, list[tuple[int, int]]] = {}
        self._version = 0
        self._first_ns = END
        self._seam: pl.DataFrame | None = None
        """Tags seen since a backfill (column `tag`); None without one."""
        self._corrected_ns = self.clock.monotonic_ns()
        self._shown: deque[pl.DataFrame] = deque()  # bounded: SHOWN_ROWS_MAX, in `_give`
        self._shown_rows = 0
        self._woken = threading.Condition()
        self._halt = False
        self._thread = threading.Thread(target=self._work, name="iiot-pipeline", daemon=True)
        self._source: Any = None
        self._hearing: Any = None

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Subscribe and go."""
        self._listen()
        self._thread.start()
        return self

    def _listen(self) -> None:
        if self._source is None:
            self._source = self._subscribe(self.pipeline.tags)
            self._hearing = self._source.sink(self.offer)

    def stop(self, *, drain: bool = True) -> None:
        """End the feed; with `drain` what waits is worked off, late rows are corrected and open windows are given out."""
        if self._source is not None:
            self._hearing.destroy()
            if self._release is not None:
                self._release(self._source)
            self._source = None
        with self._woken:
            self._halt = True
            if not drain:
                self._feed.clear()
            self._woken.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        if drain and self.failure is None:
            self._give(self._step(None))
            self.correct()
        for sink in self.sinks:
            sink.close()
        if isinstance(self._chain, Chain):
            self._chain.close()

    def __enter__(self) -> Self:
        return self if self._thread.is_alive() else self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def change(self, pipeline: Pipeline, *, backfill: SpanLike | None = None) -> LiveRun:
        """Stop this run and start `pipeline` in its place; with `backfill` its results of that span come first, from history.

        The new run listens before this one stops, so no row falls between the two.
        """
        other = LiveRun(
            pipeline, self._subscribe, self._history, release=self._release, client=self._client, sinks=self.sinks, router=self.router,
            deadline=self.deadline_s, clock=self.clock,
        )  # fmt: skip
        other._listen()
        self.stop()
        if backfill is not None:
            other._seam = pl.DataFrame(schema={"tag": pl.String})
            since = self.clock.now_ns() - span_ns(backfill)
            other._give(run_over(pipeline, self._history, since, None, client=self._client))
        return other.start()

    # -- rows in ------------------------------------------------------------------------------------------------

    def offer(self, table: Any) -> None:
        """Take rows of the feed (an Arrow table); never blocks."""
        frame = pl.DataFrame(table).select("tag", pl.col("time").cast(pl.Datetime("ns", "UTC")), "value", "quality")
        with self._woken:
            self._feed.append(frame)
            self._waiting += frame.height
            while self._waiting > FEED_ROWS_MAX and len(self._feed) > 1:
                self._set_aside(self._feed.popleft())
            self._woken.notify_all()

    def _set_aside(self, frame: pl.DataFrame) -> None:
        """Rows that found no room: their spans are computed from history, where they are, later."""
        self._waiting -= frame.height
        self.overflowed += frame.height
        spans = frame.group_by("tag").agg(a=pl.col("time").min().to_physical(), b=pl.col("time").max().to_physical())
        for tag, a, b in spans.iter_rows():
            self._dirty[tag] = merged([*self._dirty.get(tag, []), (a, b)])

    def _take(self) -> pl.DataFrame | None:
        """Rows for the next step, gathered as the path says; None when halted and empty."""
        with self._woken:
            self._woken.wait_for(lambda: self._halt or self._feed, timeout=IDLE_S)
            wait = WAIT_S[self.router.path]
            if wait and not self._halt:
                full = FEED_ROWS_MAX // 4
                self._woken.wait_for(lambda: self._halt or self._waiting >= full, timeout=wait)
            if self._halt and not self._feed:
                return None
            frames = list(self._feed)
            self._feed.clear()
            self._waiting = 0
        return pl.concat(frames) if frames else _EMPTY

    # -- steps --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (frame := self._take()) is not None:
                began = self.clock.monotonic_ns()
                self._give(self._step(frame))
                busy = (self.clock.monotonic_ns() - began) / 1e9
                self.router.observe(frame.height, busy, self.clock.monotonic_ns())
                self.router.decide(self.deadline_s, self.clock.monotonic_ns())
                if self._dirty and (frame.is_empty() or (began - self._corrected_ns) / 1e9 >= CORRECT_S):
                    self.correct()
                    self._corrected_ns = self.clock.monotonic_ns()
        except Exception as error:  # noqa: BLE001 -- goes to `failure`, which is shown, and to the log
            # The plant goes on; this run ends, visibly.
            self.failure = error
            log.error(  # noqa: TRY400 -- the text says enough; the exception stays in `failure`
                "pipeline ended", pipeline=self.pipeline.describe(), error=repr(error)
            )

    def _stitch(self, frame: pl.DataFrame, seam: pl.DataFrame) -> None:
        """A tag's first rows after a backfill: its first results here know nothing of what went before, so correct them."""
        fresh = frame.join(seam, on="tag", how="anti").group_by("tag").agg(at=pl.col("time").min().to_physical())
        if fresh.is_empty():
            return
        self._seam = pl.concat([seam, fresh.select("tag")])
        with self._woken:
            for tag, at in fresh.iter_rows():
                self._dirty[tag] = merged([*self._dirty.get(tag, []), (at, at)])

    def _step(self, frame: pl.DataFrame | None) -> pl.DataFrame:
        now_ns = self.clock.now_ns()
        if frame is not None and self._seam is not None:
            self._stitch(frame, self._seam)
        if frame is not None and frame.height:
            self._first_ns = min(self._first_ns, int(frame.get_column("time").to_physical().min()))  # type: ignore[arg-type]
        if isinstance(self._chain, Chain):
            out, dirty = self._chain.push(frame, now_ns)
        else:
            out = self._chain.finish() if frame is None else self._chain.push(frame, now_ns)
            dirty = self._chain.take_dirty()
        self.steps += 1
        with self._woken:
            for tag, spans in dirty.items():
                self._dirty[tag] = merged([*self._dirty.get(tag, []), *spans])
        return out

    def correct(self) -> int:
        """Compute the spans that late rows touched anew from history and give out their results; how many rows.

        A correction has a `version` above 0 and replaces the row of the same tag and time.
        """
        with self._woken:
            dirty, self._dirty = self._dirty, {}
        if not dirty:
            return 0
        span = self.pipeline.span_ns
        first = min(a for spans in dirty.values() for a, _ in spans) - span
        last = max(b for spans in dirty.values() for _, b in spans) + span
        alone = self.pipeline.keyed == len(self.pipeline.operators)
        what = replace(self.pipeline, tags=tuple(literal(tag) for tag in dirty)) if alone else self.pipeline
        begin: int = max(first - SETTLE_NS, NEVER)
        end: int | None = last + SETTLE_NS
        if any(operator.endless for operator in self.pipeline.operators):
            # A running total carries every change on: from this run's first row to now.
            begin, last, end = self._first_ns, END, None
        rows = run_over(what, self._history, begin, end)
        stamp = pl.Datetime("ns", "UTC")
        rows = rows.filter(pl.col("time").is_between(pl.lit(first).cast(stamp), pl.lit(last).cast(stamp)))
        self._version += 1
        self.corrected += rows.height
        self._give(rows, self._version)
        return rows.height

    def _give(self, rows: pl.DataFrame, version: int = 0) -> None:
        if rows.is_empty():
            return
        rows = rows.with_columns(version=pl.lit(version, pl.Int64))
        self._shown.append(rows)
        self._shown_rows += rows.height
        while self._shown_rows > SHOWN_ROWS_MAX and len(self._shown) > 1:
            self._shown_rows -= self._shown.popleft().height
        for sink in self.sinks:
            sink.put(rows)
        self.stream.emit(rows)

    # -- looking in ---------------------------------------------------------------------------------------------

    def latest(self, rows: int = 20) -> pl.DataFrame:
        """The newest result rows (at most `SHOWN_ROWS_MAX` are kept)."""
        shown = list(self._shown)
        return pl.concat(shown).tail(rows) if shown else pl.DataFrame()

    def explain(self) -> Route:
        """Which path the rows take, why, and what the others would cost."""
        return self.router.explain(self.deadline_s)

    def _repr_html_(self) -> str:
        """The pipeline, how it goes, and its last values."""
        c = self._chain.counts
        state = f"failed: {self.failure}" if self.failure else ("running" if self._thread.is_alive() else "stopped")
        head = (
            f"<b>{escape(state)}</b> · path {self.router.path} · {c.rows:,} rows in · {c.out:,} out · {c.late:,} late · "
            f"{self.corrected:,} corrected · {self.router.facts.rate:,.0f} rows/s"
        )
        return f"<div>{self.pipeline._repr_html_()}<p>{head}</p>{self.latest(5)._repr_html_()}</div>"


_EMPTY = pl.DataFrame(
    schema={"tag": pl.String, "time": pl.Datetime("ns", "UTC"), "value": pl.Float64, "quality": pl.UInt8}
)
