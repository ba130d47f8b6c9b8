"""Blocks of residuals as bits of one width: from the smallest residual up, or the low bits with outliers patched in.

`packed` has the format. Source: frame of reference and patching after Zukowski et al., "Super-Scalar RAM-CPU Cache
Compression", ICDE 2006.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import (
    U1,
    bit_length,
    kernel,
    pack_bits,
    read_varint,
    unpack_bits,
    unzigzag,
    varint_size,
    write_varint,
    zigzag,
)

BLOCK = 256
PATCHED = 0x80


@kernel
def write_block(r: Any, start: Any, count: Any, scratch: Any, meta: Any, at: Any, words: Any, bit: Any) -> Any:
    """One block of residuals in the cheaper of the two forms; returns (meta offset, bit offset)."""
    low = np.int64(r[start])
    high = low
    for i in range(start, start + count):
        v = np.int64(r[i])
        low = min(low, v)
        high = max(high, v)
    if low == high:
        meta[at] = np.uint8(0)
        return write_varint(meta, at + 1, zigzag(np.uint64(low))), bit
    sizes = np.zeros(65, np.int64)
    for i in range(start, start + count):
        sizes[bit_length(zigzag(r[i]))] += 1
    base = np.uint64(low)
    plain = bit_length(np.uint64(high) - base)
    cost_plain = count * plain + 8 * varint_size(zigzag(base))
    top = 64
    while top > 0 and sizes[top] == 0:
        top -= 1
    best_width = -1
    best_cost = cost_plain
    patches = 0
    for width in range(top - 1, -1, -1):
        patches += sizes[width + 1]
        if patches > count >> 2:  # bounds the meta part, see `Packed.encode`
            break
        patch_bytes = 1
        for size in range(width + 1, top + 1):
            patch_bytes += sizes[size] * (1 + (size - width + 6) // 7)
        if count * width + 8 * patch_bytes < best_cost:
            best_cost = count * width + 8 * patch_bytes
            best_width = width
    if best_width < 0:
        for i in range(count):
            scratch[i] = r[start + i] - base
        meta[at] = np.uint8(plain)
        at = write_varint(meta, at + 1, zigzag(base))
        return at, pack_bits(scratch, count, plain, words, bit)
    return write_patched(r, start, count, best_width, scratch, meta, at, words, bit)


@kernel
def write_patched(
    r: Any, start: Any, count: Any, width: Any, scratch: Any, meta: Any, at: Any, words: Any, bit: Any
) -> Any:
    """One block as low bits of the zigzag residuals and patches of the high bits."""
    wide = np.uint64(width)
    mask = (U1 << wide) - U1
    patches = 0
    for i in range(count):
        z = zigzag(r[start + i])
        if z > mask:
            patches += 1
        scratch[i] = z & mask
    meta[at] = np.uint8(width | PATCHED)
    at = write_varint(meta, at + 1, np.uint64(patches))
    for i in range(count):
        z = zigzag(r[start + i])
        if z > mask:
            meta[at] = np.uint8(i)
            at = write_varint(meta, at + 1, z >> wide)
    return at, pack_bits(scratch, count, width, words, bit)


@kernel
def read_block(meta: Any, at: Any, end: Any, words: Any, bit: Any, bits: Any, r: Any, start: Any, count: Any) -> Any:
    """One block into r[start:start+count]; returns (meta offset or -1, bit offset)."""
    if at < 0 or at >= end:
        return -1, bit
    width = np.int64(meta[at] & 0x7F)
    patched = meta[at] >= PATCHED
    value, at = read_varint(meta, at + 1, end)
    if at < 0 or width > 64 or bit + count * width > bits:
        return -1, bit
    bit = unpack_bits(words, bit, count, width, r, start)
    if not patched:
        base = unzigzag(value)
        for i in range(start, start + count):
            r[i] += base
        return at, bit
    if value > np.uint64(count) or width > 63:
        return -1, bit
    for _ in range(np.int64(value)):
        if at >= end or np.int64(meta[at]) >= count:
            return -1, bit
        where = start + np.int64(meta[at])
        high, at = read_varint(meta, at + 1, end)
        if at < 0:
            return -1, bit
        r[where] |= high << np.uint64(width)
    for i in range(start, start + count):
        r[i] = unzigzag(r[i])
    return at, bit
