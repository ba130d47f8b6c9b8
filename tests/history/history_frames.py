"""Frames for the history tests."""

from __future__ import annotations

import numpy as np
import polars as pl

DAY = 86_400 * 10**9
HOUR = 3_600 * 10**9
T0 = 1_790_000_000 * 10**9 // DAY * DAY


def samples(rows) -> pl.DataFrame:
    """(tag, time ns, value[, quality]) tuples as a frame."""
    return pl.DataFrame(
        {
            "tag": [r[0] for r in rows],
            "time": pl.Series([r[1] for r in rows], dtype=pl.Int64),
            "value": pl.Series([r[2] for r in rows], dtype=pl.Float64),
            "quality": pl.Series([r[3] if len(r) > 3 else 0 for r in rows], dtype=pl.UInt8),
        }
    )


def regular(tags: int, seconds: int, step: int = 1, start: int = T0, seed: int = 0) -> pl.DataFrame:
    """`tags` tags at one sample each `step` seconds, in order of time."""
    at = np.arange(0, seconds, step)
    rng = np.random.default_rng(seed)
    n = tags * len(at)
    return pl.DataFrame(
        {
            "tag": np.tile(np.array([f"site/line{i % 3}/tag{i}" for i in range(tags)]), len(at)),
            "time": pl.Series(np.repeat(start + at * 10**9, tags)).cast(pl.Datetime("ns", "UTC")),
            "value": np.round(20 + rng.normal(0, 1, n), 2),
        }
    )
