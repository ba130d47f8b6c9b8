"""Puts rows back in order before the operators see them: by tag and time, one row a (tag, time), the last write wins.

Rows wait until their tag's watermark has passed them. A row at or before what was already handed on is late: it is given
out apart, to correct results already published.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.jit import njit
from iiot_dask.flow.marks import NEVER, Marks

KEEP, READY, LATE = 0, 1, 2


@njit
def classify(ids: Any, times: Any, marks: Any, released: Any, out: Any) -> None:
    """`out` uint8[n]: LATE at or before `released[id]`, READY at or before `marks[id]`, else KEEP."""
    for i in range(len(ids)):
        t, g = times[i], ids[i]
        out[i] = LATE if t <= released[g] else (READY if t <= marks[g] else KEEP)


@njit
def order(ids: Any, times: Any, picked: Any, tags: int, out: Any) -> int:
    """Positions of the rows where `picked`, by (id, time), the last of equal ones only; how many were written to `out`.

    Counting sort by id, then insertion inside a tag: rows come nearly sorted, so this is linear; a tag that is far out
    of order is sorted by merge.
    """
    start = np.zeros(tags + 1, np.int64)
    for i in range(len(ids)):
        if picked[i]:
            start[ids[i] + 1] += 1
    for g in range(tags):
        start[g + 1] += start[g]
    fill = start[:-1].copy()
    rows = np.empty(start[tags], np.int64)
    for i in range(len(ids)):
        if picked[i]:
            rows[fill[ids[i]]] = i
            fill[ids[i]] += 1
    n = 0
    for g in range(tags):
        a, b = start[g], start[g + 1]
        if a == b:
            continue
        inversions = 0
        for j in range(a + 1, b):
            if times[rows[j]] < times[rows[j - 1]]:
                inversions += 1
        if inversions > 64:
            part = rows[a:b].copy()
            rows[a:b] = part[np.argsort(times[part], kind="mergesort")]
        elif inversions:
            for j in range(a + 1, b):
                row = rows[j]
                k = j
                while k > a and times[rows[k - 1]] > times[row]:
                    rows[k] = rows[k - 1]
                    k -= 1
                rows[k] = row
        for j in range(a, b):
            if j + 1 < b and times[rows[j + 1]] == times[rows[j]]:
                continue
            out[n] = rows[j]
            n += 1
    return n


def times_of(frame: pl.DataFrame) -> npt.NDArray[np.int64]:
    """The time column as int64 ns, without a copy."""
    return frame.get_column("time").to_physical().to_numpy()


class Reorder:
    """The rows that wait for their watermark.

    Parameters
    ----------
    rows_max
        Most rows that wait. Beyond it the oldest are handed on although their watermark has not come: later rows of
        that time then count as late and correct the results. `forced` counts them.
    """

    def __init__(self, rows_max: int = 5_000_000) -> None:
        self.rows_max = rows_max
        self.waiting: pl.DataFrame | None = None
        self.released = np.empty(0, np.int64)
        self.forced = 0

    def push(self, frame: pl.DataFrame, marks: Marks, tags: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """(rows in order, late rows) after `frame` (id, time, …) came; the rest waits."""
        rows = frame if self.waiting is None else pl.concat([self.waiting, frame])
        if tags > len(self.released):
            self.released = np.concatenate([self.released, np.full(tags - len(self.released), NEVER, np.int64)])
        ids, times, upto = rows.get_column("id").to_numpy(), times_of(rows), marks.of(tags)
        kind = np.empty(len(ids), np.uint8)
        classify(ids, times, upto, self.released, kind)
        waiting = int((kind == KEEP).sum())
        if waiting > self.rows_max:
            self.forced += waiting - self.rows_max
            over = np.partition(times[kind == KEEP], waiting - self.rows_max)[waiting - self.rows_max]
            upto = np.maximum(upto, over)
            classify(ids, times, upto, self.released, kind)
        np.maximum(self.released, upto, out=self.released)
        picked = np.empty(len(ids), np.int64)
        n = order(ids, times, kind == READY, tags, picked)
        self.waiting = rows.filter(pl.Series(kind == KEEP)) if waiting else None
        late = rows.filter(pl.Series(kind == LATE))
        return rows[picked[:n]], late
