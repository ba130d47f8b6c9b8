"""Export and import: what goes out comes back, interruptions are continued, what is refused is counted and shown."""

from __future__ import annotations

import json
import subprocess
import sys

import duckdb
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from query_shapes import T0, TIME

from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.history import History, export, intake
from iiot_dask.history.intake import Columns


def whole(history: History) -> pl.DataFrame:
    return history.scan().collect().sort("tag", "time")


@pytest.mark.parametrize("partition", [None, "day", "month"])
def test_what_goes_out_comes_back(shaped: History, tmp_path, monkeypatch, partition) -> None:
    monkeypatch.setattr(export, "FILE_ROWS", 700)
    seen: list[tuple[int, int]] = []
    done = shaped.export(tmp_path / "out", progress=lambda a, b: seen.append((a, b)), partition=partition)
    assert done.rows == whole(shaped).height == seen[-1][0] == seen[-1][1]
    assert len(done.files) > 1 or partition
    counted = duckdb.sql(f"select count(*), count(distinct tag) from '{tmp_path}/out/**/*.parquet'").fetchall()
    assert counted == [(done.rows, whole(shaped)["tag"].n_unique())]
    back = History(tmp_path / "back")
    report = back.import_(tmp_path / "out")
    assert (report.read, report.taken, report.rejected) == (done.rows, done.rows, {})
    assert_frame_equal(whole(back), whole(shaped))
    assert back.verify().ok


def test_an_export_that_was_interrupted_goes_on(shaped: History, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "FILE_ROWS", 500)
    whole_export = shaped.export(tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shaped.export(tmp_path / "out", progress=stop)
    (tmp_path / "out" / "part-00009.parquet.tmp").write_bytes(b"half a file")
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.parquet")}
    with pytest.raises(ConfigError, match="not empty"):
        shaped.export(tmp_path / "out")
    with pytest.raises(ConfigError, match="of another export"):
        shaped.export(tmp_path / "out", "line0/*", resume=True)
    done = shaped.export(tmp_path / "out", resume=True)
    assert (done.rows, done.resumed) == (whole_export.rows, len(kept))
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == at for name, at in kept.items())
    assert not list((tmp_path / "out").glob("*.tmp"))
    assert_frame_equal(pl.read_parquet(tmp_path / "out/*.parquet"), pl.read_parquet(tmp_path / "whole/*.parquet"))


