"""What arrived and was not yet handed over: rows in pieces, events, counts of what was not usable. Bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Event, EventKind, TagInfo
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import DataError

from .kernels import NULL, NUMBER, OTHER
from .notification import Columns, read_data_change
from .rows import Book, Rows

ROWS_MAX = 100_000
EVENTS_MAX = 1_000
REPORT_NS = 1_000_000_000


class Inbox:
    """Takes notification bodies, gives batches. At `ROWS_MAX` rows waiting `take` waits, and with it the server.

    `infos` is the adapter's list of tags by number; it grows while browsing.
    """

    def __init__(self, name: str, infos: Sequence[TagInfo], book: Book, clock: Clock) -> None:
        self._name = name
        self._infos = infos
        self._book = book
        self._clock = clock
        self._rows: list[tuple[Rows, int]] = []
        self._waiting = 0
        self._events: list[Event] = []
        self._dropped = 0
        self._overflow: Counter[int] = Counter()
        self._rejected: Counter[int] = Counter()
        self._reported_ns = 0
        self.arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def take(self, body: bytes) -> None:
        """The body of one DataChangeNotification."""
        await self._room.wait()
        now = self._clock.now_ns()
        try:
            columns = read_data_change(body)
            if columns is None:
                columns = _general(body)
        except DataError as error:
            self.malformed(str(error), body)
            return
        rows = self._book.rows(columns, now)
        self._overflow.update(rows.overflow.tolist())
        self._rejected.update(rows.rejected.tolist())
        if len(rows.tag):
            self._rows.append((rows, now))
            self._waiting += len(rows.tag)
            if self._waiting >= ROWS_MAX:
                self._room.clear()
        self.arrived.set()

    def malformed(self, reason: str, raw: bytes) -> None:
        """Bytes that do not parse."""
        self.event("malformed", self._name, reason, raw=raw)

    def event(self, kind: EventKind, node: str, reason: str, count: int = 1, raw: bytes = b"") -> None:
        """Note an event; beyond `EVENTS_MAX` unread ones further are counted."""
        if len(self._events) >= EVENTS_MAX:
            self._dropped += count
            return
        self._events.append(Event(kind, node, self._clock.now_ns(), reason, count, raw[:RAW_BYTES_MAX]))
        self.arrived.set()

    def give(self) -> tuple[Batch | None, tuple[Event, ...]]:
        """Whole notifications up to `ROWS_MAX` rows, and all events."""
        self._report()
        self.arrived.clear()
        events, self._events = tuple(self._events), []
        parts = self._cut()
        if self._waiting < ROWS_MAX:
            self._room.set()
        if self._rows:
            self.arrived.set()
        if not parts:
            return None, events
        columns = [
            np.concatenate([getattr(rows, name) for rows, _ in parts]) for name in ("tag", "time", "value", "quality")
        ]
        received = np.concatenate([np.full(len(rows.tag), at, np.int64) for rows, at in parts])
        batch = Batch.of(tag=columns[0], time=columns[1], value=columns[2], quality=columns[3], received=received)
        return batch, events

    def _cut(self) -> list[tuple[Rows, int]]:
        n = count = 0
        while n < len(self._rows) and (not n or count + len(self._rows[n][0].tag) <= ROWS_MAX):
            count += len(self._rows[n][0].tag)
            n += 1
        parts, self._rows = self._rows[:n], self._rows[n:]
        self._waiting -= count
        return parts

    def _report(self) -> None:
        """Overflow, values that are no numbers and events beyond the limit: once a second, one event a device."""
        now = self._clock.monotonic_ns()
        if now - self._reported_ns < REPORT_NS or not (self._overflow or self._rejected or self._dropped):
            return
        self._reported_ns = now
        self._by_device("overflow", self._overflow, "the server's queue overflowed; samples were dropped there")
        self._by_device("rejected", self._rejected, "value is no single number")
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.event("info", self._name, f"{dropped} further events were not kept", dropped)

    def _by_device(self, kind: EventKind, counts: Counter[int], reason: str) -> None:
        devices: dict[str, list[int]] = {}
        for tag in counts:
            devices.setdefault(self._infos[tag].device, []).append(tag)
        for device, tags in devices.items():
            self.event(
                kind, device, f"{named([self._infos[tag].tag for tag in tags])}: {reason}", sum(counts[t] for t in tags)
            )
        counts.clear()


def named(names: Sequence[str]) -> str:
    """``'a', 'b', 'c' and 2 more``.

    Examples
    --------
    >>> named(["a", "b", "c", "d", "e"])
    "'a', 'b', 'c' and 2 more"
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _general(body: bytes) -> Columns:
    """Columns by asyncua's own decoder, for the value types the fast one leaves alone."""
    from .session import general

    items = general(body)
    n = len(items)
    handle = np.array([number for number, _ in items], np.uint32)
    kind, value = np.full(n, NULL, np.uint8), np.full(n, np.nan)
    status, times = np.zeros(n, np.uint32), np.zeros((n, 2), np.int64)
    for i, (_, data) in enumerate(items):
        content = data.Value.Value if data.Value is not None else None
        if isinstance(content, bool | int | float):
            kind[i], value[i] = NUMBER, float(content)
        elif content is not None:
            kind[i] = OTHER
        status[i] = data.StatusCode.value if data.StatusCode is not None else 0
        for side, stamp in enumerate((data.SourceTimestamp, data.ServerTimestamp)):
            if stamp is not None and stamp.year > 1601:
                times[i, side] = np.datetime64(stamp.replace(tzinfo=None), "ns").astype(np.int64)
    return Columns(handle, kind, value, status, times[:, 0], times[:, 1])
