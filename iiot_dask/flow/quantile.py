"""Percentiles of windows by a mergeable sketch: log-spaced buckets with a relative error of 0.5 %.

DDSketch (Masson, Rim, Lee, VLDB 2019): a positive value x falls into bucket ceil(log_g x), g = (1 + a) / (1 - a), so a
bucket's centre is within a of every value in it; sketches of panes merge by adding counts, which is exact, so stream and
batch agree to the last bit. Buckets are kept as one sorted frame (id, pane, bucket, count), not as an object a window.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.flow.operator import State

ERROR = 0.005
"""Relative error of a percentile."""
_GAMMA = (1 + ERROR) / (1 - ERROR)
_LOG = np.log(_GAMMA)
_TINY = 1e-12
"""Smaller magnitudes count as zero."""
_KEY = pl.Schema({"id": pl.UInt32, "pane": pl.Int64, "bucket": pl.Int32, "count": pl.UInt64})


def buckets(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """The bucket of each value (int32): ascending with the value, negative values below, zero at 0; no NaN.

    Examples
    --------
    >>> b = buckets(np.array([-5.0, 0.0, 5.0, 5.001, 50.0]))
    >>> bool((np.diff(b) >= 0).all()), float(abs(centres(b)[4] / 50 - 1)) < 0.005
    (True, True)
    """
    size = np.clip(np.abs(values), _TINY, 1e300)
    place = np.ceil(np.log(size / _TINY) / _LOG).astype(np.int32)
    return np.where(np.abs(values) <= _TINY, 0, np.sign(values) * np.maximum(place, 1)).astype(np.int32)


def centres(bucket: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
    """The value that stands for each bucket, within `ERROR` of all in it."""
    size = _TINY * np.exp(np.abs(bucket) * _LOG) * 2 / (_GAMMA + 1)
    return np.where(bucket == 0, 0.0, np.sign(bucket) * size)


class Quantiles:
    """The sketches of the open panes, kept in an operator's state under ``sketch``."""

    def __init__(self, state: State, quantiles: tuple[float, ...]) -> None:
        self.state = state
        self.quantiles = quantiles
        state.setdefault("sketch", pl.DataFrame(schema=_KEY))

    def add(self, ids: npt.NDArray[np.uint32], panes: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Count values into their panes' buckets; NaN does not enter."""
        good = ~np.isnan(values)
        if not good.any():
            return
        new = (
            pl.DataFrame(
                {"id": ids[good], "pane": panes[good], "bucket": buckets(values[good])},
                schema=dict(list(_KEY.items())[:3]),
            )
            .group_by("id", "pane", "bucket")
            .agg(pl.len().cast(pl.UInt64).alias("count"))
        )
        self.state["sketch"] = (
            pl.concat([self.state["sketch"], new]).group_by("id", "pane", "bucket").agg(pl.col("count").sum())
        )

    def take(self, ids: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], k: int) -> list[npt.NDArray[np.float64]]:
        """The percentiles of windows (tag, first pane, `k` panes): one array a quantile, NaN where a window is empty."""
        windows = pl.DataFrame({"row": np.arange(len(ids)), "id": ids, "start": starts})
        if not len(ids):
            return [np.empty(0) for _ in self.quantiles]
        wide = (
            windows.with_columns(pane=pl.int_ranges(pl.col("start"), pl.col("start") + k)).explode("pane")
            if k > 1
            else windows.rename({"start": "pane"})
        )
        found = (
            wide.join(self.state["sketch"], on=["id", "pane"])
            .group_by("row", "bucket")
            .agg(pl.col("count").sum())
            .sort("row", "bucket")
            .with_columns(rank=pl.col("count").cum_sum().over("row"), total=pl.col("count").sum().over("row"))
        )
        out = []
        for q in self.quantiles:
            # Nearest rank: the first bucket that holds the ceil(q n)-th value.
            hit = (
                found.filter(pl.col("rank") >= (pl.col("total") * q).ceil().clip(1))
                .group_by("row", maintain_order=True)
                .first()
            )
            values = np.full(len(ids), np.nan)
            values[hit.get_column("row").to_numpy()] = centres(hit.get_column("bucket").to_numpy())
            out.append(values)
        return out

    def forget(self, before: npt.NDArray[np.int64]) -> None:
        """Drop panes below `before[id]`: no window will ask for them."""
        sketch = self.state["sketch"]
        if sketch.height:
            limit = before[sketch.get_column("id").to_numpy()]
            self.state["sketch"] = sketch.filter(pl.Series(sketch.get_column("pane").to_numpy() >= limit))