def test_an_export_reads_one_version(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "FILE_ROWS", 10)
    history = History(tmp_path / "h")
    rows = pl.DataFrame({"tag": np.repeat(["a", "b", "c"], 10), "time": [*range(10)] * 3, "value": [1.0] * 30})
    history.append(rows)

    def write_again(done: int, total: int) -> None:
        history.append(rows.with_columns(value=pl.lit(2.0)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history.export(tmp_path / "out", progress=write_again)
    history.export(tmp_path / "out", resume=True)
    assert pl.read_parquet(tmp_path / "out/*.parquet")["value"].unique().to_list() == [1.0]
    with pytest.raises(ConfigError, match="partition 'week'"):
        history.export(tmp_path / "other", partition="week")


def test_a_wide_csv(tmp_path) -> None:
    (tmp_path / "w.csv").write_text(
        "ts,site/a,site/b\n2026-01-01T00:00:00Z,1.5,\n2026-01-01 01:00:01+01:00,2.5,7\n2026-01-01T00:00:02.5,true,x\nsoon,1,2\n"
    )
    history = History(tmp_path / "h")
    with pytest.raises(ConfigError, match="times without a zone"):
        history.import_(tmp_path / "w.csv", columns=Columns(time="ts"))
    report = history.import_(tmp_path / "w.csv", columns=Columns(time="ts", zone="Europe/Berlin"))
    assert (report.read, report.taken) == (7, 4)
    assert {reason: r.count for reason, r in report.rejected.items()} == {
        "value is not a number": 1,
        "time is missing, not a time, or outside 1677 to 2262": 2,
    }
    assert report.rejected["value is not a number"].examples == ["w.csv, row 3: site/b, 2026-01-01T00:00:02.5, x"] or (
        "row 3" in report.rejected["value is not a number"].examples[0]
    )
    found = history.scan("site/a").collect()
    assert found["value"].to_list() == [1.0, 1.5, 2.5]
    # The naive time is an hour before UTC's in Berlin.
    assert [t.isoformat() for t in found["time"].dt.replace_time_zone(None).to_list()] == [
        "2025-12-31T23:00:02.500000",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:01",
    ]


def test_every_reason_is_counted_with_examples(tmp_path) -> None:
    lines = ["tag,time,value,quality", "a,1000,1.5,0", "b,2000,,64", "c,3000,NaN,"]
    lines += [
        ",1,1,0",
        "../x,1,1,0",
        "a,soon,1,0",
        "a,99999999999999999999,1,0",
        "a,1,1.2.3,0",
        "a,1,1,256",
        "a,1,1,bad",
    ]
    lines += [f"a,{i},wrong,0" for i in range(20)]
    (tmp_path / "in.csv").write_text("\n".join(lines) + "\n")
    history = History(tmp_path / "h")
    dry = history.import_(tmp_path / "in.csv", columns=Columns(unit="ms"), dry_run=True)
    assert history.scan().collect().is_empty()
    assert history.tags.names() == []
    report = history.import_(tmp_path / "in.csv", columns=Columns(unit="ms"))
    assert dry.document() == {**report.document(), "dry_run": True}
    assert (report.read, report.taken, report.new_tags) == (30, 3, 3)
    assert {reason: r.count for reason, r in report.rejected.items()} == {
        "no tag": 1,
        "tag name is not legal": 1,
        "time is missing, not a time, or outside 1677 to 2262": 2,
        "value is not a number": 21,
        "quality is not 0 to 255": 2,
    }
    assert report.rejected["value is not a number"].examples[0] == "in.csv, row 8: a, 1, 1.2.3, 0"
    assert len(report.rejected["value is not a number"].examples) == 5
    rows = history.scan().collect()
    assert rows["quality"].to_list() == [0, 128, 0]
    assert rows["value"].fill_nan(None).to_list() == [1.5, None, None]
    assert rows["time"].to_physical().to_list() == [10**9, 2 * 10**9, 3 * 10**9]


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_parquet_of_others(tmp_path, unit) -> None:
    times = pl.Series(np.arange(50) * 10**9 + T0).cast(TIME).cast(pl.Datetime(unit))
    frame = pl.DataFrame(
        {"when": times, "x": np.arange(50), "y": np.arange(50, dtype=np.float32) / 2, "z": [None] * 50}
    )
    frame.write_parquet(tmp_path / "wide.parquet")
    history = History(tmp_path / "h")
    report = history.import_(str(tmp_path / "*.parquet"), columns=Columns(time="when", zone="UTC"))
    assert (report.taken, report.new_tags) == (100, 2)
    assert history.scan("x").collect()["value"].to_list() == list(range(50))
    assert history.scan("y").collect()["time"].to_physical().to_list() == (T0 + np.arange(50) * 10**9).tolist()


def test_an_import_that_was_interrupted_goes_on(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(intake, "BATCH_ROWS", 100)
    frame = pl.DataFrame(
        {"tag": [f"t{i % 7}" for i in range(1000)], "time": range(1000), "value": [*map(float, range(1000))]}
    )
    for i in range(2):
        frame.with_columns(time=pl.col("time") + 1000 * i).write_parquet(tmp_path / f"{i}.parquet")
    history = History(tmp_path / "h")

    def stop(done: int, total: int) -> None:
        assert total == 2000
        if done == 1300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        history.import_(tmp_path / "*.parquet", columns=Columns(unit="ns"), progress=stop)
    assert history.scan().collect().height == 1300
    loads: list[int] = []
    real = History.load
    monkeypatch.setattr(History, "load", lambda self, *a: loads.append(len(a[0])) or real(self, *a))
    report = history.import_(tmp_path / "*.parquet", columns=Columns(unit="ns"))
    assert (report.read, report.taken, report.resumed, sum(loads)) == (2000, 2000, 1300, 700)
    assert history.scan().collect().height == 2000
    assert history.import_(tmp_path / "*.parquet", columns=Columns(unit="ns")).resumed == 0


@pytest.mark.parametrize(
    ("make", "columns", "error", "message"),
    [
        (None, {}, ConfigError, "no file there"),
        ("x.txt", {}, ConfigError, "is neither .parquet nor .csv"),
        ("x.parquet", {}, DataError, "x.parquet"),
        ("x.csv", {"time": "when"}, ConfigError, "has no column 'when'"),
        ("x.csv", {"zone": "Mars"}, ConfigError, "time zone 'Mars'"),
        ("x.csv", {"unit": "min"}, ConfigError, "time unit 'min'"),
    ],
)
def test_sources_that_are_none(tmp_path, make, columns, error, message) -> None:
    path = tmp_path / (make or "nothing.csv")
    if make:
        path.write_text("tag,time,value\na,2026-01-01T00:00:00Z,1\n")
    with pytest.raises(error, match=message):
        History(tmp_path / "h").import_(path, columns=Columns(**columns))


def cli(*args, status=0):
    done = subprocess.run(
        [sys.executable, "-m", "iiot_dask", *args], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stderr
    return done


def test_the_command_line(tmp_path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    history = History(data / "history")
    import time

    now = time.time_ns()
    at = now - np.arange(100)[::-1] * 60 * 10**9
    for tag in ("site1/press/1/temperature", "site1/press/1/state"):
        history.append(pl.DataFrame({"tag": [tag] * 100, "time": at, "value": np.arange(100.0)}))
    (tmp_path / "in.csv").write_text("tag,ts,value\nnew,2026-01-01T00:00:00Z,1\nnew,soon,1\n")
    args = ("history", str(data), "import", "--from", str(tmp_path / "in.csv"), "--column", "time=ts")
    dry = json.loads(cli(*args, "--dry-run", "--json").stdout)
    assert (dry["taken"], dry["dry_run"], history.tags.names()[2:]) == (1, True, [])
    shown = cli(*args).stdout
    assert "rejected 1: time is missing" in shown
    assert "in.csv, row 2" in shown
    exported = json.loads(
        cli("history", str(data), "export", "--out", str(out), "--partition", "month", "--json").stdout
    )
    assert exported["rows"] == 201
    recent = json.loads(cli("query", str(data), "--tags", "*state", "--start", "-30m", "--format", "json").stdout)
    assert 28 <= len(recent) <= 31
    assert json.loads(cli("query", str(data), "--tags", "*state", "--end", "now-1h", "--format", "json").stdout)
    wrong = cli("query", str(data), "--tags", "site1/pres/1/temperature", status=1)
    assert "did you mean 'site1/press/1/temperature'" in wrong.stderr
    assert "soon" in cli("query", str(data), "--start", "soon", status=2).stderr
    assert "--from" in cli("history", str(data), "import", status=2).stderr
    assert "--column 'x=y'" in cli("history", str(data), "import", "--from", "x", "--column", "x=y", status=2).stderr
