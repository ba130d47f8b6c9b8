"""`Door`: what is pushed to an adapter, handed on in polls; whoever pushed waits until it is durable.

Rules of this file. A push is numbered when it is taken, its rows are handed over in that order, and a position is the
number of the newest push all of whose rows have been handed over. Rows that wait are bounded: a push that finds the
door full is refused at once, for the sender to come again. All of it runs on one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from iiot_dask.adapter.contract import Event, Poll, TagInfo
from iiot_dask.core.errors import CapacityError

from .rows import Rows

ROWS_MAX = 100_000
"""Most rows of one `Poll`, as the contract says."""
EVENTS_MAX = 1_000
WAIT_S = 0.1


class ClosedError(CapacityError):
    """The adapter stops: what was pushed is not known to be durable."""


@dataclass(slots=True)
class _Push:
    number: int
    rows: Rows
    durable: asyncio.Future[None]


class Door:
    """A bounded way in.

    Parameters
    ----------
    adapter
        Name, for events.
    rows_max
        Most rows that wait to be handed over; one push may be larger if nothing waits.
    mark
        Unlike in every other incarnation: positions of another confirm nothing here.
    fresh
        Gives the tags announced since the last call.
    """

    def __init__(self, adapter: str, rows_max: int, mark: str, fresh: Callable[[], tuple[TagInfo, ...]]) -> None:
        self._adapter = adapter
        self._rows_max = rows_max
        self._mark = mark
        self._fresh = fresh
        self._waiting: deque[_Push] = deque()  # bounded by rows_max, and by connections where pushes are empty
        self._sent: deque[_Push] = deque()  # bounded: handed over, not yet durable; each has a sender that waits
        self._events: list[Event] = []
        self._dropped_events = 0
        self._came = asyncio.Event()
        self._number = 0
        self._held = 0
        self._offset = 0
        self._closed = False
        self.refused = 0
        """Pushes turned away because the door was full."""

    @property
    def full(self) -> bool:
        """Whether a push would be refused now."""
        return self._closed or self._held >= self._rows_max

    @property
    def held(self) -> int:
        """Rows that wait to be handed over."""
        return self._held

    def push(self, rows: Rows) -> asyncio.Future[None]:
        """Take rows in; the future is done once they are on disk.

        Raises
        ------
        CapacityError
            If too many rows wait already.
        ClosedError
            If the adapter stops.
        """
        if self._closed:
            msg = f"adapter {self._adapter!r} stops"
            raise ClosedError(msg)
        if self._held and self._held + len(rows) > self._rows_max:
            self.refused += 1
            msg = f"{self._held} rows wait for the disk; at most {self._rows_max} may (options.queue_rows)"
            raise CapacityError(msg)
        self._number += 1
        push = _Push(self._number, rows, asyncio.get_running_loop().create_future())
        # A sender that has given up waiting leaves nobody to look at the outcome.
        push.durable.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.append(push)
        self._held += len(rows)
        self._came.set()
        return push.durable

    def tell(self, event: Event) -> None:
        """Report an event with the next poll; of too many, the rest is counted."""
        if len(self._events) < EVENTS_MAX:
            self._events.append(event)
        else:
            self._dropped_events += event.count
        self._came.set()

    async def poll(self, now_ns: Callable[[], int]) -> Poll:
        """What came, waiting at most `WAIT_S` for something."""
        if not self._waiting and not self._events:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), WAIT_S)
            except TimeoutError:
                return Poll(tags=self._fresh())
        return self.take(now_ns())

    def take(self, now_ns: int) -> Poll:
        """The next poll of what waits, at most `ROWS_MAX` rows."""
        parts, room, position = [], ROWS_MAX, None
        while self._waiting and room:
            push = self._waiting[0]
            part = push.rows.part(self._offset, self._offset + room)
            parts.append(part)
            room -= len(part)
            self._held -= len(part)
            self._offset += len(part)
            if self._offset < len(push.rows):
                break
            self._waiting.popleft()
            self._offset = 0
            push.rows = part.part(0, 0)
            self._sent.append(push)
            position = f"{self._mark}:{push.number}"
        events, self._events = self._events, []
        if self._dropped_events:
            events.append(Event("overflow", self._adapter, now_ns, "events left out", self._dropped_events))
            self._dropped_events = 0
        rows = Rows.concat([part for part in parts if len(part)])
        return Poll(self._fresh(), rows.batch() if len(rows) else None, tuple(events), position)

    def acknowledge(self, position: str) -> None:
        """Everything up to `position` is durable: its senders are told."""
        mark, _, number = position.rpartition(":")
        if mark != self._mark:
            return
        last = int(number)
        while self._sent and self._sent[0].number <= last:
            push = self._sent.popleft()
            if not push.durable.done():
                push.durable.set_result(None)

    def close(self) -> None:
        """Refuse what comes, and tell everyone who still waits that nothing is known of their rows."""
        self._closed = True
        for push in (*self._sent, *self._waiting):
            if not push.durable.done():
                push.durable.set_exception(ClosedError(f"adapter {self._adapter!r} stops"))
        self._sent.clear()
        self._waiting.clear()
        self._held = 0
