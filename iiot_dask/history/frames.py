"""`dask`: the samples as a Dask DataFrame, one partition a stretch of time, decoded on the workers.

A partition is a function call on (URL, version, tags, range): nothing but this travels, and every partition reads the same
version of the table, whatever is committed meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from iiot_dask.core.errors import ConfigError
from iiot_dask.history.index import NS_MIN

if TYPE_CHECKING:
    from iiot_dask.history.queries import Queries, Tags

PARTITION_ROWS = 4_000_000
"""Samples of a partition, about (some 200 MB as pandas)."""
_POINTS = 16
"""Points a row's time range is taken as when partitions are balanced."""


@dataclass(frozen=True, slots=True)
class Part:
    """One partition: samples of `tags` with ``start <= time <= last`` ns, of the table's `version`."""

    url: str
    options: Mapping[str, str] | None
    version: int
    tags: str | tuple[str, ...]
    start: int
    last: int
    index: str | None


def read_part(part: Part) -> pd.DataFrame:
    """Read one partition as pandas: tag, time (ns, UTC), value, quality."""
    from iiot_dask.history.history import History

    history = History(part.url, part.options, version=part.version)
    tags = part.tags if isinstance(part.tags, str) else list(part.tags)
    frames = [_pandas(frame) for frame in history.frames(tags, part.start, None, last=part.last)]
    whole = pd.concat(frames, ignore_index=True) if frames else meta(None)
    if part.index == "time":
        whole = whole.sort_values("time", kind="stable").set_index("time")
    return whole


def _pandas(frame: Any) -> pd.DataFrame:
    out = meta(None)
    return pd.DataFrame(
        {
            "tag": pd.Series(frame["tag"].to_numpy(), dtype=out["tag"].dtype),
            "time": pd.Series(frame["time"].to_physical().to_numpy()).astype("datetime64[ns]").dt.tz_localize("UTC"),
            "value": frame["value"].to_numpy(),
            "quality": frame["quality"].to_numpy(),
        }
    )


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
    rows, _ = history.select(tags, start, last)
    edges = _edges(rows.head["start_ns"], rows.head["end_ns"], rows.head["count"], start, last, partition_rows)
    glob = tags if isinstance(tags, str) else tuple(tags)
    ends = [edge - 1 for edge in edges[1:-1]] + [edges[-1]]
    parts = [
        Part(history.url, history.store.options, history.log.version, glob, a, b, index)
        for a, b in zip(edges[:-1], ends, strict=True)
    ]
    divisions = None
    if index == "time":
        divisions = tuple(pd.Timestamp(edge, unit="ns", tz="UTC") for edge in edges)
    return dd.from_map(read_part, parts, meta=meta(index), divisions=divisions, enforce_metadata=True)


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
