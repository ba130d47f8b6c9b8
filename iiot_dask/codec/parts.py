"""Pieces of value blobs that several formats share: sized parts, exceptions, the report of a bound."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from iiot_dask.codec import zstd
from iiot_dask.codec.bits import Bytes, Floats
from iiot_dask.codec.frame import get_varint, put_varint
from iiot_dask.codec.grid import write_misses
from iiot_dask.core.errors import CodecError

REPORT = struct.Struct("<3d")


@dataclass(frozen=True, slots=True)
class Reached:
    """What a lossy blob promised and what it did; errors in the unit of the values.

    Finite values only: NaN, infinities and every value over the bound are kept bit for bit.
    """

    requested: float
    max_error: float
    rms_error: float
    relative: bool = False
    """Whether the three are shares of each value instead."""

    def pack(self) -> bytes:
        """24 bytes: three float64."""
        return REPORT.pack(self.requested, self.max_error, self.rms_error)


def put_part(out: bytearray, part: bytes) -> None:
    """Append a part after its size."""
    put_varint(out, len(part))
    out += part


def get_part(data: memoryview, at: int) -> tuple[memoryview, int]:
    """(the part at `at`, the offset after it).

    Raises
    ------
    CodecError
        If it runs over the end.
    """
    size, at = get_varint(data, at)
    if at + size > len(data):
        msg = f"a part of {size} bytes at byte {at} runs over the end of {len(data)} bytes"
        raise CodecError(msg)
    return data[at : at + size], at + size


def dump_misses(x: Floats, miss: Bytes) -> bytes:
    """Exceptions, as `0` + bytes or `1` + size + zstd; nothing when there are none."""
    count = int(np.count_nonzero(miss))
    if count == 0:
        return b""
    buffer = np.empty(28 * count, np.uint8)
    raw = buffer[: write_misses(x, miss, buffer)].tobytes()
    packed = zstd.compress(raw)
    if packed is None:
        return b"\x00" + raw
    head = bytearray(b"\x01")
    put_varint(head, len(raw))
    return bytes(head) + packed


def load_misses(part: memoryview, n: int) -> Bytes:
    """The bytes `write_misses` wrote.

    Raises
    ------
    CodecError
        If they are more than n exceptions can take, or damaged.
    """
    if part[0] == 0:
        return np.frombuffer(part[1:], np.uint8).copy()
    size, at = get_varint(part, 1)
    return np.frombuffer(zstd.decompress(part[at:], size, 28 * n), np.uint8).copy()
