"""`Table`: byte strings with an owner, numbered at first sight: an open-addressing hash in arrays that kernels work on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .jit import compiled

# A free slot, and a number that is none.
NOTHING = -1
SPAN = 5
"""Columns of an entry of a table."""
_SLOTS = 1 << 10
_BYTES = 1 << 16

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@compiled
def same(a: Bytes, b: Bytes) -> bool:
    """Whether two slices of one length are equal; without an early end, so that it is a few wide instructions."""
    differs = np.uint8(0)
    for k in range(len(a)):
        differs |= a[k] ^ b[k]
    return bool(differs == 0)


@compiled
def digest(data: Bytes, start: int, stop: int, seed: int) -> np.uint64:
    """FNV-1a over 8-byte words with MurmurHash3's final mix."""
    h = np.uint64(0xCBF29CE484222325) ^ np.uint64(stop - start) ^ (np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15))
    prime = np.uint64(0x100000001B3)
    at = start
    while at + 8 <= stop:
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(data[at + k]) << np.uint64(8 * k)
        h = (h ^ word) * prime
        h ^= h >> np.uint64(29)
        at += 8
    while at < stop:
        h = (h ^ np.uint64(data[at])) * prime
        at += 1
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    return h ^ (h >> np.uint64(33))


@compiled
def intern(
    data: Bytes, start: int, size: int, owner: int, slots: Ints, hashes: npt.NDArray[np.uint64], pool: Bytes,
    spans: Ints, state: Ints,
) -> int:  # fmt: skip
    """Number of ``data[start : start + size]`` under `owner`, adding it; -1 = the table is full, -2 = it must grow.

    Parameters
    ----------
    slots, hashes
        int64 and uint64, a power of two long: number of the entry in a slot (`NOTHING` = free) and its digest.
    pool, spans
        uint8 and int64[n, `SPAN`]: the bytes; and start, size, owner, predicted successor and (of a series) first pair.
    state
        int64: entries in use, bytes of the pool in use, most entries.
    """
    hashed = digest(data, start, start + size, owner)
    mask = len(slots) - 1
    at = np.int64(hashed & np.uint64(mask))
    while True:
        number = slots[at]
        if number == NOTHING:
            break
        if hashes[at] == hashed and spans[number, 1] == size and spans[number, 2] == owner:
            first = spans[number, 0]
            if same(data[start : start + size], pool[first : first + size]):
                return int(number)
        at = (at + 1) & mask
    known, used = state[0], state[1]
    if known >= state[2]:
        return -1
    if 2 * (known + 1) > len(slots) or used + size > len(pool) or known == len(spans):
        return -2
    pool[used : used + size] = data[start : start + size]
    spans[known, 0], spans[known, 1], spans[known, 2], spans[known, 3:] = used, size, owner, NOTHING
    slots[at], hashes[at] = known, hashed
    state[0], state[1] = known + 1, used + size
    return int(known)


@compiled
def intern_many(
    data: Bytes, starts: Ints, sizes: Ints, first: int, slots: Ints, hashes: npt.NDArray[np.uint64], pool: Bytes,
    spans: Ints, state: Ints, out: Ints,
) -> int:  # fmt: skip
    """Numbers of ``data[starts[k] : starts[k] + sizes[k]]`` (owner 0) to `out`, from `first` on; where it stopped.

    Less than ``len(starts)`` = the table must grow; a full table gives `NOTHING`.
    """
    for k in range(first, len(starts)):
        number = intern(data, starts[k], sizes[k], 0, slots, hashes, pool, spans, state)
        if number == -2:
            return k
        out[k] = number
    return len(starts)


class Table:
    """At most `limit` entries; see `intern` for the arrays.

    Examples
    --------
    >>> table = Table(limit=2)
    >>> [table.number(text, 0) for text in (b"a", b"b", b"a", b"c")], len(table), table.text(1)
    ([0, 1, 0, -1], 2, b'b')
    """

    def __init__(self, limit: int) -> None:
        self.slots = np.full(_SLOTS, NOTHING, np.int64)
        self.hashes = np.zeros(_SLOTS, np.uint64)
        self.pool = np.empty(_BYTES, np.uint8)
        self.spans = np.empty((_SLOTS // 2, SPAN), np.int64)
        self.state = np.array([0, 0, limit], np.int64)

    def __len__(self) -> int:
        return int(self.state[0])

    def arrays(self) -> tuple[Ints, npt.NDArray[np.uint64], Bytes, Ints, Ints]:
        """What kernels take: slots, hashes, pool, spans, state."""
        return self.slots, self.hashes, self.pool, self.spans, self.state

    def text(self, number: int) -> bytes:
        """The bytes of an entry."""
        start, size = self.spans[number, :2].tolist()
        return self.pool[start : start + size].tobytes()

    def number(self, text: bytes, owner: int) -> int:
        """Number of an entry, added at first sight; `NOTHING` when the table is full."""
        data = np.frombuffer(text, np.uint8).copy()
        while True:
            number = intern(data, 0, len(data), owner, *self.arrays())
            if number != -2:
                return int(number)
            self.grow(len(data))

    def numbers(self, data: Bytes, starts: Ints, sizes: Ints) -> Ints:
        """Numbers of many byte strings of one buffer, of owner 0; int64, `NOTHING` where the table is full."""
        out = np.empty(len(starts), np.int64)
        done = 0
        while True:
            done = intern_many(data, starts, sizes, done, *self.arrays(), out)
            if done == len(starts):
                return out
            self.grow(int(sizes[done]))

    def grow(self, room: int) -> None:
        """Double what is short; afterwards one more entry of `room` bytes fits."""
        known, used = self.state[:2].tolist()
        if 2 * (known + 1) > len(self.slots):
            size = 2 * len(self.slots)
            slots, hashes = np.full(size, NOTHING, np.int64), np.zeros(size, np.uint64)
            held = np.flatnonzero(self.slots != NOTHING)
            _replace(self.slots[held], self.hashes[held], slots, hashes)
            self.slots, self.hashes = slots, hashes
        if known == len(self.spans):
            self.spans = np.concatenate((self.spans, np.empty_like(self.spans)))
        if used + room > len(self.pool):
            self.pool = np.concatenate((self.pool, np.empty(max(len(self.pool), room), np.uint8)))


def _replace(
    numbers: npt.NDArray[np.int64],
    digests: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.uint64],
) -> None:
    """Put entries into larger slots: round by round, those that find their place free win, the rest try the next."""
    mask = np.uint64(len(slots) - 1)
    at = (digests & mask).astype(np.int64)
    left = np.arange(len(numbers))
    while len(left):
        free = left[slots[at[left]] == NOTHING]
        # Of several that want one slot the last written stays; the others see it taken in the next round.
        slots[at[free]] = numbers[free]
        placed = slots[at[left]] == numbers[left]
        hashes[at[left[placed]]] = digests[left[placed]]
        left = left[~placed]
        at[left] = (at[left] + 1) & int(mask)
