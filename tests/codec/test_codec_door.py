"""Swinging door and dead band: the bound holds, the heartbeat beats, the last point comes out, batches do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.codec.door import Door, rebuild
from iiot_dask.core.errors import CodecError, ConfigError

S = 10**9


def run(
    mode: str, t: np.ndarray, x: np.ndarray, bound: float, beat: int, batch: int
) -> tuple[np.ndarray, np.ndarray, Door]:
    door = Door(bound, beat, mode)
    parts = [door.push(t[a : a + batch], x[a : a + batch]) for a in range(0, len(t), batch)]
    parts.append(door.flush())
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), door


@pytest.mark.parametrize("mode", ["door", "band"])
@given(seed=st.integers(0, 2**32), bound=st.floats(0.01, 5), batch=st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_bound_heartbeat_and_last_point(mode: str, seed: int, bound: float, batch: int) -> None:
    rng = np.random.default_rng(seed)
    n = 300
    t = np.cumsum(rng.integers(1, 3 * S, n))
    x = np.cumsum(rng.normal(size=n))
    kept_t, kept_x, door = run(mode, t, x, bound, 60 * S, batch)
    assert np.abs(rebuild(kept_t, kept_x, t, mode) - x).max() <= bound * (1 + 1e-9) + 1e-9
    assert np.diff(kept_t).min() > 0
    assert np.diff(kept_t).max() < 60 * S + 3 * S
    assert (kept_t[0], kept_t[-1]) == (t[0], t[-1])
    assert door.dropped == n - len(kept_t)
    assert np.array_equal(kept_x, x[np.searchsorted(t, kept_t)]), "kept points are exact"
    again = run(mode, t, x, bound, 60 * S, n)
    assert again[0].tolist() == kept_t.tolist()


def test_straight_line_needs_two_points() -> None:
    t = np.arange(1000) * S
    kept, _, _ = run("door", t, 2.0 * np.arange(1000), 0.5, 10**15, 64)
    assert kept.tolist() == [0, 999 * S]


def test_constant_needs_the_heartbeat_only() -> None:
    kept, _, _ = run("band", np.arange(100) * S, np.full(100, 5.0), 0.1, 10 * S, 7)
    assert kept.tolist() == [*range(0, 100 * S, 10 * S), 99 * S]


@pytest.mark.parametrize("mode", ["door", "band"])
def test_nan_is_kept_where_it_begins_and_ends(mode: str) -> None:
    x = np.full(50, 1.0)
    x[20:30] = np.nan
    kept_t, kept_x, _ = run(mode, np.arange(50) * S, x, 0.5, 10**15, 50)
    assert 20 * S in kept_t
    assert 30 * S in kept_t
    assert np.isnan(kept_x[kept_t == 20 * S]).all()


def test_disorder_is_refused() -> None:
    door = Door(1.0, S)
    door.push([1, 2], [0.0, 0.0])
    with pytest.raises(CodecError, match="ascend"):
        door.push([2], [0.0])
    with pytest.raises(CodecError, match="ascend"):
        door.push([9, 8], [0.0, 0.0])
    with pytest.raises(CodecError, match="equal length"):
        door.push([9], [0.0, 0.0])
    with pytest.raises(ConfigError):
        Door(0.0, S)
