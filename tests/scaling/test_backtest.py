"""The simulator against hand counts and a slow twin; the policies against the goals on a factory."""

from math import ceil

import numpy as np
import polars as pl
import pytest

from iiot_dask.core.errors import ConfigError, SchemaError
from iiot_dask.scaling import Observed, backtest, factory_demand, policy


def demand(rates, step_s=1):
    time = pl.Series([i * step_s * 10**9 for i in range(len(rates))]).cast(pl.Datetime("ns", "UTC"))
    return pl.DataFrame({"time": time, "rate": np.asarray(rates, float)})


def test_by_hand():
    # 1 worker of 10/s: 10 s of 7/s fits; 4 s of 25/s leave 60, which 7/s lets drain at 3/s in 20 s.
    load = [7.0] * 10 + [25.0] * 4 + [7.0] * 30
    r = backtest(demand(load), policy("static", capacity=10.0, workers=1), every="1s")
    assert r.series["backlog"].max() == 60
    assert r.series["wait_s"].max() == pytest.approx(6.0)
    assert r.cost_ratio == pytest.approx(44 / (10 + 4 * 4 + 30))
    assert r.over_70_share == pytest.approx(24 / 44)
    # Within the burst the first second's middle waits 0.75 s; while draining waits pass 1 s until the backlog is 10.
    late = 25 * 3 + 7 * 17
    assert r.late_share == pytest.approx(late / sum(load))


def twin(load, p, boot_s, every):
    """The same queue, obviously."""
    ready, boots, backlog, cost, late = p.decide(0, Observed(load[0])), [], 0.0, 0.0, 0.0
    for t, rate in enumerate(load):
        if t % every == 0:
            want = p.decide(t * 10**9, Observed(rate, backlog, ready, len(boots)))
            while want < ready + len(boots) and boots:
                boots.pop()
            ready = min(ready, want) if not boots else ready
            boots += [t + boot_s] * (want - ready - len(boots))
        while boots and boots[0] <= t:
            boots.pop(0)
            ready += 1
        power = ready * p.sizing.capacity
        before = backlog / power
        backlog = max(0.0, backlog + rate - power)
        late += rate if (before + backlog / power) / 2 > 1 else 0
        cost += ready + len(boots)
    oracle = sum(max(p.sizing.minimum, ceil(r / (p.sizing.capacity * p.sizing.utilisation) - 1e-9)) for r in load)
    return cost / oracle, late / sum(load)


@pytest.mark.parametrize("seed", range(4))
def test_against_the_twin(seed):
    rng = np.random.default_rng(seed)
    load = np.repeat(rng.gamma(2, 400, 60), 20).tolist()
    make = lambda: policy("reactive", capacity=100.0, boot_s=15.0, hold_s=60.0)  # noqa: E731
    r = backtest(demand(load), make(), boot_s=15.0, every="5s")
    cost, late = twin(load, make(), 15, 5)
    assert r.cost_ratio == pytest.approx(cost)
    assert r.late_share == pytest.approx(late)
    assert r.late_share > 0


def test_every_worker_costs_while_it_boots():
    r = backtest(
        demand([70.0] * 5 + [700.0] * 95),
        policy("reactive", capacity=100.0, boot_s=50.0, smooth_s=0),
        boot_s=50,
        every="1s",
    )
    assert r.worker_s == 5 + 95 * 10
    assert r.series["workers"].to_list()[54:56] == [1, 10]


@pytest.fixture(scope="module")
def factory():
    """Four weeks at 2 s steps, a seed that nothing was tuned on."""
    return factory_demand(28, seed=1001, step_s=2.0)


@pytest.fixture(scope="module")
def scored(factory):
    return {
        name: backtest(factory, policy(name, capacity=1000.0, boot_s=90.0), boot_s=90.0, unscored="14d")
        for name in ("forecast", "reactive", "static")
    }


def test_the_goals_of_the_forecast_on_a_factory(scored):
    ours = scored["forecast"]
    assert ours.cost_ratio <= 1.10
    assert ours.late_share <= 0.00005
    assert ours.over_70_share <= 0.02
    assert ours.actions_per_day <= 60


def test_the_forecast_is_less_late_than_following_the_load(scored):
    assert scored["reactive"].late_share > 0.001
    assert scored["forecast"].late_share < scored["reactive"].late_share / 20
    assert scored["forecast"].surge_late_share <= scored["reactive"].surge_late_share


def test_a_static_cluster_of_the_peak_costs_far_more(factory, scored):
    peak = scored["forecast"].peak_workers
    static = backtest(factory, policy("static", capacity=1000.0, workers=peak), unscored="14d")
    assert scored["forecast"].cost_ratio < 0.7 * static.cost_ratio


def test_workers_follow_the_activity(scored):
    series = scored["forecast"].series.tail(14 * 43_200).select(pl.corr("rate", "workers"))
    assert series.item() > 0.95


def test_report_shows_itself(scored):
    report = scored["forecast"]
    assert "cost_ratio" in report._repr_html_()
    figure = report.plot(points=200)
    assert figure.title.text.endswith("(simulated)")
    assert len(figure.renderers) == 3
    assert "series" not in report.document()


def test_wrong_demands_are_refused():
    p = policy("static", capacity=1.0)
    with pytest.raises(SchemaError, match="'time' and 'rate'"):
        backtest(pl.DataFrame({"time": [1, 2]}), p)
    with pytest.raises(SchemaError, match="equal"):
        backtest(pl.DataFrame({"time": [0, 10**9, 3 * 10**9], "rate": [1.0, 1, 1]}), p)
    with pytest.raises(SchemaError, match="negative"):
        backtest(demand([1, -1, 1]), p)
    with pytest.raises(SchemaError, match="at least 2"):
        backtest(demand([1]), p)
    with pytest.raises(ConfigError, match="unscored"):
        backtest(demand([1, 1]), p, unscored="1h")
