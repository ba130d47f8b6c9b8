"""Policies are pure: what they want for a load, when they change their mind, and that a log replays."""

from datetime import UTC, datetime

import numpy as np
import pytest

from iiot_dask.core.errors import ChecksumError, ConfigError, VersionError
from iiot_dask.scaling import Observed, policy

S = 1_000_000_000


def ask(p, t, rate, **more):
    return p.decide(round(t * S), Observed(rate, **more))


def test_datetime_and_nanoseconds_are_the_same_instant():
    a, b = (policy("reactive", capacity=1000.0) for _ in range(2))
    assert a.decide(datetime(2026, 1, 1, tzinfo=UTC), Observed(5000.0)) == 8
    b.decide(1_767_225_600_000_000_000, Observed(5000.0))
    assert a.explain().time_ns == b.explain().time_ns
    assert a.explain().reason == b.explain().reason


@pytest.mark.parametrize("rate", [0.0, 1.0, 699.0, 700.0, 701.0, 12_345.0, 1e9])
def test_reactive_keeps_the_utilisation(rate):
    p = policy("reactive", capacity=1000.0, minimum=1, maximum=100, dead_band=0.0)
    assert ask(p, 0, rate) == min(100, max(1, int(np.ceil(rate / 700 - 1e-9))))


def test_reactive_is_fast_up_and_slow_down():
    p = policy("reactive", capacity=1000.0, boot_s=12.0, hold_s=100.0)
    assert ask(p, 0, 700) == 1
    assert [ask(p, t, 7000) for t in (10, 20, 30)] == [9, 10, 10] or ask(p, 40, 7000) == 10
    down = [t for t in range(41, 400) if ask(p, t, 600) < 10]
    assert 100 <= down[0] - 40 <= 120
    assert ask(p, 401, 600) == 1


def test_a_load_that_wavers_at_a_border_changes_nothing():
    rng = np.random.default_rng(1)
    p = policy("reactive", capacity=1000.0, boot_s=90.0)
    wants = [ask(p, t, 7000 * (1 + rng.normal(0, 0.03))) for t in range(0, 86_400, 10)]
    assert len(set(wants[60:])) == 1


def test_a_backlog_asks_for_more_and_is_drained_before_scale_in():
    p = policy("reactive", capacity=1000.0, boot_s=10.0, hold_s=30.0, catch_up_s=20.0)
    ask(p, 0, 700)
    assert ask(p, 1, 700, backlog=200) == 1, "half a second of load is in flight, not behind"
    assert ask(p, 2, 700, backlog=100_000) == 6
    assert "backlog" in p.explain().reason
    assert all(ask(p, t, 70, backlog=500) == 6 for t in range(3, 200))
    assert p.explain().reason.endswith("held while the backlog drains")
    assert ask(p, 300, 70) == 1


def cycle(t):
    """A day of 60 s: a calm half and a busy half."""
    return 4000.0 if t % 60 >= 30 else 300.0


def test_forecast_is_there_before_the_load():
    p = policy("forecast", capacity=1000.0, boot_s=3.0, maximum=10, day_s=60.0)
    wants = {t: ask(p, t, cycle(t), ready=1) for t in range(300)}
    first_day = [wants[t] for t in range(31)]
    assert set(first_day[:30]) == {1}
    for start in (210, 270):
        assert wants[start - 10] == 1
        assert wants[start - 3] >= 6, "a worker asked for 3 s ahead is ready in time"
    assert wants[250] == 1, "and after the busy half they go"


def test_reasons_name_the_numbers():
    p = policy("forecast", capacity=1000.0, boot_s=3.0, maximum=10, day_s=60.0)
    ask(p, 0, 300)
    assert "first cycle not over" in p.explain().reason
    for t in range(1, 269):
        ask(p, t, cycle(t), ready=1)
    seen = p.explain()
    assert "expected" in seen.reason
    assert (seen.forecast, seen.reactive, seen.wanted) == (6, 1, 6)


def test_a_forecast_that_was_wrong_is_not_trusted():
    rng = np.random.default_rng(2)
    p = policy("forecast", capacity=1000.0, boot_s=3.0, maximum=50, day_s=60.0)
    for t in range(600):
        ask(p, t, float(rng.choice([100.0, 300.0, 20_000.0], p=[0.7, 0.2, 0.1])) if t % 7 == 0 else 100.0, ready=1)
    assert not p.forecast.confident
    assert p.explain().forecast is None


@pytest.mark.parametrize("seed", range(5))
def test_the_forecast_never_wants_less_than_reactive(seed):
    rng = np.random.default_rng(seed)
    both = [
        policy(n, capacity=100.0, boot_s=5.0, day_s=100.0, hold_s=0.0, dead_band=0.0) for n in ("forecast", "reactive")
    ]
    for t in range(1500):
        load = Observed(float(rng.gamma(2, 300)), float(rng.choice([0.0, 5000.0], p=[0.95, 0.05])), 3)
        wanted, floor = (p.decide(t * S, load) for p in both)
        assert wanted >= floor


@pytest.mark.parametrize("name", ["forecast", "reactive", "static"])
def test_decisions_replay_and_survive_a_restart(name):
    make = lambda: policy(name, capacity=1000.0, boot_s=3.0, maximum=10, day_s=60.0)  # noqa: E731
    whole, half = make(), make()
    want = [ask(whole, t, cycle(t), ready=1) for t in range(250)]
    got = [ask(half, t, cycle(t), ready=1) for t in range(133)]
    again = make().from_bytes(half.to_bytes())
    got += [ask(again, t, cycle(t), ready=1) for t in range(133, 250)]
    assert got == want
    assert again.to_bytes() == whole.to_bytes()


def test_damaged_states_are_refused():
    p = policy("forecast", capacity=1000.0, boot_s=3.0, day_s=60.0)
    ask(p, 0, 5.0)
    payload = p.to_bytes()
    for at in range(0, len(payload), 37):
        with pytest.raises((ChecksumError, VersionError)):
            p.from_bytes(payload[:at] + bytes([payload[at] ^ 0x40]) + payload[at + 1 :])
    with pytest.raises(ChecksumError):
        p.from_bytes(b"IISP")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"capacity": 0}, "capacity 0.0"),
        ({"utilisation": 1.5}, "utilisation 1.5"),
        ({"minimum": 5, "maximum": 4}, "minimum 5"),
        ({"boot_s": -1}, "boot_s -1.0"),
        ({"day_s": 0}, "day_s 0"),
        ({"quantile": 2.0}, "quantile 2.0"),
    ],
)
def test_wrong_numbers_are_named(wrong, named):
    with pytest.raises(ConfigError, match=named):
        policy("forecast", **({"capacity": 1.0} | wrong))


def test_what_is_kept_does_not_grow():
    p = policy("forecast", capacity=1000.0)
    for t in range(0, 20_000, 10):
        ask(p, t, 100.0)
    before = len(p.to_bytes())
    for t in range(20_000, 200_000, 10):
        ask(p, t, 100.0)
    assert abs(len(p.to_bytes()) - before) < 2000
