"""The loop that reads the journal, closes micro-batches, and restarts an epoch when any of it fails.

Threads: the *driver* reads and emits; the *results* thread handles answers. States and what moves between them:

    running --(a step failed)--> recovering --(chains restarted from the last commit)--> running --(stop)--> drained

A flush is a barrier: the next epoch starts from the checkpoint bytes that came back, so Dask's chain of futures never
gets longer than an epoch and a lost worker costs one epoch's replay.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Streaming
from iiot_dask.core.errors import CapacityError
from iiot_dask.core.metrics import Metrics
from iiot_dask.stream.microbatch import Batcher, MicroBatch
from iiot_dask.stream.topology import OnFailure, OnResult
from iiot_dask.stream.work import ShardResult

TICK_NS = 500_000_000
"""With no data an empty micro-batch goes through this often, so that silence is noticed, ns."""
FAILURES_MAX = 20
"""Recoveries without a commit between them before the driver gives up."""

log = structlog.get_logger("iiot_dask.stream")


class Graph(Protocol):
    """What the driver needs of a stream graph."""

    def emit(self, micro: MicroBatch, through: Callable[[], None]) -> None:
        """Put a micro-batch in."""

    def restart(self, checkpoints: Sequence[bytes | None]) -> None:
        """Begin the chains anew."""


class Source(Protocol):
    """What the driver needs of a journal."""

    @property
    def durable(self) -> int:
        """Offset after the last durable record."""

    def wait(self, after: int, timeout_s: float) -> int:
        """Wait until `durable` is above `after`, or the time is up; the new `durable`."""

    def read(self, start: int, stop: int | None = None) -> Iterable[Any]:
        """Records in offset order."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """A finished epoch: journal offsets ``first <= offset < stop``, its files and each shard's checkpoint."""

    first: int
    stop: int
    entries: tuple[Any, ...]
    checkpoints: tuple[bytes, ...]
    rows: int


class Sink(Protocol):
    """Where finished epochs go; the one committer of this stream."""

    def put(self, epoch: Epoch) -> None:
        """Queue an epoch for commit; blocks while too many wait."""

    def settle(self) -> tuple[int, Sequence[bytes | None]]:
        """Wait until nothing is queued; the committed offset and the checkpoints that belong to it."""


