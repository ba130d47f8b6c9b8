"""From notification columns to rows: qualities, times, the first value after subscribing, what is no number. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask.core.quality import Quality, from_opcua

from .kernels import INEXACT, NULL, NUMBER, OTHER
from .notification import Columns

WAITING = 0x80320000
"""BadWaitingForInitialData."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a notification gives: columns of rows, and what did not become one."""

    tag: npt.NDArray[np.uint32]
    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    overflow: npt.NDArray[np.uint32]
    """Tags whose queue overflowed at the server: samples were dropped there."""
    rejected: npt.NDArray[np.uint32]
    """Tags that sent something that is no number."""


class Book:
    """What is remembered of each tag between notifications: its last row, and whether its next value is the first one.

    After (re)subscribing a server reports each item's current value. It is a row unless it is the very row that was
    delivered last (same time and quality), or says nothing: no time at all, or `BadWaitingForInitialData` (or no value
    and no reason) with no time after the subscription.

    Examples
    --------
    >>> book = Book()
    >>> book.subscribe(np.array([0]), now_ns=1_000)
    >>> one = Columns(*(np.array([v], d) for v, d in
    ...     [(0, "u4"), (0, "u1"), (2.5, "f8"), (0, "u4"), (900, "i8"), (0, "i8")]))
    >>> book.rows(one, 2_000).time, book.subscribe(np.array([0]), 3_000), len(book.rows(one, 4_000).time)
    (array([900]), None, 0)
    """

    def __init__(self) -> None:
        self._last_ns = np.empty(0, np.int64)
        self._last_quality = np.empty(0, np.uint8)
        self._fresh = np.empty(0, np.bool_)
        self._since_ns = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._last_ns)

    def grow(self, tags: int) -> None:
        """Make room for tag numbers below `tags`."""
        more = tags - len(self)
        if more > 0:
            self._last_ns = np.concatenate([self._last_ns, np.full(more, np.iinfo(np.int64).min)])
            self._last_quality = np.concatenate([self._last_quality, np.zeros(more, np.uint8)])
            self._fresh = np.concatenate([self._fresh, np.zeros(more, np.bool_)])
            self._since_ns = np.concatenate([self._since_ns, np.zeros(more, np.int64)])

    def subscribe(self, tags: npt.NDArray[np.integer], now_ns: int) -> None:
        """The next value of each of these is its current one, not a change."""
        self.grow(int(tags.max(initial=-1)) + 1)
        self._fresh[tags] = True
        self._since_ns[tags] = now_ns

    def rows(self, columns: Columns, received_ns: int) -> Rows:
        """Rows of one notification, in its order. Handles are tag numbers; unknown ones are left out."""
        known = columns.handle < len(self)
        tag = np.where(known, columns.handle, 0)
        quality = qualities(columns)
        time, replaced = times(columns, received_ns)
        quality = np.where(replaced & (quality < Quality.BAD), np.uint8(Quality.UNCERTAIN_TIME_REPLACED), quality)
        keep = known & (columns.kind != OTHER)
        if self._fresh.any() and len(tag):
            keep &= ~self._stale_first(tag, known, columns, time, quality)
        rows = np.flatnonzero(keep)
        kept = tag[rows]
        # Of several rows of a tag the last assignment wins, which is the newest.
        self._last_ns[kept] = time[rows]
        self._last_quality[kept] = quality[rows]
        value = np.where(quality < Quality.BAD, columns.value, np.where(columns.kind == NUMBER, columns.value, np.nan))
        lost = known & ((columns.status & 0x0C80) == 0x0480)  # info type DataValue, overflow bit (Part 4, 7.39)
        other = known & (columns.kind == OTHER)
        return Rows(kept, time[rows], value[rows], quality[rows], tag[lost], tag[other])

    def _stale_first(
        self,
        tag: npt.NDArray[np.uint32],
        known: npt.NDArray[np.bool_],
        columns: Columns,
        time: npt.NDArray[np.int64],
        quality: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.bool_]:
        """Where a tag's first value after subscribing says nothing new."""
        stale = np.zeros(len(tag), np.bool_)
        _, at = np.unique(np.where(known, tag, np.iinfo(np.uint32).max), return_index=True)
        at = at[known[at]]
        at = at[self._fresh[tag[at]]]
        here = tag[at]
        self._fresh[here] = False
        seen = (time[at] == self._last_ns[here]) & (quality[at] == self._last_quality[here])
        bad = quality[at] >= Quality.BAD
        waiting = (columns.status[at] & 0xFFFF0000) == WAITING
        given = np.maximum(columns.source[at], columns.server[at])
        # Bad for another reason is news at any time; no value and no reason is not.
        empty = waiting | ((columns.kind[at] == NULL) & (columns.status[at] >> 31 == 0))
        untimed = (given == 0) & ~bad
        stale[at] = seen | (empty & (given <= self._since_ns[here])) | untimed
        return stale


def qualities(columns: Columns) -> npt.NDArray[np.uint8]:
    """StatusCodes as our codes; good or uncertain without a number becomes `BAD_NO_VALUE`, an inexact one `BAD_RANGE`."""
    codes, which = np.unique(columns.status, return_inverse=True)
    mapped = np.array([from_opcua(int(code)) for code in codes], np.uint8)
    quality = mapped[which] if len(codes) else np.empty(0, np.uint8)
    usable = quality < Quality.BAD
    absent = (columns.kind == NULL) | np.isnan(columns.value) & (columns.kind == NUMBER)
    quality[usable & absent] = Quality.BAD_NO_VALUE
    quality[usable & ((columns.kind == INEXACT) | np.isinf(columns.value))] = Quality.BAD_RANGE
    return quality


def times(columns: Columns, received_ns: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Source time, else server time, else receive time; and where it is not the source's own."""
    replaced = columns.source == 0
    time = np.where(replaced, np.where(columns.server == 0, received_ns, columns.server), columns.source)
    return time, replaced
