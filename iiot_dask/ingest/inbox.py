"""Deliveries of many adapters -> durable journal records with plant-wide tag numbers, then the acknowledgement.

Rules. One thread an adapter calls `take`; it may block there, which is the back-pressure. Nothing a delivery holds can
end it: what can not be used is counted, kept in quarantine and told as an event. A position is acknowledged only after
its rows are on disk, and only to the incarnation that sent it.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from iiot_dask.adapter.contract import Event, Poll, TagInfo
from iiot_dask.core.batch import SCHEMA, TIME, Batch
from iiot_dask.core.clock import Clock
from iiot_dask.core.jit import njit
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.catalogue import NO_TAG, Catalogue
from iiot_dask.ingest.journal import Journal
from iiot_dask.ingest.quarantine import Quarantine

KEPT_KINDS = frozenset({"malformed", "rejected"})
"""Event kinds that go to quarantine."""

log = structlog.get_logger("iiot_dask.ingest")


class Delivery(Protocol):
    """What the host hands over: a poll and the incarnation of the adapter it came from."""

    @property
    def adapter(self) -> str:
        """The adapter's name."""

    @property
    def incarnation(self) -> int:
        """Grows with each restart of the adapter; local tag numbers start at 0 with each."""

    @property
    def poll(self) -> Poll:
        """New tags, rows, events, position."""


@njit
def translate_kernel(
    local: npt.NDArray[np.uint32], table: npt.NDArray[np.uint32], size: int, out: npt.NDArray[np.uint32]
) -> int:
    """Write the plant-wide number of each local one to `out`, `NO_TAG` beyond `size`; returns how many are `NO_TAG`."""
    missing = 0
    for i in range(len(local)):
        # NO_TAG written out: a kernel keeps no globals that a test may patch.
        number = table[local[i]] if local[i] < size else np.uint32(0xFFFFFFFF)
        out[i] = number
        missing += number == np.uint32(0xFFFFFFFF)
    return missing


@dataclass(slots=True)
class _Source:
    """One adapter: its incarnation and what its local tag numbers mean."""

    incarnation: int = -1
    size: int = 0
    table: npt.NDArray[np.uint32] = field(default_factory=lambda: np.full(64, NO_TAG, np.uint32))

    def extend(self, ids: npt.NDArray[np.uint32]) -> None:
        need = self.size + len(ids)
        if need > len(self.table):
            grown = np.full(max(need, 2 * len(self.table)), NO_TAG, np.uint32)
            grown[: self.size] = self.table[: self.size]
            self.table = grown
        self.table[self.size : need] = ids
        self.size = need


