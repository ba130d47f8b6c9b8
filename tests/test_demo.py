"""The main job, as a user runs it: everything sent is stored once, every fault is found, nothing else is."""

import json
import subprocess
import sys

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import iiot_dask as iiot

IIOT = [sys.executable, "-m", "iiot_dask"]
pytestmark = pytest.mark.alone
KINDS = {"outage", "flatline", "corrupt"}


def cli(*args, cwd, status=0):
    done = subprocess.run([*IIOT, *args], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stdout[-6000:] + done.stderr
    return done.stdout


def reckoned(summary):
    for name, counts in summary["protocols"].items():
        assert counts["sent"] > 100, name
        assert counts["stored"] == counts["sent"], name
        assert (counts["missing"], counts["unexpected"], counts["duplicates"]) == (0, 0, 0), name
    assert {f["kind"] for f in summary["faults"]} == KINDS
    assert all(f["found"] for f in summary["faults"])
    assert summary["unexplained"] == []
    assert summary["ok"]


def test_everything_sent_is_stored_once_and_every_fault_is_one_incident(demo_run):
    summary, _ = demo_run
    assert set(summary["protocols"]) == {"modbus", "opcua", "json", "sparkplug"}
    reckoned(summary)
    outage = next(i for i in summary["incidents"] if i["kind"] == "outage")
    assert outage["tags"] > 1
    assert outage["end"] is not None
    assert summary["history"]["ratio"] > 2
    assert summary["latency"]["acknowledged_p50_ms"] > 0
    assert len({row["now"] for row in summary["workers"]}) > 1


def test_the_same_with_the_broker_inside_the_simulator(tmp_path):
    summary = json.loads(
        cli("demo", "--duration", "30s", "--no-dashboard", "--json", "--broker", "amqtt", cwd=tmp_path)
    )
    assert summary["broker"] == "amqtt"
    reckoned(summary)


def test_one_question_four_engines_one_answer(demo_run):
    _, home = demo_run
    glob, every = "*temperature", "10s"
    out = home / "windows.parquet"
    cli("query", "demo-data", "--tags", glob, "--every", every, "--format", "parquet", "--out", str(out), cwd=home)
    asked = pl.read_parquet(out).sort("tag", "time")
    with iiot.History(str(home / "demo-data" / "history")) as history:
        rows = history.scan(glob).collect()
        pandas = history.dask(glob).compute()
        totals = history.aggregate("1d", glob).collect()
    assert asked.height > 100

    def windows(frame):
        good = frame.filter((pl.col("quality") < 128) & pl.col("value").is_not_nan()).sort("tag", "time")
        return good.group_by("tag", pl.col("time").dt.truncate(every), maintain_order=True).agg(
            count=pl.len().cast(asked.schema["count"]), min=pl.col("value").min(), max=pl.col("value").max(),
            first=pl.col("value").first(), last=pl.col("value").last(),
        ).sort("tag", "time")  # fmt: skip

    columns = ["tag", "time", "count", "min", "max", "first", "last"]
    assert_frame_equal(asked.select(columns), windows(rows).select(columns), check_exact=True)
    dask = pl.from_pandas(pandas.reset_index()).select(rows.columns).cast(rows.schema).sort("tag", "time")
    assert_frame_equal(dask, rows.sort("tag", "time"))

    # DuckDB knows nothing of us: it adds up the statistics columns of the sealed chunks.
    cli("history", "demo-data", "compact", "--chunk-rows-min", "1", cwd=home)
    with iiot.History(str(home / "demo-data" / "history")) as history:
        files = history.files()
        assert_frame_equal(history.scan(glob).collect(), rows)
    chunks = duckdb.sql(
        f"""select tag, sum(good)::bigint as count, min(min) as min, max(max) as max from read_parquet({files!r})
            where kind = 'chunk' and tag like '%temperature' and good > 0 group by tag order by tag"""
    ).pl()
    ours = totals.group_by("tag").agg(pl.col("count").sum(), pl.col("min").min(), pl.col("max").max()).sort("tag")
    assert_frame_equal(chunks, ours.select("tag", "count", "min", "max").cast(chunks.schema), check_exact=True)


def test_history_is_whole_and_says_so(demo_run):
    _, home = demo_run
    report = json.loads(cli("history", "demo-data", "verify", "--json", cwd=home))
    assert report["damaged"] == []
    info = json.loads(cli("history", "demo-data", "info", "--json", cwd=home))
    assert info["rows"] > 10_000


def test_incidents_outlive_the_run(demo_run):
    _, home = demo_run
    listed = json.loads(cli("incidents", "demo-data", "--json", cwd=home))["incidents"]
    assert {i["kind"] for i in listed} == KINDS


def test_data_that_is_no_demo_is_left_alone(tmp_path):
    (tmp_path / "demo-data").mkdir()
    (tmp_path / "demo-data" / "thesis.odt").write_text("years")
    done = subprocess.run([*IIOT, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "thesis.odt" in done.stderr
    assert (tmp_path / "demo-data" / "thesis.odt").exists()
    with pytest.raises(FileNotFoundError):
        (tmp_path / "demo-data" / "plant.toml").read_text()
