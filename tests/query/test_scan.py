"""Scans: values pushed down, both engines, row limits, streams for other readers, memory bounded."""

from __future__ import annotations

import subprocess
import sys

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal
from query_shapes import HOUR, T0, TIME

from iiot_dask.core.errors import ConfigError
from iiot_dask.history import History, place

value, tag, when = pl.col("value"), pl.col("tag"), pl.col("time")
HIGH_NOON = pl.lit(T0 + 12 * HOUR).cast(TIME)
PREDICATES = {
    "above": value > 24.5,
    "below": value <= 11,
    "between": value.is_between(19.9, 20.1),
    "equal": value == 20.0,
    "flipped": pl.lit(30.0) < value,
    "nan": value.is_nan(),
    "not nan": value.is_not_nan() & (value > 20),
    "not": ~(value > 20),
    "or": (value > 30) | (value < 10),
    "three": (value > 26) & (tag == "line0/tag0") & (when < HIGH_NOON),
    "quality": (pl.col("quality") >= 128) & (value > 20),
    "rewritten": value == 99.0,
    "impossible": (value > 5) & (value < 4),
}


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
@pytest.mark.parametrize("name", PREDICATES)
def test_predicates_on_values_change_nothing_but_the_work(shaped: History, name: str, engine: str) -> None:
    whole = shaped.scan().collect()
    found = shaped.scan().filter(PREDICATES[name]).collect(engine=engine)
    assert_frame_equal(found.sort("tag", "time"), whole.filter(PREDICATES[name]).sort("tag", "time"))
    counted = shaped.scan().filter(PREDICATES[name]).select(pl.len()).collect(engine=engine).item()
    assert counted == found.height


