"""Columns that every codec must bring back bit for bit."""

import numpy as np
import pytest


def _columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    n = 2000
    walk = np.cumsum(rng.normal(0, 0.1, n)) + 20
    specials = np.array([0x7FF8000000000001, 0xFFF8DEADBEEF0000, 0x7FF0000000000001, 1, 0x8000000000000001], np.uint64)
    spiky = np.round(walk, 1)
    spiky[rng.integers(0, n, 20)] = [np.nan, np.inf, -np.inf, -0.0, 1e300, 5e-324, np.pi, -1e-9, 3e15, 0.1 + 0.2] * 2
    singles = np.round(walk, 2).astype(np.float32).astype(np.float64)
    return {
        "empty": np.empty(0),
        "one": np.array([3.25]),
        "two": np.array([1.0, -1.0]),
        "constant": np.full(n, 21.5),
        "nan": np.full(n, np.nan),
        "minus_zero": np.where(rng.random(n) < 0.5, 0.0, -0.0),
        "integers": np.round(walk * 100),
        "decimal_1": np.round(walk, 1),
        "decimal_2": np.round(walk, 2),
        "decimal_6": np.round(walk, 6),
        "adc": np.round(walk * 256) / 256,
        "spiky": spiky,
        "single_decimal": singles,
        "single": rng.normal(size=n).astype(np.float32).astype(np.float64),
        "double": rng.normal(size=n),
        "bits": rng.integers(0, 2**64, n, dtype=np.uint64).view(np.float64),
        "specials": specials.view(np.float64),
        "states": np.repeat(rng.integers(0, 4, 40).astype(float), 50),
        "counter": np.cumsum(rng.integers(0, 3, n)).astype(float),
        "huge": np.array([1.7e308, -1.7e308] * 100),
        "large_integers": (2.0**53) + 2.0 * rng.integers(0, 99, n),
    }


COLUMNS = _columns()


@pytest.fixture(params=sorted(COLUMNS))
def floats(request: pytest.FixtureRequest) -> np.ndarray:
    return COLUMNS[request.param].copy()


def _integers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(21)
    n = 2000
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    grid = 1_700_000_000_000_000_000 + np.arange(n) * 10**9
    return {
        "one": np.array([low]),
        "two": np.array([high, low]),
        "constant": np.full(n, 7),
        "grid": grid,
        "jitter": grid + rng.integers(-1000, 1000, n) * 1000,
        "gaps": grid[np.sort(rng.choice(n, n // 2, replace=False))],
        "disorder": rng.permutation(grid),
        "duplicates": np.repeat(grid[::4], 4),
        "extremes": rng.choice(np.array([low, low + 1, -1, 0, 1, high - 1, high]), n),
        "any": rng.integers(low, high, n, endpoint=True),
        "small": rng.integers(-5, 5, n),
        "outliers": np.where(rng.random(n) < 0.01, rng.integers(low, high, n), rng.integers(0, 9, n)),
        "quarter_outliers": np.where(np.arange(n) % 4, rng.integers(0, 9, n), rng.integers(low, high, n)),
        "counter": np.cumsum(rng.integers(0, 3, n)),
        "parabola": np.arange(n) ** 2,
        "runs": np.repeat(rng.integers(0, 9, n // 50), 50),
    }


INTEGERS = _integers()


@pytest.fixture(params=sorted(INTEGERS))
def integers(request: pytest.FixtureRequest) -> np.ndarray:
    return INTEGERS[request.param].astype(np.int64)


def bits(x: np.ndarray) -> list[int]:
    """Bit patterns, so that NaN payloads and the sign of zero count."""
    return x.view(np.uint64).tolist()
