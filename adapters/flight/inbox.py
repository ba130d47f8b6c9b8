"""`Inbox`: puts of many server threads on their way to one event loop, in order, bounded.

Rules of this file. A put is numbered when it is taken; a thread that finds too many rows waiting waits itself, and gRPC's
flow control makes its sender wait. A position is the number of the newest put handed over whole, with the newest
position of every named stream in those puts, so that a restart knows what each edge need not send again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from iiot_dask.core.errors import CapacityError, LocalAdapterError

from ..common.door import ROWS_MAX, ClosedError
from ..common.rows import Rows

VERSION = 1
"""Version of the position text."""
STREAMS_MAX = 500
STREAM_BYTES_MAX = 63


@dataclass(slots=True)
class Receipt:
    """What one connection's acknowledging thread waits for: the newest durable position, and how many puts it covers."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    durable: int | None = None
    puts: int = 0
    taken: int = 0
    failed: str = ""

    def settle(self, position: int) -> None:
        """One more put is durable."""
        with self.changed:
            self.durable = position
            self.puts += 1
            self.changed.notify_all()

    def fail(self, why: str) -> None:
        """Nothing will become durable any more."""
        with self.changed:
            self.failed = self.failed or why
            self.changed.notify_all()


@dataclass(slots=True)
class _Put:
    number: int
    rows: Rows
    stream: str | None
    position: int
    receipt: Receipt


class Inbox:
    """A bounded inbox.

    Parameters
    ----------
    rows_max
        Most rows that wait to be handed over; one put may be larger when nothing waits.
    mark
        Unlike in every other incarnation.
    came
        Called, from any thread, when there is something to take.
    position
        The durable position of the incarnation before, or None.
    """

    def __init__(self, rows_max: int, mark: str, came: Callable[[], None], position: str | None) -> None:
        self._rows_max = rows_max
        self._mark = mark
        self._came = came
        self._changed = threading.Condition()
        self._waiting: deque[_Put] = deque()  # bounded by rows_max: `put` waits
        self._sent: deque[_Put] = deque()  # bounded: handed over, not yet durable, by the host's own queue
        self._number = 0
        self._held = 0
        self._offset = 0
        self._closed = ""
        self._durable = streams_of(position)
        self._covered = dict(self._durable)

    def durable(self, stream: str) -> int | None:
        """Newest durable position of a stream."""
        with self._changed:
            return self._durable.get(stream)

    def enter(self, stream: str) -> None:
        """A connection of this stream begins.

        Raises
        ------
        CapacityError
            If its name is too long, or there are too many streams to remember.
        """
        if not 0 < len(stream.encode()) <= STREAM_BYTES_MAX:
            msg = f"stream {stream[:80]!r} has {len(stream.encode())} UTF-8 bytes; 1 to {STREAM_BYTES_MAX} are allowed"
            raise CapacityError(msg)
        with self._changed:
            if stream not in self._covered and len(self._covered) >= STREAMS_MAX:
                msg = f"stream {stream!r} is one too many; {STREAMS_MAX} are remembered by one adapter"
                raise CapacityError(msg)

    def put(self, rows: Rows, stream: str | None, position: int, receipt: Receipt) -> None:
        """Take a put in; waits while there is no room.

        Raises
        ------
        ClosedError
            If the adapter stops.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._held or self._held + len(rows) <= self._rows_max)
            if self._closed:
                raise ClosedError(self._closed)
            self._number += 1
            receipt.taken += 1
            self._waiting.append(_Put(self._number, rows, stream, position, receipt))
            self._held += len(rows)
        self._came()

    @property
    def waiting(self) -> bool:
        """Whether there is something to take."""
        return bool(self._waiting)

    def take(self) -> tuple[Rows, str | None]:
        """The next rows, at most `ROWS_MAX`, and the position after them (None: no put has ended)."""
        parts: list[Rows] = []
        room, last = ROWS_MAX, None
        with self._changed:
            while self._waiting and room:
                put = self._waiting[0]
                part = put.rows.part(self._offset, self._offset + room)
                parts.append(part)
                room -= len(part)
                self._held -= len(part)
                self._offset += len(part)
                if self._offset < len(put.rows):
                    break
                self._waiting.popleft()
                self._offset = 0
                put.rows = part.part(0, 0)
                self._sent.append(put)
                last = put.number
                if put.stream is not None:
                    self._covered[put.stream] = put.position
            self._changed.notify_all()
            position = None if last is None else self._text(last)
        return Rows.concat([part for part in parts if len(part)]), position

    def _text(self, number: int) -> str:
        return orjson.dumps({"version": VERSION, "mark": self._mark, "put": number, "streams": self._covered}).decode()

    def acknowledge(self, position: str) -> None:
        """Everything up to `position` is on disk."""
        document = orjson.loads(position)
        if document["mark"] != self._mark:
            return
        settled: list[_Put] = []
        with self._changed:
            self._durable = document["streams"]
            while self._sent and self._sent[0].number <= document["put"]:
                settled.append(self._sent.popleft())
        for put in settled:
            put.receipt.settle(put.position)

    def close(self, why: str) -> None:
        """Take nothing more; everyone who waits is told."""
        with self._changed:
            self._closed = why
            left = [*self._sent, *self._waiting]
            self._sent.clear()
            self._waiting.clear()
            self._held = 0
            self._changed.notify_all()
        for put in left:
            put.receipt.fail(why)


def streams_of(position: str | None) -> dict[str, int]:
    """The streams in a position text.

    Raises
    ------
    LocalAdapterError
        If it is none of ours, or of a newer version.

    Examples
    --------
    >>> streams_of('{"version":1,"mark":"x","put":3,"streams":{"edge-7":12}}'), streams_of(None)
    ({'edge-7': 12}, {})
    """
    if position is None:
        return {}
    try:
        document = orjson.loads(position)
        version, streams = document["version"], {str(k): int(v) for k, v in document["streams"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        msg = f"position {position[:80]!r} is none of a flight adapter"
        raise LocalAdapterError(msg) from error
    if version > VERSION:
        msg = f"position has version {version}; this program reads up to {VERSION}"
        raise LocalAdapterError(msg)
    return streams
