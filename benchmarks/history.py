"""History against its peers in one run: append and flush, seal, compact, scan, windows, one tag x one hour, bytes, memory.

Run: ``iiot-dask bench history [--samples 60000000] [--tags 2000] [--wide-tags 10000000] [--short] [--json]``.

Data: half the tags sample at 1 Hz, half every 10 s; times are exact, of ms jitter, or of us jitter (50/40/10 %); values are
decimals, counters, states, ADC counts and float32 walks. 1 % of the rows come up to an hour late. Rows arrive in micro-batches of
50,000, a flush writes and commits a million of them, as a live system does at half a million a second; then everything is
compacted. *Sealed* is what a bulk load does: sorted samples straight to chunks.

Peers: Parquet tuned for such data (sorted by tag and time, delta times, dictionary values, zstd 3) read by Polars; DuckDB's native
table; ClickHouse's MergeTree through chdb, where installed (``uv sync --group bench``). All answer the same questions, and the
answers are compared: samples, counts, extremes by their bits; means to 1e-12, because no two engines add in the same order.

``--wide-tags`` N: N tags of 3 samples each, for the cost of having many.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from iiot_dask.core.batch import Batch
from iiot_dask.history import History, write_block

DAY = 86_400 * 10**9
HOUR = 3_600 * 10**9
T0 = 1_790_000_000 * 10**9 // DAY * DAY
BATCH_ROWS, FLUSH_ROWS = 50_000, 1_000_000
SLICE_TAGS = 200


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


def arrivals(rows: pl.DataFrame, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """When each row arrives (1 % up to an hour late), and the order in which they do."""
    late = np.where(rng.random(rows.height) < 0.01, rng.integers(0, HOUR, rows.height), 0)
    arrival = rows["time"].to_numpy() + late
    return arrival, np.argsort(arrival)


def flushes(rows: pl.DataFrame, rng: np.random.Generator) -> Iterator[list[Batch]]:
    """The rows as they arrive: micro-batches, in lists that one flush writes."""
    arrival, order = arrivals(rows, rng)
    for a in range(0, len(order), FLUSH_ROWS):
        batches = []
        for b in range(a, min(a + FLUSH_ROWS, len(order)), BATCH_ROWS):
            at = order[b : min(b + BATCH_ROWS, a + FLUSH_ROWS)]
            part = rows[at]
            batches.append(
                Batch.of(
                    tag=part["tag"].to_numpy(),
                    time=part["time"].to_numpy(),
                    value=part["value"].to_numpy(),
                    received=arrival[at],
                )
            )
        yield batches


class Clock:
    """Times sections; rates in samples/s and MB/s of 16-byte samples; the largest memory a section added."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.report: dict[str, Any] = {"samples": samples}

    def rate(self, name: str, seconds: float, memory: int | None = None) -> None:
        """Record a section that handled every sample."""
        self.report[name] = {
            "seconds": round(seconds, 3),
            "msamples_per_s": round(self.samples / seconds / 1e6, 2),
            "mb_per_s": round(self.samples * 16 / seconds / 1e6),
        }
        if memory is not None:
            self.report[name]["memory_mb"] = round(memory / 1e6)

    def best(self, name: str, function: Callable[[], Any], repeats: int = 3) -> Any:
        """Record the best of some calls, in ms; the last result."""
        found = []
        for _ in range(repeats):
            begin = time.perf_counter()
            out = function()
            found.append(time.perf_counter() - begin)
        self.report[name] = round(min(found) * 1e3, 3)
        return out


class Memory:
    """The most memory this process had above what it had at first, looked at every 20 ms."""

    def __enter__(self) -> Self:
        gc.collect()
        self._process = psutil.Process()
        self.most = 0
        self._base = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self._process.memory_info().rss - self._base)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="iiot-dask bench history", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=60_000_000)
    parser.add_argument("--tags", type=int, default=2_000)
    parser.add_argument("--wide-tags", type=int, default=0, help="also measure so many tags of 3 samples each")
    parser.add_argument("--short", action="store_true", help="2 M samples of 200 tags: every path, no figures to quote")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.short:
        options.samples, options.tags, options.wide_tags = 2_000_000, 200, 20_000
    folder = Path(tempfile.mkdtemp(prefix="iiot-bench-"))
    try:
        report = measure(folder, options.samples, options.tags)
        if options.wide_tags:
            report["wide"] = wide(folder / "wide", options.wide_tags)
    finally:
        shutil.rmtree(folder)
    report["process_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    if options.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:28} {value}")
    return 0


