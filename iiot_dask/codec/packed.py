"""`Packed`: integers as differences, bit-packed in blocks whose width fits, with outliers patched in.

Rows may be cut into runs (one tag each); prediction restarts at every run. Format, all in one meta stream of varints
followed by one bit stream:

    meta, a run:   length - 1; head (zigzag difference to the previous run's head, mod 2**64);
                   then, if length > 1: order byte (0-3; + 0x10 = all residuals equal), unit;
                   if order 2: first difference, if order 3: slope (zigzag)
    residuals:     j[i] = (k[i] - head) / unit; order 0: j[i], 1: j[i] - j[i-1], 2: difference of differences,
                   3: j[i] - slope * i, the distance from a straight line (a clock that jitters about its grid)
    meta, equal:   the residual (zigzag)
    meta, a block: width byte 0-64; + 0x80 = patched
                   plain: base (zigzag), bits hold residual - base
                   patched: count of patches, then a byte position and varint high bits each; bits hold the low bits
                   of the zigzag residual

Source: fixed predictors after Robinson, "Shorten", 1994; the blocks are in `blocks`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from iiot_dask.codec.bits import (
    U0,
    U1,
    Ints,
    bit_length,
    bytes_of,
    kernel,
    read_varint,
    unzigzag,
    words_of,
    write_varint,
    zigzag,
)
from iiot_dask.codec.blocks import BLOCK, read_block, write_block
from iiot_dask.codec.frame import Buffer, get_varint, put_varint
from iiot_dask.codec.predict import slope_of
from iiot_dask.codec.units import common_unit, divide_from, is_line
from iiot_dask.core.errors import CodecError

EQUAL = 0x10


@kernel
def best_order(j: Any, m: Any) -> Any:
    """Order (0-3) whose zigzag residuals need fewest bits in sum, looking at up to 16 blocks."""
    bits0 = bits1 = bits2 = bits3 = 0
    slope = slope_of(j, m)
    stride = max(1, m // (16 * BLOCK)) * BLOCK
    for start in range(0, m, stride):
        stop = min(m, start + BLOCK)
        for i in range(max(start, 2), stop):
            one = j[i] - j[i - 1]
            # A block has a base of its own, so orders 0 and 3 are measured from the block's first value.
            level = j[i] - j[start]
            bits0 += bit_length(zigzag(level))
            bits1 += bit_length(zigzag(one))
            bits2 += bit_length(zigzag(one - (j[i - 1] - j[i - 2])))
            bits3 += bit_length(zigzag(level - slope * np.uint64(i - start)))
    if bits0 <= bits1 and bits0 <= bits2 and bits0 <= bits3:
        return 0
    if bits1 <= bits2 and bits1 <= bits3:
        return 1
    return 2 if bits2 <= bits3 else 3


@kernel
def difference(j: Any, m: Any, order: Any) -> Any:
    """Replace j[:m] by its residuals; returns what the head keeps: order 2's first difference, order 3's slope."""
    if order == 0:
        return U0
    if order == 3:
        slope = slope_of(j, m)
        for i in range(m):
            j[i] -= slope * np.uint64(i + 1)
        return slope
    for i in range(m - 1, 0, -1):
        j[i] -= j[i - 1]
    first = j[0]
    if order == 2:
        for i in range(m - 1, 0, -1):
            j[i] -= j[i - 1]
    return first


@kernel
def write_line(step: Any, meta: Any, at: Any) -> Any:
    """Meta of a run without a single residual; returns the offset after it."""
    if step == U0:
        meta[at] = np.uint8(EQUAL)
        at = write_varint(meta, at + 1, U1)
        return write_varint(meta, at, U0)
    down = np.int64(step) < 0
    meta[at] = np.uint8(EQUAL | 2)
    at = write_varint(meta, at + 1, U0 - step if down else step)
    at = write_varint(meta, at, zigzag(U0 - U1 if down else U1))
    return write_varint(meta, at, U0)


@kernel
def encode_packed(k: Any, starts: Any, meta: Any, words: Any) -> Any:
    """Encode rows (uint64) cut at `starts`; returns (bytes of meta, bits)."""
    n = len(k)
    scratch = np.empty(BLOCK, np.uint64)
    longest = 1
    for s in range(len(starts)):
        longest = max(longest, (starts[s + 1] if s + 1 < len(starts) else n) - starts[s])
    j = np.empty(longest, np.uint64)
    at = 0
    bit = 0
    head = U0
    for s in range(len(starts)):
        a = starts[s]
        b = starts[s + 1] if s + 1 < len(starts) else n
        at = write_varint(meta, at, np.uint64(b - a - 1))
        at = write_varint(meta, at, zigzag(k[a] - head))
        head = k[a]
        m = b - a - 1
        if m == 0:
            continue
        if m > 2 and is_line(k, a, b):
            at = write_line(k[a + 1] - k[a], meta, at)
            continue
        unit = common_unit(k, a, b)
        divide_from(k, a + 1, b, k[a], unit, j)
        order = best_order(j, m)
        first = difference(j, m, order)
        start = 1 if order == 2 else 0
        equal = True
        for i in range(start + 1, m):
            if j[i] != j[start]:
                equal = False
                break
        meta[at] = np.uint8(order | (EQUAL if equal else 0))
        at = write_varint(meta, at + 1, unit)
        if order >= 2:
            at = write_varint(meta, at, zigzag(first))
        if equal:
            if start < m:
                at = write_varint(meta, at, zigzag(j[start]))
            continue
        for block in range(start, m, BLOCK):
            at, bit = write_block(j, block, min(BLOCK, m - block), scratch, meta, at, words, bit)
    return at, bit


@kernel
def integrate(k: Any, a: Any, b: Any, order: Any, first: Any, unit: Any) -> None:
    """Rows a+1..b-1 hold residuals, row a the head; turn them into the numbers."""
    head = k[a]
    total = U0
    if order == 0:
        for i in range(a + 1, b):
            k[i] = head + k[i] * unit
    elif order == 1:
        for i in range(a + 1, b):
            total += k[i]
            k[i] = head + total * unit
    elif order == 2:
        step = first
        for i in range(a + 1, b):
            step += k[i]  # row a + 1 holds 0
            total += step
            k[i] = head + total * unit
    else:
        for i in range(a + 1, b):
            k[i] = head + (k[i] + first * np.uint64(i - a)) * unit


@kernel
def decode_packed(meta: Any, end: Any, words: Any, bits: Any, k: Any) -> Any:
    """Fill `k` (uint64) from the two streams; False when they are not what the format says."""
    n = len(k)
    at: Any = 0
    bit: Any = 0
    a: Any = 0
    head = U0
    while a < n:
        more, at = read_varint(meta, at, end)
        step, at = read_varint(meta, at, end)
        if at < 0 or more >= np.uint64(n - a):
            return False
        m = np.int64(more)
        b = a + m + 1
        head += unzigzag(step)
        k[a] = head
        if m > 0:
            if at >= end:
                return False
            order = np.int64(meta[at] & 0x0F)
            equal = meta[at] & EQUAL
            if order > 3 or meta[at] > (EQUAL | 3):
                return False
            unit, at = read_varint(meta, at + 1, end)
            first = U0
            if order >= 2:
                first, at = read_varint(meta, at, end)
                first = unzigzag(first)
                k[a + 1] = U0
            start = a + 2 if order == 2 else a + 1
            if equal and start < b:
                value, at = read_varint(meta, at, end)
                for i in range(start, b):
                    k[i] = unzigzag(value)
            if not equal:
                for block in range(start, b, BLOCK):
                    at, bit = read_block(meta, at, end, words, bit, bits, k, block, min(BLOCK, b - block))
            if at < 0:
                return False
            integrate(k, a, b, order, first, unit)
        a = b
    return at == end


class Packed:
    """Differences, common unit, bit-packed blocks with patches; any int64, any order of rows.

    Examples
    --------
    >>> payload = Packed.encode(np.arange(5000, 9000, 4), np.zeros(1, np.int64))
    >>> len(payload), Packed.decode(payload, 1000)[:3].tolist()
    (9, [5000, 5004, 5008])
    """

    id: ClassVar[int] = 1
    name: ClassVar[str] = "packed"

    @staticmethod
    def encode(k: Ints, starts: Ints) -> bytes:
        """Encode int64 `k` (n,), n > 0, cut into runs at row numbers `starts` (starts[0] == 0, ascending)."""
        n = len(k)
        # Worst case: a quarter of a block patched at 11 bytes each; per block a width and a base; per run a length,
        # a head, an order, a unit and a first difference.
        meta = np.empty(3 * n + 12 * (n // BLOCK + 1) + 56 * len(starts) + 64, np.uint8)
        words = np.zeros(n + 2, np.uint64)
        end, bits = encode_packed(k.view(np.uint64), starts, meta, words)
        out = bytearray()
        put_varint(out, end)
        out += meta[:end].tobytes()
        out += words.view(np.uint8)[: (bits + 7) // 8].tobytes()
        return bytes(out)

    @staticmethod
    def decode(payload: Buffer, n: int) -> Ints:
        """The n numbers of `payload`, int64.

        Raises
        ------
        CodecError
            If the payload is not what `encode` writes for n numbers.
        """
        data = memoryview(payload)
        end, at = get_varint(data, 0)
        if at + end > len(data):
            msg = f"packed payload of {len(data)} bytes says its meta part takes {end}"
            raise CodecError(msg)
        rest = data[at + end :]
        k = np.empty(n, np.uint64)
        if not decode_packed(bytes_of(data[at : at + end]), end, words_of(rest), 8 * len(rest), k):
            msg = f"packed payload of {len(data)} bytes does not describe {n} numbers"
            raise CodecError(msg)
        return k.view(np.int64)
