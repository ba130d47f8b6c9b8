from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from iiot_dask.core.errors import ConfigError, UnknownTagError
from iiot_dask.history import History
from iiot_dask.query import downsample, query, trend
from iiot_dask.query.downsample import downsample as thin


@pytest.fixture
def history(tmp_path) -> History:
    opened = History(tmp_path)
    n = 20_000
    value = np.sin(np.arange(n) / 500)
    value[7_777] = 50.0
    value[9_000] = np.nan
    quality = np.zeros(n, np.uint8)
    quality[10_000] = 128
    opened.append(pl.DataFrame({"tag": ["a[1]"] * n, "time": np.arange(n) * 10**9, "value": value, "quality": quality}))
    return opened


def test_samples_or_windows(history: History) -> None:
    assert_frame_equal(query(history, "a*").collect(), history.scan().collect())
    assert_frame_equal(query(history, ["a*"], every="1m").collect(), history.aggregate("1m").collect())
    assert query(history, start=0, end=10**10).collect().height == 10


def test_bad_questions(history: History) -> None:
    with pytest.raises(UnknownTagError, match="no tag matches 'b'; the history knows 1"):
        query(history, ["a*", "b"])
    with pytest.raises(ConfigError, match="is not after start"):
        query(history, start=5, end=5)
    with pytest.raises(ConfigError, match="span 'x'"):
        query(history, every="x")


@pytest.mark.parametrize("decode_max", [5_000_000, 10])
@pytest.mark.parametrize("points", [3, 50, 999])
def test_a_trend_keeps_the_spike(history: History, monkeypatch, decode_max: int, points: int) -> None:
    monkeypatch.setattr("iiot_dask.query.downsample.DECODE_MAX", decode_max)
    time, value = trend(history, "a[1]", 0, 20_000 * 10**9, points)
    assert 0 < len(time) <= points
    assert (time.dtype, value.dtype) == (np.int64, np.float64)
    assert np.isfinite(value).all()
    assert value.max() == 50.0
    assert (np.diff(time) >= 0).all()


def test_a_trend_of_few_or_none(history: History) -> None:
    time, value = trend(history, "a[1]", 0, 5 * 10**9, 100)
    assert time.tolist() == [i * 10**9 for i in range(5)]
    assert value[0] == 0.0
    assert len(trend(history, "a1", 0, 10**18, 100)[0]) == 0
    assert len(trend(history, "a[1]", -100, -50, 100)[0]) == 0
    with pytest.raises(ConfigError, match="at least 3"):
        trend(history, "a[1]", 0, 10**18, 2)


def test_thinning_keeps_the_ends() -> None:
    time = np.arange(10_000, dtype=np.int64) + 1_790_000_000 * 10**9
    shown, values = thin(time, np.random.default_rng(0).random(10_000), 100)
    assert (shown[0], shown[-1]) == (time[0], time[-1])
    assert len(shown) == len(values) <= 100
    assert downsample.DECODE_MAX > 0
