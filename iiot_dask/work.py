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
import zstandard

from iiot_dask.codec.zstd import decompress
from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ChecksumError, VersionError
from iiot_dask.health.monitor import Monitor
from iiot_dask.history.block import write_block
from iiot_dask.stream.window import Windows
from iiot_dask.stream.work import Flushed, Order, ShardResult

CHECKPOINT_VERSION = 2
_MAGIC = b"IIWK"
_HEAD = struct.Struct("<4sHI")
"""Magic, version, CRC-32 of the body that follows.

Version 2: the two sweep times (int64 ns), then monitor, fast and slow windows, each as (uint64 packed size, uint64 size, one
zstd frame); windows are NumPy's own array format. A hundred thousand tags are some 25 MB of state and a tenth of that packed,
and packing, unlike zipping, holds no lock while adapters wait for this process. Version 1 was a zip of arrays.
"""
_TIMES = struct.Struct("<qq")
_PART = struct.Struct("<QQ")
_LEVEL = 1
_PART_BYTES_MAX = 1 << 36
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
        body = [_TIMES.pack(self.fast.swept_ns, self.slow.swept_ns)]
        for part in (self.monitor.to_bytes(), _array_bytes(self.fast), _array_bytes(self.slow)):
            packed = zstandard.ZstdCompressor(level=_LEVEL).compress(part)
            body += [_PART.pack(len(packed), len(part)), packed]
        crc = 0
        for piece in body:
            crc = zlib.crc32(piece, crc)
        return b"".join((_HEAD.pack(_MAGIC, CHECKPOINT_VERSION, crc), *body))

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
        swept, monitor, fast, slow = _parts_1(body) if version == 1 else _parts_2(body)
        state.monitor = Monitor.from_bytes(monitor)
        state.fast.from_array(fast)
        state.slow.from_array(slow)
        state.fast.swept_ns, state.slow.swept_ns = swept
        return state


Parts = tuple[tuple[int, int], bytes, npt.NDArray[np.void], npt.NDArray[np.void]]


def _array_bytes(windows: Windows) -> memoryview:
    sink = io.BytesIO()
    np.save(sink, windows.to_array(), allow_pickle=False)
    return sink.getbuffer()


def _parts_2(body: bytes) -> Parts:
    at, parts = _TIMES.size, []
    for _ in range(3):
        packed, size = _PART.unpack_from(body, at)
        at += _PART.size
        parts.append(decompress(body[at : at + packed], size, _PART_BYTES_MAX))
        at += packed
    fast, slow = (np.load(io.BytesIO(part), allow_pickle=False) for part in parts[1:])
    swept: tuple[int, int] = _TIMES.unpack_from(body)
    return swept, parts[0], fast, slow


def _parts_1(body: bytes) -> Parts:
    with np.load(io.BytesIO(body), allow_pickle=False) as parts:
        fast_ns, slow_ns = parts["swept_ns"].tolist()
        return (fast_ns, slow_ns), parts["monitor"].tobytes(), parts["fast"], parts["slow"]


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
