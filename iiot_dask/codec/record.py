"""What compression did to a column, kept with it: the bound asked for, errors reached, samples dropped, why it stayed exact.

`VALUES_NOTED` wraps a value blob of another kind when there is something to note that its own format does not say:

    byte       kind of the blob inside, whose payload follows the note (count and checksum are shared)
    byte       why a bound asked for was not used, an index into `FALLBACKS`; 0 = it was, or none was asked for
    byte       what follows: 1 = bound asked for; 2 = samples dropped; 4 = time snap; 8 = an earlier loss; 16, 32 = the
               bound, the earlier loss, are shares of each value
    ...        1: float64; 2: varint; 4: snap and largest shift, varints of ns; 8: bound, largest and RMS error, float64 each
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

from iiot_dask.codec.frame import Frame, Kind, get_varint, put_varint, seal
from iiot_dask.codec.parts import Reached
from iiot_dask.core.errors import CodecError

FALLBACKS = (
    "",
    "the exact blob is as small",
    "the bound was not kept when the blob was decoded and compared",
    "too few values would gain by the bound",
    "no span: the values are constant or not finite",
    "a share of the span is not known for many tags in one blob",
)
"""Why a bound was asked for and not used; positions are in blobs, so that new ones go to the end."""
AS_SMALL, NOT_KEPT, FEW, NO_SPAN, MANY_TAGS = range(1, len(FALLBACKS))
_F64 = struct.Struct("<d")
_ASKED, _DROPPED, _SNAP, _EARLIER, _ASKED_SHARE, _EARLIER_SHARE = (1 << i for i in range(6))


@dataclass(frozen=True, slots=True)
class Note:
    """What a value blob's own format does not say."""

    fallback: int = 0
    asked: Reached | None = None
    dropped: int = 0
    snap_ns: int = 0
    shift_max_ns: int = 0
    earlier: Reached | None = None

    def pack(self) -> bytes:
        """The bytes between the kind and the payload of the blob inside."""
        flags = (
            _ASKED * (self.asked is not None)
            | _DROPPED * (self.dropped > 0)
            | _SNAP * (self.snap_ns > 0)
            | _EARLIER * (self.earlier is not None)
            | _ASKED_SHARE * (self.asked is not None and self.asked.relative)
            | _EARLIER_SHARE * (self.earlier is not None and self.earlier.relative)
        )
        out = bytearray((self.fallback, flags))
        if self.asked is not None:
            out += _F64.pack(self.asked.requested)
        if self.dropped:
            put_varint(out, self.dropped)
        if self.snap_ns:
            put_varint(out, self.snap_ns)
            put_varint(out, self.shift_max_ns)
        if self.earlier is not None:
            out += self.earlier.pack()
        return bytes(out)


def write_note(frame: Frame, note: Note) -> bytes:
    """The blob of `frame` with the note in it; without one when there is nothing to note."""
    if note == Note():
        return seal(frame.kind, frame.count, frame.payload)
    return seal(Kind.VALUES_NOTED, frame.count, b"".join((bytes((frame.kind,)), note.pack(), frame.payload)))


def read_note(frame: Frame) -> tuple[Frame, Note]:
    """(the frame inside, its note); a frame of another kind is its own inside.

    Raises
    ------
    CodecError
        If the note is damaged, or holds something that is no value blob.
    """
    if frame.kind is not Kind.VALUES_NOTED:
        return frame, Note()
    data = frame.payload
    if len(data) < 3 or data[1] >= len(FALLBACKS) or data[2] >= _EARLIER_SHARE << 1:
        msg = f"note of a value blob of {len(data)} bytes is damaged or newer than this program"
        raise CodecError(msg)
    kind, fallback, flags = data[0], data[1], data[2]
    if kind not in _INSIDE:
        msg = f"note of a value blob wraps kind {kind:#04x}; allowed: {', '.join(f'{k:#04x}' for k in sorted(_INSIDE))}"
        raise CodecError(msg)
    at = 3
    asked = earlier = None
    dropped = snap = shift = 0
    if flags & _ASKED:
        (bound,), at = _floats(data, at, 1)
        asked = Reached(bound, 0.0, 0.0, relative=bool(flags & _ASKED_SHARE))
    if flags & _DROPPED:
        dropped, at = get_varint(data, at)
    if flags & _SNAP:
        snap, at = get_varint(data, at)
        shift, at = get_varint(data, at)
    if flags & _EARLIER:
        (bound, largest, rms), at = _floats(data, at, 3)
        earlier = Reached(bound, largest, rms, relative=bool(flags & _EARLIER_SHARE))
    return Frame(Kind(kind), frame.count, data[at:]), Note(fallback, asked, dropped, snap, shift, earlier)


