"""The forecast: what it knows when, how well it covers, and its bytes."""

import numpy as np
import pytest

from iiot_dask.core.errors import ChecksumError, ConfigError, VersionError
from iiot_dask.scaling.demand import START_NS, factory_demand
from iiot_dask.scaling.forecast import DAY_NS, Forecast

S = 1_000_000_000


def fed(days, seed=3, step_s=20.0, **more):
    demand = factory_demand(days, seed=seed, step_s=step_s, surges=0)
    forecast = Forecast(lead_ns=90 * S, window_ns=300 * S, **more)
    time = demand["time"].cast(int).to_list()
    for now, rate in zip(time, demand["rate"].to_list(), strict=True):
        forecast.learn(now, rate)
    return forecast, demand


def test_nothing_is_known_before_a_whole_cycle():
    forecast = Forecast(day_ns=100 * S, lead_ns=2 * S, window_ns=3 * S)
    for t in range(100):
        forecast.learn(t * S, 5.0)
        assert not forecast.known
        assert np.isnan(forecast.expect(t * S)) or t >= 94
    forecast.learn(100 * S, 5.0)
    assert forecast.known
    assert forecast.expect(101 * S) == pytest.approx(5.0)


def test_the_window_behind_the_boot_time_is_what_counts():
    forecast = Forecast(day_ns=100 * S, lead_ns=5 * S, window_ns=10 * S)
    for t in range(301):
        forecast.learn(t * S, 100.0 if 50 <= t % 100 < 60 else 10.0)
    high = [t for t in range(300, 400) if forecast.expect(t * S) > 50]
    # Ready from 50 - (5 + 10) on, and until a worker asked for now would come too late.
    assert min(high) == pytest.approx(335, abs=1)
    assert max(high) == pytest.approx(354, abs=1)


def test_today_twice_as_busy_raises_what_is_expected():
    forecast = Forecast(day_ns=100 * S, lead_ns=5 * S, window_ns=10 * S)
    for t in range(350):
        forecast.learn(t * S, 100.0 if t < 300 else 200.0)
    assert forecast.level == pytest.approx(1.8, abs=0.02)
    assert 170 < forecast.expect(350 * S) < 230


def test_quantile_covers_what_it_promises_on_a_factory():
    forecast, _ = fed(20, quantile=0.9)
    assert forecast.confident
    assert 0.87 <= forecast.coverage <= 0.93
    assert forecast.error < 0.08


def test_weekends_have_a_profile_of_their_own():
    demand = factory_demand(28, seed=4, step_s=60.0, weekend=0.4, surges=0, growth=0.0)
    forecast = Forecast(lead_ns=90 * S, window_ns=300 * S)
    for now, rate in demand.select(demand["time"].cast(int), "rate").iter_rows():
        forecast.learn(now, rate)
    noon = START_NS + 28 * DAY_NS + 10 * 3600 * S
    busy, quiet = (float(forecast.profile.mean[1 + (noon // DAY_NS + d) % 7, 600]) for d in (0, 5))
    assert quiet < 0.5 * busy


def test_a_hole_is_not_learnt():
    forecast = Forecast(day_ns=100 * S, lead_ns=2 * S, window_ns=3 * S)
    for t in range(200):
        forecast.learn(t * S, 50.0)
    before = forecast.profile.mean.copy()
    forecast.learn(260 * S, 50.0)
    for t in range(260, 300):
        forecast.learn(t * S, 0.0, trusted=False)
    assert np.allclose(forecast.profile.mean, before)


def test_bytes_continue_where_they_ended():
    forecast, demand = fed(3, step_s=60.0)
    payload = forecast.to_bytes()
    assert len(payload) < 100_000
    again = Forecast(lead_ns=90 * S, window_ns=300 * S).load(payload)
    assert again.to_bytes() == payload
    now = int(demand["time"].cast(int)[-1])
    for k in range(1, 200):
        for one in (forecast, again):
            one.learn(now + k * 60 * S, 1000.0 + k)
        assert forecast.expect(now + k * 60 * S) == again.expect(now + k * 60 * S)
    other = Forecast(lead_ns=180 * S, window_ns=300 * S).load(payload)
    assert other.known
    assert not other.confident
    for at in (1, 20, 70, len(payload) - 2):
        with pytest.raises(ChecksumError):
            Forecast(lead_ns=90 * S, window_ns=300 * S).load(
                payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
            )
    with pytest.raises(VersionError, match="day"):
        Forecast(day_ns=60 * S, lead_ns=1, window_ns=1).load(payload)


@pytest.mark.parametrize(
    "wrong", [{"day_ns": 1}, {"lead_ns": -1}, {"window_ns": 0}, {"quantile": 1.0}, {"lead_ns": 13 * 3600 * S}]
)
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ConfigError):
        Forecast(**({"lead_ns": S, "window_ns": S} | wrong))
