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

Source: Duda, "Asymmetric numeral systems", arXiv:1311.2540; interleaving after Giesen, "Interleaved entropy coders",
arXiv:1402.3392; tokens after the hybrid integers of JPEG XL (ISO/IEC 18181-1, annex D).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import (
    U0,
    U1,
    U6,
    U63,
    bit_length,
    inlined,
    kernel,
    pack_bits,
    read_varint,
    unpack_bits,
    write_varint,
)

LANES = 4
TOKENS = 256
ACTIVITIES = 4096
CONTEXTS_MAX = 8
SAMPLE = 8192
LOW = np.uint64(1 << 16)
U4, U8, U16, U20 = (np.uint64(n) for n in (4, 8, 16, 20))
U_BYTE, U_LOW12 = np.uint64(0xFF), np.uint64(0xFFF)
U_WORD = np.uint64(0xFFFF)


@inlined
def token_of(z: Any) -> Any:
    """Token (int64) of a zigzag residual (uint64)."""
    if z < U16:
        return np.int64(z)
    top = bit_length(z) - 1
    return 16 + (top - 4) * 4 + np.int64((z >> np.uint64(top - 2)) & np.uint64(3))


@inlined
def raw_bits(token: Any) -> Any:
    """Number of raw bits behind a token (int64)."""
    return ((token - 16) >> 2) + 2 if token >= 16 else 0


@inlined
def next_activity(activity: Any, token: Any, kind: Any) -> Any:
    """Activity after a token: below `ACTIVITIES`, as tokens are below 256."""
    if kind == 1:
        return token * 16
    return activity - (activity >> 2) + token * 4


@kernel
def tokenise(z: Any, tokens: Any) -> Any:
    """Fill the tokens; returns the raw bits of all."""
    total = 0
    for i in range(len(z)):
        t = token_of(z[i])
        tokens[i] = np.uint8(t)
        total += raw_bits(t)
    return total


@kernel
def activities(tokens: Any, kind: Any, out: Any) -> None:
    """Activity each row is coded under; it starts at 0 in every lane."""
    n = len(tokens)
    q = (n + LANES - 1) // LANES
    a = np.int64(0)
    for i in range(n):
        if i % q == 0:
            a = np.int64(0)
        out[i] = np.uint16(a)
        a = next_activity(a, np.int64(tokens[i]), kind)


@kernel
def table_cost(counts: Any, top: Any) -> Any:
    """Bits of all tokens of one context under its own frequencies, its table included."""
    total = 0
    cost = 0.0
    last = 0
    for t in range(top + 1):
        c = counts[t]
        if c:
            total += c
            cost -= c * np.log2(np.float64(c))
            last = t
    if total == 0:
        return 0.0
    return cost + total * np.log2(np.float64(total)) + 8.0 + 4.5 * (last + 1)


