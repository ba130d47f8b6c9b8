"""The naive twin of a history: a dict (tag, time) -> (value, quality), and its answers as frames."""

from __future__ import annotations

import math
from collections import defaultdict

import polars as pl

from iiot_dask.history.aggregate import SCHEMA as WINDOWS
from iiot_dask.history.scan import SCHEMA as SAMPLES


class Oracle:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], tuple[float, int]] = {}
        self.order: list[str] = []

    def append(self, rows: list[tuple[str, int, float, int]]) -> None:
        for tag, time, value, quality in rows:
            if tag not in self.order:
                self.order.append(tag)
            self.rows[tag, time] = (value, quality)

    def scan(self, tags=None, start=None, end=None) -> pl.DataFrame:
        keys = [
            (tag, time)
            for tag, time in self.rows
            if (tags is None or tag in tags) and (start is None or time >= start) and (end is None or time < end)
        ]
        keys.sort(key=lambda k: (self.order.index(k[0]), k[1]))
        return pl.DataFrame(
            {
                "tag": [k[0] for k in keys],
                "time": pl.Series([k[1] for k in keys], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC")),
                "value": pl.Series([self.rows[k][0] for k in keys], dtype=pl.Float64),
                "quality": pl.Series([self.rows[k][1] for k in keys], dtype=pl.UInt8),
            },
            schema=SAMPLES,
        )

    def aggregate(self, every: int, tags=None, start=None, end=None) -> pl.DataFrame:
        windows = defaultdict(list)
        for tag, time, value, quality in self.scan(tags, start, end).with_columns(pl.col("time").to_physical()).rows():
            if quality < 128 and not math.isnan(value):
                windows[tag, time // every * every].append(value)
        keys = sorted(windows, key=lambda k: (self.order.index(k[0]), k[1]))
        rows = [windows[k] for k in keys]
        sums = [_sum(r) for r in rows]
        return pl.DataFrame(
            {
                "tag": [k[0] for k in keys],
                "time": pl.Series([k[1] for k in keys], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC")),
                "count": [len(r) for r in rows],
                "min": [min(r) for r in rows],
                "max": [max(r) for r in rows],
                "mean": [s / len(r) for s, r in zip(sums, rows, strict=True)],
                "sum": sums,
                "first": [r[0] for r in rows],
                "last": [r[-1] for r in rows],
            },
            schema=WINDOWS,
        )


def _sum(values: list[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
