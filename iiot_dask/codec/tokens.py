"""Tokens of residuals, the activity they are coded under, and which frequency table that picks.

`rans` has the format. Tokens after the hybrid integers of JPEG XL (ISO/IEC 18181-1, annex D).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iiot_dask.codec.bits import bit_length, inlined, kernel
from iiot_dask.codec.predict import log2_of

LANES = 4
TOKENS = 256
ACTIVITIES = 4096
CONTEXTS_MAX = 8
SAMPLE = 8192
U16 = np.uint64(16)


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
    total: Any = 0
    for i in range(len(z)):
        t = token_of(z[i])
        tokens[i] = np.uint8(t)
        total += raw_bits(t)
    return total


@kernel
def activities(tokens: Any, kind: Any, out: Any) -> None:
    """Activity each row of one lane is coded under; it starts at 0."""
    a = np.int64(0)
    for i in range(len(tokens)):
        out[i] = np.uint16(a)
        a = next_activity(a, np.int64(tokens[i]), kind)


@kernel
def table_cost(counts: Any, top: Any) -> Any:
    """Bits of all tokens of one context under its own frequencies, its table included."""
    total: Any = 0
    cost = 0.0
    last = 0
    for t in range(top + 1):
        c = counts[t]
        if c:
            total += c
            cost -= c * log2_of(np.float64(c))
            last = t
    if total == 0:
        return 0.0
    return cost + total * log2_of(np.float64(total)) + 8.0 + 4.5 * (last + 1)


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
    gain = np.zeros(contexts)  # of each context's merger with the one above
    for c in range(contexts - 1):
        gain[c] = cost[c] + cost[c + 1] - table_cost(counts[c] + counts[c + 1], top)
    while contexts > 1:
        where = int(np.argmax(gain[: contexts - 1]))
        if gain[where] <= 0.0:
            break
        counts[where] += counts[where + 1]
        cost[where] += cost[where + 1] - gain[where]
        for c in range(where + 1, contexts - 1):
            counts[c] = counts[c + 1]
            cost[c] = cost[c + 1]
            gain[c] = gain[c + 1]
            thresholds[c - 1] = thresholds[c]
        contexts -= 1
        for c in (where - 1, where):
            if 0 <= c < contexts - 1:
                gain[c] = cost[c] + cost[c + 1] - table_cost(counts[c] + counts[c + 1], top)
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
def _place(z: Any, row: Any, a: Any, kind: Any, which: Any, places: Any, counts: Any) -> Any:
    """Note context and token of one row; (activity after it, raw bits)."""
    t = token_of(z[row])
    at = np.int64(which[a]) * TOKENS + t
    places[row] = np.uint16(at)
    counts[at] += 1
    return next_activity(a, t, kind), raw_bits(t)


@kernel
def place_tokens(z: Any, kind: Any, which: Any, places: Any, counts: Any) -> Any:
    """places[i] = context * 256 + token of every row and how often each occurs; returns the raw bits of all.

    The four lanes side by side: each step of a lane waits for the one before.
    """
    n = len(z)
    q = (n + LANES - 1) // LANES
    a0 = a1 = a2 = a3 = np.int64(0)
    total: Any = 0
    full = max(0, n - 3 * q)
    for i in range(full):
        a0, r0 = _place(z, i, a0, kind, which, places, counts)
        a1, r1 = _place(z, q + i, a1, kind, which, places, counts)
        a2, r2 = _place(z, 2 * q + i, a2, kind, which, places, counts)
        a3, r3 = _place(z, 3 * q + i, a3, kind, which, places, counts)
        total += r0 + r1 + r2 + r3
    for i in range(full, q):
        a0, r0 = _place(z, i, a0, kind, which, places, counts)
        total += r0
        if q + i < n:
            a1, r1 = _place(z, q + i, a1, kind, which, places, counts)
            total += r1
        if 2 * q + i < n:
            a2, r2 = _place(z, 2 * q + i, a2, kind, which, places, counts)
            total += r2
    return total
