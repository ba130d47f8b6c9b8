"""`Rows`: samples on their way from a push to a poll, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of one length: `tag` local number, `time` int64 ns, `value` float64, `quality` uint8, `received` int64 ns.

    `seq` is uint64 or None.
    """

    tag: npt.NDArray[Any]
    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]
    received: npt.NDArray[np.int64]
    seq: npt.NDArray[np.uint64] | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.tag), len(self.time), len(self.value), len(self.quality), len(self.received)}
        if len(lengths) != 1:
            msg = f"columns of lengths {sorted(lengths)}; all must be equal"
            raise SchemaError(msg)

    def __len__(self) -> int:
        return len(self.tag)

    @classmethod
    def none(cls) -> Rows:
        """No rows."""
        ints = np.empty(0, np.int64)
        return cls(ints, ints, np.empty(0), np.empty(0, np.uint8), ints)

    def part(self, start: int, stop: int) -> Rows:
        """The rows from `start` to before `stop`."""
        cut = slice(start, stop)
        seq = None if self.seq is None else self.seq[cut]
        return Rows(self.tag[cut], self.time[cut], self.value[cut], self.quality[cut], self.received[cut], seq)

    @staticmethod
    def concat(parts: Sequence[Rows]) -> Rows:
        """All rows in order; `seq` only if every part has it."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Rows.none()
        numbered = [p.seq for p in parts if p.seq is not None]
        return Rows(
            np.concatenate([p.tag for p in parts]),
            np.concatenate([p.time for p in parts]),
            np.concatenate([p.value for p in parts]),
            np.concatenate([p.quality for p in parts]),
            np.concatenate([p.received for p in parts]),
            np.concatenate(numbered) if len(numbered) == len(parts) else None,
        )

    def batch(self) -> Batch:
        """As the record of the contract."""
        return Batch.of(
            tag=self.tag, time=self.time, value=self.value, quality=self.quality, received=self.received, seq=self.seq
        )
