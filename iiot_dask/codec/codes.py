"""Columns of small integers: quality, tag ids, states. Runs where neighbours repeat, else packed; zstd where it pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.codec import ints
from iiot_dask.codec.frame import COUNT_MAX, Buffer, Kind, seal, unseal_as
from iiot_dask.codec.times import column
from iiot_dask.core.errors import CodecError


def encode_codes(codes: npt.NDArray[np.integer]) -> bytes:
    """Compress an integer column, lossless.

    Parameters
    ----------
    codes
        Any integer or bool dtype that fits int64 (uint8, uint32, int32 ...), shape (n,), 0 <= n <= 2**24.

    Raises
    ------
    CodecError
        If it is no such column.

    Examples
    --------
    >>> blob = encode_codes(np.zeros(10_000, np.uint8))
    >>> len(blob) < 24, decode_codes(blob, np.uint8).dtype
    (True, dtype('uint8'))
    """
    k = column(codes, np.int64)
    return seal(Kind.CODES, len(k), ints.dump_fast(k))


def decode_codes(blob: Buffer, dtype: npt.DTypeLike, limit: int = COUNT_MAX) -> npt.NDArray[Any]:
    """The codes of `encode_codes` as `dtype`.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        If the bytes are not such a blob, are damaged or newer than this program, or a code does not fit `dtype`.
    """
    frame = unseal_as(blob, (Kind.CODES,), limit)
    k = ints.load(frame.payload, frame.count)
    wanted = np.dtype(dtype)
    low, high = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted).min, np.iinfo(wanted).max)
    if len(k) and (int(k.min()) < low or int(k.max()) > high):
        msg = f"codes reach from {k.min()} to {k.max()}; {wanted} holds {low} to {high}"
        raise CodecError(msg)
    return k.astype(wanted)
