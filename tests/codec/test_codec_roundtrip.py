"""Whatever goes in comes back: bit for bit, or within the bound."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask import codec
from iiot_dask.core.errors import CodecError, ConfigError

FLOATS = hnp.arrays(np.float64, st.integers(0, 700), elements=st.floats(width=64))
ROUNDED = FLOATS.map(lambda x: np.round(np.where(np.abs(x) < 1e9, x, 1.0), 2))
TIMES = hnp.arrays(np.int64, st.integers(0, 700))
RUNS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def bits(x: np.ndarray) -> list[int]:
    return np.ascontiguousarray(x).view(np.uint64).tolist()


def test_values_come_back_bit_for_bit(floats: np.ndarray) -> None:
    kept = bits(floats)
    assert bits(codec.decode_values(codec.encode_values(floats))) == kept
    assert bits(floats) == kept, "the input was changed"


def test_times_come_back(integers: np.ndarray) -> None:
    assert codec.decode_times(codec.encode_times(integers)).tolist() == integers.tolist()


@given(st.one_of(FLOATS, ROUNDED))
@settings(max_examples=60, deadline=None)
def test_any_floats(x: np.ndarray) -> None:
    assert bits(codec.decode_values(codec.encode_values(x))) == bits(x)


@given(TIMES)
@settings(max_examples=60, deadline=None)
def test_any_times(t: np.ndarray) -> None:
    assert codec.decode_times(codec.encode_times(t)).tolist() == t.tolist()


@given(RUNS, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_runs_of_many_tags(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
    n = sum(lengths)
    x = np.concatenate(
        [
            np.round(rng.normal(50, 20, m), int(rng.integers(0, 9))) if rng.random() < 0.8 else rng.normal(size=m)
            for m in lengths
        ]
    )
    t = np.concatenate([rng.integers(0, 10**6) + np.arange(m) * int(rng.integers(1, 10**9)) for m in lengths])
    assert bits(codec.decode_values(codec.encode_values(x, starts=starts))) == bits(x)
    assert codec.decode_times(codec.encode_times(t, starts=starts)).tolist() == t.tolist()
    y = codec.decode_values(codec.encode_values(x, codec.Precision(error_bound=0.25), starts=starts))
    assert np.abs(y - x).max() <= 0.25
    assert len(y) == n


def test_runs_help_where_tags_differ() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([np.round(10.0 ** (i % 7) + rng.normal(0, 1, 20), i % 4) for i in range(500)])
    starts = np.arange(0, len(x), 20)
    assert len(codec.encode_values(x, starts=starts)) < 0.8 * len(codec.encode_values(x))


@given(FLOATS, st.floats(1e-9, 1e6))
@settings(max_examples=80, deadline=None)
def test_bound_holds_for_any_floats(x: np.ndarray, bound: float) -> None:
    y = codec.decode_values(codec.encode_values(x, codec.Precision(error_bound=bound)))
    finite = np.isfinite(x)
    assert bits(y[~finite]) == bits(x[~finite])
    assert np.all(np.abs(y[finite] - x[finite]) <= bound)


@pytest.mark.parametrize("bound", [0.05, 0.01, 0.5, 0.37, 1e-6])
def test_bound_is_reached_reported_and_pays(bound: float) -> None:
    x = 20 + np.sin(np.arange(5000) / 300) + np.random.default_rng(3).normal(0, 0.2, 5000)
    blob = codec.encode_values(x, codec.Precision(error_bound=bound))
    error = np.abs(codec.decode_values(blob) - x)
    report = codec.reached(blob)
    assert report is not None
    assert report.requested == bound
    assert report.max_error == error.max() <= bound
    assert report.rms_error == pytest.approx(np.sqrt(np.mean(error**2)))
    assert report.rms_error > bound / 4, "the bound is hardly used"
    assert len(blob) < 0.6 * len(codec.encode_values(x))


def test_values_on_ties_of_the_bound_stay_small() -> None:
    x = np.round(np.random.default_rng(4).uniform(0, 100, 5000), 2)  # every tenth lies halfway between two steps
    blob = codec.encode_values(x, codec.Precision(error_bound=0.05))
    assert np.abs(codec.decode_values(blob) - x).max() <= 0.05
    assert len(blob) < 5000 * 10.2 / 8


def test_lossless_has_no_report() -> None:
    assert codec.reached(codec.encode_values(np.arange(10.0))) is None


def test_outliers_do_not_change_the_grid() -> None:
    rng = np.random.default_rng(5)
    x = np.round(rng.normal(20, 1, 8000), 1)
    clean = len(codec.encode_values(x))
    x[rng.choice(8000, 20, replace=False)] = rng.normal(size=20)
    assert len(codec.encode_values(x)) < clean + 20 * 14


def test_chunk(floats: np.ndarray) -> None:
    t = np.arange(len(floats)) * 1_000_000
    times, values = codec.decode(codec.encode(t, floats))
    assert times.tolist() == t.tolist()
    assert bits(values) == bits(floats)
    assert times.dtype == np.int64
    assert values.dtype == np.float64


def test_chunk_with_precision() -> None:
    rng = np.random.default_rng(6)
    t = np.arange(5000) * 10**9 + rng.integers(-300_000, 300_000, 5000)
    x = rng.normal(size=5000)
    blob = codec.encode(t, x, precision=codec.Precision(error_bound=0.05, time_snap_ns=1_000_000))
    times, values = codec.decode(blob)
    assert np.abs(times - t).max() <= 500_000
    assert (times % 1_000_000 == 0).all()
    assert np.abs(values - x).max() <= 0.05
    assert len(blob) * 10 < 16 * 5000


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.bool_, np.int64])
def test_codes(dtype: type) -> None:
    rng = np.random.default_rng(7)
    for k in (np.zeros(3000), rng.integers(0, 2, 3000), np.repeat(rng.integers(0, 2, 30), 100), np.empty(0)):
        column = k.astype(dtype)
        back = codec.decode_codes(codec.encode_codes(column), dtype)
        assert back.dtype == dtype
        assert back.tolist() == column.tolist()


def test_quality_that_is_good_costs_nothing() -> None:
    quality = np.zeros(16_384, np.uint8)
    quality[5000:5100] = 128
    assert len(codec.encode_codes(quality)) < 40


def test_codes_that_do_not_fit() -> None:
    with pytest.raises(CodecError, match="from 0 to 300"):
        codec.decode_codes(codec.encode_codes(np.array([0, 300])), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: codec.encode([1, 2], [1.0]), "2 times, 1 values"),
        (lambda: codec.encode_times(np.zeros((2, 2), np.int64)), "shape"),
        (lambda: codec.encode_times(np.array([1.5])), "without loss"),
        (lambda: codec.encode_times(np.array([2**63], np.uint64)), "without loss"),
        (lambda: codec.encode_times(np.arange(5), starts=np.array([1, 2])), "begin at 0"),
        (lambda: codec.encode_values(np.arange(5.0), starts=np.array([0, 5])), "below 5"),
        (lambda: codec.encode_values(np.arange(5.0), starts=np.array([0, 3, 3])), "ascend"),
        (lambda: codec.snap_times(np.arange(5), 0), "snap of 0"),
        (lambda: codec.encode_codes(np.array([0.5])), "without loss"),
    ],
)
def test_bad_arguments(call: object, message: str) -> None:
    with pytest.raises(CodecError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("kwargs", [{"error_bound": 0}, {"error_bound": float("nan")}, {"time_snap_ns": 0}])
def test_bad_precision(kwargs: dict) -> None:
    with pytest.raises(ConfigError):
        codec.Precision(**kwargs)
