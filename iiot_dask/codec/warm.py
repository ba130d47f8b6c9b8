"""Compile every kernel ahead of the first sample, so that no batch waits for the compiler."""

from __future__ import annotations

import numpy as np

from iiot_dask.codec.chunk import decode, encode
from iiot_dask.codec.codes import decode_codes, encode_codes
from iiot_dask.codec.precision import Precision


def warm() -> None:
    """Run every path once on a few rows; takes seconds the first time, some 10 ms once the compiler's cache is warm."""
    n = 600
    t = np.arange(n) * 1000
    rng = np.random.default_rng(0)
    for x in (np.round(np.sin(t), 1), rng.random(n), np.repeat([1.0, np.nan, 2.0], n // 3)):
        for precision in (None, Precision(error_bound=0.01, time_snap_ns=7)):
            decode(encode(t + rng.integers(0, 400, n), x, precision))
    decode_codes(encode_codes(np.repeat(np.arange(3, dtype=np.uint32), n // 3)), np.uint32)
