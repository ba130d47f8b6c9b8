"""A row's samples <-> its blobs; the only file of this stage that touches the codecs.

A block's tag column is stored as its runs: two integer blobs, the tag of each run and its length, behind the length of the
first (4 bytes, little endian). The run starts then tell the other codecs where a new tag begins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask import codec
from iiot_dask.core.errors import ChecksumError
from iiot_dask.history.kernels import bounds_of


@dataclass(frozen=True, slots=True)
class Blobs:
    """The encoded columns of a row; `tags` None in a chunk, `quality` None when every code is 0."""

    tags: bytes | None
    time: bytes
    value: bytes
    quality: bytes | None

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(len(b) for b in (self.tags, self.time, self.value, self.quality) if b is not None)


@dataclass(frozen=True, slots=True)
class Samples:
    """Decoded rows: `time` int64 ns, `value` float64, `quality` uint8, of equal lengths.

    Of a block (else None) also the tag id and the length of each run of equal tags, int64.
    """

    runs: npt.NDArray[np.int64] | None
    lengths: npt.NDArray[np.int64] | None
    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]


def encode_block(
    tag: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8],
) -> Blobs:
    """Encode rows of several tags, sorted by tag then time."""
    bounds = bounds_of(tag)
    starts = bounds[:-1]
    ids = codec.encode_times(np.ascontiguousarray(tag[starts]))
    lengths = codec.encode_times(np.diff(bounds))
    tags = len(ids).to_bytes(4, "little") + ids + lengths
    return Blobs(
        tags, codec.encode_times(time, starts=starts), codec.encode_values(value, starts=starts), _quality(quality)
    )


def encode_chunk(time: npt.NDArray[np.int64], value: npt.NDArray[np.float64], quality: npt.NDArray[np.uint8]) -> Blobs:
    """Encode rows of one tag, sorted by time."""
    return Blobs(None, codec.encode_times(time), codec.encode_values(value), _quality(quality))


def _quality(quality: npt.NDArray[np.uint8]) -> bytes | None:
    return codec.encode_codes(quality) if quality.any() else None


def decode(blobs: Blobs, count: int) -> Samples:
    """Decode a row that the table says holds `count` samples.

    Raises
    ------
    ChecksumError
        If a blob is damaged, or holds another number of samples.
    CodecError, VersionError
        If a blob is no blob, or of a newer format.
    """
    runs = lengths = None
    if blobs.tags is not None:
        runs, lengths = _decode_runs(blobs.tags, count)
    time = codec.decode_times(blobs.time, count)
    value = codec.decode_values(blobs.value, count)
    quality = np.zeros(count, np.uint8) if blobs.quality is None else codec.decode_codes(blobs.quality, np.uint8, count)
    for name, column in (("time", time), ("value", value), ("quality", quality)):
        if len(column) != count:
            msg = f"the {name} blob holds {len(column)} samples; its row says {count}"
            raise ChecksumError(msg)
    return Samples(runs, lengths, time, value, quality)


def _decode_runs(blob: bytes, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    split = 4 + int.from_bytes(blob[:4], "little")
    ids = codec.decode_times(blob[4:split], count)
    lengths = codec.decode_times(blob[split:], count)
    if len(ids) != len(lengths) or int(lengths.sum()) != count or (len(lengths) and int(lengths.min()) < 1):
        msg = f"the tags blob holds {len(ids)} runs of {int(lengths.sum())} samples; its row says {count} samples"
        raise ChecksumError(msg)
    return ids, lengths
