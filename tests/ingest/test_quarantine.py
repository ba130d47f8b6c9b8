"""Quarantine: bounded, newest kept, counted, and nothing waits for it."""

import json

import pytest

from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest import quarantine as module
from iiot_dask.ingest.quarantine import Quarantine


def test_lines_say_what_happened(tmp_path):
    with Quarantine(tmp_path / "q", 10_000, 2) as quarantine:
        quarantine.put("cells", "malformed", "no JSON", time_ns=1_500_000_000, raw=b"\xff{", count=4)
    lines = [json.loads(line) for line in (tmp_path / "q" / "quarantine-00000001.jsonl").read_text().splitlines()]
    assert lines == [
        {
            "time": "1970-01-01T00:00:01.500Z", "adapter": "cells", "kind": "malformed", "reason": "no JSON",
            "count": 4, "raw": "ff7b", "raw_bytes": 2,
        }
    ]  # fmt: skip


def test_bytes_and_files_are_bounded_and_the_newest_stay(tmp_path):
    quarantine = Quarantine(tmp_path, 20_000, 4)
    for i in range(1000):
        quarantine.put("a", "rejected", f"number {i}", time_ns=i, raw=bytes(i % 300))
        files = list(tmp_path.iterdir())
        assert len(files) <= 4
        assert sum(f.stat().st_size for f in files) <= 20_000 + 4 * 900
    kept = [int(str(line["reason"]).split()[1]) for line in quarantine.lines()]
    assert kept == list(range(kept[0], 1000))
    assert len(kept) > 20
    assert quarantine.counts() == {("a", "rejected"): 1000}


def test_long_input_is_cut(tmp_path):
    quarantine = Quarantine(tmp_path, 100_000, 2)
    quarantine.put("a", "malformed", "r" * 5000 + "\ud800", time_ns=0, raw=b"x" * 100_000)
    quarantine.put("a", "malformed", "\ud800", time_ns=0)
    first, second = quarantine.lines()
    assert (len(first["reason"]), len(first["raw"]), first["raw_bytes"]) == (500, 2048, 100_000)
    assert second["reason"] == "?"


def test_goes_on_after_a_restart_and_a_cut_line(tmp_path):
    Quarantine(tmp_path, 2000, 2).put("a", "k", "one", time_ns=0)
    with (tmp_path / "quarantine-00000001.jsonl").open("ab") as stream:
        stream.write(b'{"cut\n')
    again = Quarantine(tmp_path, 2000, 2)
    again.put("a", "k", "two", time_ns=0)
    assert [line["reason"] for line in again.lines()] == ["one", "two"]
    assert again.counts() == {("a", "k"): 1}
    smaller = Quarantine(tmp_path, 100, 1)
    smaller.put("a", "k", "three", time_ns=0)
    assert [line["reason"] for line in smaller.lines()] == ["three"]


def test_a_folder_that_can_not_be_written_only_counts(tmp_path):
    metrics = Metrics()
    quarantine = Quarantine(tmp_path / "q", 2000, 2, metrics)
    (tmp_path / "q").rmdir()
    quarantine.put("a", "k", "lost", time_ns=0, count=3)
    assert metrics.value("quarantine_lost_total") == 3
    assert quarantine.counts() == {("a", "k"): 3}


def test_whole_records_are_kept_within_the_same_bounds(tmp_path):
    metrics = Metrics()
    quarantine = Quarantine(tmp_path / "q", 1000, 3, metrics)
    for i in range(6):
        quarantine.keep(f"record-{i}", bytes([i]) * 100)
    assert sorted(p.name for p in (tmp_path / "q").iterdir()) == [f"kept-record-{i}.bin" for i in (3, 4, 5)]
    quarantine.keep("large", b"x" * 950)
    assert [p.name for p in (tmp_path / "q").iterdir()] == ["kept-large.bin"]
    assert quarantine.lines() == []
    (tmp_path / "q" / "kept-large.bin").unlink()
    (tmp_path / "q").rmdir()
    quarantine.keep("lost", b"x")
    assert metrics.value("quarantine_lost_total") == 1


def test_the_number_of_counters_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "COUNTERS_MAX", 3)
    quarantine = Quarantine(tmp_path, 10_000, 2)
    for i in range(10):
        quarantine.put(f"a{i}", "k", "r", time_ns=0)
    assert quarantine.counts() == {("a0", "k"): 1, ("a1", "k"): 1, ("a2", "k"): 1, ("other", "other"): 7}


@pytest.mark.parametrize("raw", [b"", b"\0\xff"])
def test_raw_bytes_come_back_from_hex(tmp_path, raw):
    quarantine = Quarantine(tmp_path, 10_000, 2)
    quarantine.put("a", "k", "r", time_ns=0, raw=raw)
    assert bytes.fromhex(str(quarantine.lines()[0]["raw"])) == raw
