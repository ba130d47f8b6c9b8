"""Which grid and which integer codec for these values: estimated on samples, never by writing the whole column twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import Floats, Ints, kernel
from iiot_dask.codec.grid import BITS64
from iiot_dask.codec.numbers import Proposal, fill_numbers
from iiot_dask.codec.predict import best_fixed
from iiot_dask.codec.steps import propose, sample_of

SAMPLE = 2048
PLAIN: Proposal = (BITS64, 1.0)
_MISS_BITS = 88.0
_SPLIT_MIN = 1024


@kernel
def fixed_bits(k: Ints) -> float:
    """Estimated bits a number under the best fixed predictor."""
    return best_fixed(k)[1]  # type: ignore[no-any-return]


@kernel
def measure(x: Any, grid: Any, param: Any) -> Any:
    """Estimated bits a value of a sample on one grid, exceptions and corrections included."""
    n = len(x)
    k, c, miss = np.empty(n, np.int64), np.zeros(n, np.int64), np.empty(n, np.uint8)
    misses = fill_numbers(x, grid, param, k, c, miss)
    if misses * 2 > n:
        return _MISS_BITS
    bits = best_fixed(k.view(np.uint64))[1] + misses * _MISS_BITS / n
    for i in range(n):
        if c[i]:
            return bits + best_fixed(c.view(np.uint64))[1]
    return bits


def best_proposal(x: Floats) -> tuple[Proposal, float]:
    """The cheapest grid for x and its estimated bits a value, judged on a sample."""
    sample = sample_of(x, SAMPLE)
    if len(sample) < 2:
        return PLAIN, 64.0
    # Half of each stretch tells the proposals apart.
    few = sample.reshape(8, -1)[:, : SAMPLE // 16].ravel() if len(sample) == SAMPLE else sample
    costs = [(measure(few, *proposal), at, proposal) for at, proposal in enumerate(dict.fromkeys(propose(sample)))]
    bits, _, proposal = min(costs)
    return proposal, bits


def find_change(x: Floats) -> int:
    """Row where the format of the numbers changes; 0 = it does not. Ends are compared, the change found by halving."""
    n = len(x)
    size = _SPLIT_MIN // 2
    if n < 2 * _SPLIT_MIN:
        return 0
    head, before = best_proposal(x[:size])
    tail, after = best_proposal(x[-size:])
    if head == tail or max(before, after) < 4.0:
        return 0
    if measure(x[-size:], *head) < after * 1.05 + 0.5 or measure(x[:size], *tail) < before * 1.05 + 0.5:
        return 0
    low, high = 0, n - size
    while high - low > size:
        middle = (low + high) // 2
        piece = x[middle : middle + size]
        if measure(piece, *head) <= measure(piece, *tail):
            low = middle
        else:
            high = middle
    return low + size
