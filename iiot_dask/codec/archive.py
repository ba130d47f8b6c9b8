"""The archive tier for the values of one tag: grids are proposed, measured on a sample, and the cheapest is used.

`VALUES_ARCHIVE`:  flags byte (1 = a bound was asked for: requested, largest and RMS error follow;
                   3 = these are shares of each value); grid byte;
                   parameter, if the grid has one (float64); corrections; exceptions; the integers
`VALUES_PCO`:      a pcodec file of the floats
`VALUES_PARTS`:    number of parts, then size and value blob of each: columns whose format changes half way

The choice for one tag is remembered (`choice`) and examined again now and then, or when its blobs grow.
"""

from __future__ import annotations

import struct

import numpy as np

from iiot_dask.codec import ints
from iiot_dask.codec.bits import Bytes, Floats, Ints
from iiot_dask.codec.choice import Memory
from iiot_dask.codec.correction import dump_corrections, load_corrections
from iiot_dask.codec.frame import Frame, Kind, seal
from iiot_dask.codec.grid import read_misses
from iiot_dask.codec.lattice import from_lattice, has_param, name_of
from iiot_dask.codec.numbers import Numbers, Proposal, to_numbers
from iiot_dask.codec.parts import REPORT, Reached, dump_misses, get_part, load_misses, put_part
from iiot_dask.codec.pco import pco_encode, pco_floats
from iiot_dask.codec.search import PLAIN, best_proposal, find_change
from iiot_dask.core.errors import CodecError

_SPLIT_BITS = 16.0  # below, two formats in one column could not save much
_PCO_BITS = 11.0  # of the estimate, which leaves out what the spread of the residuals costs
_CLOSE = 1.03  # estimates nearer than this are settled by writing both
_F64 = struct.Struct("<d")


def encode_archive(x: Floats, memory: Memory | None = None) -> bytes:
    """The smallest blob of one tag's values, bit for bit.

    Parameters
    ----------
    x
        float64, shape (n,), n > 0.
    memory
        The tag's choice, read and updated.
    """
    memory = Memory() if memory is None else memory
    if memory.usable():
        blob = _encode_as(x, memory.proposal or PLAIN, memory.codec)
        if blob is not None and memory.used(8 * len(blob) / len(x)):
            return blob
    choice = best_proposal(x)
    cut = find_change(x) if choice[1] > _SPLIT_BITS else 0
    if cut:
        out = bytearray()
        for part in (x[:cut].copy(), x[cut:].copy()):
            put_part(out, _examine(part, best_proposal(part), memory))
        # What was chosen for the second half is no choice for a column like this one.
        memory.forget()
        return seal(Kind.VALUES_PARTS, len(x), out)
    return _examine(x, choice, memory)


def _examine(x: Floats, choice: tuple[Proposal, float], memory: Memory) -> bytes:
    """Choose afresh, by measured size; `choice` is what `best_proposal` said."""
    n = len(x)
    proposal, bits = choice
    numbers = to_numbers(x, proposal)
    if numbers[-1] * 8 > n:
        proposal = PLAIN
        numbers = to_numbers(x, proposal)
    codec, trial, rows = ints.choose(numbers[0])
    ours, theirs = True, False
    # What pcodec finds in the floats themselves can only win where we found little.
    if proposal == PLAIN or numbers[-1] * 50 > n or bits > _PCO_BITS:
        ours, theirs = _contest(x, proposal, numbers, b"" if rows == n else trial)
    blob = b""
    if theirs:
        blob = seal(Kind.VALUES_PCO, n, pco_encode(x))
        memory.choose(0, 8 * len(blob) / n, PLAIN)
    if ours:
        stream = trial if rows == n else ints.dump_by_id(codec, numbers[0])
        written = _write(x, proposal, numbers, stream)
        if not theirs or len(written) < len(blob):
            blob = written
            memory.choose(codec, 8 * len(blob) / n, proposal)
    return blob


