"""Reading what `rans` writes: states, tokens and raw bits back into residuals, nothing trusted."""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U1, U6, U63, inlined, kernel, read_varint
from iiot_dask.codec.tables import read_tables
from iiot_dask.codec.tokens import ACTIVITIES, CONTEXTS_MAX, LANES, TOKENS, context_table, next_activity

LOW = np.uint64(1 << 16)
U0, U4, U8, U16, U20 = (np.uint64(n) for n in (0, 4, 8, 16, 20))
U_BYTE, U_LOW12 = np.uint64(0xFF), np.uint64(0xFFF)


@inlined
def _pull(x: Any, a: Any, kind: Any, which: Any, table: Any, scale: Any, words: Any, at: Any, end: Any) -> Any:
    """One symbol out of a state: (state, activity, token, word position)."""
    c = np.int64(which[a])
    slot = x & ((U1 << scale) - U1)
    where = (c << np.int64(scale)) + np.int64(slot)
    entry = np.uint64(table[where])
    t = np.int64(entry & U_BYTE)
    x = ((entry >> U20) + U1) * (x >> scale) + ((entry >> U8) & U_LOW12)
    # No branch here either. Past the end the state takes the spare zero word; the caller sees at > end.
    low = np.uint64(x < LOW)
    x = (x << (low << U4)) | (np.uint64(words[min(at, end)]) * low)
    at += np.int64(low)
    return x, next_activity(a, t, kind), t, at


@inlined
def _value(t: Any, raw: Any, bit: Any) -> Any:
    """(zigzag residual, bit position after its raw bits)."""
    if t < 16:
        return np.uint64(t), bit
    wide = np.uint64(((t - 16) >> 2) + 2)
    word = bit >> U6
    shift = bit & U63
    low = (raw[word] >> shift) | ((raw[word + U1] << U1) << (U63 - shift))
    lead = (U4 | np.uint64(t & 3)) << wide
    return lead | (low & ((U1 << wide) - U1)), bit + wide


@kernel
def decode_tokens(freq: Any, which: Any, kind: Any, scale: Any, words: Any, raw: Any, raw_end: Any, z: Any) -> Any:
    """Fill `z`; False when the streams do not last or do not end where they should."""
    n = len(z)
    q = (n + LANES - 1) // LANES
    contexts = len(freq)
    size = 1 << np.int64(scale)
    # Frequency - 1, place within it and token in one word: one load a symbol, and small enough for the cache.
    table = np.empty(contexts * size, np.uint32)
    for c in range(contexts):
        slot = c * size
        for t in range(TOKENS):
            for i in range(np.int64(freq[c, t])):
                table[slot] = np.uint32(((freq[c, t] - U1) << U20) | (np.uint64(i) << U8) | np.uint64(t))
                slot += 1
    end = len(words) - 1  # one zero word is spare
    if end < 2 * LANES:
        return False
    x0 = np.uint64(words[0]) | (np.uint64(words[1]) << U16)
    x1 = np.uint64(words[2]) | (np.uint64(words[3]) << U16)
    x2 = np.uint64(words[4]) | (np.uint64(words[5]) << U16)
    x3 = np.uint64(words[6]) | (np.uint64(words[7]) << U16)
    at = 2 * LANES
    bit = U0
    # A token takes at most 61 raw bits, so that checking every round of four lanes needs this much slack behind.
    limit = np.uint64(raw_end)
    a0 = a1 = a2 = a3 = np.int64(0)
    full = max(0, n - 3 * q)
    for i in range(full):
        x0, a0, t0, at = _pull(x0, a0, kind, which, table, scale, words, at, end)
        x1, a1, t1, at = _pull(x1, a1, kind, which, table, scale, words, at, end)
        x2, a2, t2, at = _pull(x2, a2, kind, which, table, scale, words, at, end)
        x3, a3, t3, at = _pull(x3, a3, kind, which, table, scale, words, at, end)
        if bit > limit:
            return False
        z[i], bit = _value(t0, raw, bit)
        z[q + i], bit = _value(t1, raw, bit)
        z[2 * q + i], bit = _value(t2, raw, bit)
        z[3 * q + i], bit = _value(t3, raw, bit)
    for i in range(full, q):
        if bit > limit:
            return False
        x0, a0, t0, at = _pull(x0, a0, kind, which, table, scale, words, at, end)
        z[i], bit = _value(t0, raw, bit)
        if q + i < n:
            x1, a1, t1, at = _pull(x1, a1, kind, which, table, scale, words, at, end)
            z[q + i], bit = _value(t1, raw, bit)
        if 2 * q + i < n:
            x2, a2, t2, at = _pull(x2, a2, kind, which, table, scale, words, at, end)
            z[2 * q + i], bit = _value(t2, raw, bit)
    return at == end and bit <= limit and x0 == LOW and x1 == LOW and x2 == LOW and x3 == LOW


@kernel
def bytes_to_words(data: Any, start: Any, stop: Any, spare: Any) -> Any:
    """data[start:stop] as 64-bit words with `spare` zero words behind."""
    out = np.zeros((stop - start + 7) // 8 + spare, np.uint64)
    for i in range(start, stop):
        out[(i - start) >> 3] |= np.uint64(data[i]) << np.uint64(8 * ((i - start) & 7))
    return out


@kernel
def decode_entropy(data: Any, start: Any, z: Any) -> Any:
    """Inverse of `encode_entropy` on data[start:]; False when it is not what the format says."""
    end = len(data)
    if start + 3 > end:
        return False
    scale = np.int64(data[start])
    kind = np.int64(data[start + 1])
    contexts = np.int64(data[start + 2])
    if not (11 <= scale <= 12 and kind <= 1 and 1 <= contexts <= CONTEXTS_MAX):
        return False
    at: Any = start + 3
    thresholds = np.zeros(CONTEXTS_MAX, np.int64)
    for c in range(contexts - 1):
        value, at = read_varint(data, at, end)
        if at < 0 or value >= np.uint64(ACTIVITIES):
            return False
        thresholds[c] = np.int64(value)
    size, at = read_varint(data, at, end)
    if at < 0 or size > np.uint64(end - at):
        return False
    stop = at + np.int64(size)
    freq = np.zeros((contexts, TOKENS), np.int64)
    if not read_tables(bytes_to_words(data, at, stop, 2), 8 * np.int64(size), contexts, scale, freq):
        return False
    count, at = read_varint(data, stop, end)
    if at < 0 or count > np.uint64((end - at) // 2):
        return False
    words = np.zeros(np.int64(count) + 1, np.uint16)
    for i in range(np.int64(count)):
        words[i] = np.uint16(data[at]) | (np.uint16(data[at + 1]) << 8)
        at += 2
    # One round of four lanes may read 4 x 61 bits past the end before it is checked.
    raw = bytes_to_words(data, at, end, 8)
    which = context_table(thresholds, contexts)
    return decode_tokens(freq.view(np.uint64), which, kind, np.uint64(scale), words, raw, 8 * (end - at), z)
