"""`VALUES_GRID`: the fast tier's values on grids of integers, bit for bit or within a bound; runs of many tags too.

flags byte (1 = a bound was asked for: requested, largest and RMS error follow, float64 each); runs as a varint; if more
than one, their lengths - 1 and grid bytes as integer streams, each after its size; else the grid byte; parameters of the
runs that have one, as an integer stream of float64 bits; exceptions; the integers
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec import grid as g
from iiot_dask.codec import ints
from iiot_dask.codec.bits import Bytes, Floats, Ints, float_bits, kernel
from iiot_dask.codec.frame import Frame, get_varint, put_varint
from iiot_dask.codec.parts import REPORT, Reached, dump_misses, get_part, load_misses, put_part
from iiot_dask.codec.record import FEW, NOT_KEPT
from iiot_dask.core.errors import CodecError


@kernel
def decode_runs(k: Any, starts: Any, grids: Any, params: Any, x: Any) -> Any:
    """Every run from its grid; False when a grid byte is unknown."""
    n = len(k)
    for s in range(len(starts)):
        b = starts[s + 1] if s + 1 < len(starts) else n
        if not g.from_grid(k, starts[s], b, np.int64(grids[s]), params[s], x):
            return False
    return True


@kernel
def reached_errors(x: Any, y: Any) -> Any:
    """(largest, RMS) of |x - y| over rows where both are finite; infinite when exactly one is."""
    worst = 0.0
    total = 0.0
    count = 0
    for i in range(len(x)):
        if np.isfinite(x[i]) and np.isfinite(y[i]):
            d = abs(x[i] - y[i])
            worst = max(worst, d)
            total += d * d
            count += 1
        elif float_bits(x[i]) != float_bits(y[i]):
            worst = np.inf
    return worst, np.sqrt(total / max(count, 1))


def _steps(bound: float) -> list[tuple[int, float]]:
    """(grid byte, parameter) to try for an absolute bound: a decimal step if there is one, then a hair below."""
    step = 2.0 * bound
    exponent = -np.log10(step)
    nice = round(exponent)
    first = (g.MULTIPLE, step)
    if 0 <= nice <= g.DECIMALS_MAX and abs(exponent - nice) < 1e-12:
        first = (g.DECIMAL + nice, 1.0)
    # Values halfway between two points miss the bound by their own rounding; a slightly finer step takes them.
    return [first, (g.MULTIPLE, step * (1.0 - 2.0**-12))]


def choose_grid(x: Floats, edges: Ints, bound: float | None, k: Ints, miss: Bytes) -> tuple[Bytes, float]:
    """Grid bytes of all runs and the parameter of those that have one; fills k and miss."""
    grids = np.empty(len(edges), np.uint8)
    if bound is None:
        g.choose_grids(x, edges, -1, 1.0, 0.0, grids, k, miss)
        return grids, 1.0
    for grid, param in _steps(bound):
        misses = g.choose_grids(x, edges, grid, param, bound, grids, k, miss)
        if misses * 64 <= len(x) and bool((grids == grid).all()):
            break
    return grids, param


def uses_bound(grids: Bytes, bound: float) -> bool:
    """Whether any run is on a grid of the bound, not on one of its own that keeps every bit."""
    return bool(np.isin(grids, [grid for grid, _ in _steps(bound)]).any())


def grid_payload(x: Floats, edges: Ints, bound: float | None) -> tuple[bytes, int, int]:
    """(payload, rows kept as plain float bits, 0); with a bound that is not kept or not used: nothing, and why not."""
    n = len(x)
    k = np.empty(n, np.int64)
    miss = np.empty(n, np.uint8)
    grids, param = choose_grid(x, edges, bound, k, miss)
    params = np.full(len(edges), param)
    out = bytearray((0 if bound is None else 1,))
    if bound is not None:
        report = verified(x, k, miss, edges, grids, params, bound)
        if report is None:
            return b"", 0, NOT_KEPT
        if not uses_bound(grids, bound):
            return b"", 0, FEW
        out += report.pack()
    put_varint(out, len(edges))
    if len(edges) == 1:
        out.append(int(grids[0]))
    else:
        put_part(out, ints.dump_fast(np.diff(edges, append=n) - 1))
        put_part(out, ints.dump_fast(grids.astype(np.int64)))
    with_param = params[grids == g.MULTIPLE]
    if len(with_param):
        put_part(out, ints.dump_fast(with_param.view(np.int64)))
    put_part(out, dump_misses(x, miss))
    out += ints.dump_fast(k, edges)
    rows = np.diff(edges, append=n)[grids == g.BITS64].sum()
    return bytes(out), int(rows), 0


def verified(
    x: Floats, k: Ints, miss: Bytes, edges: Ints, grids: Bytes, params: Floats, bound: float
) -> Reached | None:
    """Decode and compare before anything is used; None = the bound is not kept."""
    y = np.empty(len(x))
    decode_runs(k, edges, grids, params, y)
    y[miss != 0] = x[miss != 0]
    worst, rms = reached_errors(x, y)
    return Reached(bound, worst, rms) if worst <= bound else None


def _read_runs(data: memoryview, at: int, n: int) -> tuple[Ints, Bytes, Floats, int]:
    """(starts, grid bytes, parameters, offset after them)."""
    runs, at = get_varint(data, at)
    if not 1 <= runs <= n:
        msg = f"value blob says {runs} runs for {n} samples"
        raise CodecError(msg)
    if runs == 1:
        edges, grids = ints.ONE_RUN, np.frombuffer(data[at : at + 1], np.uint8).copy()
        at += 1
    else:
        part, at = get_part(data, at)
        lengths = ints.load(part, runs) + 1
        part, at = get_part(data, at)
        grids = ints.load(part, runs).astype(np.uint8)
        if lengths.min() < 1 or lengths.max() > n or int(lengths.sum()) != n:
            msg = f"lengths of {runs} runs do not add up to {n} samples"
            raise CodecError(msg)
        edges = np.zeros(runs, np.int64)
        np.cumsum(lengths[:-1], out=edges[1:])
    if len(grids) != runs:
        msg = f"value blob of {len(data)} bytes ends before its grids"
        raise CodecError(msg)
    params = np.ones(runs)
    has = grids == g.MULTIPLE
    if has.any():
        part, at = get_part(data, at)
        params[has] = ints.load(part, int(has.sum())).view(np.float64)
    return edges, grids, params, at


def decode_grid(frame: Frame) -> Floats:
    """The values of a `VALUES_GRID` frame.

    Raises
    ------
    CodecError
        If the payload does not describe so many values.
    """
    data, n = frame.payload, frame.count
    if n == 0 or len(data) == 0 or data[0] > 1:
        msg = f"value blob of {len(data)} bytes for {n} samples has no valid flags"
        raise CodecError(msg)
    edges, grids, params, at = _read_runs(data, 1 + REPORT.size * data[0], n)
    part, at = get_part(data, at)
    k = ints.load(data[at:], n)
    x = np.empty(n)
    if not decode_runs(k, edges, grids, params, x):
        msg = f"value blob has an unknown grid among {np.unique(grids).tolist()}"
        raise CodecError(msg)
    if len(part) and not g.read_misses(load_misses(part, n), x):
        msg = f"exceptions of a value blob do not fit its {n} samples"
        raise CodecError(msg)
    return x
