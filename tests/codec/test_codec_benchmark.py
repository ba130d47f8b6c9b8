"""The benchmark runs, compares every column bit for bit, and prints all figures the project asks for."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
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
    assert all(set(goal) == {"reached", "goal"} for goal in document["goals"].values())
    assert "| small | 12,000 |" in text


def test_generated_sets_are_there_without_files() -> None:
    names = [name for name, _ in bench.generated()]
    assert len(names) == len(set(names)) >= 6


def test_a_column_that_changes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [[(np.arange(100), np.arange(100.0))]]
    monkeypatch.setattr(bench.codec, "decode_values", lambda _blob: np.zeros(100))
    with pytest.raises(AssertionError):
        bench.ours(chunks, "fast", None, 1)
