"""The frame round every blob: one byte of magic and version, a codec id, the count, a CRC-32, then the payload.

    byte 0    0xD0 | version             the high nibble is the magic
    byte 1    codec id                   one id = one byte format for ever
    varint    count                      samples in the blob, LEB128
    4 bytes   CRC-32, little endian      of everything else in the blob
    ...       payload

A reader refuses a newer version, an unknown id, a count above its limit and a checksum that does not match, in this
order, before anything is allocated for the count.
Source of the checksum: CRC-32 of ISO 3309 as in zlib; of the varint: LEB128 (DWARF 5, section 7.6).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

from iiot_dask.core.errors import ChecksumError, CodecError, VersionError

MAGIC = 0xD0
VERSION = 1
COUNT_MAX = 1 << 24
"""Samples one blob may hold, unless the caller sets a lower limit; 128 MiB a decoded column."""

Buffer = bytes | bytearray | memoryview


class Kind(IntEnum):
    """Codec ids of framed blobs. Ids are never reused; a changed format gets a new one."""

    TIMES = 0x01
    VALUES_GRID = 0x10
    VALUES_SHUFFLED = 0x11
    VALUES_ARCHIVE = 0x12
    VALUES_PCO = 0x13
    VALUES_PARTS = 0x14
    VALUES_NOTED = 0x15
    CODES = 0x20
    CHUNK = 0x30
    CHUNK_QUALITY = 0x31


@dataclass(frozen=True, slots=True)
class Frame:
    """A blob whose header and checksum are in order; `payload` is not copied."""

    kind: Kind
    count: int
    payload: memoryview


def put_varint(out: bytearray, value: int) -> None:
    """Append `value` (0 <= value < 2**64) as LEB128."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def get_varint(data: Buffer, at: int) -> tuple[int, int]:
    """The varint at `at` and the offset after it.

    Raises
    ------
    CodecError
        If it runs over the end or over 64 bits.

    Examples
    --------
    >>> out = bytearray()
    >>> put_varint(out, 300)
    >>> out.hex(), get_varint(out, 0)
    ('ac02', (300, 2))
    """
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            msg = f"varint at byte {at} runs over the end of {len(data)} bytes or over 64 bits"
            raise CodecError(msg)
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            if value >> 64:
                msg = f"varint before byte {at} is above 64 bits"
                raise CodecError(msg)
            return value, at
        shift += 7


def seal(kind: Kind, count: int, payload: Buffer) -> bytes:
    """Put the frame round a payload.

    Raises
    ------
    CodecError
        If `count` is above `COUNT_MAX`.

    Examples
    --------
    >>> blob = seal(Kind.TIMES, 3, b"abc")
    >>> blob[:3].hex(), bytes(unseal(blob).payload)
    ('d10103', b'abc')
    """
    check_count(count, COUNT_MAX)
    head = bytearray((MAGIC | VERSION, kind))
    put_varint(head, count)
    crc = zlib.crc32(payload, zlib.crc32(head))
    return b"".join((head, crc.to_bytes(4, "little"), payload))


def unseal(blob: Buffer, limit: int = COUNT_MAX) -> Frame:
    """Check header and checksum of `blob`.

    Parameters
    ----------
    blob
        What `seal` returned.
    limit
        Largest count accepted, samples.

    Raises
    ------
    CodecError
        If the bytes are no blob of ours, the id is unknown or the count is above `limit`.
    VersionError
        If a newer program wrote it.
    ChecksumError
        If the checksum does not match.
    """
    data = memoryview(blob)
    if len(data) < 7 or data[0] & 0xF0 != MAGIC:
        start = bytes(data[:4]).hex() or "nothing"
        msg = f"{len(data)} bytes starting with {start} are no compressed blob (first byte 0xd1, at least 7 bytes)"
        raise CodecError(msg)
    version = data[0] & 0x0F
    if version > VERSION:
        msg = f"blob has format version {version}; this program reads up to {VERSION}"
        raise VersionError(msg)
    if version == 0:
        msg = "blob has format version 0, which was never written"
        raise CodecError(msg)
    count, at = get_varint(data, 2)
    stored = int.from_bytes(data[at : at + 4], "little")
    payload = data[at + 4 :]
    if at + 4 > len(data) or zlib.crc32(payload, zlib.crc32(data[:at])) != stored:
        msg = f"checksum of a blob of {len(data)} bytes does not match; the bytes changed since they were written"
        raise ChecksumError(msg)
    if data[1] not in Kind._value2member_map_:
        msg = f"codec id {data[1]:#04x} is unknown; known: {', '.join(f'{k:#04x}' for k in Kind)}"
        raise CodecError(msg)
    check_count(count, limit)
    return Frame(Kind(data[1]), count, payload)


def unseal_as(blob: Buffer, kinds: tuple[Kind, ...], limit: int = COUNT_MAX) -> Frame:
    """`unseal`, and the blob must hold one of `kinds`.

    Raises
    ------
    CodecError
        Also if the blob holds something else.
    """
    frame = unseal(blob, limit)
    if frame.kind not in kinds:
        msg = f"blob holds {frame.kind.name}; expected {' or '.join(k.name for k in kinds)}"
        raise CodecError(msg)
    return frame


def check_count(count: int, limit: int) -> None:
    """Refuse a count above `limit`.

    Raises
    ------
    CodecError
        If it is.
    """
    if count > limit:
        msg = f"blob of {count} samples; the limit is {limit}"
        raise CodecError(msg)
