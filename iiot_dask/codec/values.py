"""Value columns: floats bit for bit or within a bound that is verified before the blob is used.

Formats: `gridded`, `shuffled` (fast tier), `archive`, `record` (a note round one of them). A bound that can not be kept, or
would gain nothing, is not used, and the blob says why.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from iiot_dask.codec import grid as g
from iiot_dask.codec import ints
from iiot_dask.codec.archive import decode_archive, describe_archive, encode_archive, encode_lossy
from iiot_dask.codec.bits import Floats, Ints
from iiot_dask.codec.choice import Remembered
from iiot_dask.codec.frame import COUNT_MAX, Buffer, Frame, Kind, seal, unseal, unseal_as
from iiot_dask.codec.gridded import choose_grid, decode_grid, grid_payload, reached_errors, uses_bound, verified
from iiot_dask.codec.numbers import Proposal
from iiot_dask.codec.parts import REPORT, Reached, get_part
from iiot_dask.codec.precision import Precision
from iiot_dask.codec.record import AS_SMALL, FEW, MANY_TAGS, NO_SPAN, NOT_KEPT, Note, read_note, write_note
from iiot_dask.codec.relative import to_digits
from iiot_dask.codec.search import best_proposal, fixed_bits
from iiot_dask.codec.shuffled import decode_shuffled, shuffled_payload
from iiot_dask.codec.times import column
from iiot_dask.core.errors import CodecError

KINDS = (
    Kind.VALUES_GRID, Kind.VALUES_SHUFFLED, Kind.VALUES_ARCHIVE, Kind.VALUES_PCO, Kind.VALUES_PARTS, Kind.VALUES_NOTED,
)  # fmt: skip
LOSSY, RELATIVE = 1, 3
Tier = Literal["fast", "archive"]
_TIERS = ("fast", "archive")


def encode_values(
    values: npt.ArrayLike,
    precision: Precision | None = None,
    starts: Ints | None = None,
    tier: Tier = "fast",
    remembered: Remembered | None = None,
) -> bytes:
    """Compress a value column: bit for bit, or within the bound of `precision`.

    Parameters
    ----------
    values
        float64, shape (n,), 0 <= n <= 2**24; NaN payloads, infinities and -0.0 come back as they are.
    precision
        None or without a bound on values: lossless. Values that can not keep the bound, and blobs that would not
        gain by it, stay bit for bit; `inspect` tells, and why.
    starts
        Row starts of each tag's run (int64, starts[0] == 0, ascending); grid and prediction are found per run.
    tier
        ``"fast"`` while ingesting, ``"archive"`` for the smallest blob of a single tag; many runs are always fast.
    remembered
        Archive tier: the tag's choice, read and updated, so that it is not searched for each chunk.

    Raises
    ------
    CodecError
        If there are too many rows, `starts` do not fit them, or the tier is unknown.

    Examples
    --------
    >>> x = np.round(20 + np.sin(np.arange(5000) / 500), 2)
    >>> len(encode_values(x)) < 2500, np.array_equal(decode_values(encode_values(x)), x)
    (True, True)
    """
    blob, note = encode_with_note(column(values, np.float64), precision, starts, tier, remembered)
    return blob if note == Note() else write_note(unseal(blob), note)


def encode_with_note(
    x: Floats, precision: Precision | None, starts: Ints | None, tier: Tier, remembered: Remembered | None
) -> tuple[bytes, Note]:
    """`encode_values`, the note not yet written: for callers with more to note."""
    checked_tier(tier)
    edges = ints.checked_starts(starts, len(x))
    if len(x) == 0:
        return seal(Kind.VALUES_SHUFFLED, 0, b""), Note()
    single = len(edges) == 1
    archive = tier == "archive" and single
    fallback, asked = 0, None
    if precision is not None and precision.share is not None:
        asked = Reached(precision.share, 0.0, 0.0, relative=True)
        blob, fallback = _relative(x, precision, None if archive else edges)
    elif precision is not None and (precision.error_bound is not None or precision.span_share is not None):
        bound = precision.absolute(x) if single or precision.span_share is None else None
        asked = Reached(bound if bound is not None else precision.span_share or 0.0, 0.0, 0.0)
        if bound is None:
            blob, fallback = b"", NO_SPAN if single else MANY_TAGS
        elif archive:
            blob, fallback = _archive_lossy(x, bound, Remembered() if remembered is None else remembered)
        else:
            blob, fallback = _fast_lossy(x, edges, bound)
    else:
        blob = b""
    if not blob:
        blob = encode_archive(x, remembered.values if remembered else None) if archive else _fast(x, edges)
    return blob, Note(fallback, asked) if fallback else Note()


def checked_tier(tier: str) -> None:
    """Refuse an unknown tier.

    Raises
    ------
    CodecError
        If it is.
    """
    if tier not in _TIERS:
        msg = f"tier {tier!r} is unknown; allowed: {', '.join(_TIERS)}"
        raise CodecError(msg)


def decode_values(blob: Buffer, limit: int = COUNT_MAX) -> Floats:
    """The values of `encode_values`, float64.

    Raises
    ------
    CodecError, ChecksumError, VersionError
        If the bytes are not such a blob, are damaged, or newer than this program.
    """
    return _decode(unseal_as(blob, KINDS, limit))


def reached(blob: Buffer) -> Reached | None:
    """What a blob of `encode_values` asked for and reached; None when it is lossless.

    Examples
    --------
    >>> r = reached(encode_values(np.linspace(0, 1, 100), Precision(error_bound=0.01)))
    >>> r.requested, r.max_error <= 0.01
    (0.01, True)
    """
    return report_of(read_note(unseal_as(blob, KINDS))[0])


def report_of(frame: Frame) -> Reached | None:
    """The report in a value frame without a note; None when it is lossless.

    Raises
    ------
    CodecError
        If the payload ends before its report.
    """
    if frame.kind not in (Kind.VALUES_GRID, Kind.VALUES_ARCHIVE) or not len(frame.payload):
        return None
    if not frame.payload[0] & LOSSY:
        return None
    if len(frame.payload) < 1 + REPORT.size:
        msg = f"value blob of {len(frame.payload)} bytes ends before its report"
        raise CodecError(msg)
    requested, largest, rms = REPORT.unpack_from(frame.payload, 1)
    return Reached(requested, largest, rms, relative=frame.payload[0] == RELATIVE)


def describe(frame: Frame) -> str:
    """How the values of a frame without a note are written, for people."""
    if frame.kind in (Kind.VALUES_ARCHIVE, Kind.VALUES_PCO):
        return describe_archive(frame)
    names = {
        Kind.VALUES_GRID: "grid, packed",
        Kind.VALUES_SHUFFLED: "shuffled bytes",
        Kind.VALUES_PARTS: "archive, parts",
    }
    return names[frame.kind]


def _decode(frame: Frame) -> Floats:
    inside = read_note(frame)[0]
    return _DECODERS[inside.kind](inside)


def _fast(x: Floats, edges: Ints) -> bytes:
    payload, plain_rows, _ = grid_payload(x, edges, None)
    if plain_rows * 4 > len(x):
        shuffled = shuffled_payload(x)
        if len(shuffled) < len(payload):
            return seal(Kind.VALUES_SHUFFLED, len(x), shuffled)
    return seal(Kind.VALUES_GRID, len(x), payload)


def _fast_lossy(x: Floats, edges: Ints, bound: float) -> tuple[bytes, int]:
    """(blob, 0) or (nothing, why not)."""
    if len(edges) == 1:
        d, _ = g.find_decimals(x, 0, len(x), False)
        if d >= 0 and 2.0 * bound < g.POWERS[d] ** -1.0 * (1.0 + 1e-9):
            return b"", AS_SMALL
    payload, _, fallback = grid_payload(x, edges, bound)
    return (b"", fallback) if fallback else _proved(seal(Kind.VALUES_GRID, len(x), payload), x, bound)


def _proved(blob: bytes, x: Floats, bound: float) -> tuple[bytes, int]:
    """The blob only if what is read back from it keeps the bound."""
    kept = reached_errors(x, decode_values(blob))[0] <= bound
    return (blob, 0) if kept else (b"", NOT_KEPT)


def _archive_lossy(x: Floats, bound: float, remembered: Remembered) -> tuple[bytes, int]:
    n = len(x)
    k, miss = np.empty(n, np.int64), np.empty(n, np.uint8)
    grids, param = choose_grid(x, ints.ONE_RUN, bound, k, miss)
    report = verified(x, k, miss, ints.ONE_RUN, grids, np.full(1, param), bound)
    if report is None:
        return b"", NOT_KEPT
    if not uses_bound(grids, bound):
        return b"", FEW
    memory = remembered.lossy
    proposal: Proposal = (int(grids[0]), param)
    known = memory.codec if memory.usable() else -1
    if known < 0 and best_proposal(x)[1] <= fixed_bits(k.view(np.uint64)):
        return b"", AS_SMALL  # a bound below the natural resolution buys nothing
    stream, codec = (ints.dump_by_id(known, k), known) if known >= 0 else ints.dump_archive(k)
    blob = encode_lossy(x, proposal, stream, miss, report)
    bits = 8 * len(blob) / n
    if known < 0:
        memory.choose(codec, bits, proposal)
    elif not memory.used(bits):
        memory.forget()
    return _proved(blob, x, bound)


def _relative(x: Floats, precision: Precision, edges: Ints | None) -> tuple[bytes, int]:
    """(blob, 0) or (nothing, why not); the blob is decoded and compared."""
    digits = to_digits(x, precision)
    if digits is None:
        return b"", FEW
    proposal, k, miss, report = digits
    blob = encode_lossy(
        x, proposal, ints.dump_archive(k)[0] if edges is None else ints.dump_fast(k, edges), miss, report
    )
    y = decode_values(blob)
    finite = np.isfinite(x)
    kept = bool(np.all(np.abs(y[finite] - x[finite]) <= report.requested * np.abs(x[finite])))
    same = bool(np.array_equal(y[~finite].view(np.int64), x[~finite].view(np.int64)))
    return (blob, 0) if kept and same else (b"", NOT_KEPT)


def _from_parts(frame: Frame) -> Floats:
    """Blobs behind each other; a part is never made of parts or notes, so hostile bytes can not nest."""
    at, row = 0, 0
    x = np.empty(frame.count)
    while at < len(frame.payload):
        part, at = get_part(frame.payload, at)
        inner = unseal_as(part, KINDS[:4], frame.count - row)
        x[row : row + inner.count] = _DECODERS[inner.kind](inner)
        row += inner.count
    if row != frame.count:
        msg = f"parts of a value blob hold {row} samples; expected {frame.count}"
        raise CodecError(msg)
    return x


_DECODERS = {
    Kind.VALUES_GRID: decode_grid,
    Kind.VALUES_SHUFFLED: decode_shuffled,
    Kind.VALUES_ARCHIVE: decode_archive,
    Kind.VALUES_PCO: decode_archive,
    Kind.VALUES_PARTS: _from_parts,
}
