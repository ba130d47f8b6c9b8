"""Entropy coder: residuals as tokens under context-dependent frequencies, four interleaved rANS lanes.

A zigzag residual below 16 is its own token; above, a token says the power of two and the two bits below it, and the
rest goes raw into a bit stream. The frequency table of a token is picked by the activity of the tokens before it in
the same lane, so that calm and busy stretches are coded each at its own rate. Lane l holds rows l*q ... of the column,
q = ceil(n / 4): four independent chains keep a core busy although every step needs the one before.

    byte           bits of the frequency scale
    byte           activity kind: 0 = smoothed tokens, 1 = the token before
    byte           contexts, then a varint threshold for all but the last: context = thresholds <= activity
    bit stream     per context: last token (8 bits); per token its frequency: 4 bits of length, then up to 3 bits
                   below the leading one (`round_frequency`); padded to a byte, size as a varint in front
    varint         number of 16-bit words, the words in reading order, the raw bits

The tables are in `tables`, tokens and contexts in `tokens`, reading in `unrans`.
Source: Duda, "Asymmetric numeral systems", arXiv:1311.2540; interleaving after Giesen, "Interleaved entropy coders",
arXiv:1402.3392.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import U0, U1, U6, U63, U64, inlined, kernel, write_varint
from iiot_dask.codec.tables import normalise, write_tables
from iiot_dask.codec.tokens import (
    CONTEXTS_MAX,
    LANES,
    SAMPLE,
    TOKENS,
    activities,
    choose_contexts,
    context_table,
    place_tokens,
    raw_bits,
    tokenise,
)
from iiot_dask.codec.unrans import LOW

U4, U16, U32 = (np.uint64(n) for n in (4, 16, 32))
U_WORD = np.uint64(0xFFFF)


@inlined
def _push(x: Any, f: Any, inverse: Any, cum: Any, scale: Any, words: Any, at: Any) -> Any:
    """One symbol into a state; words are written downwards from `at`."""
    # No branch: whether a word goes out is as good as random, and a wrong guess costs more than a store.
    full = x >= f << (np.uint64(32) - scale)
    words[at - 1] = np.uint16(x & U_WORD)
    at -= np.int64(full)
    x >>= np.uint64(full) << U4
    # x / f is below 2**21 and no nearer than 1 / f to the integer above, so the float quotient is exact.
    quotient = np.uint64(np.float64(x) * inverse)
    return (quotient << scale) + (x - quotient * f) + cum, at


@inlined
def _push_row(x: Any, place: Any, freq: Any, inverse: Any, cum: Any, scale: Any, words: Any, at: Any) -> Any:
    return _push(x, freq[place], inverse[place], cum[place], scale, words, at)


@kernel
def encode_tokens(places: Any, freq: Any, scale: Any, words: Any) -> Any:
    """Words written at the end of `words`; returns where they start. `freq` is of all contexts behind each other."""
    n = len(places)
    q = (n + LANES - 1) // LANES
    cum = np.zeros(len(freq), np.uint64)
    inverse = np.zeros(len(freq))
    total = U0
    for place in range(len(freq)):
        if place % TOKENS == 0:
            total = U0
        cum[place] = total
        if freq[place]:
            inverse[place] = (1.0 + 2.0**-40) / np.float64(freq[place])
            total += freq[place]
    x0 = x1 = x2 = x3 = LOW
    at = len(words)
    full = max(0, n - 3 * q)
    for i in range(q - 1, full - 1, -1):
        if 2 * q + i < n:
            x2, at = _push_row(x2, places[2 * q + i], freq, inverse, cum, scale, words, at)
        if q + i < n:
            x1, at = _push_row(x1, places[q + i], freq, inverse, cum, scale, words, at)
        x0, at = _push_row(x0, places[i], freq, inverse, cum, scale, words, at)
    for i in range(full - 1, -1, -1):
        x3, at = _push_row(x3, places[3 * q + i], freq, inverse, cum, scale, words, at)
        x2, at = _push_row(x2, places[2 * q + i], freq, inverse, cum, scale, words, at)
        x1, at = _push_row(x1, places[q + i], freq, inverse, cum, scale, words, at)
        x0, at = _push_row(x0, places[i], freq, inverse, cum, scale, words, at)
    for x in (x3, x2, x1, x0):
        at -= 2
        words[at] = np.uint16(x & U_WORD)
        words[at + 1] = np.uint16(x >> U16)
    return at


@kernel
def write_raw(z: Any, places: Any, words: Any) -> Any:
    """Raw bits below each token's leading three, in reading order (row of lane 0, 1, 2, 3, next row); the bits."""
    n = len(z)
    q = (n + LANES - 1) // LANES
    bit = U0
    for i in range(q):
        for lane in range(LANES):
            row = lane * q + i
            if row >= n:
                break
            wide = np.uint64(raw_bits(np.int64(places[row]) & (TOKENS - 1)))
            if wide > U0:
                value = z[row] & ((U1 << wide) - U1)
                word = bit >> U6
                shift = bit & U63
                words[word] |= value << shift
                if shift + wide > U64:
                    words[word + U1] |= value >> (U64 - shift)
                bit += wide
    return np.int64(bit)


