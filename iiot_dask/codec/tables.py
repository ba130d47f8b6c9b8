"""Frequency tables of the entropy coder: counts made to sum to a power of two, and their form in a blob (see `rans`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U1, bit_length, inlined, kernel, pack_bits, unpack_bits
from iiot_dask.codec.tokens import TOKENS


@inlined
def round_frequency(f: Any) -> Any:
    """Largest number <= f whose bits below the leading four are zero: what a table can say."""
    drop = bit_length(np.uint64(f)) - 4
    return (f >> drop) << drop if drop > 0 else f


@kernel
def normalise(counts: Any, scale: Any, freq: Any) -> Any:
    """Frequencies that sum to 2**scale, >= 1 where counts are, all but the largest in `round_frequency` form.

    Returns the last token used; the largest frequency is what the others leave.
    """
    total = counts.sum()
    size = 1 << scale
    last = 0
    largest = 0
    for t in range(TOKENS):
        freq[t] = 0
        if counts[t]:
            last = t
            if counts[t] > counts[largest]:
                largest = t
            freq[t] = max(1, round_frequency(counts[t] * size // total))
    freq[largest] = 0
    rest = size - freq.sum()
    while rest < 1:
        # Many rare tokens were lifted to 1: take it back from the most frequent of the others.
        most = 0
        for t in range(TOKENS):
            if freq[t] > freq[most]:
                most = t
        lower = max(1, round_frequency(freq[most] - 1))
        rest += freq[most] - lower
        freq[most] = lower
    freq[largest] = rest
    return last, largest


@kernel
def write_tables(freq: Any, last: Any, largest: Any, out: Any) -> Any:
    """Tables of all contexts into a zeroed byte buffer; returns the bytes."""
    words = np.zeros(len(out) // 8 + 2, np.uint64)
    one = np.empty(1, np.uint64)
    bit = 0
    for c in range(len(last)):
        one[0] = np.uint64(last[c])
        bit = pack_bits(one, 1, 8, words, bit)
        one[0] = np.uint64(largest[c])
        bit = pack_bits(one, 1, 8, words, bit)
        for t in range(last[c] + 1):
            if t == largest[c]:
                continue
            f = np.uint64(freq[c, t])
            size = bit_length(f)
            one[0] = np.uint64(size)
            bit = pack_bits(one, 1, 4, words, bit)
            if size > 1:
                kept: Any = min(3, size - 1)
                one[0] = (f >> np.uint64(size - 1 - kept)) & ((U1 << np.uint64(kept)) - U1)
                bit = pack_bits(one, 1, kept, words, bit)
    for byte in range((bit + 7) // 8):
        out[byte] = np.uint8((words[byte >> 3] >> np.uint64(8 * (byte & 7))) & np.uint64(0xFF))
    return (bit + 7) // 8


@kernel
def read_tables(words: Any, bits: Any, contexts: Any, scale: Any, freq: Any) -> Any:
    """Inverse of `write_tables`; False when they run over the end or do not sum to the scale."""
    one = np.empty(1, np.uint64)
    bit = 0
    for c in range(contexts):
        if bit + 16 > bits:
            return False
        bit = unpack_bits(words, bit, 1, 8, one, 0)
        last = np.int64(one[0])
        bit = unpack_bits(words, bit, 1, 8, one, 0)
        largest = np.int64(one[0])
        rest = np.int64(1 << scale)
        for t in range(last + 1):
            if t == largest:
                continue
            if bit + 7 > bits + 7 or bit + 4 > bits:
                return False
            bit = unpack_bits(words, bit, 1, 4, one, 0)
            size = np.int64(one[0])
            f = np.int64(size > 0)
            if size > 1:
                kept: Any = min(3, size - 1)
                if bit + kept > bits:
                    return False
                bit = unpack_bits(words, bit, 1, kept, one, 0)
                f = ((1 << kept) | np.int64(one[0])) << (size - 1 - kept)
            freq[c, t] = f
            rest -= f
        if rest < 1 or largest > last:
            return False
        freq[c, largest] = rest
    return True
