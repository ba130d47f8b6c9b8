import itertools

import numpy as np
import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.factory import ACTIVE_NS, OWN_ENDPOINT, PROTOCOLS, QUIET_EVERY, Factory
from iiot_dask.sim.fault import Fault

S = 10**9


@pytest.fixture(scope="module")
def factory():
    return Factory(tags=400, seed=3)


def share(factory):
    return {p: sum(d.stop - d.start for d in factory.devices if d.protocol == p) for p in PROTOCOLS}


@pytest.mark.parametrize("tags", [100, 101, 137, 400, 2000, 2001, 12_345])
def test_exactly_as_many_tags_as_asked_for(tags):
    factory = Factory(tags=tags)
    assert len(factory.names) == len(set(factory.names)) == tags
    assert sum(share(factory).values()) == tags
    assert [d.start for d in factory.devices][1:] == [d.stop for d in factory.devices][:-1]
    assert min(share(factory).values()) > 0
    units = [d.unit_id for d in factory.devices if d.protocol == "modbus" and d.path != OWN_ENDPOINT]
    assert len(units) == len(set(units))
    assert max(units) <= 247


def test_only_mqtt_grows():
    small, large = share(Factory(tags=2000)), share(Factory(tags=20_000))
    assert small == {"modbus": 500, "opcua": 400, "json": 900, "sparkplug": 200}
    assert (large["modbus"], large["opcua"]) == (500, 400)
    assert large["json"] + large["sparkplug"] == 19_100


def naive_reports(factory, t0, t1):
    out = []
    for number in range(len(factory.devices)):
        phase, grid = int(factory.phase_ns[number]), int(factory.grid_ns[number])
        j = 0
        while phase + j * grid < t1:
            point = phase + j * grid
            working = factory.rank[number] < factory.shifts.activity(np.array([point / 1e9]))[0]
            steady = factory.devices[number].protocol in ("modbus", "opcua")
            if point >= t0 and (steady or working or (j + number) % QUIET_EVERY == 0):
                out.append((number, j))
            j += 1
    return out


def test_reports_are_those_of_the_naive_schedule(factory):
    device, t = factory.reports(15 * S, 26 * S)
    j = np.round((t - factory.phase_ns[device]) / factory.grid_ns[device]).astype(int)
    assert sorted(zip(device.tolist(), j.tolist(), strict=True)) == sorted(naive_reports(factory, 15 * S, 26 * S))
    late = factory.phase_ns[device] + j * factory.grid_ns[device] - t
    assert late.min() >= 0
    assert late.max() < 5 * 10**6
    assert (np.diff(t) >= 0).all()
    assert (t % 10**6 == 0).all()


def test_windows_of_any_size_give_the_same_reports(factory):
    whole = set(zip(*(a.tolist() for a in factory.reports(0, 30 * S)), strict=True))
    edges = np.sort(np.append(np.random.default_rng(2).integers(0, 30 * S, 200), [0, 30 * S]))
    parts = [factory.reports(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    pieces = [pair for part in parts for pair in zip(*(a.tolist() for a in part), strict=True)]
    assert len(pieces) == len(whole)
    assert set(pieces) == whole


def test_a_device_is_regular_within_a_shift_and_the_plants_rate_follows_shifts(factory):
    json = factory.of("json")
    device, t = factory.reports(22 * S, 40 * S, json)
    for number in json:
        gaps = np.diff(t[device == number])
        period = ACTIVE_NS if factory.rank[number] < 1 else ACTIVE_NS * QUIET_EVERY
        assert np.abs(gaps - period).max() < 5 * 10**6
    night, day, late = (len(factory.reports(a * S, (a + 16) * S, json)[0]) for a in (3, 23, 43))
    assert night < late < day


def test_samples_are_every_tag_of_each_reporting_device(factory):
    device, t = factory.reports(0, 3 * S)
    tag, times, value = factory.samples(0, 3 * S)
    assert len(tag) == factory.size[device].sum()
    assert np.array_equal(factory.device_of[tag], np.repeat(device, factory.size[device]))
    assert np.array_equal(times, np.repeat(t, factory.size[device]))
    assert np.isfinite(value).all()


def test_a_flatline_repeats_the_last_value_sent_before_it():
    free = Factory(tags=400, seed=3, faults=[])
    name = next(n for n in free.names if "mixer" in n and n.endswith("/temperature"))
    stuck = Factory(tags=400, seed=3, faults=[Fault("flatline", name, 10.0, 20.0)])
    rows = stuck.device_of[stuck.names.index(name)]
    tag, t, value = stuck.samples(0, 30 * S, np.array([rows]))
    _, _, healthy = free.samples(0, 30 * S, np.array([rows]))
    mine = tag == stuck.names.index(name)
    inside = mine & (t >= 10 * S) & (t < 20 * S)
    assert np.array_equal(value[~inside], healthy[~inside])
    assert len(set(value[inside].tolist())) == 1
    assert value[inside][0] == value[mine & (t < 10 * S)][-1]
    assert len(set(healthy[inside].tolist())) > 3


def test_values_are_what_the_wire_type_can_carry(factory):
    tag, _, value = factory.samples(0, 5 * S)
    single = factory.single[tag]
    assert single.any()
    assert np.array_equal(value[single].astype(np.float32).astype(float), value[single])
    scale = factory.modbus_scale[tag]
    scaled = scale != 1
    assert np.array_equal(np.rint(value[scaled] / scale[scaled]) * scale[scaled], value[scaled])


def test_configuration_survives_a_round_trip(factory):
    import json

    again = Factory.from_dict(json.loads(json.dumps(factory.to_dict())))
    assert again.to_dict() == factory.to_dict()
    assert all(np.array_equal(a, b) for a, b in zip(again.samples(0, S), factory.samples(0, S), strict=True))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tags": 99}, "tags 99"),
        ({"tags": 10**8}, "tags 100000000"),
        ({"duration_s": 0}, "duration_s 0"),
        ({"faults": [Fault("flatline", "nowhere", 1, 2)]}, "nowhere"),
        ({"faults": [Fault("outage", "site1/line1/press1", 1, 2)]}, "shares its endpoint"),
        ({"faults": [Fault("corrupt", OWN_ENDPOINT, 1, 2)]}, "no json device"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Factory(**arguments)


def test_an_unknown_key_of_the_configuration_is_named(factory):
    with pytest.raises(ConfigError, match="colour"):
        Factory.from_dict({**factory.to_dict(), "colour": "red"})
