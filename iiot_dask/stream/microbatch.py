"""When a micro-batch closes: rows or time, whichever comes first; and which shard a row belongs to.

Rules. A micro-batch holds whole journal records, so its end is a journal offset. An *epoch* is the run of micro-batches
between two flushes; the last micro-batch of an epoch carries `flush`. After a crash the unit of replay is the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of the journal records ``first <= offset < stop``, and what the shards shall do with them.

    `generation` tells apart the passes over the same offsets before and after a recovery; `index` counts micro-batches
    within an epoch; `epoch_first` is the first offset of the epoch; `now_ns` is the time the shards take for now;
    `replay` says that some of its rows have been answered before, in a pass that failed later.
    """

    generation: int
    index: int
    epoch_first: int
    first: int
    stop: int
    batch: Batch
    flush: bool
    now_ns: int
    replay: bool = False


def split(batch: Batch, shards: int) -> list[Batch]:
    """The rows of each shard (``tag % shards``), order kept; one pass and one take a shard.

    Examples
    --------
    >>> batch = Batch.of(tag=[0, 1, 2, 3], time=[1, 2, 3, 4], value=[0.0] * 4, received=[5] * 4)
    >>> [part.tag.tolist() for part in split(batch, 2)]
    [[0, 2], [1, 3]]
    """
    if shards == 1 or not len(batch):
        return [batch] + [Batch.empty()] * (shards - 1)
    shard = batch.tag % np.uint32(shards)
    order = np.argsort(shard, kind="stable")
    stops = np.cumsum(np.bincount(shard, minlength=shards))
    rows: list[npt.NDArray[np.integer]] = np.split(order, stops[:-1])
    return [batch.take(part) for part in rows]


@dataclass(slots=True)
class Batcher:
    """Decides when the open micro-batch and the open epoch close; pure, times passed in.

    Parameters
    ----------
    rows_max
        A micro-batch closes at this many rows.
    batch_ns
        ... or this long after its first row arrived, ns.
    flush_rows_max
        An epoch closes at this many rows.
    flush_ns
        ... or this long after its first micro-batch, ns.
    batches_max
        ... or at this many micro-batches, also without rows: a chain of futures has an end on an idle plant too.

    Examples
    --------
    >>> b = Batcher(rows_max=10, batch_ns=100, flush_rows_max=1000, flush_ns=1000)
    >>> b.add(4, now_ns=0); b.due(now_ns=50)
    False
    >>> b.add(6, now_ns=60); b.due(now_ns=60)
    True
    """

    rows_max: int
    batch_ns: int
    flush_rows_max: int
    flush_ns: int
    batches_max: int = 256
    rows: int = 0
    epoch_rows: int = 0
    batches: int = 0
    _opened_ns: int | None = None
    _epoch_ns: int | None = None

    def add(self, rows: int, now_ns: int) -> None:
        """Count rows into the open micro-batch; `now_ns` is steady time."""
        if self._opened_ns is None:
            self._opened_ns = now_ns
        self.rows += rows
        self.epoch_rows += rows

    def due(self, now_ns: int) -> bool:
        """Is it time to close the open micro-batch? Never for an empty one."""
        if self._opened_ns is None:
            return False
        return self.rows >= self.rows_max or now_ns - self._opened_ns >= self.batch_ns

    def wait_ns(self, now_ns: int) -> int:
        """Longest wait for more rows before `due` turns true, ns; `batch_ns` when nothing is open."""
        if self._opened_ns is None:
            return self.batch_ns
        return max(0, self._opened_ns + self.batch_ns - now_ns)

    def close(self, now_ns: int) -> bool:
        """Close the micro-batch; True when it also closes the epoch."""
        self.rows = 0
        self._opened_ns = None
        self.batches += 1
        if self._epoch_ns is None:
            self._epoch_ns = now_ns
        late = self.epoch_rows >= self.flush_rows_max or now_ns - self._epoch_ns >= self.flush_ns
        flush = (self.epoch_rows > 0 and late) or self.batches >= self.batches_max
        if flush:
            self.epoch_rows = self.batches = 0
            self._epoch_ns = now_ns
        return flush

    def reset(self) -> None:
        """Forget everything open: what follows starts a new epoch."""
        self.rows = self.epoch_rows = self.batches = 0
        self._opened_ns = None
        self._epoch_ns = None
