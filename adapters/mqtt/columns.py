"""What decoding gives: samples as columns, and the arrays that grow with first sights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import Event

Ints = npt.NDArray[np.int64]

NOTHING = -1


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples as columns of equal length, in order of arrival: local tag, time ns, value, quality, receive time ns."""

    tag: Ints
    time: Ints
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    received: Ints
    events: list[Event] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tag)

    @classmethod
    def concat(cls, parts: Iterable[Samples]) -> Samples:
        """All parts, one after another.

        Examples
        --------
        >>> len(Samples.concat([]))
        0
        """
        listed = list(parts)
        events = [event for part in listed for event in part.events]
        if not listed:
            nothing = np.empty(0, np.int64)
            return cls(nothing, nothing, np.empty(0), np.empty(0, np.uint8), nothing, events)
        return cls(
            np.concatenate([p.tag for p in listed]),
            np.concatenate([p.time for p in listed]),
            np.concatenate([p.value for p in listed]),
            np.concatenate([p.quality for p in listed]),
            np.concatenate([p.received for p in listed]),
            events,
        )

    def in_order(self) -> Samples:
        """The same samples by receive time (a stable sort; receive times of one session are never alike)."""
        if np.all(self.received[1:] >= self.received[:-1]):
            return self
        order = np.argsort(self.received, kind="stable")
        return Samples(
            self.tag[order], self.time[order], self.value[order], self.quality[order], self.received[order], self.events
        )


class Growing:
    """An int64 array with room to grow; `of` looks positions up, `NOTHING` for negative ones.

    Examples
    --------
    >>> cells = Growing(); cells.append(7)
    0
    >>> cells.of(np.array([0, -1])).tolist()
    [7, -1]
    """

    def __init__(self) -> None:
        self._cells = np.empty(64, np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, value: int) -> int:
        """Add a cell; its position."""
        if self._size == len(self._cells):
            self._cells = np.concatenate((self._cells, np.empty_like(self._cells)))
        self._cells[self._size] = value
        self._size += 1
        return self._size - 1

    @property
    def cells(self) -> Ints:
        """The cells in use, to be read and changed; valid until the next `append`."""
        return self._cells[: self._size]

    def of(self, positions: Ints) -> Ints:
        """The cells at `positions`."""
        if not self._size:
            return np.full(len(positions), NOTHING, np.int64)
        out: Ints = np.where(positions >= 0, self._cells[np.maximum(positions, 0)], NOTHING)
        return out
