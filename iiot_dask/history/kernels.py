"""Numba kernels over rows of samples: runs, statistics, ordering, cutting, window sums. Free functions, arrays in and out.

"Sorted" means by tag, then time. A *segment* is a half-open range of rows given by bounds: ``bounds[i]:bounds[i + 1]``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.jit import njit


@njit
def scatter_kernel(
    tag: Any,
    time: Any,
    value: Any,
    quality: Any,
    at: Any,
    out_tag: Any,
    out_time: Any,
    out_value: Any,
    out_quality: Any,
) -> bool:
    """Group rows by tag, keeping their order; True when times rise strictly within every tag.

    `tag`: int64 in 0..len(at)-2; `at`: int64 zeros, one longer than there are tags; on return ``at[t]:at[t + 1]`` are the
    rows of tag t in the outputs.
    """
    n = len(tag)
    for i in range(n):
        at[tag[i] + 1] += 1
    for t in range(len(at) - 1):
        at[t + 1] += at[t]
    place = at[:-1].copy()
    rising = True
    for i in range(n):
        t = tag[i]
        p = place[t]
        place[t] = p + 1
        out_tag[p] = t
        out_time[p] = time[i]
        out_value[p] = value[i]
        out_quality[p] = quality[i]
        if p > at[t] and out_time[p - 1] >= time[i]:
            rising = False
    return rising


@njit
def merge_kernel(time: Any, value: Any, quality: Any) -> int:
    """Sort one tag's rows by time and keep the last written of equal times, in place; returns how many rows stay.

    Rows come in the order written, most of them in order of time: the few that are older than one before them are taken
    out, sorted, and merged back, so the cost is that of one pass and not of a sort.
    """
    n = len(time)
    late = np.empty(n, np.int64)
    main = np.empty(n, np.int64)
    lates = mains = 0
    for i in range(n):
        if mains and time[i] < time[main[mains - 1]]:
            late[lates] = i
            lates += 1
        else:
            main[mains] = i
            mains += 1
    # Stable, so that of equal times the last written comes last.
    late = late[:lates][np.argsort(time[late[:lates]], kind="mergesort")]
    order = np.empty(n, np.int64)
    a = b = 0
    for i in range(n):
        if b == lates:
            first = True
        elif a == mains:
            first = False
        else:
            x, y = time[main[a]], time[late[b]]
            first = x < y or (x == y and main[a] < late[b])
        if first:
            order[i] = main[a]
            a += 1
        else:
            order[i] = late[b]
            b += 1
    times, values, qualities = time[order], value[order], quality[order]
    kept = 0
    for i in range(n):
        if i + 1 < n and times[i + 1] == times[i]:
            continue
        time[kept], value[kept], quality[kept] = times[i], values[i], qualities[i]
        kept += 1
    return kept


@njit
def settle_kernel(tag: Any, time: Any, value: Any, quality: Any, at: Any) -> int:
    """`merge_kernel` for each tag of rows grouped by tag (``at`` bounds), closing the gaps; returns how many rows stay."""
    out = 0
    for t in range(len(at) - 1):
        a, b = at[t], at[t + 1]
        rising = True
        for i in range(a + 1, b):
            if time[i] <= time[i - 1]:
                rising = False
                break
        kept = b - a if rising else merge_kernel(time[a:b], value[a:b], quality[a:b])
        for i in range(kept):
            tag[out + i] = t
            if out != a:
                time[out + i] = time[a + i]
                value[out + i] = value[a + i]
                quality[out + i] = quality[a + i]
        out += kept
    return out


@njit
def cells_kernel(time: Any, length_ns: int) -> tuple[int, int]:
    """Smallest and largest ``time // length_ns`` of some times (at least one)."""
    low, high = time[0], time[0]
    for i in range(len(time)):
        low, high = min(low, time[i]), max(high, time[i])
    return low // length_ns, high // length_ns