class Driver:
    """Reads the journal into the graph until told to stop.

    Parameters
    ----------
    source, sink
        The journal and the committer.
    build
        Makes the graph, given its two callbacks.
    handle
        Called on the results thread with every micro-batch and its answers, in order.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        build: Callable[[OnResult, OnFailure], Graph],
        handle: Callable[[MicroBatch, list[ShardResult]], None],
        *,
        config: Streaming,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.source = source
        self.sink = sink
        self.handle = handle
        self.config = config
        self.clock = clock
        self.metrics = metrics
        self.graph = build(self._on_result, self._on_failure)
        self.batcher = Batcher(config.batch_rows, config.batch, config.flush_rows, config.flush)
        self.cursor = 0
        self.read_rows = 0
        self.failed: BaseException | None = None
        self._generation = 0
        self._index = 0
        self._epoch_first = 0
        self._failures = 0
        self._failure: BaseException | None = None
        self._slots = threading.Semaphore(config.in_flight)
        self._answers: queue.Queue[tuple[MicroBatch, list[ShardResult]] | None] = queue.Queue(config.in_flight + 1)
        self._flushed: queue.Queue[tuple[int, Epoch]] = queue.Queue(config.in_flight + 1)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(self._drive,), name="iiot-driver", daemon=True),
            threading.Thread(target=self._guard, args=(self._results,), name="iiot-results", daemon=True),
        ]

    def start(self) -> None:
        """Begin at the last commit."""
        self._rewind()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Take in what is durable now, flush it, and end.

        Raises
        ------
        CapacityError
            If it takes longer than `timeout_s`; the journal keeps the rest for the next start.
        """
        self._stop.set()
        self._threads[0].join(timeout_s)
        if self._threads[0].is_alive():
            msg = f"the stream did not drain within {timeout_s} s; {self.source.durable - self.cursor} journal records wait"
            raise CapacityError(msg)
        self._answers.put(None)
        self._threads[1].join(timeout_s)

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            self.failed = error
            self.metrics.count("stream_thread_failures_total")
            log.exception("stream thread ended", error=str(error))
            raise

    # -- driver thread ------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while self.failed is None:
            if self._failure is not None:
                self._recover()
            stopping = self._stop.is_set()
            first = self.cursor
            batch, caught_up = self._collect(stopping)
            last = stopping and caught_up
            if not self._emit(first, batch, caught_up, last=last):
                continue
            if last:
                self.sink.settle()
                return

    def _collect(self, stopping: bool) -> tuple[Batch, bool]:
        """Rows of the next micro-batch, and whether the journal has no more."""
        parts: list[Batch] = []
        deadline = self.clock.monotonic_ns() + (0 if stopping else TICK_NS)
        while True:
            now = self.clock.monotonic_ns()
            if self.batcher.due(now) or (not parts and now >= deadline):
                break
            wait_ns = min(self.batcher.wait_ns(now), max(0, deadline - now) if not parts else self.config.batch)
            durable = self.source.wait(self.cursor, 0 if stopping else wait_ns / 1e9)
            if durable <= self.cursor:
                if stopping or self._stop.is_set():
                    break
                continue
            for record in self.source.read(self.cursor, durable):
                parts.append(record.batch)
                self.cursor = record.offset + 1
                self.read_rows += len(record.batch)
                self.batcher.add(len(record.batch), self.clock.monotonic_ns())
                if self.batcher.rows >= self.config.batch_rows:
                    break
            else:
                # Offsets of quarantined records hold nothing to read.
                self.cursor = durable
        return Batch.concat(parts), self.cursor >= self.source.durable

    def _emit(self, first: int, batch: Batch, caught_up: bool, *, last: bool) -> bool:
        """Send one micro-batch; True when it went through (at a flush: when its epoch is in the sink)."""
        flush = self.batcher.close(self.clock.monotonic_ns()) or (last and self.cursor > self._epoch_first)
        now_ns = self.clock.now_ns() if caught_up or not len(batch) else int(batch.received.max())
        micro = MicroBatch(
            self._generation, self._index, self._epoch_first, first, self.cursor, batch, flush, now_ns
        )
        while not self._slots.acquire(timeout=0.2):
            if self._failure is not None or self.failed is not None:
                return False
        self.graph.emit(micro, self._through)
        self._index += 1
        if not flush:
            return self._failure is None
        return self._barrier()

    def _through(self) -> None:
        self.metrics.count("stream_micro_batches_total")

    def _barrier(self) -> bool:
        while True:
            try:
                generation, epoch = self._flushed.get(timeout=0.2)
            except queue.Empty:
                if self._failure is not None or self.failed is not None:
                    return False
                continue
            if generation != self._generation:
                continue
            self.sink.put(epoch)
            self._failures = 0
            self.batcher.reset()
            self._begin(epoch.stop, epoch.checkpoints)
            return True

    def _begin(self, offset: int, checkpoints: Sequence[bytes | None]) -> None:
        self._epoch_first = offset
        self._index = 0
        self.graph.restart(checkpoints)

    def _rewind(self) -> None:
        offset, checkpoints = self.sink.settle()
        self._generation += 1
        self.cursor = offset
        self.batcher.reset()
        self._begin(offset, checkpoints)

    def _recover(self) -> None:
        error, self._failure = self._failure, None
        self._failures += 1
        self.metrics.count("stream_recoveries_total")
        log.warning("epoch restarts from the last commit", error=repr(error), attempt=self._failures)
        if self._failures > FAILURES_MAX:
            msg = f"{FAILURES_MAX} epochs in a row failed; the last error was {error!r}"
            raise CapacityError(msg) from error
        # Answers of the old generation are drained by the results thread, which gives their slots back.
        self._rewind()
        self._failure = None

    # -- called on the client's loop ----------------------------------------------------------------------------

    def _on_result(self, micro: MicroBatch, results: list[ShardResult]) -> None:
        # Never full: a slot is held from before emit until the results thread is done with the answer.
        self._answers.put_nowait((micro, results))

    def _on_failure(self, micro: MicroBatch, error: BaseException) -> None:
        self._slots.release()
        if micro.generation == self._generation and self._failure is None:
            self._failure = error

    # -- results thread -----------------------------------------------------------------------------------------

    def _results(self) -> None:
        while True:
            item = self._answers.get()
            if item is None:
                return
            micro, results = item
            try:
                if micro.generation == self._generation:
                    self.handle(micro, results)
                    if micro.flush:
                        self._flushed.put((micro.generation, _epoch(micro, results)))
            finally:
                self._slots.release()


def _epoch(micro: MicroBatch, results: list[ShardResult]) -> Epoch:
    flushed = [r.flushed for r in sorted(results, key=lambda r: r.shard)]
    entries: list[Any] = []
    checkpoints: list[bytes] = []
    for part in flushed:
        assert part is not None, "a flush micro-batch answers with files and a checkpoint for every shard"
        entries.extend(part.entries)
        checkpoints.append(part.checkpoint)
    rows = sum(entry.rows for entry in entries)
    return Epoch(micro.epoch_first, micro.stop, tuple(entries), tuple(checkpoints), rows)
