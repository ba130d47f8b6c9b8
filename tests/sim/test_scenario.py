import numpy as np
import polars as pl
import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.factory import OWN_ENDPOINT
from iiot_dask.sim.fault import Fault
from iiot_dask.sim.scenario import SCENARIOS, scenario


@pytest.fixture(scope="module")
def shift():
    return scenario("shift-change", tags=400, seed=9, duration="2m")


def test_columns_types_and_order(shift):
    moment = pl.Datetime("ns", "UTC")
    assert shift.samples.schema == {
        "tag": pl.String, "time": moment, "value": pl.Float64, "quality": pl.UInt8, "received": moment,
    }  # fmt: skip
    assert shift.samples["received"].is_sorted()
    assert (shift.samples["received"] >= shift.samples["time"]).all()
    assert shift.samples["tag"].n_unique() == 400
    assert shift.faults.schema == {"kind": pl.String, "node": pl.String, "start": moment, "end": moment}


def test_equal_arguments_give_equal_frames_and_other_seeds_do_not(shift):
    again = scenario("shift-change", tags=400, seed=9, duration="2m")
    assert again.samples.equals(shift.samples, null_equal=True)
    assert not scenario("shift-change", tags=400, seed=10, duration="2m").samples.equals(shift.samples)


def test_the_outage_is_a_gap_of_the_whole_device_and_of_no_other(shift):
    fault = shift.faults.filter(pl.col("kind") == "outage").row(0, named=True)
    inside = shift.samples.filter(pl.col("received").is_between(fault["start"] + pl.duration(seconds=1), fault["end"]))
    assert not inside["tag"].str.starts_with(OWN_ENDPOINT).any()
    assert inside["tag"].str.starts_with("site1/line1/press1/").any()
    assert shift.samples.filter(pl.col("received") > fault["end"])["tag"].str.starts_with(OWN_ENDPOINT).any()


def test_the_flatline_is_flat_and_the_corrupt_device_has_bad_rows(shift):
    flat = shift.faults.filter(pl.col("kind") == "flatline").row(0, named=True)
    values = shift.samples.filter(
        (pl.col("tag") == flat["node"]) & pl.col("time").is_between(flat["start"], flat["end"], closed="left")
    )["value"]
    assert len(values) > 50
    assert values.n_unique() == 1
    corrupt = shift.faults.filter(pl.col("kind") == "corrupt").row(0, named=True)
    bad = shift.samples.filter(pl.col("quality") >= 128)
    assert len(bad) > 50
    assert bad["tag"].str.starts_with(corrupt["node"] + "/").all()
    assert bad["value"].is_nan().all()
    assert bad["time"].is_between(corrupt["start"], corrupt["end"] + pl.duration(milliseconds=1)).all()


def test_rates_follow_the_shifts(shift):
    rate = shift.samples.sort("time").group_by_dynamic("time", every="10s").agg(pl.len())["len"].to_list()
    assert rate[1] < rate[5] < rate[3]
    assert abs(rate[3] - rate[9]) / rate[3] < 0.05


def test_the_topology_reaches_every_tag(shift):
    parent = dict(shift.topology.iter_rows())
    assert set(shift.factory.names) <= set(parent)
    assert parent[f"{OWN_ENDPOINT}/energy"] == OWN_ENDPOINT
    tops = set(parent.values()) - set(parent)
    assert tops == {"site1", "spb"}


def test_real_time_days_and_own_faults():
    made = scenario("steady", tags=100, duration="1h", day="24h", faults=[Fault("outage", OWN_ENDPOINT, 600, 1200)])
    assert made.faults["kind"].to_list() == ["outage"]
    own = made.samples.filter(pl.col("tag") == f"{OWN_ENDPOINT}/rpm")["time"].diff().max().total_seconds()
    assert 599 <= own <= 603
    assert "steady" in made._repr_html_()


def test_latency_is_what_was_asked_for(shift):
    late = (shift.samples["received"] - shift.samples["time"]).dt.total_nanoseconds().to_numpy() / 1e6
    pushed = ~shift.samples["tag"].str.contains("press|compressor").to_numpy()
    assert abs(np.mean(late[pushed]) - 20) < 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "earthquake"}, "earthquake"),
        ({"tags": 1_000_000, "duration": "7d"}, "at most 200000000"),
        ({"tags": 5}, "tags 5"),
        ({"duration": "soon"}, "soon"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ConfigError, match=named):
        scenario(**arguments)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_runs(name):
    assert scenario(name, tags=100, duration="10s", faults=[]).faults.is_empty()
