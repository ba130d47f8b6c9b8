"""Compile every kernel ahead of the first sample, so that no batch waits for the compiler."""

from __future__ import annotations

import numpy as np

from iiot_dask.codec.chunk import decode, encode
from iiot_dask.codec.codes import decode_codes, encode_codes
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.times import decode_times, encode_times
from iiot_dask.codec.values import decode_values, encode_values


def warm() -> None:
    """Run every path once on a few rows; takes seconds the first time, some 10 ms once the compiler's cache is warm."""
    n = 600
    t = np.arange(n) * 1000
    rng = np.random.default_rng(0)
    for x in (np.round(np.sin(t), 1), rng.random(n), np.repeat([1.0, np.nan, 2.0], n // 3)):
        for precision in (None, Precision(error_bound=0.01, time_snap_ns=7)):
            decode(encode(t + rng.integers(0, 400, n), x, precision))
    walk = np.cumsum(rng.integers(-9, 10, n))
    held = np.repeat(walk[: n // 4], 4) * 1000.0
    printed = np.array([float(f"{v:.6g}") for v in np.exp(walk / 40)])
    for x in (walk / 3, walk * 0.00226 / 11, held, printed, rng.random(n), rng.random(n).astype(np.float32)):
        decode_values(encode_values(x, tier="archive"))
    decode_values(encode_values(rng.random(n), Precision(significant_digits=3)))
    decode_times(encode_times(t + rng.integers(0, 400, n), tier="archive"))
    decode_codes(encode_codes(np.repeat(np.arange(3, dtype=np.uint32), n // 3)), np.uint32)
