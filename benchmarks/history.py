"""History against plain Parquet in the same run: bytes, append, seal, scan, windows, one tag x one hour.

Run: ``iiot-dask bench history [--samples 20000000] [--tags 2000] [--json]``. Half the tags sample at 1 Hz, half every
10 s; times are exact, of ms jitter, or of us jitter (50/40/10 %); values are decimals, counters, states and floats. 1 % of the
rows come late. Rows are appended in time order, as a live system does, then compacted. The peer is Parquet tuned for such data
(sorted by tag and time, delta times, dictionary values, zstd 3), read by Polars.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from iiot_dask.core.batch import Batch
from iiot_dask.history import History, write_block

T0 = 1_790_000_000 * 10**9 // (86_400 * 10**9) * 86_400 * 10**9
FLUSH_S = 60


def values(kind: int, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values of one sensor class at sample numbers `at`."""
    if kind == 0:
        return np.round(20 + 5 * np.sin(at / 3000) + rng.normal(0, 0.05, len(at)), 2)
    if kind == 1:
        return np.round(at * 0.25, 2)
    if kind == 2:
        return (at // 500 % 4).astype(float)
    if kind == 3:
        return np.round(rng.normal(0, 30, len(at))) / 256
    return (100 + np.cumsum(rng.normal(0, 0.1, len(at)))).astype(np.float32).astype(float)


def signals(tags: int, seconds: int, rng: np.random.Generator) -> pl.DataFrame:
    """Every sample, by tag then time: tag id, time, value."""
    parts = []
    for tag in range(tags):
        step = 1 if tag % 2 else 10
        at = np.arange(0, seconds, step)
        when = T0 + at * 10**9
        jitter = tag % 10
        if 5 <= jitter < 9:
            when = when + rng.integers(-1, 2, len(at)) * 10**6
        elif jitter == 9:
            when = when + rng.integers(-500, 500, len(at)) * 1000
        parts.append((np.full(len(at), tag, np.uint32), when, values(tag // 2 % 5, at // step, rng)))
    return pl.DataFrame([np.concatenate([p[i] for p in parts]) for i in range(3)], schema=["tag", "time", "value"])


def batches(rows: pl.DataFrame, rng: np.random.Generator) -> Iterator[Batch]:
    """The rows as they arrive: a minute at a time, 1 % of them up to an hour late."""
    arrival = rows["time"].to_numpy() + np.where(
        rng.random(rows.height) < 0.01, rng.integers(0, 3600 * 10**9, rows.height), 0
    )
    order = np.argsort(arrival // (FLUSH_S * 10**9), kind="stable")
    cells = (arrival // (FLUSH_S * 10**9))[order]
    for at in np.split(order, np.flatnonzero(np.diff(cells)) + 1):
        part = rows[at]
        yield Batch.of(
            tag=part["tag"].to_numpy(), time=part["time"].to_numpy(), value=part["value"].to_numpy(),
            received=np.full(len(at), arrival[at].max()),
        )  # fmt: skip


class Clock:
    """Times sections; rates in samples/s and MB/s of 16-byte samples."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.report: dict[str, Any] = {"samples": samples}

    def rate(self, name: str, seconds: float) -> None:
        """Record a section that handled every sample."""
        self.report[name] = {
            "seconds": round(seconds, 3),
            "msamples_per_s": round(self.samples / seconds / 1e6, 2),
            "mb_per_s": round(self.samples * 16 / seconds / 1e6),
        }

    def best(self, name: str, function: Any, repeats: int = 3) -> Any:
        """Record the best of some calls, in ms; the last result."""
        found = []
        for _ in range(repeats):
            begin = time.perf_counter()
            out = function()
            found.append(time.perf_counter() - begin)
        self.report[name] = round(min(found) * 1e3, 2)
        return out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="iiot-dask bench history", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=20_000_000)
    parser.add_argument("--tags", type=int, default=2_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rng = np.random.default_rng(4)
    rows = signals(options.tags, round(options.samples / options.tags / 0.55), rng)
    names = [f"site1/line{i % 20}/device{i}/value" for i in range(options.tags)]
    folder = Path(tempfile.mkdtemp())
    try:
        report = measure(folder, rows, names, rng)
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:28} {value}")
    return 0


def measure(folder: Path, rows: pl.DataFrame, names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    clock = Clock(rows.height)
    history = History(folder / "history")
    history.tags.ensure(names)
    arriving = list(batches(rows, rng))
    begin = time.perf_counter()
    for i, batch in enumerate(arriving):
        history.add(write_block(history.url, batch, f"b-{i}"))
    clock.rate("append_and_flush", time.perf_counter() - begin)
    del arriving
    clock.report["hot_bytes_per_sample"] = round(history.info().bytes_per_sample, 3)
    clock.best("hot_hourly_ms", lambda: history.aggregate("1h").collect(), 1)
    begin = time.perf_counter()
    history.compact()
    clock.rate("compact", time.perf_counter() - begin)
    peers(clock, folder, rows, names)
    ours(clock, history, rows)
    return clock.report


def ours(clock: Clock, history: History, rows: pl.DataFrame) -> None:
    info = history.info()
    clock.report["bytes_per_sample"] = round(info.bytes_per_sample, 3)
    clock.report["ratio"] = round(info.ratio, 2)
    clock.report["bytes_to_parquet"] = round(info.bytes_per_sample / clock.report["parquet_bytes_per_sample"], 3)
    begin = time.perf_counter()
    total = seen = 0
    for frame in history.frames():
        seen += frame.height
        total += frame["value"].sum()
    clock.rate("scan", time.perf_counter() - begin)
    assert seen == rows.height
    hourly = clock.best("hourly_ms", lambda: history.aggregate("1h").collect())
    assert hourly["count"].sum() == rows.height
    assert np.isclose(hourly["sum"].sum(), total)
    clock.report["hourly_speedup"] = round(clock.report["parquet_hourly_ms"] / clock.report["hourly_ms"], 1)
    hour = T0 + 3_600 * 10**9
    one = clock.best(
        "one_tag_hour_ms", lambda: history.scan("site1/line1/device1/value", hour, 2 * hour - T0).collect(), 9
    )
    assert one.height in (3_600, 3_599, 3_601, 360)
    begin = time.perf_counter()
    assert history.verify().ok
    clock.rate("verify", time.perf_counter() - begin)


def peers(clock: Clock, folder: Path, rows: pl.DataFrame, names: list[str]) -> None:
    file = folder / "tuned.parquet"
    plain = rows.with_columns(
        tag=pl.Series(names).gather(rows["tag"]),
        time=rows["time"].cast(pl.Datetime("ns", "UTC")),
        quality=pl.lit(0, pl.UInt8),
    )
    table = plain.to_arrow(compat_level=pl.CompatLevel.oldest())
    begin = time.perf_counter()
    pq.write_table(
        table, file, compression="zstd", compression_level=3, use_dictionary=["tag", "value", "quality"],
        column_encoding={"time": "DELTA_BINARY_PACKED"}, row_group_size=1_000_000,
    )  # fmt: skip
    clock.rate("parquet_write", time.perf_counter() - begin)
    del table, plain
    clock.report["parquet_bytes_per_sample"] = round(file.stat().st_size / rows.height, 3)
    begin = time.perf_counter()
    pl.read_parquet(file)
    clock.rate("parquet_scan", time.perf_counter() - begin)
    lazy = pl.scan_parquet(file)
    windows = lazy.group_by("tag", pl.col("time").dt.truncate("1h")).agg(pl.len(), pl.col("value").mean())
    clock.best("parquet_hourly_ms", windows.collect)
    hour = pl.lit(T0 + 3_600 * 10**9).cast(pl.Datetime("ns", "UTC"))
    after = pl.lit(T0 + 7_200 * 10**9).cast(pl.Datetime("ns", "UTC"))
    one = lazy.filter((pl.col("tag") == names[1]) & (pl.col("time") >= hour) & (pl.col("time") < after))
    clock.best("parquet_one_tag_hour_ms", one.collect, 9)


if __name__ == "__main__":
    raise SystemExit(main())
