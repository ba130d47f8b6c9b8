"""`VALUES_SHUFFLED`: the 8 bytes of floats as 8 planes, zstd behind (byte shuffle, after HDF5 / Blosc). Nothing finer helped."""

from __future__ import annotations

import numpy as np

from iiot_dask.codec import zstd
from iiot_dask.codec.bits import Floats
from iiot_dask.codec.frame import Frame
from iiot_dask.core.errors import CodecError


def shuffled_payload(x: Floats) -> bytes:
    """The planes of x, zstd behind where it pays."""
    planes = np.ascontiguousarray(x.view(np.uint8).reshape(-1, 8).T).tobytes()
    packed = zstd.compress(planes)
    return b"\x00" + planes if packed is None else b"\x01" + packed


def decode_shuffled(frame: Frame) -> Floats:
    """The values of a `VALUES_SHUFFLED` frame.

    Raises
    ------
    CodecError
        If the payload does not hold so many values.
    """
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
