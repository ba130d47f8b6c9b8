"""Data for the views; no widgets here. One store serves all browser sessions and never grows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from iiot_dask.core.tags import matches
from iiot_dask.dashboard.snapshot import Snapshot

POINTS_MAX = 900
"""Snapshots kept: a quarter of an hour at one a second."""
CHOICES_MAX = 200
"""Tags offered at once for one filter; a longer list is no help to anybody."""

SERIES = (
    "time_ms",
    "rate",
    "ack_p50_ms",
    "ack_p99_ms",
    "done_p50_ms",
    "done_p99_ms",
    "now",
    "wanted",
    "forecast",
    "backlog",
)
SERIES_DTYPE = np.dtype([(name, np.float64) for name in SERIES])


class TrendSource(Protocol):
    """Where the trend of a tag comes from."""

    def names(self) -> Sequence[str]:
        """Every tag name."""
        ...

    def trend(
        self, tag: str, start_ns: int, end_ns: int, points: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Times (ns) and values, at most `points` of them, of one tag."""
        ...


class Store:
    """A ring of snapshots as columns, the newest snapshot whole, and a way to a tag's trend.

    Parameters
    ----------
    source
        Gives the engine's newest snapshot, or None while there is none.
    trends
        Where trends come from.

    Examples
    --------
    >>> from iiot_dask.dashboard.testing import example_snapshot
    >>> store = Store(lambda: example_snapshot(samples_per_s=5.0), trends=None)
    >>> store.poll()
    True
    >>> store.since(-1)[1]["rate"].tolist(), store.newest.plant
    ([5.0], 'example')
    """

    def __init__(self, source: Callable[[], Snapshot | None], trends: TrendSource | None) -> None:
        self.source = source
        self.trends = trends
        self.newest: Snapshot | None = None
        self.polls = 0
        self._ring = np.zeros(POINTS_MAX, SERIES_DTYPE)
        self._lock = threading.Lock()

    def poll(self) -> bool:
        """Take the newest snapshot in; False when it is none or one we have."""
        snapshot = self.source()
        if snapshot is None or (self.newest is not None and snapshot.time_ns <= self.newest.time_ns):
            return False
        with self._lock:
            self._ring[self.polls % POINTS_MAX] = _row(snapshot)
            self.polls += 1
            self.newest = snapshot
        return True

    def since(self, seen: int) -> tuple[int, npt.NDArray[np.void]]:
        """Rows (SERIES_DTYPE) after the first `seen` ones, as far as the ring still has them, and the new count."""
        with self._lock:
            first = max(0, seen, self.polls - POINTS_MAX)
            return self.polls, self._ring[np.arange(first, self.polls) % POINTS_MAX].copy()

    def choices(self, pattern: str) -> list[str]:
        """At most `CHOICES_MAX` tag names that hold `pattern` (or match it, if it is a glob), in catalogue order."""
        if self.trends is None:
            return []
        names = self.trends.names()
        glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
        return [names[i] for i in matches(names, glob)[:CHOICES_MAX]]


def _row(snapshot: Snapshot) -> tuple[float, ...]:
    workers = snapshot.workers
    return (
        snapshot.time_ns / 1e6,
        snapshot.samples_per_s,
        snapshot.acknowledged.p50 * 1e3,
        snapshot.acknowledged.p99 * 1e3,
        snapshot.processed.p50 * 1e3,
        snapshot.processed.p99 * 1e3,
        workers.now,
        workers.wanted,
        float("nan") if workers.forecast is None else workers.forecast,
        snapshot.backlog_rows,
    )
