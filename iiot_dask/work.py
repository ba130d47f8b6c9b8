"""What one shard does with each micro-batch: health, windows, and at a flush the block file. Runs on a Dask worker.

`PlantWork` is the `Work` of stage 4 filled with stages 5 to 8; it lives beside `engine.py` because it is wiring.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ChecksumError, VersionError
from iiot_dask.health.monitor import Monitor
from iiot_dask.history.block import write_block
from iiot_dask.stream.window import Windows
from iiot_dask.stream.work import Flushed, Order, ShardResult

CHECKPOINT_VERSION = 1
_MAGIC = b"IIWK"
_HEAD = struct.Struct("<4sHI")
"""Magic, version, CRC-32 of the zip of arrays that follows."""
FAST_NS = 1_000_000_000
SLOW_NS = 10_000_000_000


@dataclass(slots=True)
class ShardState:
    """Everything a shard knows: sensor health, open windows, and the rows not yet written."""

    monitor: Monitor
    fast: Windows
    slow: Windows
    pending: list[Batch] = field(default_factory=list)

    def checkpoint(self) -> bytes:
        """The state without its pending rows (a flush has none), versioned and checksummed, no pickle."""
        assert not self.pending, "a checkpoint is taken right after a flush"
        sink = io.BytesIO()
        np.savez(
            sink,
            monitor=np.frombuffer(self.monitor.to_bytes(), np.uint8),
            fast=self.fast.to_array(),
            slow=self.slow.to_array(),
            swept_ns=np.array([self.fast.swept_ns, self.slow.swept_ns], np.int64),
        )
        body = sink.getvalue()
        return _HEAD.pack(_MAGIC, CHECKPOINT_VERSION, zlib.crc32(body)) + body

    @classmethod
    def fresh(cls, shard: int, shards: int, lateness_ns: int) -> ShardState:
        """A state that has seen nothing."""
        return cls(
            Monitor(shard, shards),
            Windows(shard, shards, FAST_NS, lateness_ns),
            Windows(shard, shards, SLOW_NS, lateness_ns),
        )

    @classmethod
    def restore(cls, shard: int, shards: int, lateness_ns: int, checkpoint: bytes) -> ShardState:
        """Read what `checkpoint` wrote.

        Raises
        ------
        VersionError
            If a newer program wrote it.
        ChecksumError
            If the bytes are damaged.
        """
        magic, version, crc = _HEAD.unpack_from(checkpoint) if len(checkpoint) >= _HEAD.size else (b"", 0, 0)
        if magic == _MAGIC and version > CHECKPOINT_VERSION:
            msg = f"checkpoint of shard {shard} has version {version}; this program reads 1 to {CHECKPOINT_VERSION}"
            raise VersionError(msg)
        body = checkpoint[_HEAD.size :]
        if magic != _MAGIC or version < 1 or zlib.crc32(body) != crc:
            msg = f"checkpoint of shard {shard} ({len(checkpoint)} bytes) is damaged or none"
            raise ChecksumError(msg)
        state = cls.fresh(shard, shards, lateness_ns)
        with np.load(io.BytesIO(body), allow_pickle=False) as parts:
            state.monitor = Monitor.from_bytes(parts["monitor"].tobytes())
            state.fast.from_array(parts["fast"])
            state.slow.from_array(parts["slow"])
            state.fast.swept_ns, state.slow.swept_ns = parts["swept_ns"].tolist()
        return state


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """A shard's answer to one micro-batch: health changes (CHANGE_DTYPE) and closed windows (window.OUT_DTYPE)."""

    changes: npt.NDArray[np.void]
    fast: npt.NDArray[np.void]
    slow: npt.NDArray[np.void]


@dataclass(frozen=True, slots=True)
class PlantWork:
    """The per-shard program of a plant.

    Parameters
    ----------
    root
        Where history lies; block files are written below it.
    stream
        Name of the journal, part of every file name so that a replay writes the same files.
    lateness_ns
        How long windows of quiet tags stay open, ns.
    """

    root: str
    stream: str
    lateness_ns: int = 2_000_000_000

    def start(self, shard: int, shards: int, checkpoint: bytes | None) -> ShardState:
        """A fresh or a restored state."""
        if checkpoint is None:
            return ShardState.fresh(shard, shards, self.lateness_ns)
        return ShardState.restore(shard, shards, self.lateness_ns, checkpoint)

    def step(self, state: ShardState, batch: Batch, order: Order) -> ShardResult:
        """Health, windows, collect; at a flush also the epoch's block file and checkpoint."""
        shard = state.fast.shard
        changes = [state.monitor.update(batch, order.now_ns)] if len(batch) else []
        changes.append(state.monitor.sweep(order.now_ns))
        output = ShardOutput(
            np.concatenate(changes), state.fast.update(batch, order.now_ns), state.slow.update(batch, order.now_ns)
        )
        if len(batch):
            state.pending.append(batch)
        flushed = self._flush(state, order) if order.flush else None
        return ShardResult(shard, len(batch), output, flushed)

    def _flush(self, state: ShardState, order: Order) -> Flushed:
        rows = Batch.concat(state.pending)
        state.pending.clear()
        name = f"{self.stream}-{order.epoch_first:016d}-{order.stop:016d}-{state.fast.shard:04d}"
        entries: tuple[Any, ...] = tuple(write_block(self.root, rows, name)) if len(rows) else ()
        return Flushed(entries, state.checkpoint())
