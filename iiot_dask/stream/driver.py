"""The loop that reads the journal, closes micro-batches, and restarts an epoch when any of it fails.

Threads: the *driver* reads and emits; the *results* thread handles answers. States and what moves between them:

    running --(a step or a commit failed)--> waiting --(chains restarted from the last commit)--> running
    running --(stop)--> drained      waiting --(given up, or stop timed out)--> failed

A flush is a barrier: the next epoch starts from the checkpoint bytes that came back, so Dask's chain of futures never
gets longer than an epoch and a lost worker costs one epoch's replay.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections import deque
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
from iiot_dask.stream.recovery import Recovery
from iiot_dask.stream.topology import OnFailure, OnResult
from iiot_dask.stream.work import ShardResult

TICK_NS = 500_000_000
"""With no data an empty micro-batch goes through this often, so that silence is noticed, ns."""
POLL_S = 0.2
"""How often a waiting driver looks whether something failed meanwhile, s."""
EPOCHS_KEPT = 1024
"""Epoch starts remembered, to count rows once after a recovery; far more than a sink may hold uncommitted."""

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

    def advance(self, offset: int) -> None:
        """Deal no offset below `offset` any more."""


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
        Called on the results thread with every micro-batch and its answers, in order. After a recovery rows come again:
        such a micro-batch says `replay`. What it raises is counted (``stream_handler_errors_total``) and does not hold
        history up.
    poisoned
        Called with a record that fails whenever it is tried alone, and the error, before it is left out of the stream.
        Without it such a record stops the stream.

    Notes
    -----
    `failed` is why the stream has ended, if it has; `problem` why it waits at the moment. Every micro-batch holds one of
    `in_flight` slots from before it is emitted until its answer has been handled or its failure noted, so the queues
    below can not overflow.
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
        poisoned: Callable[[Any, BaseException], None] | None = None,
    ) -> None:
        self.source = source
        self.sink = sink
        self.handle = handle
        self.config = config
        self.clock = clock
        self.metrics = metrics
        self.poisoned = poisoned
        self.graph = build(self._on_result, self._on_failure)
        self.batcher = Batcher(config.batch_rows, config.batch, config.flush_rows, config.flush)
        self.recovery = Recovery(quarantine=poisoned is not None)
        self.cursor = 0
        self.read_rows = 0
        self.failed: BaseException | None = None
        self.problem: str | None = None
        self._generation = 0
        self._index = 0
        self._epoch_first = 0
        self._epochs: deque[tuple[int, int]] = deque(maxlen=EPOCHS_KEPT)
        self._alone: Any = None
        self._handled = 0
        self._failure: BaseException | None = None
        self._slots = threading.Semaphore(config.in_flight)
        self._answers: queue.Queue[tuple[MicroBatch, list[ShardResult]] | None] = queue.Queue(config.in_flight + 1)
        self._flushed: queue.Queue[tuple[int, Epoch]] = queue.Queue(config.in_flight + 1)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._guard, args=(self._drive,), name="iiot-driver", daemon=True),
            threading.Thread(target=self._guard, args=(self._results,), name="iiot-results", daemon=True),
        ]

    def start(self) -> None:
        """Begin at the last commit.

        Raises
        ------
        IiotError
            If the committer can not say where that is.
        """
        self._rewind()
        # A restored backup of the journal may be older than the history made from it.
        self.source.advance(self.cursor)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 60.0) -> None:
        """Take in what is durable now, flush it, and end; stopping twice is fine.

        Raises
        ------
        CapacityError
            If it takes longer than `timeout_s`, or the stream had ended by an error; the journal keeps the rest for the
            next start.
        """
        if self._threads[0].ident is None:
            return
        self._stop.set()
        self._threads[0].join(timeout_s)
        if self._threads[0].is_alive():
            waiting = self.source.durable - self.cursor
            why = f" ({self.problem})" if self.problem else ""
            msg = f"the stream did not drain within {timeout_s} s; {waiting} journal records wait{why}"
            self.failed = self.failed or CapacityError(msg)
            self._ended.set()
            self._threads[0].join(1.0)
        if self._threads[1].is_alive():
            # There is room: one more than there are slots.
            self._answers.put(None)
            self._threads[1].join(timeout_s)
        if self.failed is not None:
            msg = f"the stream ended before all was in history: {self.failed}"
            raise CapacityError(msg) from self.failed

    def _guard(self, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 -- nobody waits for a thread: `failed` says it, `stop` raises it
            self.failed = self.failed or error
            self._ended.set()
            self.metrics.count("stream_thread_failures_total")
            log.warning("stream thread ended", error=repr(error), traceback=traceback.format_exc())

    # -- driver thread ------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        while self.failed is None:
            if self._failure is not None:
                self._recover()
                continue
            stopping = self._stop.is_set()
            first = self.cursor
            batch, caught_up = self._collect(stopping)
            last = stopping and caught_up
            if self._emit(first, batch, caught_up, last=last) and last and self._settled():
                return

    def _settled(self) -> bool:
        """Wait until the sink has committed all it has; False when it could not, and the rest has to come again."""
        try:
            self.sink.settle()
        except CapacityError as error:
            self._failure = error
        return self._failure is None

    def _collect(self, stopping: bool) -> tuple[Batch, bool]:
        """Rows of the next micro-batch, and whether the journal has no more."""
        parts: list[Batch] = []
        deadline = self.clock.monotonic_ns() + TICK_NS
        while True:
            now = self.clock.monotonic_ns()
            # While stopping, only the end of the journal ends an empty micro-batch.
            if self.batcher.due(now) or (not parts and now >= deadline and not stopping):
                break
            wait_ns = min(self.batcher.wait_ns(now), max(0, deadline - now) if not parts else self.config.batch)
            durable = self.source.wait(self.cursor, 0 if stopping else wait_ns / 1e9)
            if durable <= self.cursor:
                if stopping or self._stop.is_set():
                    break
                continue
            if self._read(durable, parts):
                break
        return Batch.concat(parts), self.cursor >= self.source.durable

    def _read(self, durable: int, parts: list[Batch]) -> bool:
        """Add records up to offset `durable` to `parts`; True when the micro-batch is full."""
        careful = self.recovery.careful(self._epoch_first)
        for record in self.source.read(self.cursor, durable):
            parts.append(Batch.empty() if record.offset in self.recovery.skipped else record.batch)
            self.cursor = record.offset + 1
            self.read_rows += len(record.batch)
            self.batcher.add(len(parts[-1]), self.clock.monotonic_ns())
            self._alone = record if careful else None
            if careful or self.batcher.rows >= self.config.batch_rows:
                return True
        # Offsets of quarantined records hold nothing to read.
        self.cursor = durable
        return False

    def _emit(self, first: int, batch: Batch, caught_up: bool, *, last: bool) -> bool:
        """Send one micro-batch; True when it went through (at a flush: when its epoch is in the sink)."""
        now = self.clock.monotonic_ns()
        flush = self.batcher.close(now) or ((last or self._alone is not None) and self.cursor > self._epoch_first)
        now_ns = self.clock.now_ns() if caught_up or not len(batch) else int(batch.received.max())
        micro = MicroBatch(
            self._generation, self._index, self._epoch_first, first, self.cursor, batch, flush, now_ns,
            replay=first < self._handled,
        )  # fmt: skip
        while not self._slots.acquire(timeout=POLL_S):
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
        """Wait for the flush, hand its epoch to the sink, begin the next from its checkpoints."""
        while True:
            if self._failure is not None or self.failed is not None:
                return False
            try:
                generation, epoch = self._flushed.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if generation == self._generation:
                break
        # An epoch of idle ticks only shortens the chain; there is nothing to commit.
        if epoch.stop > epoch.first or epoch.entries:
            try:
                self.sink.put(epoch)
            except CapacityError as error:
                # An earlier epoch could not be committed; `settle` says from where to go on.
                self._failure = error
                return False
        self.recovery.flushed(epoch.stop)
        if self.problem is not None:
            log.info("stream goes on", offset=epoch.stop)
            self.problem = None
        self.metrics.gauge("stream_stalled", 0)
        self.batcher.reset()
        self._begin(epoch.stop, epoch.checkpoints)
        return True

    def _begin(self, offset: int, checkpoints: Sequence[bytes | None]) -> None:
        self._epoch_first = offset
        self._index = 0
        self._alone = None
        self._epochs.append((offset, self.read_rows))
        self.graph.restart(checkpoints)

    def _rewind(self) -> None:
        offset, checkpoints = self.sink.settle()
        self._generation += 1
        self.cursor = offset
        # Rows that will be read again count once.
        self.read_rows = next((rows for begun, rows in reversed(self._epochs) if begun == offset), self.read_rows)
        self.batcher.reset()
        self._begin(offset, checkpoints)

    def _recover(self) -> None:
        """Wait, then begin again at the last commit; as often as it takes, until told to end."""
        error: BaseException | None = self._failure
        while error is not None and self.failed is None:
            self._judge(error)
            try:
                self._rewind()
                error = None
            except (CapacityError, OSError) as again:
                error = again
            # Failures of the old generation that came in meanwhile are answered by the same rewind.
            self._failure = None

    def _judge(self, error: BaseException) -> None:
        alone = None if self._alone is None else self._alone.offset
        verdict = self.recovery.failed(error, self._epoch_first, self.cursor, alone)
        self.metrics.count("stream_recoveries_total")
        self.metrics.gauge("stream_stalled", 1)
        self.problem = f"epoch at offset {self._epoch_first} failed {self.recovery.failures} times: {error!r}"
        log.warning("epoch restarts from the last commit", error=repr(error), attempt=self.recovery.failures)
        if verdict.give_up:
            msg = f"the stream stops at offset {self._epoch_first}: its step fails again and again, the last error was {error!r}"
            raise CapacityError(msg) from error
        if verdict.poison is not None and self.poisoned is not None:
            self.metrics.count("stream_poisoned_records_total")
            log.error("record left out of the stream", offset=verdict.poison, error=repr(error))
            self.poisoned(self._alone, error)
        self._ended.wait(verdict.delay_ns / 1e9)

    # -- called on the client's loop ----------------------------------------------------------------------------

    def _on_result(self, micro: MicroBatch, results: list[ShardResult]) -> None:
        # Never full: a slot is held from before emit until the results thread is done with the answer.
        self._answers.put_nowait((micro, results))

    def _on_failure(self, micro: MicroBatch, error: BaseException) -> None:
        if micro.generation == self._generation and self._failure is None:
            self._failure = error
        self._slots.release()

    # -- results thread -----------------------------------------------------------------------------------------

    def _results(self) -> None:
        while (item := self._answers.get()) is not None:
            micro, results = item
            try:
                # A failure before it in the chain makes an answer void: its rows come again.
                if micro.generation == self._generation and self._failure is None:
                    self._answer(micro, results)
            finally:
                self._slots.release()

    def _answer(self, micro: MicroBatch, results: list[ShardResult]) -> None:
        epoch = _epoch(micro, results) if micro.flush else None
        try:
            self.handle(micro, results)
        except Exception as error:  # noqa: BLE001 -- what looks at the flow must not stop it; counted and told
            self.metrics.count("stream_handler_errors_total")
            log.warning(
                "handler of results failed", offset=micro.first, error=repr(error), traceback=traceback.format_exc()
            )
        self._handled = max(self._handled, micro.stop)
        if epoch is not None:
            self._flushed.put((micro.generation, epoch))


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
