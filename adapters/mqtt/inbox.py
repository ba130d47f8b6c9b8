"""Where a session's bytes land: two arenas, the books of QoS 1 and 2, and the bounds. No I/O of its own.

Rules of this file:

- Bytes are read straight into an arena and split in place; a message is a row of offsets. `take` swaps the arenas.
- A full arena takes no more: the caller stops reading its socket, and the broker waits.
- Nothing is acknowledged before `durable`; what can not be acknowledged any more, because its connection is gone, is
  owed, and paid when the broker sends it again.

One thread fills (`receive`, `split`, `acknowledgements`), another takes (`take`, `durable`); a lock guards each call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from . import frames

READ_BYTES = 1 << 20
"""Most bytes of one read from the socket."""
KEPT_BYTES = 1_024
"""What is kept of a payload that is too large, bytes."""
DEBTS_MAX = 4_096

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Taken:
    """Messages as rows of offsets (`frames.COLUMNS`) into `data`; both are valid until the next `take`.

    `number` confirms them all; `acknowledged` says whether any of them waits for that.
    """

    data: npt.NDArray[np.uint8]
    rows: Ints
    number: int
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Why `Inbox.split` came back: `more` bytes are needed, it is `full`, a `packet` for the protocol library, or `broken`.

    `packet` is (first byte, what follows the remaining length).
    """

    what: Literal["more", "full", "packet", "broken"]
    packet: tuple[int, bytes] = (0, b"")
    reason: str = ""


class _Arena:
    """Bytes as they came, and the rows that point into them: ``data[read:filled]`` is not split yet."""

    def __init__(self, size: int, messages: int) -> None:
        self.data = np.empty(size, np.uint8)
        self.view = self.data.data
        self.rows = np.empty((messages, frames.COLUMNS), np.int64)
        self.read, self.filled, self.count = 0, 0, 0