@kernel
def find_contexts(z: Any, kinds: Any, thresholds: Any) -> Any:
    """(activity kind, contexts) for residuals like the first of `z`; the thresholds are filled in."""
    m = min(len(z), SAMPLE)
    seen = np.empty(m, np.uint8)
    tokenise(z[:m], seen)
    activity = np.empty(m, np.uint16)
    tried = np.zeros(CONTEXTS_MAX, np.int64)
    kind = 0
    contexts = 1
    best = np.inf
    for candidate in range(2):
        if kinds >> candidate & 1:
            activities(seen, candidate, activity)
            count, cost = choose_contexts(seen, activity, tried)
            if cost < best:
                best = cost
                kind = candidate
                contexts = count
                thresholds[:] = tried
    return kind, contexts


@kernel
def encode_entropy(z: Any, out: Any, kinds: Any) -> Any:
    """The whole coder: zigzag residuals (uint64, n > 0) into `out`; returns the bytes.

    `kinds` is a bit set of the activity kinds to try. `out` needs 13 bytes a row and 8 KiB.
    """
    n = len(z)
    thresholds = np.zeros(CONTEXTS_MAX, np.int64)
    kind, contexts = find_contexts(z, kinds, thresholds)
    scale = 12 if n >= 32768 else 11
    places = np.empty(n, np.uint16)
    counts = np.zeros((contexts, TOKENS), np.int64)
    raw_total = place_tokens(z, kind, context_table(thresholds, contexts), places, counts.reshape(-1))
    freq = np.zeros((contexts, TOKENS), np.int64)
    last = np.zeros(contexts, np.int64)
    largest = np.zeros(contexts, np.int64)
    for c in range(contexts):
        last[c], largest[c] = normalise(counts[c], scale, freq[c])
    out[0] = np.uint8(scale)
    out[1] = np.uint8(kind)
    out[2] = np.uint8(contexts)
    at = 3
    for c in range(contexts - 1):
        at = write_varint(out, at, np.uint64(thresholds[c]))
    table = np.zeros(contexts * (TOKENS + 4), np.uint8)
    size = write_tables(freq, last, largest, table)
    at = write_varint(out, at, np.uint64(size))
    out[at : at + size] = table[:size]
    at += size
    words = np.empty(2 * n + 2 * LANES, np.uint16)
    start = encode_tokens(places, freq.reshape(-1).view(np.uint64), np.uint64(scale), words)
    at = write_varint(out, at, np.uint64(len(words) - start))
    size = 2 * (len(words) - start)
    out[at : at + size] = words[start:].view(np.uint8)
    at += size
    raw = np.zeros(raw_total // 64 + 2, np.uint64)
    write_raw(z, places, raw)
    size = (raw_total + 7) // 8
    out[at : at + size] = raw.view(np.uint8)[:size]
    return at + size
