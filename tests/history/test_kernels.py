"""Kernels against slow, obvious twins."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.history import kernels
from iiot_dask.history.block import sort_rows

SEEDS = range(30)


def random_rows(seed: int, n: int = 200, tags: int = 7, span: int = 60):
    rng = np.random.default_rng(seed)
    time = rng.integers(-span, span, n)
    if seed % 3 == 0:
        time = np.where(rng.random(n) < 0.1, time, np.sort(time))
    value = rng.choice([1.5, -2.0, np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, 7.25], n)
    return rng.integers(0, tags, n), time, value, rng.choice([0, 64, 127, 128, 255], n).astype(np.uint8)


@pytest.mark.parametrize("seed", SEEDS)
def test_group_is_a_dict(seed: int) -> None:
    tag, time, value, quality = random_rows(seed)
    wanted = {}
    for row in zip(tag.tolist(), time.tolist(), value.view(np.uint64).tolist(), quality.tolist(), strict=True):
        wanted[row[:2]] = row[2:]
    found = kernels.group(tag, time, value, quality, 7)
    rows = zip(found[0].tolist(), found[1].tolist(), found[2].view(np.uint64).tolist(), found[3].tolist(), strict=True)
    assert [(r[:2], r[2:]) for r in rows] == sorted(wanted.items())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3)), max_size=40))
@settings(max_examples=200, deadline=None)
def test_the_last_written_wins(rows) -> None:
    if not rows:
        return
    tag = np.array([r[0] for r in rows], np.int64)
    time = np.array([r[1] for r in rows], np.int64)
    value = np.arange(len(rows), dtype=np.float64)
    found = kernels.group(tag, time, value, np.zeros(len(rows), np.uint8), 4)
    wanted = {row: float(i) for i, row in enumerate(rows)}
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == sorted(wanted)
    assert found[2].tolist() == [wanted[k] for k in sorted(wanted)]


@pytest.mark.parametrize("top", [5, 2**31, 2**32 - 1])
def test_sparse_and_dense_ids_sort_alike(top: int) -> None:
    tag = np.array([top, 0, top, 3], np.uint32)
    found = sort_rows(tag, np.array([2, 1, 1, 9]), np.arange(4.0), np.zeros(4, np.uint8))
    assert found[0].tolist() == [0, 3, top, top]
    assert found[2].tolist() == [1.0, 3.0, 2.0, 0.0]


@pytest.mark.parametrize("seed", SEEDS)
def test_statistics_twin(seed: int) -> None:
    tag, time, value, quality = sort_rows(*random_rows(seed))
    bounds = kernels.bounds_of(tag)
    assert bounds.tolist() == [0, *(np.flatnonzero(np.diff(tag)) + 1), len(tag)]
    found = kernels.statistics(time, value, quality, bounds)
    for i, (a, b) in enumerate(pairwise(bounds)):
        good = [
            (t, v) for t, v, q in zip(time[a:b], value[a:b], quality[a:b], strict=True) if q < 128 and not math.isnan(v)
        ]
        assert found["count"][i] == b - a
        assert found["good"][i] == len(good)
        if not good:
            assert all(math.isnan(found[name][i]) for name in ("min", "max", "sum", "first", "last"))
            continue
        values = [float(v) for _, v in good]
        assert (found["min"][i], found["max"][i]) == (min(values), max(values))
        assert (found["first"][i], found["last"][i]) == (values[0], values[-1])
        assert (found["first_ns"][i], found["last_ns"][i]) == (good[0][0], good[-1][0])
        total = math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
        assert found["sum"][i] == pytest.approx(total, rel=1e-15, nan_ok=True)


def test_sums_are_compensated() -> None:
    value = np.array([1e16, 1.0, -1e16] * 1000)
    n = len(value)
    found = kernels.statistics(np.arange(n), value, np.zeros(n, np.uint8), np.array([0, n]))
    assert found["sum"][0] == 1000.0


@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_are_aligned_and_of_bounded_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.unique(rng.integers(-1000, 1000, 300) if seed % 2 else np.arange(-500, 500, rng.integers(1, 5)))
    unit, low, high = int(rng.choice([10, 50, 100])), 8, 20
    out = np.empty(len(time) + 1, np.int64)
    n = kernels.cut_kernel(time, np.array([0, len(time)]), np.array([unit]), low, high, out)
    bounds = out[: n + 1]
    assert bounds[0] == 0
    assert bounds[-1] == len(time)
    sizes = np.diff(bounds)
    assert sizes.min() >= 1
    assert sizes.max() <= high
    for edge in bounds[1:-1]:
        aligned = time[edge] // unit != time[edge - 1] // unit
        # Cut inside a unit only where the unit does not fit.
        assert aligned or np.sum(time // unit == time[edge] // unit) + low > high


@pytest.mark.parametrize("seed", SEEDS)
def test_overlap_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 40)), int(rng.integers(0, 12))
    order = np.lexsort((rng.random(n),))
    tag, start = rng.integers(0, 5, n), rng.integers(0, 200, n)
    order = np.lexsort((start, tag))
    tag, start = tag[order], start[order]
    end = start + rng.integers(0, 25, n)
    low, begin = rng.integers(0, 5, m), rng.integers(0, 200, m)
    high, stop = low + rng.integers(0, 2, m), begin + rng.integers(0, 25, m)
    out = np.zeros(n, np.bool_)
    kernels.overlap_kernel(tag, start, end, low, high, begin, stop, out)
    for i in range(n):
        others = any(j != i and tag[j] == tag[i] and start[j] <= end[i] and start[i] <= end[j] for j in range(n))
        blocks = any(low[k] <= tag[i] <= high[k] and begin[k] <= end[i] and start[i] <= stop[k] for k in range(m))
        assert out[i] == (others or blocks)


def test_windows_twin() -> None:
    tag, time, _, _ = sort_rows(*random_rows(3))
    out = np.empty(len(tag) + 1, np.int64)
    n = kernels.window_kernel(tag, time, 7, out)
    cells = defaultdict(int)
    for key in zip(tag.tolist(), (time // 7).tolist(), strict=True):
        cells[key] += 1
    assert np.diff(out[: n + 1]).tolist() == list(cells.values())


def test_the_digest_sees_values_not_order() -> None:
    tag, time, value, quality = random_rows(1)
    whole = kernels.digest(tag, time, value, quality)
    mixed = np.random.default_rng(0).permutation(len(tag))
    assert kernels.digest(tag[mixed], time[mixed], value[mixed], quality[mixed]) == whole
    for column in (tag, time, value, quality):
        kept = column[5]
        column[5] = 77
        assert kernels.digest(tag, time, value, quality) != whole
        column[5] = kept
