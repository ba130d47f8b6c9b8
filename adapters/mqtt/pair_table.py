"""Pairs of integers to integers: a compiled open-addressing hash table that grows, and forgets what is stale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..common.jit import compiled

Ints = npt.NDArray[np.int64]

NOTHING = -1
_SLOTS_FIRST = 1 << 10

# Columns of a slot.
_A, _B, _VALUE = range(3)


@compiled
def _slot(cells: Ints, a: int, b: int) -> int:
    """The slot of (a, b), or the free one where it would go. The mix is SplitMix64's (Steele, Lea, Flood, 2014)."""
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    mask = len(cells) - 1
    at = int(np.int64(h)) & mask
    while cells[at, _VALUE] != NOTHING and (cells[at, _A] != a or cells[at, _B] != b):
        at = (at + 1) & mask
    return at


@compiled
def _put(cells: Ints, a: Ints, b: Ints, values: Ints) -> int:
    added = 0
    for k in range(len(a)):
        at = _slot(cells, a[k], b[k])
        added += cells[at, _VALUE] == NOTHING
        cells[at, _A], cells[at, _B], cells[at, _VALUE] = a[k], b[k], values[k]
    return added


@compiled
def _get(cells: Ints, a: Ints, b: Ints, out: Ints) -> None:
    for k in range(len(a)):
        out[k] = cells[_slot(cells, a[k], b[k]), _VALUE]


class PairTable:
    """(a, b) -> value, all int64, values 0 or more.

    Parameters
    ----------
    alive
        Given an array of `a`, which are still wanted; asked before the table grows. None = all.

    Examples
    --------
    >>> table = PairTable()
    >>> table.put(np.array([1, 1]), np.array([5, 6]), np.array([70, 71]))
    >>> table.get(np.array([1, 2]), np.array([6, 6])).tolist(), len(table)
    ([71, -1], 2)
    """

    def __init__(self, alive: Callable[[Ints], npt.NDArray[np.bool_]] | None = None) -> None:
        self._alive = alive
        self._cells = self._empty(_SLOTS_FIRST)
        self._used = 0

    @staticmethod
    def _empty(slots: int) -> Ints:
        cells = np.zeros((slots, 3), np.int64)
        cells[:, _VALUE] = NOTHING
        return cells

    def __len__(self) -> int:
        return self._used

    def put(self, a: Ints, b: Ints, values: Ints) -> None:
        """Set values; of a repeated pair the last counts."""
        if 2 * (self._used + len(a)) > len(self._cells):
            self._rebuild(len(a))
        self._used += _put(self._cells, a, b, values)

    def get(self, a: Ints, b: Ints) -> Ints:
        """Values, `NOTHING` (-1) where there is none."""
        out = np.empty(len(a), np.int64)
        _get(self._cells, a, b, out)
        return out

    def items(self) -> tuple[Ints, Ints, Ints]:
        """All pairs and their values: a, b, values."""
        kept = self._cells[self._cells[:, _VALUE] != NOTHING]
        return kept[:, _A], kept[:, _B], kept[:, _VALUE]

    def _rebuild(self, room: int) -> None:
        kept = self._cells[self._cells[:, _VALUE] != NOTHING]
        if self._alive is not None:
            kept = kept[self._alive(kept[:, _A])]
        slots = _SLOTS_FIRST
        while 2 * (len(kept) + room) > slots // 2:
            slots *= 2
        self._cells = self._empty(slots)
        self._used = _put(self._cells, kept[:, _A].copy(), kept[:, _B].copy(), kept[:, _VALUE].copy())
