"""The dashboard's door to history: tag names and down-sampled trends. Wiring, so it lives beside `engine.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from iiot_dask.history import History
from iiot_dask.query.downsample import trend


class HistoryTrends:
    """A `TrendSource` over a history.

    Parameters
    ----------
    history
        An open history; may be written to at the same time.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def names(self) -> Sequence[str]:
        """Every tag name."""
        return self.history.tags.names()

    def trend(
        self, tag: str, start_ns: int, end_ns: int, points: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Times (int64 ns) and values of one tag, at most `points` of them, spikes kept."""
        return trend(self.history, tag, start_ns, end_ns, points)
