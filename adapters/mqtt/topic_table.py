"""Topics to numbers: an open-addressing hash table over bytes, compiled, bounded, in growing arrays.

The table numbers byte strings from 0 in order of first sight and never forgets one. What a number means (route, tag)
is kept by whoever uses it, in arrays of the same length.

Devices send their topics in the same order again and again. So the table also remembers which number came after each the
last time, and compares with that one first: no hash, and memory is read in the order it lies in. When the guess is wrong
nothing is lost but the comparison.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled
from .frames import digest

UNKNOWN = -1
_SLOTS_FIRST = 1 << 10
_BYTES_FIRST = 1 << 16

# Columns of a slot, and of an entry (a number's own row).
_NUMBER, _HASH = range(2)
_START, _SIZE, _NEXT = range(3)

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@compiled
def _same(data: Bytes, start: int, size: int, pool: Bytes, first: int) -> bool:
    """Whether ``data[start : start + size]`` and the pool's bytes from `first` on are alike; no early end, so in wide steps."""
    different = np.uint8(0)
    for k in range(size):
        different |= pool[first + k] ^ data[start + k]
    return bool(different == 0)


@compiled
def _probe(data: Bytes, start: int, size: int, hashed: int, slots: Ints, pool: Bytes, entries: Ints) -> int:
    """The slot that holds these bytes, or the free one where they would go."""
    mask = len(slots) - 1
    at = hashed & mask
    while True:
        number = slots[at, _NUMBER]
        if number == UNKNOWN:
            return at
        if (
            slots[at, _HASH] == hashed
            and entries[number, _SIZE] == size
            and _same(data, start, size, pool, entries[number, _START])
        ):
            return at
        at = (at + 1) & mask


@compiled
def look_up(
    data: Bytes,
    starts: Ints,
    sizes: Ints,
    slots: Ints,
    pool: Bytes,
    entries: Ints,
    used: int,
    known: int,
    known_max: int,
    first: int,
    last: int,
    out: Ints,
) -> tuple[int, int, int, int]:
    """Number the byte strings ``data[starts[k] : starts[k] + sizes[k]]`` from `first` on, adding new ones.

    `last` is the number found before, `UNKNOWN` if there was none.

    Returns
    -------
    tuple of int
        Where it stopped (less than ``len(starts)`` = the table must grow first), bytes of the pool and numbers in use, and
        the last number found.
    """
    for k in range(first, len(starts)):
        start, size = starts[k], sizes[k]
        guess = entries[last, _NEXT] if last != UNKNOWN else UNKNOWN
        if (
            guess != UNKNOWN
            and entries[guess, _SIZE] == size
            and _same(data, start, size, pool, entries[guess, _START])
        ):
            out[k] = last = guess
            continue
        hashed = digest(data, start, start + size)
        slot = _probe(data, start, size, hashed, slots, pool, entries)
        number = slots[slot, _NUMBER]
        if number == UNKNOWN:
            if known >= known_max:
                out[k] = UNKNOWN
                continue
            if 2 * (known + 1) > len(slots) or used + size > len(pool) or known == len(entries):
                return k, used, known, last
            number = known
            pool[used : used + size] = data[start : start + size]
            entries[number, _START], entries[number, _SIZE], entries[number, _NEXT] = used, size, UNKNOWN
            slots[slot, _NUMBER], slots[slot, _HASH] = number, hashed
            used += size
            known += 1
        if last != UNKNOWN:
            entries[last, _NEXT] = number
        out[k] = last = number
    return len(starts), used, known, last


@compiled
def _rehash(slots: Ints, fresh: Ints) -> None:
    mask = len(fresh) - 1
    for k in range(len(slots)):
        if slots[k, _NUMBER] != UNKNOWN:
            at = slots[k, _HASH] & mask
            while fresh[at, _NUMBER] != UNKNOWN:
                at = (at + 1) & mask
            fresh[at, _NUMBER], fresh[at, _HASH] = slots[k, _NUMBER], slots[k, _HASH]


class TopicTable:
    """Byte strings, numbered densely; at most `limit` of them (further ones are `UNKNOWN`).

    Examples
    --------
    >>> table = TopicTable(limit=2)
    >>> data = np.frombuffer(b"aabbaacc", np.uint8)
    >>> table.numbers(data, np.array([0, 2, 4, 6]), np.array([2, 2, 2, 2])).tolist()
    [0, 1, 0, -1]
    >>> len(table), table.text(1)
    (2, b'bb')
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots = np.full((_SLOTS_FIRST, 2), UNKNOWN, np.int64)
        self._pool = np.empty(_BYTES_FIRST, np.uint8)
        self._entries = np.empty((_SLOTS_FIRST // 2, 3), np.int64)
        self._used, self._known = 0, 0
        self._last = UNKNOWN

    def __len__(self) -> int:
        return self._known

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._known >= self._limit

    def text(self, number: int) -> bytes:
        """The bytes of a number."""
        start, size, _ = self._entries[number].tolist()
        return self._pool[start : start + size].tobytes()

    def numbers(self, data: Bytes, starts: Ints, sizes: Ints) -> Ints:
        """Numbers of byte strings, int64; new ones get the next, `UNKNOWN` (-1) when the table is full."""
        out = np.empty(len(starts), np.int64)
        done = 0
        while True:
            done, self._used, self._known, self._last = look_up(
                data, starts, sizes, self._slots, self._pool, self._entries, self._used, self._known, self._limit, done,
                self._last, out,
            )  # fmt: skip
            if done == len(starts):
                return out
            self._grow(int(sizes[done]))

    def find(self, data: Bytes, starts: Ints, sizes: Ints) -> Ints:
        """Numbers of byte strings, `UNKNOWN` (-1) for those never seen; none is added."""
        out = np.empty(len(starts), np.int64)
        _, _, _, self._last = look_up(
            data, starts, sizes, self._slots, self._pool, self._entries, self._used, self._known, self._known, 0,
            self._last, out,
        )  # fmt: skip
        return out

    def _grow(self, room: int) -> None:
        if 2 * (self._known + 1) > len(self._slots):
            slots = np.full((2 * len(self._slots), 2), UNKNOWN, np.int64)
            _rehash(self._slots, slots)
            self._slots = slots
        if self._known == len(self._entries):
            self._entries = np.concatenate((self._entries, np.empty_like(self._entries)))
        if self._used + room > len(self._pool):
            more = max(len(self._pool), room)
            self._pool = np.concatenate((self._pool, np.empty(more, np.uint8)))
