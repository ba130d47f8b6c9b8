import numpy as np
import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.shift import Shifts
from iiot_dask.sim.signal import KINDS, Signals, mix, normal, uniform

EVERY = np.arange(len(KINDS))
DAY = Shifts(60.0)


def grid(tag, seconds, step_ms=100):
    t = np.arange(0, seconds * 1000, step_ms, dtype=np.int64) * 10**6
    return np.full(len(t), tag), t


def test_generator_gives_the_published_sequence():
    # SplitMix64 seeded with 1234567: the test vector of the reference implementation (Vigna).
    step = np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert mix(np.uint64(1234567) + step).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_numbers_drawn_have_the_moments_they_claim():
    bits = mix(np.arange(200_000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    u, z = uniform(bits), normal(bits)
    assert abs(u.mean() - 0.5) < 0.003
    assert abs(u.var() - 1 / 12) < 0.001
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01


def test_a_value_depends_on_tag_and_time_alone():
    signals = Signals(EVERY, 7, DAY)
    rng = np.random.default_rng(1)
    tag = rng.integers(0, len(KINDS), 500)
    t = rng.integers(0, 300_000, 500) * 10**6
    block = signals.at(tag, t)
    order = rng.permutation(500)
    assert np.array_equal(signals.at(tag[order], t[order]), block[order])
    assert [signals.at(tag[i : i + 1], t[i : i + 1])[0] for i in range(20)] == block[:20].tolist()


def test_seeds_and_tags_differ():
    kind = np.zeros(2, np.int64)
    tag, t = grid(0, 30)
    one, other = Signals(kind, 7, DAY), Signals(kind, 8, DAY)
    assert (one.at(tag, t) != other.at(tag, t)).mean() > 0.5
    assert (one.at(tag, t) != one.at(tag + 1, t)).mean() > 0.5
    assert np.array_equal(one.at(tag, t), Signals(kind, 7, DAY).at(tag, t))


@pytest.mark.parametrize("number", [i for i, k in enumerate(KINDS) if k.shape == "analog"])
def test_analog_values_sit_on_the_converters_steps_and_carry_noise(number):
    kind = KINDS[number]
    value = Signals(EVERY, 7, DAY).at(*grid(number, 120))
    assert [float(f"{v:.{kind.decimals}f}") for v in value] == value.tolist()
    # Enough noise that a healthy sensor seldom repeats itself often in a row: what makes a flatline tell-tale.
    runs = np.diff(np.flatnonzero(np.append(True, np.diff(value) != 0)))
    assert runs.max() < 12
    assert 0.02 < (np.diff(value) == 0).mean() < 0.5


def test_counters_count_setpoints_step_and_valves_switch():
    signals = Signals(EVERY, 7, DAY)
    name = [k.name for k in KINDS]
    energy = signals.at(*grid(name.index("energy"), 600))
    assert (np.diff(energy) >= 0).all()
    assert energy[-1] > energy[0]
    tag, t = grid(name.index("setpoint"), 600)
    setpoint = signals.at(tag, t)
    for shift in range(30):
        assert len(set(setpoint[DAY.number(t / 1e9) == shift])) == 1
    assert 2 <= len(set(setpoint.tolist())) <= 4
    valve = signals.at(*grid(name.index("valve"), 600))
    assert set(valve.tolist()) == {0.0, 1.0}


def test_activity_shows_in_the_machine():
    name = [k.name for k in KINDS]
    tag, t = grid(name.index("rpm"), 600)
    value, activity = Signals(EVERY, 7, DAY).at(tag, t), DAY.activity(t / 1e9)
    assert np.corrcoef(value, activity)[0, 1] > 0.9


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="kind 11"):
        Signals(np.array([0, 11]), 7, DAY)
