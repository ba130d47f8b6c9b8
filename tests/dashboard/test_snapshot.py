import math

import pytest

from iiot_dask.dashboard.snapshot import Quantiles, Snapshot, read_status
from iiot_dask.dashboard.testing import example_snapshot


def test_json_round_trip_with_nan():
    nan = float("nan")
    before = example_snapshot(acknowledged=Quantiles(nan, nan, nan))
    after = Snapshot.from_bytes(before.to_bytes())
    assert math.isnan(after.acknowledged.p99)
    assert after.incidents == before.incidents
    assert after.adapters == before.adapters
    assert after.workers == before.workers


def test_keys_of_a_newer_program_are_ignored():
    payload = example_snapshot().to_bytes().replace(b'{"version":1,', b'{"version":2,"colour":"red",')
    assert Snapshot.from_bytes(payload) == example_snapshot()


@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", b'{"time_ns": 1}', b"\xff"])
def test_what_is_no_status_is_refused(payload, tmp_path):
    with pytest.raises(ValueError, match=r".+"):
        Snapshot.from_bytes(payload)
    (tmp_path / "status.json").write_bytes(payload)
    assert read_status(tmp_path / "status.json") is None
    assert read_status(tmp_path / "absent.json") is None
