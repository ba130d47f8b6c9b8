"""Values rounded to significant digits, each within a share of itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import Bytes, Floats, Ints, kernel
from iiot_dask.codec.grid import DECIMALS_MAX, K_MAX
from iiot_dask.codec.lattice import SIGNIFICANT, index, point
from iiot_dask.codec.numbers import Proposal
from iiot_dask.codec.parts import Reached
from iiot_dask.codec.precision import Precision
from iiot_dask.core.errors import CodecError


@kernel
def round_digits(x: Any, grid: Any, param: Any, share: Any, leading: Any, k: Any, miss: Any) -> Any:
    """K and exceptions of x on a grid of significant digits; (exceptions, largest and RMS relative error of the rest)."""
    misses = 0
    worst = 0.0
    total = 0.0
    before = np.int64(0)
    for i in range(len(x)):
        q = index(x[i], grid, param)
        hit = abs(q) < K_MAX
        if hit:
            y = point(np.int64(q), grid, param)
            off = abs(y - x[i])
            size = abs(x[i])
            if leading and size > 0.0:
                # Half a unit of the last digit: the share counts from the leading power of ten.
                size = 10.0 ** np.floor(np.log10(size)) * (1.0 + 1e-6)
            hit = off <= share * min(size, abs(x[i]))
            if hit:
                before = np.int64(q)
                relative = off / abs(x[i]) if off > 0.0 else 0.0
                worst = max(worst, relative)
                total += relative * relative
        misses += not hit
        miss[i] = np.uint8(not hit)
        k[i] = before
    return misses, worst, np.sqrt(total / max(len(x) - misses, 1))


def to_digits(x: Floats, precision: Precision) -> tuple[Proposal, Ints, Bytes, Reached] | None:
    """(grid, numbers, exceptions, report); None when too few values gain by it.

    Raises
    ------
    CodecError
        If the precision has no relative bound.
    """
    digits, share = precision.digits, precision.share
    if digits is None or share is None:
        msg = f"{precision} has no relative bound"
        raise CodecError(msg)
    sizes = np.abs(x[np.isfinite(x) & (x != 0)])
    if len(sizes) == 0:
        return None
    # Decimals that keep the digits of all but the smallest hundredth; those become exceptions where they must.
    small = float(np.quantile(sizes, 0.01))
    top = min(max(digits - 1 - int(np.floor(np.log10(small))), 0), DECIMALS_MAX)
    proposal = (SIGNIFICANT + digits, float(top))
    k, miss = np.empty(len(x), np.int64), np.empty(len(x), np.uint8)
    misses, worst, rms = round_digits(x, *proposal, share, precision.significant_digits is not None, k, miss)
    if misses * 8 > len(x):
        return None
    return proposal, k, miss, Reached(share, worst, rms, relative=True)
