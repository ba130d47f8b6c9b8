"""The archive tier: every grid bit for bit, smaller than the fast tier, the choice remembered."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask import codec
from iiot_dask.codec import frame, lattice, numbers, search, steps
from iiot_dask.codec.grid import BITS64, DECIMAL, MULTIPLE

RNG = np.random.default_rng(40)
N = 5000
WALK = np.cumsum(RNG.normal(0, 0.3, N)) + 40
COUNTS = np.round(WALK * 50)


def bits(x: np.ndarray) -> list[int]:
    return np.ascontiguousarray(x).view(np.uint64).tolist()


def printed(x: np.ndarray, form: str) -> np.ndarray:
    return np.array([float(format(v, form)) for v in x])


SERIES = {
    "decimals": np.round(WALK, 2),
    "averages": COUNTS / 3,
    "averages_60": COUNTS / 60,
    "averages_printed": np.round(COUNTS / 3, 4),
    "adc_printed": np.round(COUNTS * 5 / 4096, 5),
    "step": COUNTS * 0.000162435628742515,
    "two_roundings": COUNTS * 0.00226 / 11,
    "step_single": (COUNTS * 0.0123).astype(np.float32).astype(float),
    "six_digits": printed(np.exp(WALK / 9 - 6), ".6g"),
    "single_printed": printed(WALK.astype(np.float32).astype(float), ".10g"),
    "single": RNG.normal(size=N).astype(np.float32).astype(float),
    "float_noise": np.round(WALK, 2) * 1.1 / 1.1,
    "held": np.repeat(np.round(RNG.normal(20, 3, N // 5), 2), 5),
    "levels": RNG.choice(np.array([1.5, 2.25, 77.125, 1e6]), N),
    "normal": RNG.normal(size=N),
    "changes": np.concatenate((printed(WALK[:3000].astype(np.float32).astype(float), ".9g"), np.round(WALK[3000:], 1))),
    "outliers": np.where(RNG.random(N) < 0.01, RNG.normal(size=N), np.round(WALK, 1)),
    "with_nan": np.where(RNG.random(N) < 0.05, np.nan, np.round(WALK, 1)),
    "all_nan": np.full(N, np.nan),
}
GRIDS = {
    "decimals": [DECIMAL + 2],
    "averages": [lattice.DIVIDE],
    "averages_60": [lattice.DIVIDE],
    "averages_printed": [lattice.ROUNDED + 4],
    "step": [MULTIPLE],
    "two_roundings": [MULTIPLE],
    "step_single": [lattice.MULTIPLE32],
    "six_digits": [lattice.SIGNIFICANT + 6],
    "single_printed": [lattice.SINGLE_TEXT + 10],
    "normal": [BITS64],
}


@pytest.mark.parametrize("name", SERIES)
def test_bit_for_bit_and_smaller(name: str) -> None:
    x = SERIES[name]
    blob = codec.encode_values(x, tier="archive")
    assert bits(codec.decode_values(blob)) == bits(x)
    assert len(blob) <= len(codec.encode_values(x)) * 1.01 + 8


@pytest.mark.parametrize("name", GRIDS)
def test_the_right_grid_is_found(name: str) -> None:
    (grid, _), _ = search.best_proposal(SERIES[name])
    assert grid in GRIDS[name], hex(grid)


@pytest.mark.parametrize(
    ("name", "bits_max"), [("averages", 8), ("averages_printed", 8), ("step", 8), ("two_roundings", 9)]
)
def test_a_grid_costs_what_its_counts_cost(name: str, bits_max: float) -> None:
    counts = len(codec.encode_values(COUNTS, tier="archive"))
    assert len(codec.encode_values(SERIES[name], tier="archive")) < counts + 700
    assert counts * 8 < bits_max * N


def test_change_of_format_makes_parts() -> None:
    x = SERIES["changes"]
    blob = codec.encode_values(x, tier="archive")
    assert frame.unseal(blob).kind is frame.Kind.VALUES_PARTS
    halves = len(codec.encode_values(x[:3000], tier="archive")) + len(codec.encode_values(x[3000:], tier="archive"))
    assert len(blob) < 1.15 * halves


@given(hnp.arrays(np.float64, st.integers(1, 400), elements=st.floats(width=64)))
@settings(max_examples=50, deadline=None)
def test_any_floats(x: np.ndarray) -> None:
    assert bits(codec.decode_values(codec.encode_values(x, tier="archive"))) == bits(x)


@given(hnp.arrays(np.int64, st.integers(0, 400)))
@settings(max_examples=50, deadline=None)
def test_any_times(t: np.ndarray) -> None:
    assert codec.decode_times(codec.encode_times(t, tier="archive")).tolist() == t.tolist()


LATTICES = [
    (MULTIPLE, 0.1),
    (lattice.DIVIDE, 7.0),
    (lattice.MULTIPLE32, 0.3),
    (lattice.DIVIDE32, 12.0),
    (lattice.SINGLE_TEXT + 8, 6.0),
    (lattice.SIGNIFICANT + 5, 7.0),
    (lattice.ROUNDED + 4, 3.0),
    (DECIMAL + 3, 1.0),
]


@pytest.mark.parametrize(("grid", "param"), LATTICES, ids=str)
@given(x=hnp.arrays(np.float64, st.integers(1, 100), elements=st.floats(width=64)))
@settings(max_examples=40, deadline=None)
def test_every_lattice_takes_any_floats(grid: int, param: float, x: np.ndarray) -> None:
    k, c, miss, _ = numbers.to_numbers(x, (grid, param))
    back = np.empty(len(x))
    assert lattice.from_lattice(k, c, 0, len(x), grid, param, back)
    hit = miss == 0
    assert bits(back[hit]) == bits(x[hit])


@pytest.mark.parametrize("digits", [1, 3, 6, 10])
def test_significant_digits_are_counted_without_gaps(digits: int) -> None:
    top = digits + 2
    k = np.unique(
        np.concatenate((np.arange(2000), 10 ** np.arange(digits + 1), RNG.integers(0, 10 ** (digits + 1), 500)))
    )
    x = np.array([lattice.point(v, lattice.SIGNIFICANT + digits, float(top)) for v in k])
    assert (np.diff(x) > 0).all()
    assert [lattice.index(v, lattice.SIGNIFICANT + digits, float(top)) for v in x] == k.tolist()
    assert all(float(format(v, f".{digits}g")) == v for v in x if v < 1)


def test_remembered_is_used_and_given_up() -> None:
    remembered = codec.Remembered()
    for part in np.split(SERIES["decimals"], 5):
        blob = codec.encode_values(part.copy(), tier="archive", remembered=remembered)
        assert bits(codec.decode_values(blob)) == bits(part)
    assert remembered.values.proposal == (DECIMAL + 2, 1.0)
    assert remembered.values.uses >= 3
    other = SERIES["averages"]
    blob = codec.encode_values(other, tier="archive", remembered=remembered)
    assert bits(codec.decode_values(blob)) == bits(other)
    assert remembered.values.proposal == (lattice.DIVIDE, 3.0)


def test_remembered_is_examined_again() -> None:
    remembered = codec.Remembered()
    for _ in range(40):
        codec.encode_values(SERIES["decimals"][:500], tier="archive", remembered=remembered)
    assert remembered.values.uses < 40


def test_lossy_archive() -> None:
    x = RNG.normal(size=N)
    blob = codec.encode_values(x, codec.Precision(error_bound=0.01), tier="archive")
    assert np.abs(codec.decode_values(blob) - x).max() <= 0.01
    report = codec.reached(blob)
    assert report is not None
    assert 0.005 < report.max_error <= 0.01
    assert len(blob) < len(codec.encode_values(x, codec.Precision(error_bound=0.01)))


def test_divisor_of_differences() -> None:
    x = np.unique(RNG.integers(0, 9999, 300)) * 0.037
    step = steps.refine_step(x, steps.float_divisor(x, 1e-11))
    assert step == pytest.approx(0.037, rel=1e-12)
