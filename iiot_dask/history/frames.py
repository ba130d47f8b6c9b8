"""`dask`: the samples as a Dask DataFrame, one partition a stretch of time, decoded on the workers.

A partition is a function call on (URL, version, tags, range): nothing but this travels, and every partition reads the same
version of the table, whatever is committed meanwhile. Rows of a live tail, which workers can not see, travel along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from iiot_dask.core.errors import ConfigError
from iiot_dask.history.index import NS_MIN, Rows
from iiot_dask.history.tail import Fixed, fixed

if TYPE_CHECKING:
    from iiot_dask.history.history import History
    from iiot_dask.history.queries import Queries, Tags

PARTITION_ROWS = 4_000_000
"""Samples of a partition, about (some 200 MB as pandas)."""
_POINTS = 16
"""Points a row's time range is taken as when partitions are balanced."""


@dataclass(frozen=True, slots=True)
class Part:
    """One partition: samples of `tags` with ``start <= time <= last`` ns, of the table's `version` and a live `tail`."""

    url: str
    options: Mapping[str, str] | None
    version: int
    tags: str | tuple[str, ...]
    start: int
    last: int
    index: str | None
    tail: Fixed | None

    @staticmethod
    def of(
        history: Queries,
        tags: str | tuple[str, ...],
        start: int,
        last: int,
        index: str | None,
        rows: Rows,
        ids: npt.NDArray[np.int64] | None,
    ) -> Part:
        """A part of what `history` now holds, given the rows a question selected."""
        live = fixed(rows, ids, start, last)
        return Part(history.url, history.store.options, history.log.version, tags, start, last, index, live)


@lru_cache(4)
def _table(url: str, options: tuple[tuple[str, str], ...] | None, version: int) -> History:
    """One history a worker and version: its index is read once, not once a partition."""
    from iiot_dask.history.history import History

    return History(url, None if options is None else dict(options), version=version)


def opened(part: Part) -> Queries:
    """The history a part is of."""
    options = None if part.options is None else tuple(sorted(part.options.items()))
    table = _table(part.url, options, part.version)
    return table if part.tail is None else table.with_tail(part.tail)


def read_part(part: Part, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read one partition as pandas: tag, time (ns, UTC), value, quality, or those of `columns`."""
    tags = part.tags if isinstance(part.tags, str) else list(part.tags)
    names = [n for n in ("tag", "time", "value", "quality") if columns is None or n in columns]
    needed = {*names, "time"} if part.index == "time" else set(names) or {"time"}
    frames = [
        _pandas(frame) for frame in opened(part).frames(tags, part.start, None, last=part.last, columns=sorted(needed))
    ]
    whole = pd.concat(frames, ignore_index=True) if frames else meta(None)
    if part.index == "time":
        return whole.sort_values("time", kind="stable").set_index("time")[[n for n in names if n != "time"]]
    return whole[names]


def _pandas(frame: Any) -> pd.DataFrame:
    out = {}
    for name in frame.columns:
        if name == "tag":
            out[name] = pd.Series(frame["tag"].to_numpy(), dtype=meta(None)["tag"].dtype)
        elif name == "time":
            times = pd.Series(frame["time"].to_physical().to_numpy()).astype("datetime64[ns]")
            out[name] = times.dt.tz_localize("UTC")
        else:
            out[name] = frame[name].to_numpy()
    return pd.DataFrame(out)


def meta(index: str | None) -> pd.DataFrame:
    """An empty partition: columns and their types."""
    frame = pd.DataFrame(
        {
            "tag": pd.Series([], dtype=pd.StringDtype("pyarrow", na_value=np.nan)),
            "time": pd.Series([], dtype="datetime64[ns, UTC]"),
            "value": pd.Series([], dtype="float64"),
            "quality": pd.Series([], dtype="uint8"),
        }
    )
    return frame.set_index("time") if index == "time" else frame


def dask_frame(history: Queries, tags: Tags, start: int, last: int, index: str | None, partition_rows: int) -> Any:
    """The Dask DataFrame; see `History.dask`."""
    import dask.dataframe as dd

    if index not in (None, "time"):
        msg = f"index {index!r} is not known; None or 'time' is wanted"
        raise ConfigError(msg)
    rows, ids = history.select(tags, start, last)
    edges = edges_of(rows, start, last, partition_rows)
    glob = tags if isinstance(tags, str) else tuple(tags)
    parts = [Part.of(history, glob, a, b, index, rows, ids) for a, b in edges]
    divisions = None
    if index == "time":
        moments = [a for a, _ in edges] + [edges[-1][1]]
        divisions = tuple(pd.Timestamp(moment, unit="ns", tz="UTC") for moment in moments)
    return dd.from_map(read_part, parts, meta=meta(index), divisions=divisions, enforce_metadata=True)


def edges_of(rows: Rows, start: int, last: int, size: int) -> list[tuple[int, int]]:
    """First and last time (ns, inclusive) of stretches of about `size` samples, behind each other; at least one."""
    edges = _edges(rows.head["start_ns"], rows.head["end_ns"], rows.head["count"], start, last, size)
    return [(a, b if i == len(edges) - 2 else b - 1) for i, (a, b) in enumerate(pairwise(edges))]


def _edges(starts: Any, ends: Any, counts: Any, start: int, last: int, size: int) -> list[int]:
    """Times at which partitions begin, and the last time of all (inclusive); at least one partition."""
    if not len(starts):
        low = max(start, 0) if start != NS_MIN else 0
        return [low, max(low, min(last, low))]
    low, high = max(start, int(starts.min())), min(last, int(ends.max()))
    wanted = max(1, round(int(counts.sum()) / size))
    # Samples are taken to lie evenly within their row; as floats, because a span may not fit int64.
    times = np.linspace(starts.astype(np.float64), ends.astype(np.float64), _POINTS).ravel()
    order = np.argsort(times, kind="stable")
    total = np.cumsum(np.tile(counts, _POINTS)[order])
    at = np.searchsorted(total, total[-1] * np.arange(1, wanted) / wanted)
    inner = sorted({t for t in map(int, times[order][at].tolist()) if low < t <= high})
    return [low, *inner, high]
