"""Bounds of every kind hold for every value, are reported, and fall back where they can not."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask import codec
from iiot_dask.core.errors import ConfigError

FLOATS = hnp.arrays(np.float64, st.integers(0, 300), elements=st.floats(width=64))
SPREAD = np.exp(np.random.default_rng(50).normal(0, 3, 4000))


@pytest.mark.parametrize("tier", ["fast", "archive"])
@given(x=FLOATS, share=st.floats(1e-9, 0.9))
@settings(max_examples=50, deadline=None)
def test_relative_bound_holds_for_any_floats(tier: str, x: np.ndarray, share: float) -> None:
    y = codec.decode_values(codec.encode_values(x, codec.Precision(relative=share), tier=tier))
    finite = np.isfinite(x)
    assert y[~finite].tobytes() == x[~finite].tobytes()
    assert np.all(np.abs(y[finite] - x[finite]) <= share * np.abs(x[finite]))


@pytest.mark.parametrize("digits", [1, 3, 6])
def test_significant_digits(digits: int) -> None:
    blob = codec.encode_values(SPREAD, codec.Precision(significant_digits=digits), tier="archive")
    y = codec.decode_values(blob)
    unit = 10.0 ** (np.floor(np.log10(SPREAD)) - digits + 1)
    assert np.all(np.abs(y - SPREAD) <= 0.50001 * unit)
    report = codec.reached(blob)
    assert report is not None
    assert report.relative
    assert report.max_error == pytest.approx(np.max(np.abs(y - SPREAD) / SPREAD))
    assert len(blob) < 0.7 * len(codec.encode_values(SPREAD, tier="archive"))


def test_share_of_span() -> None:
    blob = codec.encode_values(SPREAD, codec.Precision(span_share=0.001))
    bound = 0.001 * np.ptp(SPREAD)
    assert np.abs(codec.decode_values(blob) - SPREAD).max() <= bound
    report = codec.reached(blob)
    assert report is not None
    assert report.requested == pytest.approx(bound)


@given(FLOATS)
@settings(max_examples=40, deadline=None)
def test_share_of_span_of_any_floats(x: np.ndarray) -> None:
    y = codec.decode_values(codec.encode_values(x, codec.Precision(span_share=0.01)))
    finite = np.isfinite(x)
    assert y[~finite].tobytes() == x[~finite].tobytes()
    if finite.any():
        half = x[finite].max() / 2 - x[finite].min() / 2
        assert np.all(np.abs(y[finite] / 2 - x[finite] / 2) <= half * 0.01 * (1 + 1e-12))


def test_no_span_no_loss() -> None:
    x = np.full(500, 3.7)
    assert codec.decode_values(codec.encode_values(x, codec.Precision(span_share=0.5))).tobytes() == x.tobytes()


def test_runs_of_many_tags_with_a_share_of_span_stay_exact() -> None:
    blob = codec.encode_values(SPREAD, codec.Precision(span_share=0.1), starts=np.arange(0, 4000, 40))
    assert codec.decode_values(blob).tobytes() == SPREAD.tobytes()


def test_zeros_with_a_relative_bound_stay_zeros() -> None:
    x = np.where(np.arange(1000) % 3 == 0, 0.0, SPREAD[:1000])
    y = codec.decode_values(codec.encode_values(x, codec.Precision(relative=0.01)))
    assert np.array_equal(y == 0, x == 0)


def test_of_class_keys() -> None:
    assert codec.Precision.of(0.05, 1000) == codec.Precision(error_bound=0.05, time_snap_ns=1000)
    assert codec.Precision.of("0.1%", None) == codec.Precision(span_share=0.001)
    assert codec.Precision.of(None, None).lossless
    with pytest.raises(ConfigError, match="percentage"):
        codec.Precision.of("much", None)


@pytest.mark.parametrize(
    "kwargs",
    [{"relative": 0}, {"relative": 1.0}, {"span_share": 2}, {"significant_digits": 0}, {"significant_digits": 1.5},
     {"error_bound": 1.0, "relative": 0.1}],
)  # fmt: skip
def test_bad_precision_is_named(kwargs: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        codec.Precision(**kwargs)
