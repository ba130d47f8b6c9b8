"""A chunk: the samples of one tag in one blob. What an edge sends and what history stores, there as three blobs of a row.

Payload of `CHUNK`: the size of the time blob as a varint, the time blob, the value blob; both are blobs of their own.
Payload of `CHUNK_QUALITY`: time blob, value blob and quality blob, each after its size as a varint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from iiot_dask.codec.bits import Floats, Ints
from iiot_dask.codec.choice import Remembered
from iiot_dask.codec.codes import decode_codes, encode_codes
from iiot_dask.codec.frame import COUNT_MAX, Buffer, Frame, Kind, get_varint, seal, unseal, unseal_as
from iiot_dask.codec.parts import get_part, put_part
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.record import Record, earlier_of, read_note, record_of, write_note
from iiot_dask.codec.times import column, decode_times, encode_times, snap_times
from iiot_dask.codec.values import KINDS, Tier, checked_tier, describe, encode_with_note, report_of
from iiot_dask.codec.values import decode_values as decode_column
from iiot_dask.core.errors import CodecError

CHUNKS = (Kind.CHUNK, Kind.CHUNK_QUALITY)
Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Compressed:
    """The blobs of one tag's rows and their record; `quality` is None when every code is 0."""

    time: bytes
    value: bytes
    quality: bytes | None
    record: Record


def compress(
    times: npt.ArrayLike,
    values: npt.ArrayLike,
    qualities: npt.ArrayLike | None = None,
    *,
    precision: Precision | None = None,
    tier: Tier = "archive",
    remembered: Remembered | None = None,
    earlier: Record | None = None,
    dropped: int = 0,
) -> Compressed:
    """Compress rows of one tag column by column: what history puts into one row of its table.

    Parameters
    ----------
    times, values, qualities
        int64 ns, float64 and uint8, shape (n,), 0 <= n <= 2**24; qualities None = all 0 (good).
    precision
        What may be lost, None = nothing. Rows that were rounded before must not be rounded again: give their record as
        `earlier` and no precision, as a share of span means another bound in every chunk.
    tier
        ``"fast"`` or ``"archive"``.
    remembered
        The tag's choice (see `Choices`), read and updated; None = everything is searched.
    earlier
        What these rows have lost before (`inspect` of the blobs they came from, several by `Record.merge`); kept on.
    dropped
        Samples a swinging door or dead band left out among these rows; kept in the record.

    Raises
    ------
    CodecError
        If the columns differ in length or have too many rows, the tier is unknown, `dropped` is negative, or `earlier` is
        relative and `precision` absolute or the other way round.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> x = 20 + np.cumsum(rng.normal(0, 0.1, 2000))
    >>> done = compress(np.arange(2000) * 10**9, x, precision=Precision(error_bound=0.05))
    >>> done.quality is None, done.record.kind, done.record.max_error <= 0.05, done.record.ratio > 20
    (True, 'absolute', True, True)
    >>> inspect(done.value).requested
    0.05
    """
    t, x = column(times, np.int64), column(values, np.float64)
    q = None if qualities is None else column(qualities, np.uint8)
    checked_tier(tier)
    if len(t) != len(x) or (q is not None and len(q) != len(x)):
        rows = f"{len(t)} times, {len(x)} values" + ("" if q is None else f", {len(q)} qualities")
        msg = f"{rows}; all columns must be of equal length"
        raise CodecError(msg)
    if dropped < 0:
        msg = f"{dropped} samples dropped; a count is at least 0"
        raise CodecError(msg)
    snap = 0 if precision is None or precision.time_snap_ns is None else precision.time_snap_ns
    exact = t
    if snap:
        t = snap_times(t, snap)
    value, note = encode_with_note(x, precision, None, tier, remembered)
    shift = int(np.abs(t - exact).max(initial=0)) if snap else 0
    note = replace(note, dropped=dropped, snap_ns=snap, shift_max_ns=shift, earlier=earlier_of(earlier))
    if earlier is not None:
        note = replace(
            note,
            dropped=dropped + earlier.dropped,
            snap_ns=max(snap, earlier.snap_ns),
            shift_max_ns=shift + earlier.shift_max_ns,
        )
    frame = unseal(value)
    value = write_note(frame, note)
    time = encode_times(t, tier=tier, remembered=remembered)
    quality = encode_codes(q) if q is not None and q.any() else None
    size = len(time) + len(value) + len(quality or b"")
    return Compressed(time, value, quality, record_of(frame, size, describe(frame), report_of(frame), note, 2))


