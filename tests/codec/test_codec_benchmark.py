"""The benchmark runs, compares every column bit for bit, and prints all figures the project asks for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from iiot_dask_benchmarks import _codec_sets as made
from iiot_dask_benchmarks import codec as bench


def test_benchmark(tmp_path: Path) -> None:
    n = 6000
    rng = np.random.default_rng(0)
    ts = pl.Series(1_764_000_000_000_000 + np.arange(n) * 1_000_000).cast(pl.Datetime("us", "UTC"))
    rows = [
        pl.DataFrame({"ts": ts, "sensor": "a", "value": np.round(np.cumsum(rng.normal(0, 0.1, n)), 2)}),
        pl.DataFrame({"ts": ts, "sensor": "b", "value": np.round(np.sin(np.arange(n) / 9) * 900) * 0.00317}),
    ]
    pl.concat(rows).write_parquet(tmp_path / "small.parquet")
    document, text = bench.run([tmp_path / "small.parquet"], chunk=2000, repeats=1)
    figures = document["sets"]["small"]
    assert figures["archive"]["ratio"] > figures["pcodec8"]["ratio"]
    assert figures["archive_bound"]["ratio"] >= 0.98 * figures["archive"]["ratio"], "a note may cost a little"
    assert {"fast", "archive", "archive_bound", "pcodec8", "parquet"} <= set(figures)
    assert all({"reached", "goal"} <= set(goal) for group in document["goals"].values() for goal in group.values())
    assert set(document["ratio_by_chunk"]["small"]) == set(bench.CHUNKS)
    assert "| small | 12,000 |" in text


def test_generated_sets_are_there_without_files() -> None:
    found = dict(made.generated(seed=1, rows=500, tags=2))
    assert len(found) == len(made.KINDS) >= 10
    for name, frame in found.items():
        assert frame["sensor"].n_unique() == 2, name
        assert frame.height == 1000, name
        for part in frame.partition_by("sensor"):
            assert part["ts"].is_sorted(), name
    again = dict(made.generated(seed=1, rows=500, tags=2))
    assert all(frame.equals(again[name]) for name, frame in found.items()), "a seed makes one set"


def test_peers_that_are_installed_are_asked() -> None:
    names = bench.installed()
    assert {"parquet", "duckdb"} <= set(names)
    chunks = made.tags(next(made.generated(rows=400, tags=1))[1], 200)
    for name, run in names.items():
        m = run(chunks)
        assert m.samples == 400, name
        assert min(m.times, m.values) > 0, name


def test_a_column_that_changes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [[(np.arange(100), np.arange(100.0))]]
    monkeypatch.setattr(bench.codec, "decode_values", lambda _blob: np.zeros(100))
    with pytest.raises(AssertionError):
        bench.ours(chunks, "fast", None, 1)
