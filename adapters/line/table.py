"""`Table`: byte strings with an owner, numbered at first sight, in the arrays the compiled scanner works on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .scan import NOTHING, SPAN, intern

_SLOTS = 1 << 10
_BYTES = 1 << 16


class Table:
    """At most `limit` entries; see `scan.intern` for the arrays.

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

    def arrays(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64], npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:  # fmt: skip
        """What `scan.scan` takes."""
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
