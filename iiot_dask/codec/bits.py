"""Kernels every codec is built from: zigzag, bit lengths, varints and a bit stream in 64-bit words.

All arithmetic is on uint64, where overflow is defined (modulo 2**64); signed numbers are two's complement in it.
The bit stream is little endian: value i starts at the lowest free bit of the current word. Buffers are sized by the
caller; readers are given the end and report -1 instead of reading past it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core import cgutils, types
from numba.extending import intrinsic

from iiot_dask.core.jit import inline as inlined
from iiot_dask.core.jit import njit as kernel

__all__ = ["inlined", "kernel"]

U0, U1, U6, U7, U63, U64 = (np.uint64(n) for n in (0, 1, 6, 7, 63, 64))
U_LOW7, U_MORE = np.uint64(0x7F), np.uint64(0x80)

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@intrinsic  # type: ignore[untyped-decorator]
def _ctlz(_typing: Any, value: Any) -> Any:  # noqa: ARG001 -- numba looks at the name
    """The LLVM instruction that counts leading zeros; numba has no name for it."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ctlz(args[0], cgutils.false_bit)

    return types.uint64(types.uint64), codegen


def _cast(source: Any, target: Any) -> Any:
    """An intrinsic that keeps the bits and changes the type, as `view` does for arrays."""

    def typed(_typing: Any, value: Any) -> Any:  # noqa: ARG001 -- numba looks at the name
        def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return intrinsic(typed)


float_bits = _cast(types.float64, types.uint64)
bits_float = _cast(types.uint64, types.float64)
single_bits = _cast(types.float32, types.uint32)
bits_single = _cast(types.uint32, types.float32)


@inlined
def bit_length(value: Any) -> Any:
    """Bits a uint64 needs: 0 for 0, 64 for 2**64 - 1 (int64)."""
    return np.int64(64) - np.int64(_ctlz(np.uint64(value)))


@inlined
def zigzag(value: Any) -> Any:
    """Two's complement in uint64 -> 0, -1, 1, -2 ... as 0, 1, 2, 3 ... (uint64)."""
    return (value << U1) ^ (U0 - (value >> U63))


@inlined
def unzigzag(value: Any) -> Any:
    """Inverse of `zigzag`."""
    return (value >> U1) ^ (U0 - (value & U1))


@kernel
def write_varint(out: Any, at: Any, value: Any) -> Any:
    """LEB128 of a uint64 at `at`; returns the offset after it (at most 10 bytes on)."""
    rest = np.uint64(value)
    while rest > U_LOW7:
        out[at] = np.uint8((rest & U_LOW7) | U_MORE)
        rest >>= U7
        at += 1
    out[at] = np.uint8(rest)
    return at + 1


@kernel
def read_varint(data: Any, at: Any, end: Any) -> Any:
    """(uint64 value, offset after it); the offset is -1 when the varint runs over `end` or over 10 bytes."""
    value = U0
    shift = U0
    if at < 0:
        return value, -1
    while at < end and shift <= U63:
        byte = np.uint64(data[at])
        value |= (byte & U_LOW7) << shift
        at += 1
        if byte < U_MORE:
            return value, at
        shift += U7
    return U0, -1


@kernel
def varint_size(value: Any) -> Any:
    """Bytes `write_varint` takes."""
    return max(1, (bit_length(value) + 6) // 7)


@kernel
def pack_bits(values: Any, count: Any, width: Any, words: Any, at: Any) -> Any:
    """Append the low `width` bits of values[:count] at bit `at` of `words`; returns the bit after.

    `words` must be zero from bit `at` on and hold ceil((at + count * width) / 64) words.
    """
    if width == 0:
        return at
    word = at >> 6
    fill = np.uint64(at & 63)
    acc = words[word] if fill > U0 else U0
    wide = np.uint64(width)
    for i in range(count):
        value = values[i]
        acc |= value << fill
        fill += wide
        if fill >= U64:
            words[word] = acc
            word += 1
            fill -= U64
            # Bits of this value that did not fit; a shift by 64 would be undefined.
            acc = value >> (wide - fill) if fill > U0 else U0
    if fill > U0:
        words[word] = acc
    return at + count * width


@kernel
def unpack_bits(words: Any, at: Any, count: Any, width: Any, out: Any, start: Any) -> Any:
    """Read `count` values of `width` bits from bit `at` into out[start:]; returns the bit after.

    `words` must reach one word beyond the last bit.
    """
    if width == 0:
        for i in range(count):
            out[start + i] = U0
        return at
    mask = ~U0 if width == 64 else (U1 << np.uint64(width)) - U1
    bit = np.uint64(at)
    wide = np.uint64(width)
    for i in range(count):
        word = bit >> U6
        shift = bit & U63
        low = words[word] >> shift
        # Two shifts, as one by 64 (shift == 0) would be undefined.
        high = (words[word + U1] << U1) << (U63 - shift)
        out[start + i] = (low | high) & mask
        bit += wide
    return at + count * width


def words_of(data: memoryview) -> Words:
    """Bytes as little-endian words with two zero words behind, so that `unpack_bits` may look ahead."""
    words = np.zeros((len(data) + 7) // 8 + 2, np.uint64)
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    return words


def bytes_of(data: memoryview) -> Bytes:
    """Bytes as a writable array: kernels are compiled for that one type."""
    return np.frombuffer(data, np.uint8).copy()
