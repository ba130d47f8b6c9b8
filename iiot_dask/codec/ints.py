"""Integer streams inside a blob: which codec, whether zstd sits behind it, and its bytes.

    byte 0    integer codec id; + 0x80 = zstd behind, then a varint with the size before zstd
    ...       the codec's payload

These ids are a namespace of their own: streams are parts of framed blobs and carry neither count nor checksum.
"""

from __future__ import annotations

from typing import ClassVar, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from iiot_dask.codec import zstd
from iiot_dask.codec.bits import Ints
from iiot_dask.codec.coded import Coded
from iiot_dask.codec.frame import Buffer, get_varint, put_varint
from iiot_dask.codec.held import Held
from iiot_dask.codec.packed import Packed
from iiot_dask.codec.pco import Pco
from iiot_dask.codec.ranks import LEVELS_MAX, Ranked, find_levels, levels_size
from iiot_dask.codec.runs import Runs, count_runs
from iiot_dask.core.errors import CodecError

ZSTD = 0x80
SAMPLE = 2048
SAMPLE_MAX = 3072
PCO_BITS = 13.0
_SETTLED = 64  # bytes: constant, straight or nearly so
ONE_RUN: Final[Ints] = np.zeros(1, np.int64)


T = TypeVar("T", bound=np.generic)


class IntCodec(Protocol):
    """What an integer codec is: an id for ever, a name, and two pure functions."""

    id: ClassVar[int]
    name: ClassVar[str]

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:
        """Bytes of int64 `k` (n,), n > 0, whose runs begin at `starts`."""
        ...

    @staticmethod
    def decode(payload: Buffer, n: int) -> Ints:
        """The n numbers back; `CodecError` when the payload is damaged."""
        ...


_ALL: Final[tuple[type[IntCodec], ...]] = (Packed, Runs, Coded, Held, Ranked, Pco)
CODECS: Final[dict[int, type[IntCodec]]] = {codec.id: codec for codec in _ALL}
"""Every integer codec ever written, by id."""


def size_max(n: int) -> int:
    """Largest payload an integer codec may write for n numbers, bytes: the cap on what zstd may unfold."""
    return 24 * n + 256


def dump(codec: type[IntCodec], k: Ints, starts: Ints = ONE_RUN, level: int = 3) -> bytes:
    """One integer stream; `level` is zstd's, 0 = none."""
    if len(k) == 0:
        return bytes((codec.id,))
    payload = codec.encode(k, starts)
    smaller = zstd.compress(payload, level) if level else None
    if smaller is None:
        return bytes((codec.id,)) + payload
    head = bytearray((codec.id | ZSTD,))
    put_varint(head, len(payload))
    return bytes(head) + smaller


def dump_fast(k: Ints, starts: Ints = ONE_RUN, level: int = 3) -> bytes:
    """The fast tier's choice: run lengths where numbers repeat 8 times on average, else packed."""
    repeats: bool = len(k) > 64 and count_runs(k) * 8 < len(k)
    codec: type[IntCodec] = Runs if repeats else Packed
    return dump(codec, k, starts, level)


def dump_by_id(codec_id: int, k: Ints, starts: Ints = ONE_RUN) -> bytes:
    """One integer stream by the codec of that id; zstd behind those whose output still has patterns."""
    return dump(CODECS[codec_id], k, starts, 3 if codec_id in (Packed.id, Runs.id) else 0)


