"""The judge itself must see what it judges: each kind of damage shows in its own column."""

import polars as pl
import pytest

from iiot_dask.reckoning import match_faults, reckon


def sent(protocol, n=5):
    return pl.DataFrame(
        {
            "tag": ["a"] * n,
            "protocol": [protocol] * n,
            "time": range(n),
            "value": [float(i) for i in range(n)],
            "acknowledged": [True] * n,
        }
    )


def kept(frame):
    return frame.select("tag", "time", "value", quality=pl.lit(0, pl.UInt8))


CLEAN = {"sent": 5, "stored": 5, "missing": 0, "unexpected": 0, "duplicates": 0, "bad": 0}


@pytest.mark.parametrize("protocol", ["json", "modbus"])
def test_all_is_well(protocol):
    assert reckon(sent(protocol), kept(sent(protocol))) == {protocol: CLEAN}


@pytest.mark.parametrize(
    ("protocol", "change", "seen"),
    [
        ("json", lambda f: f.slice(1), {"missing": 1, "stored": 4}),
        ("json", lambda f: pl.concat([f, f.slice(2, 1)]), {"duplicates": 1}),
        ("json", lambda f: f.with_columns(value=pl.col("value") * 2), {"missing": 4, "unexpected": 4}),
        ("json", lambda f: f.with_columns(time=pl.col("time") + 10), {"missing": 5, "unexpected": 5}),
        ("json", lambda f: f.with_columns(quality=pl.lit(128, pl.UInt8)), {"bad": 5, "missing": 5, "stored": 0}),
        ("modbus", lambda f: f.with_columns(time=pl.col("time") * 3 + 7), {}),  # a polled row has its own time
        ("modbus", lambda f: f.head(4), {"missing": 1, "stored": 4}),
        ("modbus", lambda f: f.with_columns(value=pl.col("value").reverse()), {"missing": 4, "unexpected": 4}),
    ],
)
def test_each_damage_shows(protocol, change, seen):
    assert reckon(sent(protocol), change(kept(sent(protocol)))) == {protocol: CLEAN | seen}


def test_what_the_broker_never_took_may_be_stored_or_not():
    made = sent("json").with_columns(acknowledged=pl.col("time") < 4)
    assert reckon(made, kept(made))["json"] == CLEAN | {"sent": 4}
    assert reckon(made, kept(made.head(4)))["json"] == CLEAN | {"sent": 4, "stored": 4}


def test_incidents_and_faults_are_paired_once():
    fault = {"kind": "outage", "node": "d", "start_ns": 10_000_000_000, "end_ns": 20_000_000_000}
    hit = {"kind": "outage", "node": "d", "start_ns": 9_000_000_000, "detected_ns": 14_000_000_000}
    found, rest = match_faults([fault], [hit])
    assert (found[0]["detected_after_s"], rest) == (4.0, [])
    for other in ({"node": "e"}, {"kind": "silence"}, {"start_ns": 21_000_000_000}, {"start_ns": 1_000_000_000}):
        found, rest = match_faults([fault], [hit | other])
        assert not found[0]["found"]
        assert len(rest) == 1
    assert len(match_faults([fault], [hit, hit])[1]) == 1
