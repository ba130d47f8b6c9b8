"""Value columns: floats on grids of integers, bit for bit or within a verified bound.

`VALUES_GRID`:      flags byte (1 = a bound was asked for: requested, largest and RMS error follow, float64 each);
                    runs as a varint; if more than one, their lengths - 1 and grid bytes as integer streams, each after
                    its size; else the grid byte; parameters of the runs that have one, as an integer stream of
                    float64 bits; exceptions; the integers
`VALUES_SHUFFLED`:  the 8 bytes of the floats as 8 planes, zstd behind (byte shuffle, after HDF5 / Blosc)
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from iiot_dask.codec import grid as g
from iiot_dask.codec import ints, zstd
from iiot_dask.codec.archive import decode_archive, encode_archive, encode_lossy
from iiot_dask.codec.bits import Bytes, Floats, Ints, float_bits, kernel
from iiot_dask.codec.choice import Remembered
from iiot_dask.codec.frame import COUNT_MAX, Buffer, Frame, Kind, get_varint, put_varint, seal, unseal_as
from iiot_dask.codec.parts import REPORT, Reached, dump_misses, get_part, load_misses, put_part
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.relative import to_digits
from iiot_dask.codec.search import best_proposal, fixed_bits
from iiot_dask.codec.times import column
from iiot_dask.core.errors import CodecError

KINDS = (Kind.VALUES_GRID, Kind.VALUES_SHUFFLED, Kind.VALUES_ARCHIVE, Kind.VALUES_PCO, Kind.VALUES_PARTS)
LOSSY, RELATIVE = 1, 3
Tier = Literal["fast", "archive"]


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


def encode_values(
    values: npt.ArrayLike,
    precision: Precision | None = None,
    starts: Ints | None = None,
    tier: Tier = "fast",
    remembered: Remembered | None = None,
) -> bytes:
    """Compress a value column: bit for bit, or within the bound of `precision`.

    Parameters
    ----------
    values
        float64, shape (n,), 0 <= n <= 2**24; NaN payloads, infinities and -0.0 come back as they are.
    precision
        None or without a bound on values: lossless. Values that can not keep the bound, and blobs that would not
        gain by it, stay bit for bit; `reached` tells.
    starts
        Row starts of each tag's run (int64, starts[0] == 0, ascending); grid and prediction are found per run.
    tier
        ``"fast"`` while ingesting, ``"archive"`` for the smallest blob of a single tag; many runs are always fast.
    remembered
        Archive tier: the tag's choice, read and updated, so that it is not searched for each chunk.

    Raises
    ------
    CodecError
        If there are too many rows or `starts` do not fit them.

    Examples
    --------
    >>> x = np.round(20 + np.sin(np.arange(5000) / 500), 2)
    >>> len(encode_values(x)) < 2500, np.array_equal(decode_values(encode_values(x)), x)
    (True, True)
    """
    x = column(values, np.float64)
    n = len(x)
    edges = ints.checked_starts(starts, n)
    if n == 0:
        return seal(Kind.VALUES_SHUFFLED, 0, b"")
    single = len(edges) == 1
    archive = tier == "archive" and single
    if precision is not None and precision.share is not None:
        digits = to_digits(x, precision)
        if digits is not None:
            return _checked(encode_lossy(x, *digits, None if archive else edges), x, digits[-1])
    bound = None
    if precision is not None and (single or precision.span_share is None):
        bound = precision.absolute(x)
    if archive:
        return (
            encode_archive(x, remembered.values if remembered else None) if bound is None else _archive_lossy(x, bound)
        )
    payload, plain_rows = _grid_payload(x, edges, bound)
    if bound is None and plain_rows * 4 > n:
        shuffled = _shuffled_payload(x)
        if len(shuffled) < len(payload):
            return seal(Kind.VALUES_SHUFFLED, n, shuffled)
    return seal(Kind.VALUES_GRID, n, payload)


def decode_values(blob: Buffer, limit: int = COUNT_MAX) -> Floats:
    """The values of `encode_values`, float64.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        If the bytes are not such a blob, are damaged, or newer than this program.
    """
    frame = unseal_as(blob, KINDS, limit)
    return _DECODERS[frame.kind](frame)


def reached(blob: Buffer) -> Reached | None:
    """What a blob of `encode_values` asked for and reached; None when it is lossless.

    Examples
    --------
    >>> r = reached(encode_values(np.linspace(0, 1, 100), Precision(error_bound=0.01)))
    >>> r.requested, r.max_error <= 0.01
    (0.01, True)
    """
    frame = unseal_as(blob, KINDS)
    if frame.kind not in (Kind.VALUES_GRID, Kind.VALUES_ARCHIVE) or not frame.payload[0] & LOSSY:
        return None
    requested, largest, rms = REPORT.unpack_from(frame.payload, 1)
    return Reached(requested, largest, rms, relative=frame.payload[0] == RELATIVE)


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


def _choose(x: Floats, edges: Ints, bound: float | None, k: Ints, miss: Bytes) -> tuple[Bytes, float]:
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


def _grid_payload(x: Floats, edges: Ints, bound: float | None) -> tuple[bytes, int]:
    """(payload, rows kept as plain float bits); with a bound the payload is decoded and compared before it is used."""
    n = len(x)
    k = np.empty(n, np.int64)
    miss = np.empty(n, np.uint8)
    grids, param = _choose(x, edges, bound, k, miss)
    params = np.full(len(edges), param)
    out = bytearray((0 if bound is None else 1,))
    if bound is not None:
        report = _verify(x, k, miss, edges, grids, params, bound)
        if report is None:
            return _grid_payload(x, edges, None)
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
    return bytes(out), int(rows)


def _verify(x: Floats, k: Ints, miss: Bytes, edges: Ints, grids: Bytes, params: Floats, bound: float) -> Reached | None:
    """Decode and compare before anything is used; None = the bound is not kept."""
    y = np.empty(len(x))
    decode_runs(k, edges, grids, params, y)
    y[miss != 0] = x[miss != 0]
    worst, rms = reached_errors(x, y)
    return Reached(bound, worst, rms) if worst <= bound else None


def _checked(blob: bytes, x: Floats, report: Reached) -> bytes:
    """Decode and compare; a blob over its relative bound is replaced by an exact one, which says so by no report."""
    y = _DECODERS[(frame := unseal_as(blob, KINDS)).kind](frame)
    finite = np.isfinite(x)
    kept = bool(np.all(np.abs(y[finite] - x[finite]) <= report.requested * np.abs(x[finite])))
    same = bool(np.array_equal(y[~finite].view(np.int64), x[~finite].view(np.int64)))
    return blob if kept and same else encode_values(x)


def _archive_lossy(x: Floats, bound: float) -> bytes:
    k, miss = np.empty(len(x), np.int64), np.empty(len(x), np.uint8)
    grids, param = _choose(x, ints.ONE_RUN, bound, k, miss)
    params = np.full(1, param)
    report = _verify(x, k, miss, ints.ONE_RUN, grids, params, bound)
    exact = best_proposal(x)
    if report is None or exact[1] <= fixed_bits(k.view(np.uint64)):
        # A bound below the natural resolution buys nothing: the exact blob is as small.
        return encode_archive(x)
    return encode_lossy(x, (int(grids[0]), param), k, miss, report, None)


def _from_parts(frame: Frame) -> Floats:
    """Blobs behind each other; a part is never made of parts, so hostile bytes can not nest."""
    at, row = 0, 0
    x = np.empty(frame.count)
    while at < len(frame.payload):
        part, at = get_part(frame.payload, at)
        inner = unseal_as(part, KINDS[:4], frame.count - row)
        x[row : row + inner.count] = _DECODERS[inner.kind](inner)
        row += inner.count
    if row != frame.count:
        msg = f"parts of a value blob hold {row} samples; expected {frame.count}"
        raise CodecError(msg)
    return x


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


def _from_grid(frame: Frame) -> Floats:
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


def _shuffled_payload(x: Floats) -> bytes:
    planes = np.ascontiguousarray(x.view(np.uint8).reshape(-1, 8).T).tobytes()
    packed = zstd.compress(planes)
    return b"\x00" + planes if packed is None else b"\x01" + packed


def _unshuffled(frame: Frame) -> Floats:
    n, data = frame.count, frame.payload
    if n == 0:
        return np.empty(0)
    if len(data) == 0 or data[0] > 1:
        msg = f"shuffled blob of {len(data)} bytes for {n} samples has no valid flags"
        raise CodecError(msg)
    planes = bytes(data[1:]) if data[0] == 0 else zstd.decompress(data[1:], 8 * n, 8 * n)
    if len(planes) != 8 * n:
        msg = f"shuffled blob holds {len(planes)} bytes; {n} samples take {8 * n}"
        raise CodecError(msg)
    rows = np.ascontiguousarray(np.frombuffer(planes, np.uint8).reshape(8, n).T)
    return rows.reshape(-1).view(np.float64)


_DECODERS = {
    Kind.VALUES_GRID: _from_grid,
    Kind.VALUES_SHUFFLED: _unshuffled,
    Kind.VALUES_ARCHIVE: decode_archive,
    Kind.VALUES_PCO: decode_archive,
    Kind.VALUES_PARTS: _from_parts,
}