class Inbox:
    """Takes deliveries in.

    Parameters
    ----------
    catalogue, journal, quarantine
        Where tags, rows and the unusable go.
    acknowledge
        Called with (adapter, position, incarnation) from the journal's thread, in the order of the rows, once they are
        durable; must return at once.
    on_event
        Called with (adapter, event) on the delivering thread.
    clock, metrics
        Time and counts: ``ingest_rows_total``, ``ingest_dropped_rows_total`` (by adapter, reason),
        ``ingest_stale_acks_total``, ``ingest_event_errors_total``, ``ingest_delay_s`` (received -> taken in),
        ``ingest_durable_s`` (received -> on disk, every row).
    """

    def __init__(
        self,
        catalogue: Catalogue,
        journal: Journal,
        acknowledge: Callable[[str, str, int], None],
        on_event: Callable[[str, Event], None],
        quarantine: Quarantine,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.catalogue = catalogue
        self.journal = journal
        self.acknowledge = acknowledge
        self.on_event = on_event
        self.quarantine = quarantine
        self.clock = clock
        self.metrics = metrics
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}

    def take(self, delivery: Delivery) -> None:
        """Take one delivery in; returns when its rows are queued for the disk, which may wait for room.

        Raises
        ------
        CapacityError
            If the journal is closed, or the catalogue's disk refuses; nothing of the delivery is acknowledged then.
        """
        source = self._source(delivery)
        poll = delivery.poll
        if source is None:
            self._drop(delivery.adapter, "stale", f"incarnation {delivery.incarnation} has been replaced", poll.batch)
            return
        if poll.tags:
            self._learn(delivery.adapter, source, poll.tags)
        for event in poll.events:
            if event.kind in KEPT_KINDS:
                self.quarantine.put(
                    delivery.adapter, event.kind, event.reason, time_ns=event.time_ns, raw=event.raw, count=event.count
                )
            self._tell(delivery.adapter, event)
        batch = Batch.empty() if poll.batch is None else self._translated(delivery.adapter, source, poll.batch)
        if len(batch) or poll.position is not None:
            done = self._done(delivery.adapter, delivery.incarnation, poll.position, batch)
            self.journal.append(delivery.adapter, batch, poll.position, done)
            self.metrics.count("ingest_rows_total", len(batch), adapter=delivery.adapter)

    def _source(self, delivery: Delivery) -> _Source | None:
        with self._lock:
            source = self._sources.setdefault(delivery.adapter, _Source())
            if delivery.incarnation < source.incarnation:
                return None
            if delivery.incarnation > source.incarnation:
                source = self._sources[delivery.adapter] = _Source(delivery.incarnation)
            return source

    def _learn(self, adapter: str, source: _Source, tags: tuple[TagInfo, ...]) -> None:
        enrolment = self.catalogue.enrol(adapter, tags)
        source.extend(enrolment.ids)
        now_ns = self.clock.now_ns()
        for at, why in enrolment.refused:
            self.quarantine.put(adapter, "refused_tag", why, time_ns=now_ns)
            self.metrics.count("ingest_refused_tags_total", adapter=adapter)
            self._tell(adapter, Event("rejected", tags[at].device or adapter, now_ns, why))

    def _translated(self, adapter: str, source: _Source, batch: Batch) -> Batch:
        """The rows under plant-wide numbers; rows of unknown or refused tags are left out, counted and kept."""
        ids = np.empty(len(batch), np.uint32)
        missing = translate_kernel(batch.tag, source.table, source.size, ids)
        out = self._received(batch)
        if not missing:
            return out.with_tag(ids)
        known = ids != NO_TAG
        beyond = int((batch.tag >= source.size).sum())
        if beyond:
            first = int(batch.tag[batch.tag >= source.size][0])
            why = f"local tag number {first} was never announced; {source.size} were"
            self._drop(adapter, "unknown_tag", why, batch.take(batch.tag >= source.size))
        if missing > beyond:
            # The refusal itself was told when the tag was announced.
            self.metrics.count("ingest_dropped_rows_total", missing - beyond, adapter=adapter, reason="refused_tag")
        return out.take(known).with_tag(ids[known])

    def _received(self, batch: Batch) -> Batch:
        """Fill in receive times that are not set (0 or less), and note how old the rows are."""
        if not len(batch):
            return batch
        now_ns = self.clock.now_ns()
        received = batch.received
        if received.min() <= 0:
            received = np.where(received <= 0, now_ns, received)
            column = pa.array(received).cast(TIME)
            batch = Batch(batch.data.set_column(4, SCHEMA.field(4), column))
        self.metrics.histogram("ingest_delay_s").observe((now_ns - int(received.max())) / 1e9)
        return batch

    def _drop(self, adapter: str, reason: str, why: str, rows: Batch | None) -> None:
        count = 0 if rows is None else len(rows)
        if not count:
            return
        self.metrics.count("ingest_dropped_rows_total", count, adapter=adapter, reason=reason)
        raw = rows.take(np.arange(min(count, 8))).to_bytes() if rows is not None else b""
        self.quarantine.put(adapter, reason, why, time_ns=self.clock.now_ns(), raw=raw, count=count)

    def _tell(self, adapter: str, event: Event) -> None:
        try:
            self.on_event(adapter, event)
        except Exception as error:  # noqa: BLE001 -- a listener's fault must not cost the rows; counted and told
            self.metrics.count("ingest_event_errors_total")
            log.warning(
                "event listener failed",
                adapter=adapter,
                kind=event.kind,
                error=repr(error),
                traceback=traceback.format_exc(),
            )

    def _done(self, adapter: str, incarnation: int, position: str | None, batch: Batch) -> Callable[[int], None]:
        received = batch.received

        def durable(_: int) -> None:
            self.metrics.histogram("ingest_durable_s").observe((self.clock.now_ns() - received) / 1e9)
            if position is None:
                return
            if self._sources[adapter].incarnation == incarnation:
                self.acknowledge(adapter, position, incarnation)
            else:
                # The child that would understand this position is gone; its successor reads the rows again.
                self.metrics.count("ingest_stale_acks_total", adapter=adapter)

        return durable

    def tags(self) -> Mapping[str, int]:
        """How many tags each adapter has announced in its present incarnation."""
        with self._lock:
            return {name: source.size for name, source in self._sources.items()}