def encode(
    times: npt.ArrayLike,
    values: npt.ArrayLike,
    precision: Precision | None = None,
    tier: Tier = "fast",
    *,
    qualities: npt.ArrayLike | None = None,
    remembered: Remembered | None = None,
    dropped: int = 0,
) -> bytes:
    """Compress samples of one tag into one blob.

    Parameters
    ----------
    times
        int64 ns since 1970-01-01 UTC, shape (n,), any order, 0 <= n <= 2**24.
    values
        float64, shape (n,).
    precision
        What may be lost; None = nothing. `inspect` tells what was.
    tier
        ``"fast"``: at memory speed, for ingest and edge; ``"archive"``: smallest.
    qualities
        uint8, shape (n,); None = all 0 (good).
    remembered
        Archive tier: the tag's choice, read and updated.
    dropped
        Samples a swinging door or dead band left out among these; kept in the record.

    Raises
    ------
    CodecError
        If the columns differ in length or have too many rows, or the tier is unknown.

    Examples
    --------
    >>> t, x = np.arange(1000) * 10**9, np.round(np.sin(np.arange(1000) / 100), 1)
    >>> times, values = decode(encode(t, x))
    >>> bool((times == t).all() and (values == x).all())
    True
    """
    done = compress(times, values, qualities, precision=precision, tier=tier, remembered=remembered, dropped=dropped)
    payload = bytearray()
    if done.quality is None:
        put_part(payload, done.time)
        payload += done.value
        return seal(Kind.CHUNK, done.record.samples, payload)
    for part in (done.time, done.value, done.quality):
        put_part(payload, part)
    return seal(Kind.CHUNK_QUALITY, done.record.samples, payload)


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
    frame = unseal_as(blob, CHUNKS, limit)
    time, value, _ = _columns(frame)
    t = decode_times(time, limit=frame.count)
    x = decode_column(value, limit=frame.count)
    if len(t) != frame.count or len(x) != frame.count:
        msg = f"chunk of {frame.count} samples holds {len(t)} times and {len(x)} values"
        raise CodecError(msg)
    return t, x


def decode_quality(blob: Buffer, limit: int = COUNT_MAX) -> Codes:
    """The quality codes of a chunk, uint8 (n,); zeros when it was written without.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        As `decode`.

    Examples
    --------
    >>> blob = encode([1, 2, 3], [1.0, 2.0, 3.0], qualities=np.array([0, 128, 0], np.uint8))
    >>> decode_quality(blob).tolist()
    [0, 128, 0]
    """
    frame = unseal_as(blob, CHUNKS, limit)
    quality = _columns(frame)[2]
    if quality is None:
        return np.zeros(frame.count, np.uint8)
    codes = decode_codes(quality, np.uint8, limit=frame.count)
    if len(codes) != frame.count:
        msg = f"chunk of {frame.count} samples holds {len(codes)} quality codes"
        raise CodecError(msg)
    return codes


def inspect(blob: Buffer, limit: int = COUNT_MAX) -> Record:
    """What a chunk or a value blob says of itself, without decoding its samples.

    Parameters
    ----------
    blob
        A chunk of `encode`, or a value blob of `compress` or `encode_values`; those written before notes existed too.
    limit
        Largest number of samples accepted.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        As `decode`.

    Examples
    --------
    >>> record = inspect(encode(np.arange(500), np.round(np.arange(500) / 7, 1), Precision(error_bound=0.001)))
    >>> record.lossless, record.fallback, record.asked
    (True, 'the exact blob is as small', 0.001)
    """
    frame = unseal_as(blob, (*CHUNKS, *KINDS), limit)
    value, columns = frame, 1
    if frame.kind in CHUNKS:
        value, columns = unseal_as(_columns(frame)[1], KINDS, frame.count), 2
    inside, note = read_note(value)
    return record_of(inside, len(blob), describe(inside), report_of(inside), note, columns)


def _columns(frame: Frame) -> tuple[memoryview, memoryview, memoryview | None]:
    """(time blob, value blob, quality blob or None) of a chunk."""
    if frame.kind is Kind.CHUNK:
        size, at = get_varint(frame.payload, 0)
        return frame.payload[at : at + size], frame.payload[at + size :], None
    time, at = get_part(frame.payload, 0)
    value, at = get_part(frame.payload, at)
    quality, at = get_part(frame.payload, at)
    if at != len(frame.payload):
        msg = f"chunk of {len(frame.payload)} bytes has {len(frame.payload) - at} bytes behind its quality codes"
        raise CodecError(msg)
    return time, value, quality