def test_a_chunk_out_of_range_is_not_read_unless_it_was_written_again(tmp_path, monkeypatch) -> None:
    history = History(tmp_path)
    at = np.arange(4 * 3600)
    history.append(pl.DataFrame({"tag": ["a"] * len(at), "time": T0 + at * 10**9, "value": (at // 3600) * 1.0}))
    history.compact()
    read: list[int] = []
    real = place.join

    def counted(store, found, columns=place.ALL):
        read.append(len(found.alone))
        return real(store, found, columns)

    monkeypatch.setattr("iiot_dask.history.queries.join", counted)
    assert history.scan().filter(value > 2.5).select(pl.len()).collect().item() == 3600
    assert sum(read) == 1
    # The first hour's statistics still say 0, but one of its samples is another now.
    history.append(pl.DataFrame({"tag": ["a"], "time": [T0 + 5], "value": [9.0]}))
    assert history.scan().filter(value > 2.5).select(pl.len()).collect().item() == 3601
    history.append(pl.DataFrame({"tag": ["a"], "time": [T0 + 3 * HOUR], "value": [0.0]}))
    assert history.scan().filter(value > 2.5).select(pl.len()).collect().item() == 3600


def test_columns_that_are_not_asked_for_are_not_read(tmp_path, monkeypatch) -> None:
    history = History(tmp_path)
    at = np.arange(5000)
    history.append(pl.DataFrame({"tag": ["a"] * 5000, "time": T0 + at * 10**9, "value": at * 0.5}))
    history.compact()
    asked: list[set[str]] = []
    real = place.read_groups

    def watched(store, path, metadata, groups, columns):
        asked.append(set(columns))
        return real(store, path, metadata, groups, columns)

    monkeypatch.setattr(place, "read_groups", watched)
    assert history.scan().select("value").collect()["value"].sum() == (at * 0.5).sum()
    assert asked
    assert all(columns == {"value"} for columns in asked)
    asked.clear()
    frame = history.dask()
    assert frame["value"].sum().compute() == (at * 0.5).sum()
    assert all("quality" not in columns for columns in asked)


def test_row_limits_stop_early(shaped: History, monkeypatch) -> None:
    whole = shaped.scan().collect()
    for n in (0, 1, 7, 500):
        for engine in ("in-memory", "streaming"):
            assert_frame_equal(shaped.scan().head(n).collect(engine=engine), whole.head(n))
    assert_frame_equal(shaped.scan().slice(5, 10).collect(), whole.slice(5, 10))
    assert_frame_equal(shaped.scan().tail(3).collect(), whole.tail(3))
    decoded: list[int] = []
    real = History._frame
    monkeypatch.setattr(History, "_frame", lambda self, g, c: decoded.append(1) or real(self, g, c))
    shaped.scan().head(3).collect()
    few = len(decoded)
    decoded.clear()
    shaped.scan().collect()
    assert few <= 2 <= len(decoded)


def test_a_stream_for_every_reader_of_arrow(shaped: History) -> None:
    whole = shaped.scan().collect()
    answer = shaped.arrow("line0/*")
    mine = whole.filter(tag.str.starts_with("line0/"))
    assert_frame_equal(pl.DataFrame(answer), mine)
    assert_frame_equal(pl.DataFrame(answer), mine)  # each stream asks anew
    assert pa.table(answer).num_rows == mine.height
    assert pa.schema(answer) == answer.schema
    with duckdb.connect() as connection:
        connection.register("samples", answer.reader())
        counted = connection.execute("select count(*), max(value) from samples where not isnan(value)").fetchall()
    sound = mine.filter(value.is_not_nan())["value"]
    assert counted == [(len(sound), sound.max())]
    assert pa.RecordBatchReader.from_stream(shaped).read_all().num_rows == whole.height
    assert pa.table(shaped.arrow(columns=["value", "tag"])).column_names == ["tag", "value"]
    assert pa.table(shaped.arrow("nobody")).num_rows == 0
    for result in (shaped.latest(), shaped.aggregate("1h").collect(), shaped.at(T0)):
        assert pa.table(result).num_rows == result.height
    with pytest.raises(ConfigError, match="column 'x'; tag, time, value, quality"):
        shaped.arrow(columns=["x"])


def test_sql(shaped: History) -> None:
    whole = shaped.scan().collect()
    found = shaped.sql(
        "select tag, count(*) as n, max(value) as top from samples where value < 25 and tag like 'line0/%' "
        "and time >= '2026-09-21 03:00:00' group by tag order by tag"
    ).collect()
    start = pl.lit("2026-09-21T03:00:00").str.to_datetime(time_zone="UTC", time_unit="ns")
    wanted = (
        whole.filter((value < 25) & tag.str.starts_with("line0/") & (when >= start))
        .group_by("tag").agg(n=pl.len(), top=value.max()).sort("tag")
    )  # fmt: skip
    assert_frame_equal(found, wanted, check_dtypes=False)
    windows = shaped.sql("select * from windows_1h where count > 10 and tag = 'line0/tag0'").collect()
    assert_frame_equal(windows, shaped.aggregate("1h").filter((pl.col("count") > 10) & (tag == "line0/tag0")).collect())
    joined = shaped.sql("select l.tag, l.value from latest l join tags t on l.tag = t.tag order by l.tag").collect()
    assert_frame_equal(joined, shaped.latest().select("tag", "value").sort("tag"))
    with pytest.raises(ConfigError, match="SQL 'selec'"):
        shaped.sql("selec")
    with pytest.raises(ConfigError, match="nowhere"):
        shaped.sql("select * from nowhere")
    with pytest.raises(ConfigError, match="span"):
        shaped.sql("select * from windows_soon")


SCAN = """
import resource, sys, threading
import polars as pl
from iiot_dask.history import History
history = History(sys.argv[1])
history.scan("t000").select(pl.len()).collect()          # kernels and libraries are loaded
with open("/proc/self/statm") as f: base = int(f.read().split()[0]) * 4096
limit = base + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
frame = history.scan().group_by("tag").agg(pl.len(), pl.col("value").sum()).collect(engine="streaming")
print(frame["len"].sum(), frame["value"].sum())
"""


@pytest.mark.slow
def test_a_history_larger_than_memory_is_scanned_within_a_limit(tmp_path) -> None:
    """60 M samples are 2 GB as a frame; the scan has 1.2 GB of address space beyond what the process had before."""
    history = History(tmp_path)
    at = np.arange(600_000)
    for i in range(0, 100, 10):
        names = np.repeat([f"t{j:03}" for j in range(i, i + 10)], len(at))
        history.append(
            pl.DataFrame({"tag": names, "time": np.tile(T0 + at * 10**9, 10), "value": np.tile(at % 1000 / 10, 10)})
        )
        history.compact()
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(tmp_path), str(1200 << 20)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    rows, total = done.stdout.split()
    assert int(rows) == 60_000_000
    assert float(total) == pytest.approx((at % 1000 / 10).sum() * 100)


def test_a_scan_takes_a_few_groups_of_memory_whatever_the_history(tmp_path, monkeypatch) -> None:
    """The counter of Arrow's pool, which holds what is decoded: twice the history, the same peak."""
    from iiot_dask.history import read

    monkeypatch.setattr(read, "GROUP_ROWS", 50_000)
    peaks = []
    for size in (1, 3):
        history = History(tmp_path / str(size))
        at = np.arange(60_000)
        for i in range(10 * size):
            history.append(pl.DataFrame({"tag": [f"t{i:03}"] * len(at), "time": T0 + at * 10**9, "value": at / 10}))
        history.compact()
        frames = history.frames()
        base, peak, rows = pa.total_allocated_bytes(), 0, 0
        for frame in frames:
            rows += frame.height
            peak = max(peak, pa.total_allocated_bytes() - base)
            del frame
        assert rows == 600_000 * size
        peaks.append(peak)
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 25 * 50_000 * 10