def middle(column: npt.NDArray[T]) -> npt.NDArray[T]:
    """A stretch from the middle of a long column to try candidates on; a short column itself."""
    n = len(column)
    return column if n <= SAMPLE_MAX else np.ascontiguousarray(column[(n - SAMPLE) // 2 :][:SAMPLE])


def choose(k: Ints) -> tuple[int, bytes, int]:
    """The archive tier's choice by measured size: (codec id, a stream by that codec, the rows in it).

    The stream is of all rows where that was needed to know, else of `middle(k)`, or empty (0 rows). What only `Coded` can
    win is not tried: numbers without repeats, levels or patterns that zstd finds.
    """
    sample = middle(k)
    plain = dump_fast(sample)
    if len(plain) <= _SETTLED:
        whole = plain if len(sample) == len(k) else dump_fast(k)
        if len(whole) <= _SETTLED:
            return whole[0] & ~ZSTD, whole, len(k)
    bits = 8 * len(plain) / max(len(sample), 1)
    rivals = candidates(sample)
    if not rivals and plain[0] == Packed.id and bits <= PCO_BITS and len(sample) < len(k):
        return Coded.id, b"", 0
    tried = {plain[0] & ~ZSTD: plain, Coded.id: dump_by_id(Coded.id, sample)}
    tried |= {codec_id: dump_by_id(codec_id, sample) for codec_id in rivals}
    sizes = {codec_id: len(stream) for codec_id, stream in tried.items()}
    if Ranked.id in sizes:
        # The levels are written once, however long the column.
        sizes[Ranked.id] -= levels_size(tried[Ranked.id][1:]) * (len(k) - len(sample)) // len(k)
    best = min(sizes, key=lambda codec_id: sizes[codec_id])
    # pcodec is slow to try; it wins where prediction leaves much, or no more than bit-packing finds.
    if 8 * sizes[best] > PCO_BITS * len(sample) or len(plain) < 1.05 * sizes[Coded.id]:
        tried[Pco.id] = dump_by_id(Pco.id, sample)
        best = Pco.id if len(tried[Pco.id]) < sizes[best] else best
    return best, tried[best], len(sample)


def dump_archive(k: Ints) -> tuple[bytes, int]:
    """The stream of the archive tier and its codec id."""
    codec_id, stream, rows = choose(k)
    return stream if rows == len(k) else dump_by_id(codec_id, k), codec_id


def candidates(k: Ints) -> list[int]:
    """Codec ids worth trying on numbers like `k` beside `Packed`, `Coded` and pcodec."""
    out = []
    if count_runs(k) * 4 < len(k) * 3:
        out.append(Held.id)
    levels = len(find_levels(k, max(2, min(len(k) // 8, LEVELS_MAX))))
    # Levels with few gaps are nearly their own ranks.
    if levels > 1 and int(k.max()) - int(k.min()) >= levels + levels // 2:
        out.append(Ranked.id)
    return out


def load(data: Buffer, n: int) -> Ints:
    """The n numbers of one integer stream.

    Raises
    ------
    CodecError
        If the codec id is unknown or the bytes are damaged.
    """
    view = memoryview(data)
    if len(view) == 0:
        msg = "integer stream of 0 bytes; at least its codec id is needed"
        raise CodecError(msg)
    codec = CODECS.get(view[0] & ~ZSTD)
    if codec is None:
        msg = f"integer codec id {view[0] & ~ZSTD} is unknown; known: {', '.join(map(str, CODECS))}"
        raise CodecError(msg)
    if n == 0:
        return np.empty(0, np.int64)
    if not view[0] & ZSTD:
        return codec.decode(view[1:], n)
    size, at = get_varint(view, 1)
    return codec.decode(zstd.decompress(view[at:], size, size_max(n)), n)


def describe(data: Buffer) -> str:
    """Name of the codec of a stream, such as ``"packed+zstd"``."""
    view = memoryview(data)
    codec = CODECS.get(view[0] & ~ZSTD) if view else None
    name = codec.name if codec else "unknown"
    return name + ("+zstd" if view and view[0] & ZSTD else "")


def checked_starts(starts: Ints | None, n: int) -> Ints:
    """Row starts of runs as the kernels want them.

    Raises
    ------
    CodecError
        If they do not begin at 0, ascend strictly and stay below n.
    """
    if starts is None or n == 0:
        return ONE_RUN
    out = np.ascontiguousarray(starts, dtype=np.int64)
    if len(out) == 0 or out[0] != 0 or out[-1] >= n or not bool(np.all(out[1:] > out[:-1])):
        msg = (
            f"starts {out[:3].tolist()}... of {len(out)} runs must begin at 0, ascend strictly and stay below {n} rows"
        )
        raise CodecError(msg)
    return out