@kernel
def choose_contexts(tokens: Any, activity: Any, thresholds: Any) -> Any:
    """(contexts, estimated bits): thresholds at quantiles of the activity, then neighbours merged while that pays."""
    n = len(tokens)
    spread = np.zeros(ACTIVITIES, np.int64)
    top: Any = 0
    for i in range(n):
        spread[activity[i]] += 1
        top = max(top, np.int64(tokens[i]))
    wanted = max(1, min(CONTEXTS_MAX, n // 256))
    contexts = 1
    seen = 0
    for a in range(ACTIVITIES):
        if contexts < wanted and seen * wanted >= contexts * n and spread[a] and seen:
            thresholds[contexts - 1] = a
            contexts += 1
        seen += spread[a]
    which = context_table(thresholds, contexts)
    counts = np.zeros((contexts, TOKENS), np.int64)
    for i in range(n):
        counts[which[activity[i]], tokens[i]] += 1
    cost = np.empty(contexts)
    for c in range(contexts):
        cost[c] = table_cost(counts[c], top)
    while contexts > 1:
        best = 0.0
        where = -1
        for c in range(contexts - 1):
            gain = cost[c] + cost[c + 1] - table_cost(counts[c] + counts[c + 1], top)
            if gain > best:
                best = gain
                where = c
        if where < 0:
            break
        counts[where] += counts[where + 1]
        cost[where] = table_cost(counts[where], top)
        for c in range(where + 1, contexts - 1):
            counts[c] = counts[c + 1]
            cost[c] = cost[c + 1]
            thresholds[c - 1] = thresholds[c]
        contexts -= 1
    return contexts, cost[:contexts].sum()


@kernel
def context_table(thresholds: Any, contexts: Any) -> Any:
    """Context (uint8) of every activity."""
    out = np.zeros(ACTIVITIES, np.uint8)
    for c in range(contexts - 1):
        for a in range(thresholds[c], ACTIVITIES):
            out[a] = np.uint8(c + 1)
    return out


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


@kernel
def encode_tokens(tokens: Any, activity: Any, which: Any, freq: Any, scale: Any, words: Any) -> Any:
    """Words written at the end of `words`; returns where they start."""
    n = len(tokens)
    q = (n + LANES - 1) // LANES
    contexts = len(freq)
    cum = np.zeros((contexts, TOKENS), np.uint64)
    inverse = np.empty((contexts, TOKENS))
    for c in range(contexts):
        total = U0
        for t in range(TOKENS):
            cum[c, t] = total
            inverse[c, t] = (1.0 + 2.0**-40) / np.float64(max(freq[c, t], U1))
            total += freq[c, t]
    x0 = x1 = x2 = x3 = LOW
    at = len(words)
    for i in range(q - 1, -1, -1):
        for lane in range(LANES - 1, -1, -1):
            row = lane * q + i
            if row >= n:
                continue
            c = which[activity[row]]
            t = tokens[row]
            f, inv, below = freq[c, t], inverse[c, t], cum[c, t]
            if lane == 0:
                x0, at = _push(x0, f, inv, below, scale, words, at)
            elif lane == 1:
                x1, at = _push(x1, f, inv, below, scale, words, at)
            elif lane == 2:
                x2, at = _push(x2, f, inv, below, scale, words, at)
            else:
                x3, at = _push(x3, f, inv, below, scale, words, at)
    for x in (x3, x2, x1, x0):
        at -= 2
        words[at] = np.uint16(x & U_WORD)
        words[at + 1] = np.uint16(x >> U16)
    return at


@kernel
def write_raw(z: Any, tokens: Any, words: Any) -> Any:
    """Raw bits below each token's leading three, in reading order (row of lane 0, 1, 2, 3, next row); the bits."""
    n = len(z)
    q = (n + LANES - 1) // LANES
    bit = U0
    for i in range(q):
        for lane in range(LANES):
            row = lane * q + i
            if row < n and tokens[row] >= 16:
                wide = np.uint64(raw_bits(np.int64(tokens[row])))
                value = z[row] & ((U1 << wide) - U1)
                word = bit >> U6
                shift = bit & U63
                words[word] |= value << shift
                if shift + wide > np.uint64(64):
                    words[word + U1] |= value >> (np.uint64(64) - shift)
                bit += wide
    return np.int64(bit)


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
def encode_entropy(z: Any, out: Any, kinds: Any) -> Any:
    """The whole coder: zigzag residuals (uint64, n > 0) into `out`; returns the bytes.

    `kinds` is a bit set of the activity kinds to try. `out` needs 13 bytes a row and 8 KiB.
    """
    n = len(z)
    tokens = np.empty(n, np.uint8)
    raw_total = tokenise(z, tokens)
    activity = np.empty(n, np.uint16)
    thresholds = np.zeros(CONTEXTS_MAX, np.int64)
    kind = 0
    contexts = 0
    best = np.inf
    tried = np.zeros(CONTEXTS_MAX, np.int64)
    seen = tokens[:SAMPLE]
    for candidate in range(2):
        if kinds >> candidate & 1:
            activities(seen, candidate, activity)
            count, cost = choose_contexts(seen, activity[: len(seen)], tried)
            if cost < best:
                best = cost
                kind = candidate
                contexts = count
                thresholds[:] = tried
    activities(tokens, kind, activity)
    scale = np.uint64(12 if n >= 32768 else 11)
    which = context_table(thresholds, contexts)
    counts = np.zeros((contexts, TOKENS), np.int64)
    for i in range(n):
        counts[which[activity[i]], tokens[i]] += 1
    freq = np.zeros((contexts, TOKENS), np.int64)
    last = np.zeros(contexts, np.int64)
    largest = np.zeros(contexts, np.int64)
    for c in range(contexts):
        last[c], largest[c] = normalise(counts[c], np.int64(scale), freq[c])
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
    start = encode_tokens(tokens, activity, which, freq.view(np.uint64), scale, words)
    at = write_varint(out, at, np.uint64(len(words) - start))
    for i in range(start, len(words)):
        out[at] = np.uint8(words[i] & 0xFF)
        out[at + 1] = np.uint8(words[i] >> 8)
        at += 2
    raw = np.zeros(raw_total // 64 + 2, np.uint64)
    write_raw(z, tokens, raw)
    for byte in range((raw_total + 7) // 8):
        out[at] = np.uint8((raw[byte >> 3] >> np.uint64(8 * (byte & 7))) & np.uint64(0xFF))
        at += 1
    return at


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