def measure(folder: Path, samples: int, tags: int) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    rows = signals(tags, round(samples / tags / 0.55), rng)
    names = [f"site1/line{i % 20}/device{i}/value" for i in range(tags)]
    clock = Clock(rows.height)
    warm_up(folder / "warm")
    history = History(folder / "history")
    history.tags.ensure(names)
    write(clock, history, rows, rng)
    seal(clock, folder, rows, names)
    answers = ours(clock, history, names)
    table = folder / "tuned.parquet"
    write_parquet(clock, table, rows, names)
    truth = parquet_answers(clock, table, names)
    compare(truth, answers)
    compare(truth, duckdb_answers(clock, folder, table, names))
    chdb = chdb_answers(clock, folder, table, names)
    if chdb is not None:
        compare(truth, chdb)
    goals(clock.report)
    return clock.report


def warm_up(folder: Path) -> None:
    """Every path once on few rows: what is measured is not the compiler."""
    rng = np.random.default_rng(1)
    rows = signals(40, 7_200, rng)
    history = History(folder)
    ids = history.tags.ensure([f"t{i}" for i in range(40)])
    for i, batches in enumerate(flushes(rows, rng)):
        history.add(write_block(history.url, Batch.concat(batches), f"warm-{i}"))
    history.compact()
    columns = (rows[name].to_numpy() for name in ("tag", "time", "value"))
    history.load(*columns, np.zeros(rows.height, np.uint8))
    for _ in history.frames():
        pass
    history.aggregate("1h").collect()
    assert len(ids) == 40
    assert history.verify().ok
    shutil.rmtree(folder)


def write(clock: Clock, history: History, rows: pl.DataFrame, rng: np.random.Generator) -> None:
    """Append and flush as a live system does; compact."""
    seconds = 0.0
    with Memory() as memory:
        for i, batches in enumerate(flushes(rows, rng)):
            begin = time.perf_counter()
            history.add(write_block(history.url, Batch.concat(batches), f"b-{i}"))
            seconds += time.perf_counter() - begin
    clock.rate("append_and_flush", seconds)
    del memory
    hot = history.info()
    clock.report["hot_bytes_per_sample"] = round(hot.bytes_per_sample, 3)
    clock.best("hot_hourly_ms", lambda: history.aggregate("1h").collect(), 1)
    with Memory() as memory:
        begin = time.perf_counter()
        done = history.compact()
        clock.rate("compact", time.perf_counter() - begin, memory.most)
    assert done.rows_after == rows.height
    info = history.info()
    clock.report["files"] = [hot.files, info.files]
    clock.report["bytes_per_sample"] = round(info.bytes_per_sample, 3)
    clock.report["ratio"] = round(info.ratio, 2)


