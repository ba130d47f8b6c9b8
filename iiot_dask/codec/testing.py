"""The contract of integer codecs as one function: what every one of them, a stranger's included, must pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from iiot_dask.codec.bits import Ints
from iiot_dask.codec.ints import IntCodec, size_max
from iiot_dask.core.errors import DataError


def columns(seed: int = 0) -> Iterator[tuple[str, Ints, Ints]]:
    """(name, int64 column, starts of its runs) of every shape that has ever hurt a codec.

    Examples
    --------
    >>> {"one", "extremes", "outliers"} <= {name for name, _, _ in columns()}
    True
    """
    rng = np.random.default_rng(seed)
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    n = 1500
    one = np.zeros(1, np.int64)
    grid = 1_700_000_000_000_000_000 + np.arange(n) * 10**9
    walk = np.cumsum(rng.integers(-9, 10, n))
    yield "one", np.array([low]), one
    yield "two", np.array([high, low]), np.array([0, 1])
    yield "three", np.array([1, 2, 4]), one
    yield "constant", np.full(n, -7), one
    yield "line", grid, one
    yield "jitter", grid + rng.integers(-1000, 1000, n), one
    yield "walk", walk, one
    yield "sine", np.round(1000 * np.sin(np.arange(n) / 7) + rng.normal(0, 5, n)).astype(np.int64), one
    yield "held", np.repeat(rng.integers(-99, 99, n // 5), 5), one
    yield "states", rng.choice(np.array([0, 1, 50_000]), n, p=[0.9, 0.05, 0.05]), one
    yield "outliers", np.where(rng.random(n) < 0.02, rng.integers(low, high, n), walk), one
    yield "patches", np.where(np.arange(n) % 4, rng.integers(0, 9, n), rng.integers(low, high, n)), one
    yield "extremes", rng.choice(np.array([low, low + 1, -1, 0, 1, high - 1, high]), n), one
    yield "any", rng.integers(low, high, n, endpoint=True), one
    yield "unit", 1_000_000 * rng.integers(-50, 50, n), one
    yield "runs", np.concatenate([rng.integers(0, 9, 50) + 10**i for i in range(15)]), np.arange(15) * 50


def check_codec(codec: type[IntCodec], seed: int = 0) -> None:
    """Raise AssertionError, naming column and fault, unless `codec` keeps the contract.

    It gives every column back; leaves its input alone; writes the same bytes twice; stays within `size_max`; and reads
    truncated or damaged bytes as `DataError` or as numbers of the right count, never as another exception.

    Parameters
    ----------
    codec
        The class.
    seed
        Of columns and damage.

    Raises
    ------
    AssertionError
        At the first breach.

    Examples
    --------
    >>> from iiot_dask.codec.packed import Packed
    >>> check_codec(Packed)
    """
    rng = np.random.default_rng(seed)
    assert isinstance(codec.id, int), f"id {codec.id!r} is no int"
    assert 0 < codec.id < 0x80, f"id {codec.id} is not within 1 to 127"
    for name, k, starts in columns(seed):
        kept = k.copy()
        payload = codec.encode(k, starts)
        assert np.array_equal(k, kept), f"{name}: encode changed its input"
        assert codec.encode(k, starts) == payload, f"{name}: two calls gave different bytes"
        assert len(payload) <= size_max(len(k)), f"{name}: {len(payload)} bytes for {len(k)} numbers"
        back = codec.decode(payload, len(k))
        assert back.dtype == np.int64, f"{name}: decode gave {back.dtype}"
        assert np.array_equal(back, kept), f"{name}: numbers changed"
        for _ in range(12):
            _check_damage(codec, name, _damaged(payload, rng), len(k))


def _damaged(payload: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(payload)
    if rng.random() < 0.4:
        return bytes(data[: rng.integers(0, len(data) + 1)])
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(0, len(data))] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def _check_damage(codec: type[IntCodec], name: str, payload: bytes, n: int) -> None:
    try:
        out = codec.decode(payload, n)
    except DataError:
        return
    except Exception as error:
        msg = f"{name}: damaged bytes raised {type(error).__name__} ({error}), not DataError"
        raise AssertionError(msg) from error
    assert len(out) == n, f"{name}: damaged bytes gave {len(out)} numbers instead of {n}"