_INSIDE = frozenset((Kind.VALUES_GRID, Kind.VALUES_SHUFFLED, Kind.VALUES_ARCHIVE, Kind.VALUES_PCO, Kind.VALUES_PARTS))


def _floats(data: memoryview, at: int, count: int) -> tuple[tuple[float, ...], int]:
    if at + 8 * count > len(data):
        msg = f"note of a value blob ends within its numbers, at byte {len(data)}"
        raise CodecError(msg)
    return struct.unpack_from(f"<{count}d", data, at), at + 8 * count


@dataclass(frozen=True, slots=True)
class Record:
    """What was asked of compression and what it did; `codec.inspect` reads it from any blob.

    Attributes
    ----------
    samples
        Rows in the blob.
    size
        Bytes of the blob or blobs meant: a whole chunk, or one column.
    codec
        How the values are written, for people: ``"archive, k / 10**2, coded"``.
    kind
        ``"lossless"``, ``"absolute"`` (errors in the unit of the values) or ``"relative"`` (shares of each value).
    requested, max_error, rms_error
        Bound, largest and root-mean-square error over finite values; 0 when lossless. NaN, infinities and values that could
        not keep the bound are exact.
    fallback
        Why a bound was asked for and not used; "" = it was used, or none was asked for.
    asked
        The bound that was not used; 0 = none.
    dropped
        Samples left out before, by a swinging door or a dead band.
    snap_ns, shift_max_ns
        Grid the times were rounded to and the largest shift, ns; 0 = exact.
    columns
        8-byte columns the size is compared with: 2 for times and values, 1 for values alone.
    """

    samples: int
    size: int
    codec: str
    kind: str = "lossless"
    requested: float = 0.0
    max_error: float = 0.0
    rms_error: float = 0.0
    fallback: str = ""
    asked: float = 0.0
    dropped: int = 0
    snap_ns: int = 0
    shift_max_ns: int = 0
    columns: int = 2

    @property
    def ratio(self) -> float:
        """Bytes before (8 a number, dropped samples included) over bytes now; 0.0 for an empty blob."""
        return 8.0 * self.columns * (self.samples + self.dropped) / self.size if self.samples else 0.0

    @property
    def lossless(self) -> bool:
        """Whether the values are what they were, bit for bit."""
        return self.kind == "lossless"

    def merge(self, other: Record) -> Record:
        """The record of both blobs' rows together: sums of rows, bytes and drops, the larger of everything else.

        Raises
        ------
        CodecError
            If one is relative and the other absolute.
        """
        kinds = {r.kind for r in (self, other) if not r.lossless}
        if len(kinds) > 1:
            msg = "records of an absolute and of a relative bound can not be merged; encode the rows apart"
            raise CodecError(msg)
        rows = max(self.samples + other.samples, 1)
        squares = self.samples * self.rms_error**2 + other.samples * other.rms_error**2
        return replace(
            self,
            samples=self.samples + other.samples,
            size=self.size + other.size,
            codec=self.codec if self.codec == other.codec else "several",
            kind=kinds.pop() if kinds else "lossless",
            requested=max(self.requested, other.requested),
            max_error=max(self.max_error, other.max_error),
            rms_error=math.sqrt(squares / rows),
            fallback=self.fallback or other.fallback,
            asked=max(self.asked, other.asked),
            dropped=self.dropped + other.dropped,
            snap_ns=max(self.snap_ns, other.snap_ns),
            shift_max_ns=max(self.shift_max_ns, other.shift_max_ns),
        )


def record_of(frame: Frame, size: int, codec: str, own: Reached | None, note: Note, columns: int) -> Record:
    """The record of a value blob from its own report and its note; an earlier loss and this one add up."""
    total = added(own, note.earlier)
    kind = "lossless" if total is None else "relative" if total.relative else "absolute"
    total = total or Reached(0.0, 0.0, 0.0)
    return Record(
        frame.count, size, codec, kind, total.requested, total.max_error, total.rms_error, FALLBACKS[note.fallback],
        note.asked.requested if note.asked else 0.0, note.dropped, note.snap_ns, note.shift_max_ns, columns,
    )  # fmt: skip


def added(one: Reached | None, other: Reached | None) -> Reached | None:
    """Two losses after each other: their bounds and errors add up at worst.

    Raises
    ------
    CodecError
        If one is relative and the other absolute.
    """
    if one is None or other is None:
        return one or other
    if one.relative != other.relative:
        msg = "an absolute bound after a relative one, or the other way round, has no common record; encode without a bound"
        raise CodecError(msg)
    return Reached(
        one.requested + other.requested, one.max_error + other.max_error, one.rms_error + other.rms_error, one.relative
    )


def earlier_of(record: Record | None) -> Reached | None:
    """The loss a record tells of; None when there is none."""
    if record is None or record.lossless:
        return None
    return Reached(record.requested, record.max_error, record.rms_error, relative=record.kind == "relative")