def seal(clock: Clock, folder: Path, rows: pl.DataFrame, names: list[str]) -> None:
    """Sorted samples straight to sealed chunks, committed: what a bulk load costs."""
    history = History(folder / "sealed")
    ids = history.tags.ensure(names)
    step = max(1, rows.height // 10)
    seconds = 0.0
    for a in range(0, rows.height, step):
        part = rows[a : a + step]
        tag, time_ns, value = (part[name].to_numpy() for name in ("tag", "time", "value"))
        quality = np.zeros(len(tag), np.uint8)
        begin = time.perf_counter()
        history.load(ids[tag], time_ns, value, quality)
        seconds += time.perf_counter() - begin
    clock.rate("sealed_write", seconds)
    clock.report["sealed_bytes_per_sample"] = round(history.info().bytes_per_sample, 3)
    shutil.rmtree(folder / "sealed")


def digest(tag: pl.Series, time_ns: np.ndarray, value: np.ndarray) -> int:
    """A sum over samples that does not depend on their order, by the bits of every column."""
    h = tag.hash(1).to_numpy() ^ (time_ns.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    h ^= np.ascontiguousarray(value, np.float64).view(np.uint64) * np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(31)
    return int(np.add.reduce(h))


def wanted_hour(names: list[str]) -> tuple[str, int, int]:
    return names[1], T0 + HOUR, T0 + 2 * HOUR


Answers = dict[str, Any]


def ours(clock: Clock, history: History, names: list[str]) -> Answers:
    total = rows = 0
    with Memory() as memory:
        begin = time.perf_counter()
        for frame in history.frames():
            rows += frame.height
        clock.rate("scan", time.perf_counter() - begin, memory.most)
    for frame in history.frames():
        total += digest(frame["tag"], frame["time"].to_physical().to_numpy(), frame["value"].to_numpy())
    hourly = clock.best("hourly_ms", lambda: history.aggregate("1h").collect(), 5)
    tag, start, end = wanted_hour(names)
    one = clock.best("one_tag_hour_ms", lambda: history.scan(tag, start, end).collect(), 15)
    begin = time.perf_counter()
    assert history.verify().ok
    clock.rate("verify", time.perf_counter() - begin)
    return {
        "rows": rows,
        "digest": total & (2**64 - 1),
        "hourly": hourly.select(
            "tag", pl.col("time").to_physical().alias("time"), n="count", low="min", high="max", mean="mean"
        ),
        "one": one.select(pl.col("time").to_physical(), "value"),
    }


def write_parquet(clock: Clock, file: Path, rows: pl.DataFrame, names: list[str]) -> None:
    """The tuned file, a slice of tags at a time."""
    text = pl.Series(names)
    edges = np.searchsorted(rows["tag"].to_numpy(), np.arange(0, len(names) + SLICE_TAGS, SLICE_TAGS)).tolist()
    writer, seconds = None, 0.0
    for a, b in pairwise(edges):
        if a == b:
            continue
        part = rows[a:b]
        plain = pl.DataFrame(
            {
                "tag": text.gather(part["tag"]),
                "time": part["time"].cast(pl.Datetime("ns", "UTC")),
                "value": part["value"],
                "quality": pl.Series(np.zeros(b - a, np.uint8)),
            }
        ).to_arrow(compat_level=pl.CompatLevel.oldest())
        begin = time.perf_counter()
        if writer is None:
            writer = pq.ParquetWriter(
                file, plain.schema, compression="zstd", compression_level=3,
                use_dictionary=["tag", "value", "quality"], column_encoding={"time": "DELTA_BINARY_PACKED"},
            )  # fmt: skip
        writer.write_table(plain, row_group_size=1_000_000)
        seconds += time.perf_counter() - begin
    assert writer is not None
    begin = time.perf_counter()
    writer.close()
    clock.rate("parquet_write", seconds + time.perf_counter() - begin)
    clock.report["parquet_bytes_per_sample"] = round(file.stat().st_size / rows.height, 3)


def parquet_answers(clock: Clock, file: Path, names: list[str]) -> Answers:
    lazy = pl.scan_parquet(file)
    rows = total = 0
    begin = time.perf_counter()
    for part in lazy.collect_batches(chunk_size=1_000_000):
        rows += part.height
    seconds = time.perf_counter() - begin
    for part in lazy.collect_batches(chunk_size=1_000_000):
        total += digest(part["tag"], part["time"].to_physical().to_numpy(), part["value"].to_numpy())
    clock.rate("parquet_scan", seconds)
    value = pl.col("value")
    windows = lazy.group_by("tag", pl.col("time").dt.truncate("1h")).agg(
        n=pl.len(), low=value.min(), high=value.max(), mean=value.mean()
    )
    hourly = clock.best("parquet_hourly_ms", windows.collect)
    tag, start, end = wanted_hour(names)
    low, high = (pl.lit(t).cast(pl.Datetime("ns", "UTC")) for t in (start, end))
    one = lazy.filter((pl.col("tag") == tag) & (pl.col("time") >= low) & (pl.col("time") < high))
    found = clock.best("parquet_one_tag_hour_ms", one.collect, 15)
    return {
        "rows": rows,
        "digest": total & (2**64 - 1),
        "hourly": hourly.with_columns(pl.col("time").to_physical()),
        "one": found.select(pl.col("time").to_physical(), "value"),
    }


def duckdb_answers(clock: Clock, folder: Path, file: Path, names: list[str]) -> Answers:
    import duckdb

    home = folder / "peer.duckdb"
    with duckdb.connect(str(home)) as db:
        db.execute("set memory_limit = '6GB'")
        begin = time.perf_counter()
        # Times as int64 ns: DuckDB's TIMESTAMP WITH TIME ZONE holds microseconds only.
        db.execute(
            f"create table samples as select tag, epoch_ns(time) as time, value, quality from read_parquet('{file}')"
        )
        db.execute("checkpoint")
        clock.rate("duckdb_write", time.perf_counter() - begin)
        clock.report["duckdb_bytes_per_sample"] = round(home.stat().st_size / clock.samples, 3)
        windows = (
            f"select tag, time // {HOUR} * {HOUR} as time, count(*) as n, min(value) as low, max(value) as high, "
            "avg(value) as mean from samples group by all"
        )
        hourly = clock.best("duckdb_hourly_ms", lambda: pl.DataFrame(db.sql(windows).to_arrow_table()), 2)
        tag, start, end = wanted_hour(names)
        question = f"select time, value from samples where tag = '{tag}' and time >= {start} and time < {end}"
        one = clock.best("duckdb_one_tag_hour_ms", lambda: pl.DataFrame(db.sql(question).to_arrow_table()), 15)
        begin = time.perf_counter()
        rows = sum(len(part) for part in db.sql("select * from samples").to_arrow_reader(1_000_000))
        clock.rate("duckdb_scan", time.perf_counter() - begin)
    return {"rows": rows, "hourly": hourly, "one": one}


def chdb_answers(clock: Clock, folder: Path, file: Path, names: list[str]) -> Answers | None:
    try:
        from chdb.session import Session
    except ImportError:
        clock.report["clickhouse"] = "not installed: uv sync --group bench"
        return None
    home = folder / "clickhouse"
    db = Session(str(home))
    db.query("create database peer")
    db.query(
        "create table peer.samples (tag LowCardinality(String) codec(ZSTD(3)), time Int64 codec(DoubleDelta, ZSTD(3)), "
        "value Float64 codec(Gorilla, ZSTD(3)), quality UInt8 codec(ZSTD(3))) engine = MergeTree order by (tag, time)"
    )
    begin = time.perf_counter()
    db.query(
        f"insert into peer.samples select tag, toUnixTimestamp64Nano(time), value, quality from file('{file}', Parquet)"
    )
    db.query("optimize table peer.samples final")
    clock.rate("clickhouse_write", time.perf_counter() - begin)
    size = db.query("select sum(bytes_on_disk) from system.parts where active and table = 'samples'", "CSV")
    clock.report["clickhouse_bytes_per_sample"] = round(int(str(size)) / clock.samples, 3)

    def ask(question: str) -> pl.DataFrame:
        with pa.ipc.open_file(pa.py_buffer(db.query(question, "Arrow").bytes())) as reader:
            return pl.DataFrame(reader.read_all())

    windows = (
        f"select toString(tag) as tag, intDiv(time, {HOUR}) * {HOUR} as time, count() as n, min(value) as low, "
        "max(value) as high, avg(value) as mean from peer.samples group by tag, time"
    )
    windows = windows.replace("as time,", "as w,").replace("group by tag, time", "group by tag, w")
    hourly = clock.best("clickhouse_hourly_ms", lambda: ask(windows), 2).rename({"w": "time"})
    tag, start, end = wanted_hour(names)
    question = (
        f"select time, value from peer.samples where tag = '{tag}' and time >= {start} and time < {end} order by time"
    )
    one = clock.best("clickhouse_one_tag_hour_ms", lambda: ask(question), 15)
    rows = int(str(db.query("select count() from peer.samples", "CSV")))
    db.close()
    return {"rows": rows, "hourly": hourly, "one": one}


def compare(truth: Answers, found: Answers) -> None:
    """The same answers, by their bits; means to 1e-12."""
    assert found["rows"] == truth["rows"], (found["rows"], truth["rows"])
    if "digest" in found:
        assert found["digest"] == truth["digest"], "samples differ"
    ours_, theirs = (
        a["hourly"]
        .select(pl.col("tag").cast(pl.String), "time", pl.col("n").cast(pl.Int64), "low", "high", "mean")
        .sort("tag", "time")
        for a in (found, truth)
    )
    for name in ("tag", "time", "n", "low", "high"):
        assert ours_[name].equals(theirs[name]), name
    assert np.allclose(ours_["mean"].to_numpy(), theirs["mean"].to_numpy(), rtol=1e-12, atol=1e-12)
    one, other = found["one"].sort("time"), truth["one"].sort("time")
    assert np.array_equal(one["time"].to_numpy(), other["time"].to_numpy())
    assert one["value"].to_numpy().tobytes() == other["value"].to_numpy().tobytes()


def goals(report: dict[str, Any]) -> None:
    """What must be shown, as (reached, goal)."""
    report["goals"] = {
        "append_and_flush_msamples_per_s": [report["append_and_flush"]["msamples_per_s"], 5.0],
        "sealed_write_mb_per_s": [report["sealed_write"]["mb_per_s"], 400],
        "scan_mb_per_s": [report["scan"]["mb_per_s"], 1200],
        "hourly_speedup": [round(report["parquet_hourly_ms"] / report["hourly_ms"], 1), 100],
        "one_tag_hour_to_duckdb": [round(report["one_tag_hour_ms"] / report["duckdb_one_tag_hour_ms"], 2), 1.3],
        "bytes_to_parquet": [round(report["bytes_per_sample"] / report["parquet_bytes_per_sample"], 3), 0.5],
        "scan_to_parquet": round(report["scan"]["mb_per_s"] / report["parquet_scan"]["mb_per_s"], 2),
        "sealed_write_to_parquet": round(report["sealed_write"]["mb_per_s"] / report["parquet_write"]["mb_per_s"], 2),
    }


def wide(folder: Path, tags: int) -> dict[str, Any]:
    """Many tags of few samples: one value each at three moments an hour apart."""
    clock = Clock(3 * tags)
    history = History(folder)
    number = pl.int_range(tags, eager=True)
    names = pl.select(pl.format("site{}/line{}/device{}/value", number % 10, number // 10 % 100, number)).to_series()
    begin = time.perf_counter()
    ids = history.tags.ensure(names.to_arrow(compat_level=pl.CompatLevel.oldest()))
    clock.report["number_tags_seconds"] = round(time.perf_counter() - begin, 3)
    rng = np.random.default_rng(5)
    seconds = 0.0
    with Memory() as memory:
        for moment in range(3):
            order = rng.permutation(tags)
            for a in range(0, tags, FLUSH_ROWS):
                at = order[a : a + FLUSH_ROWS]
                when = T0 + moment * HOUR + rng.integers(0, 60_000, len(at)) * 10**6
                batch = Batch.of(
                    tag=ids[at],
                    time=when,
                    value=np.round(rng.normal(20, 5, len(at)), 1),
                    received=np.full(len(at), when.max()),
                )
                begin = time.perf_counter()
                history.add(write_block(history.url, batch, f"w-{moment}-{a}"))
                seconds += time.perf_counter() - begin
        clock.rate("append_and_flush", seconds, memory.most)
    with Memory() as memory:
        begin = time.perf_counter()
        history.compact()
        clock.rate("compact", time.perf_counter() - begin, memory.most)
    info = history.info()
    clock.report["bytes_per_sample"] = round(info.bytes_per_sample, 3)
    name_bytes = sum(f.size for f in history.tags.store.list())
    clock.report["name_bytes_per_tag"] = round(name_bytes / tags, 3)
    one = clock.best("one_tag_ms", lambda: history.scan(names[tags // 2]).collect(), 5)
    assert one.height == 3
    hundred = clock.best("hundred_tags_ms", lambda: history.scan(names[: 100 * 7 : 7].to_list()).collect(), 3)
    assert hundred.height == 300
    hourly = clock.best("hourly_all_ms", lambda: history.aggregate("1h").select("count").collect(), 1)
    assert hourly["count"].sum() == 3 * tags
    begin = time.perf_counter()
    with Memory() as memory:
        assert sum(frame.height for frame in history.frames()) == 3 * tags
        clock.rate("scan", time.perf_counter() - begin, memory.most)
    begin = time.perf_counter()
    History(folder)
    clock.report["open_ms"] = round((time.perf_counter() - begin) * 1e3, 1)
    return clock.report


if __name__ == "__main__":
    raise SystemExit(main())
