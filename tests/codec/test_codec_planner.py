"""The planner finds noise and resolution, tries bounds, and its sections load as plant file classes."""

import tomllib

import numpy as np
import polars as pl
import pytest

from iiot_dask.codec.features import kept
from iiot_dask.codec.planner import SHARES, Plan, noise_floor, plan_precision, resolution
from iiot_dask.core.config import Class
from iiot_dask.core.errors import SchemaError

RNG = np.random.default_rng(60)
N = 4000
T = 1_700_000_000_000_000_000 + np.arange(N) * 10**9 + RNG.integers(-2000, 2000, N) * 10
SMOOTH = 20 + 5 * np.sin(np.arange(N) / 150)


@pytest.fixture(scope="module")
def plan() -> Plan:
    noisy = pl.DataFrame({"tag": "a/1/temp", "time": T, "value": SMOOTH + RNG.normal(0, 0.1, N)})
    other = pl.DataFrame({"tag": "a/2/temp", "time": T, "value": SMOOTH + RNG.normal(0, 0.1, N)})
    state = pl.DataFrame({"tag": "a/1/state", "time": T, "value": np.repeat([0.0, 1.0], N // 2)})
    return plan_precision(pl.concat([noisy, other, state]))


def test_what_was_seen(plan: Plan) -> None:
    temp = plan.classes[0]
    assert (temp.match, temp.tags, temp.samples) == ("*/temp", 2, 2 * N)
    assert temp.noise == pytest.approx(0.1, rel=0.2)
    assert temp.span == pytest.approx(10, rel=0.1)
    assert temp.period_ns == pytest.approx(10**9, rel=0.001)
    assert temp.snap_ns == 1_000_000


def test_options_trade_ratio_for_error(plan: Plan) -> None:
    options = plan.classes[0].options
    assert [o.share for o in options] == list(SHARES)
    assert options[0].max_error == 0
    assert all(o.max_error <= o.bound for o in options)
    assert np.all(np.diff([o.ratio for o in options]) > 0)


def test_advice_stays_under_the_noise_and_loads(plan: Plan) -> None:
    temp, state = plan.classes
    assert 0 < temp.advised.bound <= temp.noise / 2
    assert state.advised.bound == 0
    sections = tomllib.loads(plan.toml())["classes"]
    loaded = [Class.model_validate(s) for s in sections]
    assert loaded[0].error_bound == temp.advised.bound
    assert loaded[0].time_snap == 1_000_000
    assert loaded[1].error_bound is None


def test_it_shows_itself(plan: Plan) -> None:
    assert plan.table().height == sum(len(c.options) for c in plan.classes)
    assert plan.table()["advised"].sum() == 2
    assert "*/temp" in plan._repr_html_()
    assert len(plan.plot().renderers) == 4


def test_missing_column_is_named() -> None:
    with pytest.raises(SchemaError, match="needed are tag, time and value"):
        plan_precision(pl.DataFrame({"tag": ["a"], "value": [1.0]}))


def test_nothing_in_nothing_out() -> None:
    empty = pl.DataFrame(
        {"tag": [], "time": [], "value": []}, schema={"tag": pl.Utf8, "time": pl.Int64, "value": pl.Float64}
    )
    assert plan_precision(empty).toml() == ""


def test_datetimes_and_other_names_are_taken() -> None:
    frame = pl.DataFrame(
        {"sensor": "s", "ts": pl.Series(T[:200] // 1000).cast(pl.Datetime("us", "UTC")), "value": SMOOTH[:200]}
    )
    assert plan_precision(frame).classes[0].match == "s"


@pytest.mark.parametrize("sigma", [0.01, 1.0])
def test_noise_floor(sigma: float) -> None:
    x = SMOOTH + RNG.normal(0, sigma, N)
    x[::97] += 1000
    assert noise_floor(x) == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("step", [0.01, 0.1, 1.0])
def test_resolution(step: float) -> None:
    assert resolution(np.round(SMOOTH / step) * step) == pytest.approx(step)


def test_features_lost_are_seen() -> None:
    x = np.sin(np.arange(N) / 20)
    assert kept(x, x, 0.01).peaks == kept(x, x, 0.01).crossings == 1.0
    flat = kept(x, np.zeros(N), 0.01)
    assert flat.peaks == flat.crossings == 0.0
    assert flat.energy == pytest.approx(1.0)
    shifted = kept(x, np.roll(x, 30), 0.01)
    assert shifted.peaks < 0.1
