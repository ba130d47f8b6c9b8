"""Sorted samples become sealed rows: chunks of one tag aligned to time, and blocks for tags with too few samples."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.history import layout
from iiot_dask.history.blobs import Blobs, encode_chunk
from iiot_dask.history.block import Columns, encode_all, encode_blocks, where
from iiot_dask.history.kernels import bounds_of, cut_kernel, statistics

_S = 10**9
UNITS = np.array(
    [_S * s for s in (1, 5, 10, 30, 60, 300, 600, 900, 1800, 3600, 7200, 10800, 14400, 21600, 43200, 86400)], np.int64
)
"""Lengths a chunk may be aligned to, ns; each divides a day, those below an hour divide an hour."""
_HOUR = 9
SLICE_ROWS = 65_536

Head = dict[str, npt.NDArray[Any]]


def units(count: npt.NDArray[np.int64], span_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The alignment for tags of `count` samples in `span_ns`, ns.

    The longest unit up to an hour that holds at most `CHUNK_ROWS_MAX`; a tag with less than `CHUNK_ROWS_MIN` an hour gets the
    shortest unit beyond that holds so many, at most a day. Windows of an hour or more are then answered by statistics for
    every tag that is quick enough.

    Examples
    --------
    >>> day = np.array([86_400 * 10**9] * 4)
    >>> (units(np.array([86_400, 8_640, 864_000, 100]), day) // 10**9).tolist()
    [3600, 10800, 900, 86400]
    """
    expected = count[:, None] / np.maximum(span_ns, 1)[:, None] * UNITS[None, :]
    quick = expected[:, _HOUR] >= layout.CHUNK_ROWS_MIN
    fits = np.maximum((expected[:, : _HOUR + 1] <= layout.CHUNK_ROWS_MAX).sum(axis=1) - 1, 0)
    slow = np.minimum((expected < layout.CHUNK_ROWS_MIN).sum(axis=1), len(UNITS) - 1)
    out: npt.NDArray[np.int64] = UNITS[np.where(quick, fits, slow)]
    return out


def seal(
    columns: Columns, order: int, chunk_rows_min: int = layout.CHUNK_ROWS_MIN
) -> Iterator[tuple[str, Head, list[Blobs]]]:
    """Encode sorted samples: chunks (if any), then blocks (if any), each as (kind, head, blobs).

    A tag with fewer than `chunk_rows_min` samples goes into a block.
    """
    bounds = bounds_of(columns[0])
    enough = np.diff(bounds) >= chunk_rows_min
    if enough.any():
        yield (layout.CHUNK, *_chunks(columns, bounds, enough, order))
    if not enough.all():
        rest = np.repeat(~enough, np.diff(bounds))
        tag, time, value, quality = where(columns, rest)
        edges = np.linspace(0, len(tag), -(-len(tag) // SLICE_ROWS) + 1).astype(np.int64).tolist()
        slices = pairwise(edges)
        yield (
            layout.BLOCK,
            *encode_blocks([(tag[a:b], time[a:b], value[a:b], quality[a:b]) for a, b in slices], order),
        )


def _chunks(
    columns: Columns, bounds: npt.NDArray[np.int64], enough: npt.NDArray[np.bool_], order: int
) -> tuple[Head, list[Blobs]]:
    tag, time, value, quality = columns
    begin, end = bounds[:-1][enough], bounds[1:][enough]
    # As float64: the span of one tag may be longer than int64 ns.
    span = np.minimum(time[end - 1].astype(np.float64) - time[begin], 2.0**62).astype(np.int64)
    unit = units(end - begin, span)
    pieces = [_cut(time, a, b, u) for a, b, u in zip(begin.tolist(), end.tolist(), unit.tolist(), strict=True)]
    starts = np.concatenate([p[:-1] for p in pieces])
    stops = np.concatenate([p[1:] for p in pieces])
    pairs = list(zip(starts.tolist(), stops.tolist(), strict=True))
    blobs = encode_all([(encode_chunk, (time[a:b], value[a:b], quality[a:b])) for a, b in pairs])
    head = _statistics(time, value, quality, starts, stops)
    head["tag_id"] = head["tag_min"] = head["tag_max"] = tag[starts]
    head["start_ns"], head["end_ns"] = time[starts], time[stops - 1]
    head["order"] = np.full(len(pairs), order, np.int64)
    return head, blobs


def _cut(time: npt.NDArray[np.int64], begin: int, end: int, unit: int) -> npt.NDArray[np.int64]:
    out = np.empty(end - begin + 1, np.int64)
    edges = np.array([begin, end], np.int64)
    n = cut_kernel(time, edges, np.array([unit], np.int64), layout.CHUNK_ROWS_MIN, layout.CHUNK_ROWS_MAX, out)
    return out[: n + 1]


def _statistics(
    time: npt.NDArray[np.int64],
    value: npt.NDArray[np.float64],
    quality: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    stops: npt.NDArray[np.int64],
) -> Head:
    # Segments between the wanted ones (tags that go to blocks) are computed too and dropped.
    edges = np.unique(np.concatenate([starts, stops]))
    found = statistics(time, value, quality, edges)
    at = np.searchsorted(edges, starts)
    return {name: column[at] for name, column in found.items()}