@njit
def count_kernel(time: Any, length_ns: int, low: int, counts: Any) -> None:
    """Count rows by ``time // length_ns - low``; `counts`: int64 zeros."""
    for i in range(len(time)):
        counts[time[i] // length_ns - low] += 1


@njit
def part_kernel(
    tag: Any,
    time: Any,
    value: Any,
    quality: Any,
    length_ns: int,
    low: int,
    place: Any,
    out_tag: Any,
    out_time: Any,
    out_value: Any,
    out_quality: Any,
) -> None:
    """Rows one after the other by ``time // length_ns - low``, keeping their order; `place`: where each cell's rows go."""
    for i in range(len(time)):
        cell = time[i] // length_ns - low
        p = place[cell]
        place[cell] = p + 1
        out_tag[p], out_time[p], out_value[p], out_quality[p] = tag[i], time[i], value[i], quality[i]


@njit
def bounds_kernel(tag: Any, out: Any) -> int:
    """Starts of the runs of equal tags, then the number of rows; returns how many runs. `out`: int64[rows + 1]."""
    n = 0
    for i in range(len(tag)):
        if i == 0 or tag[i] != tag[i - 1]:
            out[n] = i
            n += 1
    out[n] = len(tag)
    return n


@njit
def stats_kernel(time: Any, value: Any, quality: Any, bounds: Any, good: Any, stats: Any, times: Any) -> None:
    """Statistics of each segment over rows that are not bad and not NaN.

    `good`: int64[s]; `stats`: float64[s, 5] = min, max, sum, first, last (NaN when none is good); `times`: int64[s, 2] =
    time of first and last (0 when none). Sums are compensated (Neumaier, ZAMM 54, 1974) so that they do not depend on how
    long a segment is.
    """
    for s in range(len(good)):
        low, high, total, carry = np.inf, -np.inf, 0.0, 0.0
        first, last = np.nan, np.nan
        first_ns, last_ns, n = 0, 0, 0
        for i in range(bounds[s], bounds[s + 1]):
            v = value[i]
            if quality[i] >= 128 or math.isnan(v):
                continue
            if n == 0 or time[i] < first_ns:
                first, first_ns = v, time[i]
            if n == 0 or time[i] >= last_ns:
                last, last_ns = v, time[i]
            n += 1
            low, high = min(low, v), max(high, v)
            added = total + v
            if abs(total) >= abs(v):
                carry += (total - added) + v
            else:
                carry += (v - added) + total
            total = added
        good[s] = n
        stats[s, 0] = low if n else np.nan
        stats[s, 1] = high if n else np.nan
        # An infinite value makes the carry NaN; the plain total is then the right answer (and NaN in one bit pattern).
        if not math.isnan(carry):
            total += carry
        stats[s, 2] = total if n and not math.isnan(total) else np.nan
        stats[s, 3], stats[s, 4] = first, last
        times[s, 0], times[s, 1] = first_ns, last_ns


@njit
def cut_kernel(time: Any, bounds: Any, unit: Any, low: int, high: int, out: Any) -> int:
    """Cut each segment (one tag, sorted) into chunks aligned to multiples of `unit[s]` ns; returns how many.

    A chunk ends where a new unit begins, unless it has fewer than `low` rows; no chunk has more than `high` rows, and an
    overfull unit is cut evenly. `out`: int64[rows + 1], the bounds of the chunks (segment starts are always bounds).
    """
    n = 0
    for s in range(len(bounds) - 1):
        a, b = bounds[s], bounds[s + 1]
        start = a
        while start < b:
            stop = start
            # Take whole units until there is enough.
            while stop < b:
                cell = time[stop] // unit[s]
                i = stop
                while i < b and time[i] // unit[s] == cell:
                    i += 1
                if stop > start and i - start > high:
                    break
                stop = i
                if stop - start >= low:
                    break
            parts = (stop - start + high - 1) // high
            size = (stop - start + parts - 1) // parts
            for p in range(parts):
                out[n] = start + p * size
                n += 1
            start = stop
    out[n] = bounds[-1]
    return n


@njit
def window_kernel(tag: Any, time: Any, every_ns: int, out: Any) -> int:
    """Bounds of runs of equal (tag, window) over sorted rows; returns how many. `out`: int64[rows + 1]."""
    n = 0
    for i in range(len(tag)):
        if i == 0 or tag[i] != tag[i - 1] or time[i] // every_ns != time[i - 1] // every_ns:
            out[n] = i
            n += 1
    out[n] = len(tag)
    return n


@njit
def digest_kernel(tag: Any, time: Any, bits: Any, quality: Any) -> Any:
    """A sum over samples (uint64, wrapping) that does not depend on their order; `bits`: the values' bits as uint64.

    Each sample is mixed by the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    total = np.uint64(0)
    for i in range(len(tag)):
        h = np.uint64(tag[i]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(quality[i])
        for part in (np.uint64(time[i]), bits[i]):
            h ^= part
            h ^= h >> np.uint64(30)
            h *= np.uint64(0xBF58476D1CE4E5B9)
            h ^= h >> np.uint64(27)
            h *= np.uint64(0x94D049BB133111EB)
            h ^= h >> np.uint64(31)
        total += h
    return total


@njit
def in_set_kernel(low: Any, high: Any, wanted: Any, out: Any) -> None:
    """``out[i]`` = whether ``low[i]..high[i]`` holds one of `wanted` (sorted)."""
    for i in range(len(low)):
        p = np.searchsorted(wanted, low[i])
        out[i] = p < len(wanted) and wanted[p] <= high[i]


@njit
def overlap_kernel(
    tag: Any, start: Any, end: Any, block_low: Any, block_high: Any, block_start: Any, block_end: Any, out: Any
) -> None:
    """Mark chunks (sorted by tag, start; ranges inclusive) that overlap another of their tag, or a block that may hold it."""
    n = len(tag)
    furthest, owner = 0, 0
    for i in range(n):
        if i > 0 and tag[i] == tag[i - 1]:
            if start[i] <= furthest:
                out[i] = True
                out[owner] = True
            if end[i] > furthest:
                furthest, owner = end[i], i
        else:
            furthest, owner = end[i], i
    if not len(block_low):
        return
    # Most chunks are older than every block: the union of the blocks' times answers for them without a look at tags.
    order = np.argsort(block_start)
    starts, reach = block_start[order], np.empty(len(order), np.int64)
    for j in range(len(order)):
        e = block_end[order[j]]
        reach[j] = e if j == 0 else max(e, reach[j - 1])
    for i in range(n):
        if out[i]:
            continue
        stop = np.searchsorted(starts, end[i], side="right")
        first = np.searchsorted(reach[:stop], start[i])
        for j in range(first, stop):
            k = order[j]
            if block_low[k] <= tag[i] <= block_high[k] and block_end[k] >= start[i]:
                out[i] = True
                break


def group(
    tag: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8],
    tags: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Rows sorted by tag then time, one row a (tag, time): of equal ones the last in the input stays.

    Parameters
    ----------
    tag
        int64, in ``0 .. tags - 1`` (positions in the caller's list of tags).
    time, value, quality
        int64 ns, float64, uint8, same length, in the order written.
    tags
        Number of tags.

    Examples
    --------
    >>> import numpy as np
    >>> t, ns, v, q = group(np.array([1, 0, 1, 1]), np.array([5, 9, 4, 5]), np.array([1.0, 2, 3, 4]), np.zeros(4, np.uint8), 2)
    >>> t.tolist(), ns.tolist(), v.tolist()
    ([0, 1, 1], [9, 4, 5], [2.0, 3.0, 4.0])
    """
    n = len(tag)
    out = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.float64), np.empty(n, np.uint8)
    at = np.zeros(tags + 1, np.int64)
    if scatter_kernel(tag, time, value, quality, at, *out):
        return out
    kept = settle_kernel(*out, at)
    return out[0][:kept], out[1][:kept], out[2][:kept], out[3][:kept]


