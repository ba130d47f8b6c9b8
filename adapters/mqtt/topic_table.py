"""Topics to numbers: an open-addressing hash table over bytes, compiled, bounded, in two growing arrays.

The table numbers byte strings from 0 in order of first sight and never forgets one. What a number means (route, tag)
is kept by whoever uses it, in arrays of the same length.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .frames import digest
from .jit import compiled

UNKNOWN = -1
_SLOTS_FIRST = 1 << 10
_BYTES_FIRST = 1 << 16


@compiled
def _probe(
    data: npt.NDArray[np.uint8],
    start: int,
    size: int,
    hashed: int,
    slots: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.int64],
    pool: npt.NDArray[np.uint8],
    spans: npt.NDArray[np.int64],
) -> int:
    """The slot that holds these bytes, or the free one where they would go."""
    mask = len(slots) - 1
    at = hashed & mask
    while True:
        number = slots[at]
        if number == UNKNOWN:
            return at
        if hashes[at] == hashed and spans[number, 1] == size:
            same, first = True, spans[number, 0]
            for k in range(size):
                if pool[first + k] != data[start + k]:
                    same = False
                    break
            if same:
                return at
        at = (at + 1) & mask


@compiled
def look_up(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    slots: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.int64],
    pool: npt.NDArray[np.uint8],
    spans: npt.NDArray[np.int64],
    used: int,
    known: int,
    known_max: int,
    first: int,
    out: npt.NDArray[np.int64],
) -> tuple[int, int, int]:
    """Number the byte strings ``data[starts[k] : starts[k] + sizes[k]]`` from `first` on, adding new ones.

    Returns
    -------
    tuple of int
        Where it stopped (less than ``len(starts)`` = the table must grow first), bytes of the pool and numbers in use.
    """
    for k in range(first, len(starts)):
        hashed = digest(data, starts[k], starts[k] + sizes[k])
        slot = _probe(data, starts[k], sizes[k], hashed, slots, hashes, pool, spans)
        if slots[slot] == UNKNOWN:
            if known >= known_max:
                out[k] = UNKNOWN
                continue
            if 2 * (known + 1) > len(slots) or used + sizes[k] > len(pool) or known == len(spans):
                return k, used, known
            pool[used : used + sizes[k]] = data[starts[k] : starts[k] + sizes[k]]
            spans[known, 0], spans[known, 1] = used, sizes[k]
            slots[slot], hashes[slot] = known, hashed
            used += sizes[k]
            known += 1
        out[k] = slots[slot]
    return len(starts), used, known


@compiled
def _rehash(
    slots: npt.NDArray[np.int64],
    hashes: npt.NDArray[np.int64],
    new_slots: npt.NDArray[np.int64],
    new_hashes: npt.NDArray[np.int64],
) -> None:
    mask = len(new_slots) - 1
    for k in range(len(slots)):
        if slots[k] != UNKNOWN:
            at = hashes[k] & mask
            while new_slots[at] != UNKNOWN:
                at = (at + 1) & mask
            new_slots[at], new_hashes[at] = slots[k], hashes[k]


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
        self._slots = np.full(_SLOTS_FIRST, UNKNOWN, np.int64)
        self._hashes = np.zeros(_SLOTS_FIRST, np.int64)
        self._pool = np.empty(_BYTES_FIRST, np.uint8)
        self._spans = np.empty((_SLOTS_FIRST // 2, 2), np.int64)
        self._used, self._known = 0, 0

    def __len__(self) -> int:
        return self._known

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self._known >= self._limit

    def text(self, number: int) -> bytes:
        """The bytes of a number."""
        start, size = self._spans[number].tolist()
        return self._pool[start : start + size].tobytes()

    def numbers(
        self, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Numbers of byte strings, int64; new ones get the next, `UNKNOWN` (-1) when the table is full."""
        out = np.empty(len(starts), np.int64)
        done = 0
        while True:
            done, self._used, self._known = look_up(
                data, starts, sizes, self._slots, self._hashes, self._pool, self._spans, self._used, self._known,
                self._limit, done, out,
            )  # fmt: skip
            if done == len(starts):
                return out
            self._grow(int(sizes[done]))

    def find(
        self, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Numbers of byte strings, `UNKNOWN` (-1) for those never seen; none is added."""
        out = np.empty(len(starts), np.int64)
        look_up(
            data, starts, sizes, self._slots, self._hashes, self._pool, self._spans, self._used, self._known,
            self._known, 0, out,
        )  # fmt: skip
        return out

    def _grow(self, room: int) -> None:
        if 2 * (self._known + 1) > len(self._slots):
            slots = np.full(2 * len(self._slots), UNKNOWN, np.int64)
            hashes = np.zeros(2 * len(self._slots), np.int64)
            _rehash(self._slots, self._hashes, slots, hashes)
            self._slots, self._hashes = slots, hashes
        if self._known == len(self._spans):
            self._spans = np.concatenate((self._spans, np.empty_like(self._spans)))
        if self._used + room > len(self._pool):
            more = max(len(self._pool), room)
            self._pool = np.concatenate((self._pool, np.empty(more, np.uint8)))
