"""The archive tier for the values of one tag: grids are proposed, measured on a sample, and the cheapest is used.

`VALUES_ARCHIVE`:  flags byte (1 = a bound was asked for: requested, largest and RMS error follow;
                   3 = these are shares of each value); grid byte;
                   parameter, if the grid has one (float64); corrections; exceptions; the integers
`VALUES_PCO`:      a pcodec file of the floats
`VALUES_PARTS`:    number of parts, then size and value blob of each: columns whose format changes half way

The choice for one tag is remembered (`Remembered`) and examined again now and then, or when its blobs grow.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from iiot_dask.codec import ints
from iiot_dask.codec.bits import Bytes, Floats, Ints, kernel
from iiot_dask.codec.correction import dump_corrections, load_corrections
from iiot_dask.codec.frame import Frame, Kind, seal
from iiot_dask.codec.grid import BITS64, bits_to_grid, read_misses
from iiot_dask.codec.lattice import from_lattice, has_param, to_lattice
from iiot_dask.codec.parts import REPORT, Reached, dump_misses, get_part, load_misses, put_part
from iiot_dask.codec.pco import pco_encode, pco_floats
from iiot_dask.codec.predict import best_fixed
from iiot_dask.codec.steps import Proposal, propose, sample_of
from iiot_dask.core.errors import CodecError

SAMPLE = 2048
PLAIN: Proposal = (BITS64, 1.0)
_MISS_BITS = 88.0
_SPLIT_MIN = 1024
_SPLIT_BITS = 16.0  # below, two formats in one column could not save much
_PCO_BITS = 16.0
_EXAMINE_EVERY = 32
_WORSE = 1.10
_F64 = struct.Struct("<d")


@dataclass(slots=True)
class Remembered:
    """What was best for the last chunk of a tag: keep one a tag and hand it to each of its chunks in turn.

    Attributes
    ----------
    proposal
        Grid byte and parameter; None = nothing chosen yet.
    codec
        Integer codec id; 0 = the floats go to pcodec.
    bits
        Bits a value when it was chosen.
    uses
        Chunks since then.
    """

    proposal: Proposal | None = None
    codec: int = 0
    bits: float = 0.0
    uses: int = 0

    def usable(self) -> bool:
        """Whether the choice stands, or has to be examined again."""
        return self.proposal is not None and self.uses < _EXAMINE_EVERY

    def choose(self, proposal: Proposal, codec: int, bits: float) -> None:
        """Note a fresh choice and the bits a value it gave."""
        self.proposal, self.codec, self.bits, self.uses = proposal, codec, bits, 0

    def used(self, bits: float) -> bool:
        """Count a use; False when the blob grew so much that the choice should be examined at once."""
        self.uses += 1
        return bits <= self.bits * _WORSE + 0.1


def to_numbers(x: Floats, proposal: Proposal) -> tuple[Ints, Ints, Bytes, int]:
    """(grid numbers, corrections, exceptions, number of exceptions) of x on one grid."""
    n = len(x)
    k, c, miss = np.empty(n, np.int64), np.zeros(n, np.int64), np.empty(n, np.uint8)
    if proposal[0] == BITS64:
        bits_to_grid(x, 0, n, k, miss)
        return k, c, miss, 0
    misses, _ = to_lattice(x, proposal[0], proposal[1], k, c, miss)
    return k, c, miss, misses


@kernel
def fixed_bits(k: Ints) -> float:
    """Estimated bits a number under the best fixed predictor."""
    return best_fixed(k)[1]  # type: ignore[no-any-return]


def measure(x: Floats, proposal: Proposal) -> float:
    """Estimated bits a value of a sample on one grid, exceptions and corrections included."""
    k, c, _, misses = to_numbers(x, proposal)
    bits = fixed_bits(k.view(np.uint64)) + misses * _MISS_BITS / len(x)
    return bits + (fixed_bits(c.view(np.uint64)) if c.any() else 0.0)


def best_proposal(x: Floats) -> tuple[Proposal, float]:
    """The cheapest grid for x and its estimated bits a value, judged on a sample."""
    sample = sample_of(x, SAMPLE)
    if len(sample) < 2:
        return PLAIN, 64.0
    costs = [(measure(sample, proposal), at, proposal) for at, proposal in enumerate(dict.fromkeys(propose(sample)))]
    bits, _, proposal = min(costs)
    return proposal, bits


def find_change(x: Floats) -> int:
    """Row where the format of the numbers changes; 0 = it does not. Ends are compared, the change found by halving."""
    n = len(x)
    size = _SPLIT_MIN // 2
    if n < 2 * _SPLIT_MIN:
        return 0
    head, before = best_proposal(x[:size])
    tail, after = best_proposal(x[-size:])
    if head == tail or max(before, after) < 4.0:
        return 0
    if measure(x[-size:], head) < after * 1.05 + 0.5 or measure(x[:size], tail) < before * 1.05 + 0.5:
        return 0
    low, high = 0, n - size
    while high - low > size:
        middle = (low + high) // 2
        piece = x[middle : middle + size]
        if measure(piece, head) <= measure(piece, tail):
            low = middle
        else:
            high = middle
    return low + size


def encode_archive(x: Floats, remembered: Remembered | None = None) -> bytes:
    """The smallest blob of one tag's values, bit for bit.

    Parameters
    ----------
    x
        float64, shape (n,), n > 0.
    remembered
        The tag's choice, read and updated.
    """
    memory = Remembered() if remembered is None else remembered
    if memory.usable():
        blob = _encode_as(x, memory.proposal or PLAIN, memory.codec)
        if blob is not None and memory.used(8 * len(blob) / len(x)):
            return blob
    choice = best_proposal(x)
    cut = find_change(x) if choice[1] > _SPLIT_BITS else 0
    if cut:
        memory.proposal = None
        out = bytearray()
        for part, kept in ((x[:cut].copy(), Remembered()), (x[cut:].copy(), memory)):
            put_part(out, _examine(part, best_proposal(part), kept))
        return seal(Kind.VALUES_PARTS, len(x), out)
    return _examine(x, choice, memory)


def _examine(x: Floats, choice: tuple[Proposal, float], memory: Remembered) -> bytes:
    """Choose afresh, by measured size; `choice` is what `best_proposal` said."""
    proposal, _ = choice
    k, c, miss, misses = to_numbers(x, proposal)
    if misses * 8 > len(x):
        proposal = PLAIN
        k, c, miss, _ = to_numbers(x, proposal)
    stream, codec = ints.dump_archive(k)
    blob = seal(Kind.VALUES_ARCHIVE, len(x), _payload(x, proposal, k, c, miss, stream))
    # What pcodec finds in the floats themselves can only win where we found little.
    if proposal == PLAIN or misses * 50 > len(x) or len(blob) * 8 > _PCO_BITS * len(x):
        other = seal(Kind.VALUES_PCO, len(x), pco_encode(x))
        if len(other) < len(blob):
            blob, proposal, codec = other, PLAIN, 0
    memory.choose(proposal, codec, 8 * len(blob) / len(x))
    return blob


def _encode_as(x: Floats, proposal: Proposal, codec: int) -> bytes | None:
    """The blob of a choice made before; None when the grid no longer fits."""
    if codec == 0:
        return seal(Kind.VALUES_PCO, len(x), pco_encode(x))
    k, c, miss, misses = to_numbers(x, proposal)
    if misses * 16 > len(x):
        return None
    return seal(Kind.VALUES_ARCHIVE, len(x), _payload(x, proposal, k, c, miss, ints.dump_by_id(codec, k)))


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


def encode_lossy(x: Floats, proposal: Proposal, k: Ints, miss: Bytes, report: Reached, starts: Ints | None) -> bytes:
    """The blob of values already rounded to a grid, exceptions kept; `starts`: fast tier, None: archive."""
    stream = ints.dump_archive(k)[0] if starts is None else ints.dump_fast(k, starts)
    return seal(Kind.VALUES_ARCHIVE, len(x), _payload(x, proposal, k, np.zeros(1, np.int64), miss, stream, report))


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
