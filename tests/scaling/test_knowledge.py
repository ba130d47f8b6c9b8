"""What a policy knows besides the load: clocks, plans, limits, real capacities; and states of earlier versions."""

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from iiot_dask.core.errors import ChecksumError, ConfigError
from iiot_dask.scaling import Calendar, Event, Limits, Observed, Shift, Window, factory_demand, policy
from iiot_dask.scaling.challenge import Contest, Persistence
from iiot_dask.scaling.forecast import DAY_NS, RECONNECT, Forecast
from iiot_dask.scaling.peers import PEERS

S = 1_000_000_000
GOLDEN = Path(__file__).parents[1] / "golden" / "scaling"


def at(*moment):
    return round(datetime(*moment, tzinfo=UTC).timestamp()) * S


def test_states_of_version_1_are_read_for_ever():
    p = policy("forecast", capacity=1000.0, boot_s=3.0, maximum=10, day_s=60.0)
    p.from_bytes((GOLDEN / "policy-state-1.bin").read_bytes())
    assert p.forecast.known
    assert p.forecast.expect(266 * S) > 3000
    day = policy("forecast", capacity=1000.0).from_bytes((GOLDEN / "policy-state-day-1.bin").read_bytes())
    assert day.decide(2 * DAY_NS, Observed(1000.0)) == 3
    assert day.explain().expected == pytest.approx(1005.0)


def test_shifts_follow_the_clock_on_the_wall_through_both_turns():
    c = Calendar("Europe/Berlin", [Shift("06:00", 900.0), Shift("22:00", 100.0)])
    assert [c.planned(at(2026, 3, 28, h)) for h in (4, 5)] == [100.0, 900.0]
    assert [c.planned(at(2026, 3, 29, h)) for h in (3, 4)] == [100.0, 900.0]
    assert [c.planned(at(2026, 10, 25, h)) for h in (4, 5)] == [100.0, 900.0]
    assert c.turn(at(2026, 3, 28, 12)) == (at(2026, 3, 29, 1), 2 * 3600 * S)