def bounds_of(tag: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bounds of the runs of equal tags: int64, one longer than there are runs."""
    out = np.empty(len(tag) + 1, np.int64)
    n = bounds_kernel(tag, out)
    return out[: n + 1]


def statistics(
    time: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8],
    bounds: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[Any]]:
    """Statistics of each segment: count, good (int64), min, max, sum, first, last (float64), first_ns, last_ns (int64)."""
    n = len(bounds) - 1
    good, stats, times = np.empty(n, np.int64), np.empty((n, 5)), np.empty((n, 2), np.int64)
    stats_kernel(time, value, quality, bounds, good, stats, times)
    out: dict[str, npt.NDArray[Any]] = {"count": np.diff(bounds), "good": good}
    for i, name in enumerate(("min", "max", "sum", "first", "last")):
        out[name] = np.ascontiguousarray(stats[:, i])
    out["first_ns"], out["last_ns"] = np.ascontiguousarray(times[:, 0]), np.ascontiguousarray(times[:, 1])
    return out


def digest(
    tag: npt.NDArray[np.int64],
    time: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8],
) -> int:
    """A checksum of samples that does not depend on their order; add them modulo 2**64 to join sets."""
    return int(digest_kernel(tag, time, np.ascontiguousarray(value).view(np.uint64), quality))