class Inbox:
    """A bounded inbox.

    Parameters
    ----------
    version
        MQTT version, 3 or 5.
    frame_bytes_max
        Larger packets are refused: their head is kept as a row marked `frames.OVERSIZE`, the rest is skipped.
    size
        Bytes of an arena; at least one largest packet and its head are made to fit.
    messages
        Rows of an arena.

    Examples
    --------
    >>> inbox = Inbox(3, 1 << 20, 1 << 21, 100)
    >>> packet = bytes.fromhex("32 07 0001 61 0009 7879")
    >>> def recv_into(room):
    ...     room[: len(packet)] = packet
    ...     return len(packet)
    >>> inbox.receive(recv_into), inbox.split(now_ns=5).what
    (9, 'more')
    >>> taken = inbox.take(); len(taken.rows), taken.acknowledged, inbox.acknowledgements()
    (1, True, b'')
    >>> inbox.durable(taken.number); inbox.acknowledgements().hex()
    '40020009'
    """

    def __init__(self, version: int, frame_bytes_max: int, size: int, messages: int) -> None:
        self._version = version
        self._frame_bytes_max = frame_bytes_max
        self._lock = threading.Lock()
        room = max(size, frame_bytes_max + 2 * frames.HEADER_BYTES_MAX)
        self._arenas = [_Arena(room, messages) for _ in range(2)]
        self._books = frames.ledger()
        self._debts = np.zeros((DEBTS_MAX, 3), np.int64)
        self._pending: deque[tuple[int, Ints]] = deque()  # bounded: unacknowledged, so at most the receive maximum
        self._durable: deque[Ints] = deque()  # bounded: moved here from `_pending`
        self._number = 0  # messages taken so far; the live arena's first message has this number
        self._connection = 1
        self._skip = 0
        self._received = 0
        self.full = False
        """Must the socket wait? Cleared by the first `split` after a `take`."""
        self.duplicates = 0
        """Redelivered messages that were held already, and so are not handed over twice."""
        self.stops = 0
        """Times the inbox was full."""

    # --- the filling side

    def connected(self, connection: int, resumed: bool) -> None:
        """A new connection begins; if the broker has not `resumed` the session, its packet ids mean nothing any more."""
        with self._lock:
            self._connection = connection
            if not resumed:
                self._books[:] = 0

    def restart(self) -> None:
        """The connection is gone: a frame cut off by its end will come again whole."""
        with self._lock:
            arena = self._arenas[0]
            arena.filled = arena.read
            self._skip = 0

    def receive(self, recv_into: Callable[[memoryview], int]) -> int:
        """Let `recv_into` (which must not block) write where the next bytes go; what it returned.

        -1 = not called, because there is no room until the next `take`. What it raises goes through.
        """
        with self._lock:
            arena = self._arenas[0]
            if arena.filled == len(arena.data):
                if arena.count:
                    self._stop()
                    return -1
                rest = arena.filled - arena.read
                arena.data[:rest] = arena.data[arena.read : arena.filled].copy()
                arena.read, arena.filled = 0, rest
            size = recv_into(arena.view[arena.filled : arena.filled + READ_BYTES])
            skipped = min(self._skip, size)
            if skipped:
                self._skip -= skipped
                kept = arena.data[arena.filled + skipped : arena.filled + size].copy()
                arena.data[arena.filled : arena.filled + len(kept)] = kept
            arena.filled += size - skipped
            return size

    def _stop(self) -> None:
        self.full = True
        self.stops += 1

    def split(self, now_ns: int) -> Found:
        """Split what was received, up to the next packet that is no PUBLISH; `now_ns` is the receive time."""
        with self._lock:
            arena = self._arenas[0]
            if self.full:
                if arena.count:
                    return Found("full")
                self.full = False
            while True:
                now = max(now_ns, self._received + 1)
                before = arena.count
                arena.read, arena.count, debts, why, end, again = frames.split(
                    arena.data, arena.read, arena.filled, self._version, self._frame_bytes_max, now, self._connection,
                    self._number, self._books, self._debts, arena.rows, before,
                )  # fmt: skip
                self._received = now + arena.count - before
                self.duplicates += again
                if debts:
                    self._durable.append(self._debts[:debts].copy())
                found = self._after(arena, why, end)
                if found is not None:
                    return found

    def _after(self, arena: _Arena, why: int, end: int) -> Found | None:
        """What to do with the frame the splitter stopped at; None = go on splitting."""
        if why == frames.NEED_DATA:
            return Found("more")
        if why == frames.FULL:
            if arena.count < len(arena.rows):
                return None  # only the list of debts was full
            self._stop()
            return Found("full")
        if why == frames.CONTROL:
            command = int(arena.data[arena.read])
            _, body = frames.varint(arena.data, arena.read + 1, end)
            packet = arena.data[body:end].tobytes()
            arena.read = end
            return Found("packet", (command, packet))
        if why == frames.LARGE:
            return self._refuse(arena, end)
        return Found("broken", reason="the broker sent bytes that are no MQTT")

    def _refuse(self, arena: _Arena, end: int) -> Found | None:
        """A frame too large to hold: keep its head as a row that says so, skip the rest."""
        stop = min(end, arena.filled)
        if stop - arena.read < frames.HEADER_BYTES_MAX and stop < end:
            return Found("more")
        if arena.count == len(arena.rows):
            self._stop()
            return Found("full")
        _, body = frames.varint(arena.data, arena.read + 1, arena.filled)
        row = arena.rows[arena.count]
        command = int(arena.data[arena.read])
        if command >> 4 != frames.PUBLISH or not frames.head(arena.data, body, stop, command & 15, self._version, row):
            return Found("broken", reason=f"the broker sent a packet of {end - arena.read} bytes")
        row[frames.PAYLOAD_LEN] = min(int(row[frames.PAYLOAD_LEN]), KEPT_BYTES)
        row[frames.FLAGS] |= frames.OVERSIZE
        self._received += 1
        row[frames.RECEIVED] = self._received
        arena.read, self._skip = stop, end - stop
        if row[frames.MID] and frames.known(arena.data, row, self._connection, self._number + arena.count, self._books):
            self.duplicates += 1
            mid = int(row[frames.MID])
            if self._books[mid, 0] != frames.WAITING:
                qos = (int(row[frames.FLAGS]) & frames.QOS_BITS) >> 1
                self._durable.append(np.array([[mid, qos, self._books[mid, 3]]]))
        else:
            arena.count += 1
        return None

    def released(self, mid: int) -> None:
        """PUBREL came: the packet id is free again."""
        with self._lock:
            if self._books[mid, 0] == frames.RELEASED:
                self._books[mid, 0] = frames.FREE

    def acknowledgements(self) -> bytes:
        """PUBACK and PUBREC packets for all that became durable since the last call; call it only when connected."""
        out = []
        with self._lock:
            while self._durable:
                part = self._durable.popleft()
                packets = np.empty(4 * len(part), np.uint8)
                used = frames.settle(part, self._connection, self._books, packets)
                out.append(packets[:used].tobytes())
        return b"".join(out)

    # --- the taking side

    @property
    def held(self) -> int:
        """Messages that wait for `take`."""
        return self._arenas[0].count

    @property
    def unconfirmed(self) -> int:
        """QoS 1 and 2 messages taken and not yet durable."""
        with self._lock:
            return sum(len(part) for _, part in self._pending)

    def take(self) -> Taken | None:
        """Everything that came since the last call, None if nothing did. Ends the life of the last `Taken`'s arrays."""
        with self._lock:
            full, spare = self._arenas
            if not full.count:
                return None
            rest = full.filled - full.read
            spare.data[:rest] = full.data[full.read : full.filled]
            spare.read, spare.filled, spare.count = 0, rest, 0
            self._arenas.reverse()
            rows = full.rows[: full.count]
            numbers = np.arange(self._number, self._number + full.count)
            self._number += full.count
            waiting = rows[:, frames.MID] > 0
            acknowledged = bool(waiting.any())
            if acknowledged:
                part = rows[waiting]
                qos = (part[:, frames.FLAGS] & frames.QOS_BITS) >> 1
                self._pending.append((self._number, np.column_stack((part[:, frames.MID], qos, numbers[waiting]))))
            return Taken(full.data, rows, self._number, acknowledged)

    def durable(self, number: int) -> None:
        """All messages up to `number` are on disk; `acknowledgements` has their packets from now on."""
        with self._lock:
            while self._pending and self._pending[0][0] <= number:
                self._durable.append(self._pending.popleft()[1])
