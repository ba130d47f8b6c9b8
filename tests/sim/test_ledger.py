import numpy as np
import polars as pl
import pytest

from iiot_dask.core.errors import DataError
from iiot_dask.sim.ledger import Ledger, Truth, write


def test_columns_grow_and_keep_their_rows():
    ledger = Ledger()
    rng = np.random.default_rng(4)
    parts = [(rng.integers(0, 9, n), rng.integers(0, 10**9, n), rng.random(n)) for n in rng.integers(0, 900, 40)]
    for tag, time, value in parts:
        first = ledger.add(tag, time, value, acknowledged=False)
        ledger.acknowledge(first, first + len(tag) // 2)
    frame = ledger.frame([f"t{i}" for i in range(9)], np.zeros(9, np.int64), ("json",))
    naive = pl.DataFrame(
        {
            "tag": np.concatenate([p[0] for p in parts]),
            "time": np.concatenate([p[1] for p in parts]),
            "value": np.concatenate([p[2] for p in parts]),
            "acknowledged": np.concatenate([np.arange(len(p[0])) < len(p[0]) // 2 for p in parts]),
        }
    ).sort("tag", "time", maintain_order=True)
    assert frame["tag"].to_list() == [f"t{i}" for i in naive["tag"]]
    assert frame["time"].cast(pl.Int64).equals(naive["time"])
    assert frame["value"].equals(naive["value"])
    assert frame["acknowledged"].equals(naive["acknowledged"])
    assert ledger.acknowledged_rows == naive["acknowledged"].sum()


def test_changed_compares_with_the_tags_sample_before():
    ledger = Ledger()
    ledger.add(
        np.array([0, 1, 0, 0, 1]), np.array([1, 1, 3, 2, 2]), np.array([5.0, 5.0, 6.0, 5.0, 5.0]), acknowledged=True
    )
    frame = ledger.frame(["a", "b"], np.array([0, 1]), ("opcua", "json"))
    assert frame["changed"].to_list() == [True, False, True, True, False]
    assert frame["protocol"].to_list() == ["opcua"] * 3 + ["json"] * 2


def test_rows_beyond_the_bound_are_counted_not_kept():
    ledger = Ledger(rows_max=5)
    some = np.arange(4)
    ledger.add(some, some, some.astype(float), acknowledged=False)
    first = ledger.add(some, some, some.astype(float), acknowledged=False)
    ledger.acknowledge(first, first + 4)
    assert (len(ledger), ledger.truncated_rows, ledger.acknowledged_rows) == (4, 4, 0)


def test_truth_is_read_back(tmp_path):
    ledger = Ledger()
    ledger.add(np.array([0, 0]), np.array([1, 2]), np.array([1.0, np.nan]), acknowledged=True)
    samples = ledger.frame(["a"], np.array([0]), ("json",))
    fault = {"kind": "outage", "node": "n", "start_ns": 5, "end_ns": None}
    write(tmp_path / "deep" / "er", samples, {"faults": [fault]})
    truth = Truth.load(tmp_path / "deep" / "er")
    assert truth.samples.equals(samples, null_equal=True)
    assert truth.faults.rows() == [("outage", "n", truth.faults["start"][0], None)]
    assert truth.counts() == {"json": 2}


def test_an_incomplete_truth_is_refused(tmp_path):
    with pytest.raises(DataError, match="no complete truth"):
        Truth.load(tmp_path)
    (tmp_path / "truth.json").write_text("{")
    with pytest.raises(DataError, match="no complete truth"):
        Truth.load(tmp_path)
    (tmp_path / "truth.json").write_text("{}")
    (tmp_path / "truth.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no complete truth"):
        Truth.load(tmp_path)
