"""The kernels against slow twins written from the format."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.codec import grid, snap_times
from iiot_dask.codec.packed import Packed

_spec = importlib.util.spec_from_file_location("codec_naive", Path(__file__).with_name("naive.py"))
assert _spec is not None
assert _spec.loader is not None
naive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(naive)

ONE = np.zeros(1, np.int64)


def test_packed_is_what_its_format_says(integers: np.ndarray) -> None:
    assert naive.unpack(Packed.encode(integers, ONE), len(integers)) == integers.tolist()


def test_packed_runs(integers: np.ndarray) -> None:
    starts = np.unique(np.concatenate((ONE, np.random.default_rng(0).integers(0, len(integers), 20))))
    payload = Packed.encode(integers, starts)
    assert naive.unpack(payload, len(integers)) == integers.tolist()
    assert Packed.decode(payload, len(integers)).tolist() == integers.tolist()


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 8)), min_size=1, max_size=50))
@settings(max_examples=100, deadline=None)
def test_decimals_are_what_text_reads_as(pairs: list[tuple[int, int]]) -> None:
    for k, d in pairs:
        x = k / 10**d
        for tried in range(12):
            if x == 0 and k < 0:
                continue
            assert bool(grid.fits(x, 10.0**tried, False)) == naive.is_decimal(x, tried), (x, tried)


@given(st.lists(st.integers(-(10**6), 10**6), max_size=60), st.integers(1, 5000), st.booleans())
@settings(max_examples=200, deadline=None)
def test_snap(times: list[int], step: int, ascending: bool) -> None:
    t = np.array(sorted(times) if ascending else times, np.int64)
    out = snap_times(t, step)
    assert out.tolist() == naive.snap(t.tolist(), step)
    order = np.argsort(t, kind="stable")
    assert (np.diff(out[order]) >= 0).all(), "reordered"
    assert len(np.unique(out)) == len(np.unique(t)), "merged"


@pytest.mark.parametrize("single", [False, True])
def test_find_decimals_sees_through_outliers(single: bool) -> None:
    x = np.round(np.random.default_rng(1).normal(50, 9, 1000), 3)
    if single:
        x = x.astype(np.float32).astype(np.float64)
    x[::200] = np.pi
    d, _ = grid.find_decimals(x, 0, len(x), single)
    assert d == 3
