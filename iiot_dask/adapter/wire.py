"""Frames between an adapter's process and its host: bytes in, frames out, no I/O.

A frame is a 20-byte header and a payload, little-endian:

    magic    3 bytes  b"IIF"
    version  u8       1
    kind     u8       one of `Kind`
    zero     3 bytes
    length   u32      payload bytes, at most `PAYLOAD_BYTES_MAX[kind]`
    payload  u32      CRC-32 of the payload
    header   u32      CRC-32 of the 16 bytes before it

The header has a checksum of its own, so a damaged length is found at once instead of being waited for. Both are checked
before anyone parses a payload: damaged Arrow IPC can crash a reader. There is no resynchronising: a pipe does not lose
bytes, so the first wrong one means a broken writer, and the decoder refuses everything after it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

from iiot_dask.core.errors import ChecksumError, DataError, VersionError

MAGIC = b"IIF"
VERSION = 1
"""Version of frames and payloads; a reader knows its own and all older ones."""

_PREFIX = struct.Struct("<3sBB3xII")
_SUM = struct.Struct("<I")
HEADER_BYTES = _PREFIX.size + _SUM.size


class Kind(IntEnum):
    """What a frame carries; 1-15 go up to the host, 16-31 down to the adapter. A number is never reused."""

    SCHEMA = 1
    """Newly announced tags."""
    BATCH = 2
    """Rows, as Arrow IPC, with the events and the position that go with them."""
    STATE = 3
    """Opened, alive or closed; events and a position without rows; the answer of a check."""
    ERROR = 4
    """The adapter can not go on: who is to blame, and one sentence."""
    OPEN = 16
    """Configuration, limits and position; always the first frame down, and never sent again."""
    ACK = 17
    """A position that is durable."""
    STOP = 18
    """End cleanly."""
    KEPT = 19
    """Bytes out of the quarantine, to be decoded again; the second frame of a ``--decode``."""


UP = frozenset({Kind.SCHEMA, Kind.BATCH, Kind.STATE, Kind.ERROR})
DOWN = frozenset({Kind.OPEN, Kind.ACK, Kind.STOP, Kind.KEPT})

PAYLOAD_BYTES_MAX: dict[Kind, int] = {
    Kind.SCHEMA: 16 << 20,
    Kind.BATCH: 16 << 20,
    Kind.STATE: 8 << 20,
    Kind.ERROR: 64 << 10,
    # A plant file has at most 64 MiB; as JSON its defaults are written out.
    Kind.OPEN: 256 << 20,
    Kind.ACK: 128 << 10,
    Kind.STOP: 0,
    Kind.KEPT: 64 << 20,
}
"""Largest payload of each kind, bytes. A longer one is refused by the writer and by the reader."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `payload` is what its checksum covered."""

    kind: Kind
    payload: bytes = b""


def encode(frame: Frame) -> bytes:
    r"""Return the frame's bytes.

    Raises
    ------
    DataError
        If the payload is longer than its kind allows.

    Examples
    --------
    >>> data = encode(Frame(Kind.ACK, b"42"))
    >>> len(data), data[:5]
    (22, b'IIF\x01\x11')
    """
    size, most = len(frame.payload), PAYLOAD_BYTES_MAX[frame.kind]
    if size > most:
        msg = f"{frame.kind.name} frame of {size} bytes; at most {most} are allowed"
        raise DataError(msg)
    prefix = _PREFIX.pack(MAGIC, VERSION, frame.kind, size, zlib.crc32(frame.payload))
    return prefix + _SUM.pack(zlib.crc32(prefix)) + frame.payload


class Decoder:
    """Bytes in pieces of any size -> frames.

    Holds at most one incomplete frame and the last piece fed, provided `next_frame` is called until it returns None
    before the next piece is fed.

    Parameters
    ----------
    allowed
        Kinds this end may receive: `UP` at the host, `DOWN` at the adapter.

    Examples
    --------
    >>> data = encode(Frame(Kind.ACK, b"42"))
    >>> decoder = Decoder(DOWN)
    >>> decoder.feed(data[:21]); decoder.next_frame()
    >>> decoder.feed(data[21:]); decoder.next_frame()
    Frame(kind=<Kind.ACK: 17>, payload=b'42')
    """

    def __init__(self, allowed: frozenset[Kind]) -> None:
        self._allowed = allowed
        self._buffer = bytearray()
        self._start = 0
        self._head: tuple[Kind, int, int] | None = None
        self._broken: DataError | None = None

    @property
    def pending(self) -> int:
        """Bytes fed that belong to no returned frame."""
        return len(self._buffer) - self._start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream."""
        if self._start:
            # Moving what is left to the front costs at most one incomplete frame.
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next complete frame, or None when more bytes are needed.

        Raises
        ------
        ChecksumError
            If a header or a payload is damaged.
        VersionError
            If the frame is of a newer version.
        DataError
            If the kind is unknown or not for this end, or the length is over its limit. After any error every further
            call raises it again.
        """
        if self._broken is not None:
            raise self._broken
        try:
            return self._take()
        except DataError as error:
            self._broken = error
            raise

    def _take(self) -> Frame | None:
        if self._head is None:
            if self.pending < HEADER_BYTES:
                self._begins(bytes(self._buffer[self._start : self._start + len(MAGIC)]))
                return None
            self._head = self._header(bytes(self._buffer[self._start : self._start + HEADER_BYTES]))
            self._start += HEADER_BYTES
        kind, size, expected = self._head
        if self.pending < size:
            return None
        payload = bytes(memoryview(self._buffer)[self._start : self._start + size])
        found = zlib.crc32(payload)
        if found != expected:
            msg = f"{kind.name} frame of {size} bytes has checksum {found:#010x}, its header says {expected:#010x}"
            raise ChecksumError(msg)
        self._start += size
        self._head = None
        return Frame(kind, payload)

    @staticmethod
    def _begins(data: bytes) -> None:
        # At once, not when a header's length has come: a greeting of a few bytes may be all that ever comes.
        if not MAGIC.startswith(data[: len(MAGIC)]):
            msg = f"stream goes on with {data[:3]!r}; a frame begins with {MAGIC!r}"
            raise ChecksumError(msg)

    def _header(self, data: bytes) -> tuple[Kind, int, int]:
        _, version, number, size, payload_sum = _PREFIX.unpack_from(data)
        (expected,) = _SUM.unpack_from(data, _PREFIX.size)
        self._begins(data)
        if zlib.crc32(data[: _PREFIX.size]) != expected or data[5:8] != bytes(3):
            msg = f"frame header {data.hex()} is damaged: its checksum does not match"
            raise ChecksumError(msg)
        if not 1 <= version <= VERSION:
            msg = f"frame has version {version}; this program reads 1 to {VERSION}"
            raise VersionError(msg)
        if number not in self._allowed:
            msg = f"frame of kind {number}; this end takes {', '.join(f'{k.name} {k.value}' for k in sorted(self._allowed))}"
            raise DataError(msg)
        kind = Kind(number)
        if size > PAYLOAD_BYTES_MAX[kind]:
            msg = f"{kind.name} frame of {size} bytes; at most {PAYLOAD_BYTES_MAX[kind]} are allowed"
            raise DataError(msg)
        return kind, size, payload_sum
