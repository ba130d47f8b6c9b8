"""A chunk: the samples of one tag, times and values in one blob. What an edge sends and what history stores.

Payload of `CHUNK`: the size of the time blob as a varint, the time blob, the value blob; both are blobs of their own.
"""

from __future__ import annotations

import numpy.typing as npt

from iiot_dask.codec.bits import Floats, Ints
from iiot_dask.codec.frame import COUNT_MAX, Buffer, Kind, get_varint, put_varint, seal, unseal_as
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.times import column, decode_times, encode_times, snap_times
from iiot_dask.codec.values import decode_values, encode_values
from iiot_dask.core.errors import CodecError


def encode(times: npt.ArrayLike, values: npt.ArrayLike, precision: Precision | None = None) -> bytes:
    """Compress samples of one tag.

    Parameters
    ----------
    times
        int64 ns since 1970-01-01 UTC, shape (n,), any order, 0 <= n <= 2**24.
    values
        float64, shape (n,).
    precision
        What may be lost; None = nothing.

    Raises
    ------
    CodecError
        If the columns differ in length or have too many rows.

    Examples
    --------
    >>> import numpy as np
    >>> t, x = np.arange(1000) * 10**9, np.round(np.sin(np.arange(1000) / 100), 1)
    >>> times, values = decode(encode(t, x))
    >>> bool((times == t).all() and (values == x).all())
    True
    """
    t = column(times, "int64")
    x = column(values, "float64")
    if len(t) != len(x):
        msg = f"{len(t)} times and {len(x)} values; both columns must be of equal length"
        raise CodecError(msg)
    if precision is not None and precision.time_snap_ns is not None:
        t = snap_times(t, precision.time_snap_ns)
    head = encode_times(t)
    payload = bytearray()
    put_varint(payload, len(head))
    payload += head
    payload += encode_values(x, precision)
    return seal(Kind.CHUNK, len(t), payload)


def decode(blob: Buffer, limit: int = COUNT_MAX) -> tuple[Ints, Floats]:
    """(times, values) of `encode`: int64 ns and float64, both of shape (n,).

    Parameters
    ----------
    blob
        One chunk.
    limit
        Largest number of samples accepted.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        If the bytes are not such a blob, are damaged, or newer than this program.
    """
    frame = unseal_as(blob, (Kind.CHUNK,), limit)
    size, at = get_varint(frame.payload, 0)
    t = decode_times(frame.payload[at : at + size], limit=frame.count)
    x = decode_values(frame.payload[at + size :], limit=frame.count)
    if len(t) != frame.count or len(x) != frame.count:
        msg = f"chunk of {frame.count} samples holds {len(t)} times and {len(x)} values"
        raise CodecError(msg)
    return t, x
