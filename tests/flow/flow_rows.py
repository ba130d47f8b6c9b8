"""Rows as devices send them: disordered, repeated, with gaps; and every operator once."""

import numpy as np
import polars as pl
from hypothesis import strategies as st

from iiot_dask.flow import pipeline

STAMP = pl.Datetime("ns", "UTC")
S = 1_000_000_000
GOOD = pl.col("quality") < 64

PIPELINES = {
    "filter": pipeline().filter(GOOD, pl.col("tag") != "a/1"),
    "map": pipeline().map(value=pl.col("value") * 2, twice=pl.col("value") + 1),
    "function": pipeline().map(np.sqrt),
    "tumbling": pipeline().window("5s", ["count", "min", "max", "mean", "sum", "first", "last", "std", "twm", "range"]),
    "sliding": pipeline().window("6s", ["count", "mean", "std", "twm", "max"], every="2s"),
    "percentiles": pipeline().window("6s", ["p50", "p99"], every="3s"),
    "session": pipeline().session("3s", ["count", "sum", "twm", "duration", "first", "last"]),
    "step": pipeline().resample("2s", gap="20s"),
    "linear": pipeline().resample("3s", "linear", gap="20s"),
    "delta": pipeline().delta(),
    "rate": pipeline().rate("1m"),
    "counter": pipeline().counter(16),
    "threshold": pipeline().threshold(9, 4),
    "lasting": pipeline().lasting("4s", above=5),
    "durations": pipeline().map(value=pl.col("value") // 5).durations(),
    "beside": pipeline().beside(other="a/1", tolerance="5s"),
    "group": pipeline().resample("2s", gap="20s").group(1, ["count", "sum", "mean", "min", "max", "spread"]),
    "top": pipeline().window("5s", ["max"]).top_k(2, by="max"),
    "derive": pipeline().window("5s", ["mean"]).derive("{tag}/mean", value="mean").delta(),
    "peaks": pipeline().peaks(4, "both"),
    "rise": pipeline().rise(6, "5s"),
    "fall": pipeline().fall(6, "5s"),
    "sequence": pipeline().sequence(pl.col("value") < 5, pl.col("value") > 8, pl.col("value") < 3, within="15s"),
    "absence": pipeline().absence(pl.col("value") > 8, pl.col("value") < 5, within="4s"),
    "vibration": pipeline().vibration(16, 1.0, [(0.1, 0.4)]),
    "long": pipeline()
    .filter(GOOD)
    .rate("1s")
    .window("4s", ["mean", "max"], every="2s")
    .threshold(0.5, on="max")
    .group(1, ["max"], on="mean"),
}


def frame_of(rows):
    """(tag, second, value, bad) tuples as a frame; value is rounded so that equal values happen."""
    tags, seconds, values, bad = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pl.DataFrame(
        {
            "tag": pl.Series(tags, dtype=pl.String),
            "time": (pl.Series(seconds, dtype=pl.Float64) * S).cast(pl.Int64).cast(STAMP),
            "value": pl.Series(values, dtype=pl.Float64),
            "quality": pl.Series([128 if b else 0 for b in bad], dtype=pl.UInt8),
        }
    )


@st.composite
def arrivals(draw, lateness_s=5.0, size=120):
    """Rows in the order they arrive: each at most `lateness_s` behind the newest row before it; some come twice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(0, size))
    tags = [f"{g}/{i}" for g in "ab" for i in range(draw(st.integers(1, 3)))]
    pace = draw(st.sampled_from([0.2, 0.7, 2.0, 6.0]))
    due = np.cumsum(rng.exponential(pace, n)).round(1)
    rows = [
        (tags[rng.integers(len(tags))], float(t), float(rng.integers(0, 14)), bool(rng.random() < 0.1)) for t in due
    ]
    # Arrival = due time + a delay within the lateness: sorting by arrival keeps the promise the watermark makes.
    delay = rng.uniform(0, lateness_s * 0.99, n)
    rows = [rows[i] for i in np.argsort(due + delay, kind="stable")]
    for _ in range(draw(st.integers(0, 4)) if rows else 0):
        at = int(rng.integers(len(rows)))
        rows.insert(at + 1, rows[at])
    return rows
