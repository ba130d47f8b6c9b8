"""Counters, gauges and latency histograms of one process, and a snapshot of them all.

Names carry their unit last and `_total` for counters (OpenMetrics style); labels are few and never a tag: with
10 million tags a label per tag would be 10 million series.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = tuple[tuple[str, str], ...]

SERIES_MAX = 10_000
"""Most (name, labels) pairs a `Metrics` holds; further ones are counted in ``metrics_series_dropped_total``."""

_BUCKETS_PER_DECADE = 40
_DECADES = 12
_LOW_S = 1e-7


class Histogram:
    """Log-spaced histogram of positive seconds (100 ns to 100,000 s, 40 buckets a decade: quantiles within 6 %).

    Fixed size: 481 int64. `observe` takes whole arrays.

    Examples
    --------
    >>> h = Histogram()
    >>> h.observe(np.array([0.010] * 99 + [1.0]))
    >>> round(h.quantile(0.5), 3), h.count
    (0.01, 100)
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BUCKETS_PER_DECADE * _DECADES + 1, np.int64)
        self.sum_s = 0.0
        self.max_s = 0.0
        self._lock = threading.Lock()

    def observe(self, seconds: npt.NDArray[np.float64] | float) -> None:
        """Add one value or an array of them, in seconds; negatives (clock steps) count as the lowest bucket."""
        values = np.atleast_1d(np.asarray(seconds, np.float64))
        if not values.size:
            return
        slot = np.floor(np.log10(np.maximum(values, _LOW_S) / _LOW_S) * _BUCKETS_PER_DECADE).astype(np.int64)
        found = np.bincount(np.clip(slot, 0, len(self.counts) - 1), minlength=len(self.counts))
        with self._lock:
            self.counts += found
            self.sum_s += float(values.sum())
            self.max_s = max(self.max_s, float(values.max()))

    @property
    def count(self) -> int:
        """Values seen."""
        return int(self.counts.sum())

    def quantile(self, q: float, since: npt.NDArray[np.int64] | None = None) -> float:
        """The q-quantile (0..1) in seconds, geometric middle of its bucket; NaN when empty.

        With `since`, a copy of `counts` from earlier, only of the values that came after it.
        """
        counts = self.counts if since is None else self.counts - since
        total = counts.sum()
        if not total:
            return float("nan")
        slot = int(np.searchsorted(np.cumsum(counts), max(1, np.ceil(q * total))))
        return float(_LOW_S * 10 ** ((slot + 0.5) / _BUCKETS_PER_DECADE))


class Metrics:
    """All series of one process; thread-safe.

    Examples
    --------
    >>> m = Metrics()
    >>> m.count("samples_total", 5, adapter="cells"); m.count("samples_total", 2, adapter="cells")
    >>> m.gauge("queue_rows", 7)
    >>> m.value("samples_total", adapter="cells"), m.value("queue_rows"), m.value("never_set")
    (7.0, 7.0, 0.0)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], Histogram] = {}

    @staticmethod
    def _key(name: str, labels: Mapping[str, str]) -> tuple[str, Labels]:
        return name, tuple(sorted(labels.items()))

    def _room(self, key: tuple[str, Labels]) -> bool:
        if key in self._values or len(self._values) < SERIES_MAX:
            return True
        dropped = ("metrics_series_dropped_total", ())
        self._values[dropped] = self._values.get(dropped, 0.0) + 1
        return False

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add `by` to a counter."""
        key = self._key(name, labels)
        with self._lock:
            if self._room(key):
                self._values[key] = self._values.get(key, 0.0) + by

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        key = self._key(name, labels)
        with self._lock:
            if self._room(key):
                self._values[key] = float(value)

    def value(self, name: str, **labels: str) -> float:
        """A counter's or gauge's value; 0.0 if it was never touched."""
        return self._values.get(self._key(name, labels), 0.0)

    def total(self, name: str) -> float:
        """A counter's sum over all its labels."""
        with self._lock:
            return sum(v for (n, _), v in self._values.items() if n == name)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram of that name, made on first use (at most `SERIES_MAX`)."""
        key = self._key(name, labels)
        with self._lock:
            if key not in self._histograms and len(self._histograms) >= SERIES_MAX:
                return Histogram()
            return self._histograms.setdefault(key, Histogram())

    def snapshot(self) -> list[dict[str, Any]]:
        """Every series as plain data: name, labels, and value or count / p50 / p99 / max in seconds."""
        with self._lock:
            rows: list[dict[str, Any]] = [
                {"name": n, "labels": dict(labels), "value": v} for (n, labels), v in sorted(self._values.items())
            ]
            histograms = sorted(self._histograms.items(), key=lambda item: item[0])
        for (name, labels), h in histograms:
            rows.append(
                {
                    "name": name,
                    "labels": dict(labels),
                    "count": h.count,
                    "p50": h.quantile(0.5),
                    "p99": h.quantile(0.99),
                    "max": h.max_s,
                }
            )
        return rows
