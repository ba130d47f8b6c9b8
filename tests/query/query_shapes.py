"""Histories of every shape: hot, half sealed, sealed, with late rows, rewrites and bad samples."""

from __future__ import annotations

import numpy as np
import polars as pl

from iiot_dask.history import History

HOUR = 3_600 * 10**9
T0 = 1_790_000_000 * 10**9 // (24 * HOUR) * 24 * HOUR
TIME = pl.Datetime("ns", "UTC")
SHAPES = ("hot", "half", "sealed", "late")


def rows(seed: int, start: int, hours: float, tags: int = 5) -> pl.DataFrame:
    """Irregular samples of `tags` tags: gaps, NaN, bad ones, in order of time."""
    rng = np.random.default_rng(seed)
    n = int(hours * 120)
    return pl.DataFrame(
        {
            "tag": [f"line{i % 2}/tag{i}" for i in rng.integers(0, tags, n).tolist()],
            "time": pl.Series(np.sort(rng.integers(0, int(hours * HOUR), n)) // 10**6 * 10**6 + start).cast(TIME),
            "value": np.where(rng.random(n) < 0.03, np.nan, np.round(rng.normal(20, 5, n), 1)),
            "quality": pl.Series(np.where(rng.random(n) < 0.05, 128, rng.choice([0, 0, 64], n)), dtype=pl.UInt8),
        }
    )


def build(path, shape: str) -> History:
    """About a day of samples in the given shape."""
    history = History(path)
    for part in range(4):
        history.append(rows(part, T0 + part * 6 * HOUR, 6))
        if shape == "half" and part == 1:
            history.compact()
    if shape in ("sealed", "late"):
        history.compact()
    if shape == "late":
        again = history.scan().collect().sample(40, seed=1, shuffle=True)
        history.append(again.with_columns(value=pl.lit(99.0), quality=pl.lit(0, pl.UInt8)))
        history.append(rows(9, T0 + 3 * HOUR, 2, tags=2))
        history.append(pl.DataFrame({"tag": ["line0/old"], "time": [T0 - 40 * 24 * HOUR], "value": [7.0]}))
    return history


def good(history: History) -> pl.DataFrame:
    """The samples that count in aggregates, by the plainest way there is."""
    return history.scan().collect().filter((pl.col("quality") < 128) & pl.col("value").is_not_nan())