def _contest(x: Floats, proposal: Proposal, numbers: Numbers, trial: bytes) -> tuple[bool, bool]:
    """Whether to write (our grid, pcodec's floats): the smaller on a stretch from the middle, both where it is close.

    `trial` is our integer stream of that stretch; empty when it was not needed to choose the codec.
    """
    if len(x) <= ints.SAMPLE_MAX:
        return True, True
    k, c, miss = ints.middle(numbers[0]), ints.middle(numbers[1]), ints.middle(numbers[2])
    sample = ints.middle(x)
    ours = len(_write(sample, proposal, (k, c, miss, 0), trial or ints.dump_archive(k)[0]))
    theirs = len(pco_encode(sample))
    return ours < _CLOSE * theirs, theirs < _CLOSE * ours


def _encode_as(x: Floats, proposal: Proposal, codec: int) -> bytes | None:
    """The blob of a choice made before; None when the grid does not fit."""
    if codec == 0:
        return seal(Kind.VALUES_PCO, len(x), pco_encode(x))
    numbers = to_numbers(x, proposal)
    if numbers[-1] * 16 > len(x):
        return None
    return _write(x, proposal, numbers, ints.dump_by_id(codec, numbers[0]))


def _write(x: Floats, proposal: Proposal, numbers: Numbers, stream: bytes) -> bytes:
    k, c, miss, _ = numbers
    return seal(Kind.VALUES_ARCHIVE, len(x), _payload(x, proposal, k, c, miss, stream))


def _payload(
    x: Floats, proposal: Proposal, k: Ints, c: Ints, miss: Bytes, stream: bytes, report: Reached | None = None
) -> bytes:
    out = bytearray((0,)) if report is None else bytearray((3 if report.relative else 1,)) + report.pack()
    out.append(proposal[0])
    if has_param(proposal[0]):
        out += _F64.pack(proposal[1])
    put_part(out, dump_corrections(k, c, miss))
    put_part(out, dump_misses(x, miss))
    return bytes(out) + stream


def encode_lossy(x: Floats, proposal: Proposal, stream: bytes, miss: Bytes, report: Reached) -> bytes:
    """The blob of values already rounded to a grid, whose numbers are in `stream`; exceptions are kept."""
    none = np.zeros(1, np.int64)
    return seal(Kind.VALUES_ARCHIVE, len(x), _payload(x, proposal, none, none, miss, stream, report))


def describe_archive(frame: Frame) -> str:
    """Grid and integer codec of a `VALUES_ARCHIVE` or `VALUES_PCO` frame, for people.

    Raises
    ------
    CodecError
        If the payload is damaged.
    """
    if frame.kind is Kind.VALUES_PCO:
        return "archive, floats, pco"
    grid, param, at = _read_grid(frame.payload, frame.count)
    _, at = get_part(frame.payload, at)
    _, at = get_part(frame.payload, at)
    return f"archive, {name_of(grid, param)}, {ints.describe(frame.payload[at:])}"


def decode_archive(frame: Frame) -> Floats:
    """The values of a `VALUES_ARCHIVE` or `VALUES_PCO` frame.

    Raises
    ------
    CodecError
        If the payload does not describe so many values.
    """
    data, n = frame.payload, frame.count
    if frame.kind is Kind.VALUES_PCO:
        return pco_floats(data, n)
    grid, param, at = _read_grid(data, n)
    corrections, at = get_part(data, at)
    misses, at = get_part(data, at)
    k = ints.load(data[at:], n)
    x = np.empty(n)
    if not from_lattice(k, load_corrections(corrections, k), 0, n, grid, param, x):
        msg = f"value blob has the unknown grid {grid:#04x} with parameter {param}"
        raise CodecError(msg)
    if len(misses) and not read_misses(load_misses(misses, n), x):
        msg = f"exceptions of a value blob do not fit its {n} samples"
        raise CodecError(msg)
    return x


def _read_grid(data: memoryview, n: int) -> tuple[int, float, int]:
    """(grid byte, its parameter, offset after both)."""
    if n == 0 or len(data) == 0 or data[0] not in (0, 1, 3):
        msg = f"value blob of {len(data)} bytes for {n} samples has no valid flags"
        raise CodecError(msg)
    at = 1 + REPORT.size * (data[0] & 1)
    if at >= len(data) or at + 1 + 8 * has_param(data[at]) > len(data):
        msg = f"value blob of {len(data)} bytes ends before its grid"
        raise CodecError(msg)
    grid, param = data[at], 1.0
    at += 1
    if has_param(grid):
        param = _F64.unpack_from(data, at)[0]
        at += _F64.size
    return grid, param, at
