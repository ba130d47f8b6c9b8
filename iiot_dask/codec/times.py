"""Time columns: any int64 in any order, packed; and the snap that rounds times without merging or reordering them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.codec import ints
from iiot_dask.codec.bits import Ints, kernel
from iiot_dask.codec.choice import Remembered
from iiot_dask.codec.frame import COUNT_MAX, Buffer, Kind, seal, unseal_as
from iiot_dask.core.errors import CodecError


def encode_times(
    times: npt.ArrayLike, starts: Ints | None = None, tier: str = "fast", remembered: Remembered | None = None
) -> bytes:
    """Compress a time column, lossless.

    Parameters
    ----------
    times
        int64 ns since 1970-01-01 UTC, shape (n,), any order, 0 <= n <= 2**24.
    starts
        Row starts of each tag's run (int64, starts[0] == 0, ascending), when rows of many tags follow each other;
        prediction restarts there.
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
    >>> blob = encode_times(np.arange(10_000) * 1_000_000_000)
    >>> len(blob), decode_times(blob)[:2].tolist()
    (21, [0, 1000000000])
    """
    t = column(times, np.int64)
    edges = ints.checked_starts(starts, len(t))
    if tier == "archive" and len(edges) == 1:
        return seal(Kind.TIMES, len(t), _archive(t, Remembered() if remembered is None else remembered))
    return seal(Kind.TIMES, len(t), ints.dump_fast(t, edges))


def _archive(t: Ints, remembered: Remembered) -> bytes:
    memory = remembered.times
    if memory.usable() and len(t):
        stream = ints.dump_by_id(memory.codec, t)
        if memory.used(8 * len(stream) / len(t)):
            return stream
    stream, codec = ints.dump_archive(t)
    memory.choose(codec, 8 * len(stream) / max(len(t), 1))
    return stream


def decode_times(blob: Buffer, limit: int = COUNT_MAX) -> Ints:
    """The times of `encode_times`, int64 ns.

    Parameters
    ----------
    blob
        One blob.
    limit
        Largest number of samples accepted.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        If the bytes are not such a blob, are damaged, or newer than this program.
    """
    frame = unseal_as(blob, (Kind.TIMES,), limit)
    return ints.load(frame.payload, frame.count)


def column(data: npt.ArrayLike, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """One writable contiguous column; kernels are compiled for that one layout.

    Raises
    ------
    CodecError
        If it has more than one dimension, more than 2**24 rows, or would lose something by the conversion.
    """
    raw = np.asarray(data)
    if raw.ndim != 1:
        msg = f"column has shape {raw.shape}; a column has one dimension"
        raise CodecError(msg)
    if len(raw) > COUNT_MAX:
        msg = f"column of {len(raw)} samples; a blob holds at most {COUNT_MAX}, split it"
        raise CodecError(msg)
    if raw.size and not np.can_cast(raw.dtype, dtype, casting="safe" if np.dtype(dtype).kind == "i" else "same_kind"):
        msg = f"column of {raw.dtype} can not be stored as {np.dtype(dtype)} without loss"
        raise CodecError(msg)
    out = np.ascontiguousarray(raw, dtype=dtype)
    return out if out.flags.writeable else out.copy()


@kernel
def snap_sorted(t: Any, snap: int, out: Any) -> Any:
    """Round ascending `t` to multiples of `snap`; a group that would merge distinct times stays. Returns how many."""
    n = len(t)
    kept = 0
    half = snap // 2
    i = 0
    while i < n:
        # Floor division keeps times before 1970 in the same grid; the guard keeps the sum inside int64.
        near = (t[i] + half) // snap * snap if abs(t[i]) < (np.int64(1) << 62) else t[i]
        stop = i + 1
        distinct = False
        while stop < n and t[stop] <= near + (snap - 1 - half):
            distinct |= t[stop] != t[i]
            stop += 1
        for row in range(i, stop):
            out[row] = t[row] if distinct else near
        kept += stop - i if distinct else 0
        i = stop
    return kept


def snap_times(times: Ints, snap_ns: int, starts: Ints | None = None) -> Ints:
    """Times rounded to the nearest multiple of `snap_ns`, ties up; never reorders, never merges distinct times.

    Where two distinct times of one run would become equal, all times of that multiple keep their exact value.
    Only times in `times` are known here: snap a tag's whole history before cutting it into chunks.

    Parameters
    ----------
    times
        int64 ns, shape (n,), any order within a run.
    snap_ns
        Grid, ns, 1 <= snap_ns < 2**60.
    starts
        Row starts of each tag's run; None = one run.

    Raises
    ------
    CodecError
        If the grid is out of range.

    Examples
    --------
    >>> snap_times(np.array([1_400, 2_600, 2_900, 4_100]), 1_000).tolist()
    [1000, 2600, 2900, 4000]
    """
    if not 1 <= snap_ns < 1 << 60:
        msg = f"time snap of {snap_ns} ns; allowed are 1 to 2**60 - 1"
        raise CodecError(msg)
    edges = ints.checked_starts(starts, len(times))
    out = times.copy()
    if len(times) == 0 or snap_ns == 1:
        return out
    for a, b in zip(edges, np.append(edges[1:], len(times)), strict=True):
        run = times[a:b]
        if bool(np.all(run[1:] >= run[:-1])):
            snap_sorted(run, snap_ns, out[a:b])
        else:
            order = np.argsort(run, kind="stable")
            snapped = np.empty_like(run)
            snap_sorted(run[order], snap_ns, snapped)
            out[a:b][order] = snapped
    return out