def test_what_was_learnt_moves_with_daylight_saving():
    f = Forecast(lead_ns=90 * S, window_ns=300 * S, calendar=Calendar("Europe/Berlin"))
    load = lambda now, offset: 1000.0 if 6 <= (now // S + offset) % 86_400 / 3600 < 14 else 100.0  # noqa: E731
    for now in range(at(2026, 3, 16), at(2026, 3, 29), 60 * S):
        f.learn(now, load(now, 3600))
    # The first morning of summer time: six o'clock is an hour earlier in UTC.
    assert f.profile.usual(at(2026, 3, 29, 4, 30) // f.slot_ns) == pytest.approx(1000.0)
    assert f.profile.usual(at(2026, 3, 28, 4, 30) // f.slot_ns) == pytest.approx(100.0)


def test_a_plan_is_enough_for_the_first_shift():
    c = Calendar("UTC", [Shift("06:00", 7000.0), Shift("14:00", 300.0)])
    p = policy("forecast", capacity=1000.0, boot_s=90.0, calendar=c)
    start = at(2026, 1, 5, 5)
    wants = [p.decide(start + t * S, Observed(300.0, ready=1)) for t in range(0, 3600, 10)]
    assert wants[0] == 1
    assert 10 <= wants[-10] <= 11, "a worker asked for 100 s ahead is there at six"


def test_a_holiday_is_no_weekday_and_teaches_none():
    holiday = date(1970, 1, 22)
    f = Forecast(lead_ns=90 * S, window_ns=300 * S, calendar=Calendar(holidays=[holiday]))
    for day in range(22):
        for minute in range(1440):
            f.learn((day * 1440 + minute) * 60 * S, 50.0 if day == 21 else 1000.0)
    assert f.profile.usual(21 * 1440 + 600) == pytest.approx(50.0)
    assert f.profile.usual(28 * 1440 + 600) == pytest.approx(1000.0)


def test_a_planned_start_up_has_its_own_template_and_teaches_the_profile_nothing():
    start = 3 * 100 * S
    event = Event("line 2", start, 20 * S, factor=2.0)
    c = Calendar(events=[event])
    f = Forecast(day_ns=100 * S, lead_ns=2 * S, window_ns=3 * S, calendar=c)
    for t in range(420):
        if t == 297:
            assert f.expect(t * S) == pytest.approx(200.0, rel=0.1), "before it was ever seen: its factor"
        f.learn(t * S, 300.0 if 300 <= t < 320 else 100.0)
    c.plan(Event("line 2", 500 * S, 20 * S))
    f.learn(420 * S, 100.0)
    assert f.profile.usual(505) == pytest.approx(100.0, rel=0.01)
    assert f.profile.factor(c.event(505 * S), 505) == pytest.approx(3.0, rel=0.05)


def test_an_outage_is_held_through_and_its_return_is_learnt():
    p = policy("forecast", capacity=1000.0, boot_s=3.0, day_s=60.0, hold_s=1.0)
    for t in range(240):
        p.decide(t * S, Observed(3000.0, ready=5))
    before = p.explain().wanted
    profile = p.forecast.profile.mean.copy()
    for t in range(240, 260):
        assert p.decide(t * S, Observed(0.0, ready=5, trusted=False)) == before
    assert (p.forecast.profile.mean == profile).all()
    for t in range(260, 280):
        p.decide(t * S, Observed(6000.0, ready=5))
    assert p.forecast.profile.highest(RECONNECT) > 1.5


def test_without_metrics_nobody_goes_but_more_may_come():
    p = policy("forecast", capacity=1000.0, boot_s=3.0, maximum=10, day_s=60.0)
    for t in range(265):
        p.decide(t * S, Observed(4000.0 if t % 60 >= 30 else 300.0, ready=1))
    assert [p.decide(t * S, None) for t in (266, 268)][-1] == 6
    assert p.decide(271 * S, None) == 6


def test_shadow_mode_decides_as_reactive_would():
    kinds = [("forecast", {"mode": "shadow"}), ("reactive", {})]
    shadow, reactive = (policy(n, capacity=1000.0, boot_s=3.0, day_s=60.0, **k) for n, k in kinds)
    for t in range(300):
        seen = Observed(4000.0 if t % 60 >= 30 else 300.0, ready=1)
        assert shadow.decide(t * S, seen) == reactive.decide(t * S, seen)
    assert "shadow" in shadow.explain().reason


def test_capacity_is_learnt_not_believed():
    p = policy("reactive", capacity=1000.0, boot_s=10.0)
    for t in range(0, 600, 10):
        p.decide(t * S, Observed(2000.0, ready=4, served=2000.0, busy=1.0))
    assert p.capacity.alone == pytest.approx(500.0, rel=0.01)
    assert p.explain().reactive == 6


def test_a_budget_of_actions_is_kept_without_refusing_workers():
    free, bound = (policy("reactive", capacity=100.0, boot_s=5.0, hold_s=0.0, limits=x) for x in (None, Limits(50.0)))
    changes = [0, 0]
    last = [0, 0]
    for t in range(0, 86_400, 10):
        rate = 700.0 if t // 300 % 2 else 70.0
        for k, p in enumerate((free, bound)):
            want = p.decide(t * S, Observed(rate, ready=1))
            changes[k] += want != last[k]
            last[k] = want
            assert k == 0 or want >= p.explain().reactive
    assert changes[0] > 250
    assert changes[1] < 130


def test_schedules_and_cost_limits_narrow_and_say_so():
    limits = Limits(windows=[Window("22:00", "06:00", maximum=2)], worker_hours_per_day=48.0)
    p = policy("reactive", capacity=100.0, limits=limits)
    assert p.decide(at(2026, 1, 5, 23), Observed(5000.0)) == 2
    assert "schedule" in p.explain().reason or "cost" in p.explain().reason
    with pytest.raises(ConfigError, match="actions_per_day"):
        Limits(actions_per_day=0)


def test_the_better_model_becomes_champion_and_survives_a_restart():
    kinds = {"lead": 2, "window": 2, "quantile": 0.9}
    clock = Forecast(day_ns=100 * S, lead_ns=2 * S, window_ns=2 * S)
    make = lambda: Contest(  # noqa: E731
        {"persistence": Persistence(S, **kinds), "clock": clock}, slot_ns=S, day_ns=100 * S, **kinds
    )
    contest = make()
    for t in range(1500):
        contest.learn(t * S, 4000.0 if t % 10 >= 5 else 300.0)
    assert contest.champion == "clock"
    record = contest.record()
    assert "clock" in set(record["model"])
    assert record.filter(record["model"] == "clock")["error"].abs().mean() < 0.5
    again = make().load(contest.to_bytes())
    assert (again.champion, again.to_bytes()) == (contest.champion, contest.to_bytes())
    payload = contest.to_bytes()
    with pytest.raises(ChecksumError):
        make().load(payload[:50] + b"?" + payload[51:])


@pytest.mark.parametrize("name", PEERS)
def test_peers_follow_a_step_and_stay_within_limits(name):
    p = PEERS[name](policy("reactive", capacity=100.0, maximum=20).sizing)
    for t in range(1200):
        p.decide(t * S, Observed(50.0, 0.0, 1, 0, 50.0, 0.5))
    low = p.decide(1200 * S, Observed(50.0, 0.0, 1, 0, 50.0, 0.5))
    ready, most = low, low
    for t in range(1201, 4800):
        busy = min(1.0, 900.0 / (100.0 * max(1, ready)))
        most = max(most, ready := p.decide(t * S, Observed(900.0, 5000.0, ready, 0, min(900.0, 100.0 * ready), busy)))
    assert 1 <= low <= 2
    assert 9 <= most <= 20


def test_the_factory_has_one_seed_one_load():
    assert factory_demand(2, seed=1, step_s=60.0).equals(factory_demand(2, seed=1, step_s=60.0))
