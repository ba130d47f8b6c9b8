"""Zstandard behind a codec: tried, kept when it pays, and never trusted about sizes when reading.

A zstd frame that declares its content size is decompressed to that size whatever `max_output_size` says, so the
declared size is read and compared first.
"""

from __future__ import annotations

import threading

import zstandard

from iiot_dask.codec.frame import Buffer
from iiot_dask.core.errors import CodecError

_local = threading.local()
# A zstd frame costs at least 10 bytes and some microseconds; below this it never pays.
SIZE_MIN = 48


def _compressor(level: int) -> zstandard.ZstdCompressor:
    """One compressor a thread and level: they are not thread-safe and costly to make."""
    made: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in made:
        made[level] = zstandard.ZstdCompressor(level=level, write_checksum=False)
    return made[level]


def compress(data: Buffer, level: int = 3, gain: float = 0.02) -> bytes | None:
    """`data` as one zstd frame, or None when that saves less than the share `gain`.

    Examples
    --------
    >>> compress(b"ab" * 500) is not None, compress(bytes(range(250))) is None
    (True, True)
    """
    if len(data) < SIZE_MIN:
        return None
    packed = _compressor(level).compress(data)
    return packed if len(packed) < len(data) * (1.0 - gain) else None


def decompress(data: Buffer, size: int, size_max: int) -> bytes:
    """One zstd frame that must hold exactly `size` bytes.

    Raises
    ------
    CodecError
        If `size` is above `size_max`, the frame declares another size or none, or it is damaged.
    """
    if size > size_max:
        msg = f"zstd part of {size} bytes; at most {size_max} are possible here"
        raise CodecError(msg)
    if "decompressor" not in _local.__dict__:
        _local.decompressor = zstandard.ZstdDecompressor()
    try:
        declared = zstandard.get_frame_parameters(data).content_size
        if declared != size:
            msg = f"zstd part declares {declared} bytes; expected {size}"
            raise CodecError(msg)
        out: bytes = _local.decompressor.decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        msg = f"zstd part of {len(data)} bytes is damaged: {error}"
        raise CodecError(msg) from error
    if len(out) != size:
        msg = f"zstd part held {len(out)} bytes; expected {size}"
        raise CodecError(msg)
    return out
