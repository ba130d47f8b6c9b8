"""The truth: every sample a simulated device sent, kept in columns and written once at the end."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import DataError

if TYPE_CHECKING:
    import polars as pl

ROWS_MAX = 50_000_000
"""Most samples kept (1.1 GB); later ones are only counted, and `truncated_rows` in truth.json says how many."""

TRUTH_ROWS = "truth.parquet"
TRUTH_INFO = "truth.json"

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Ledger:
    """Columns that grow by doubling: tag (uint32), time (int64 ns UTC), value (float64), acknowledged (bool).

    Examples
    --------
    >>> ledger = Ledger()
    >>> first = ledger.add(np.array([3, 4]), np.array([10, 20]), np.array([1.0, 2.0]), acknowledged=False)
    >>> ledger.acknowledge(first + 1, first + 2)
    >>> ledger.acknowledged_rows, len(ledger)
    (1, 2)
    """

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self._rows_max = rows_max
        self._n = 0
        self.truncated_rows = 0
        self._tag = np.empty(1024, np.uint32)
        self._time = np.empty(1024, np.int64)
        self._value = np.empty(1024, np.float64)
        self._acknowledged = np.zeros(1024, np.bool_)

    def __len__(self) -> int:
        return self._n

    @property
    def acknowledged_rows(self) -> int:
        """How many kept rows were acknowledged."""
        return int(self._acknowledged[: self._n].sum())

    def add(self, tag: Ints, time_ns: Ints, value: Floats, *, acknowledged: bool) -> int:
        """Append samples (arrays of equal length); returns the row of the first, for `acknowledge`."""
        first, n = self._n, len(tag)
        if first + n > self._rows_max:
            self.truncated_rows += n
            return self._rows_max
        self._grow(first + n)
        self._tag[first : first + n] = tag
        self._time[first : first + n] = time_ns
        self._value[first : first + n] = value
        self._acknowledged[first : first + n] = acknowledged
        self._n = first + n
        return first

    def _grow(self, rows: int) -> None:
        size = len(self._tag)
        if rows <= size:
            return
        while size < rows:
            size *= 2
        for name in ("_tag", "_time", "_value", "_acknowledged"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: self._n] = old[: self._n]
            setattr(self, name, new)

    def acknowledge(self, start: int, stop: int) -> None:
        """Rows ``start <= row < stop`` arrived at the other side; rows that were not kept are ignored."""
        self._acknowledged[start : min(stop, self._n)] = True

    def acknowledge_rows(self, rows: Ints) -> None:
        """These rows arrived at the other side; rows that were not kept are ignored."""
        self._acknowledged[rows[rows < self._n]] = True

    def frame(self, names: list[str], protocol_of: npt.NDArray[np.integer], protocols: tuple[str, ...]) -> pl.DataFrame:
        """The rows ordered by tag and time, with names; see `Truth.samples` for the columns."""
        import polars as pl

        n = self._n
        tag = self._tag[:n]
        order = np.lexsort((self._time[:n], tag))
        tag, value = tag[order], self._value[:n][order]
        changed = np.ones(n, np.bool_)
        changed[1:] = (tag[1:] != tag[:-1]) | (value[1:] != value[:-1])
        words = pl.Enum(protocols)
        return pl.DataFrame(
            {
                "tag": pl.Series(names, dtype=pl.String)[tag],
                "protocol": pl.Series(protocols, dtype=words)[protocol_of[tag]],
                "time": pl.Series(self._time[:n][order]).cast(pl.Datetime("ns", "UTC")),
                "value": value,
                "acknowledged": self._acknowledged[:n][order],
                "changed": changed,
            }
        )


@dataclass(frozen=True, slots=True)
class Truth:
    """What a simulated factory really did.

    `samples` has the columns ``tag`` (str), ``protocol`` (modbus, opcua, json, sparkplug), ``time`` (ns UTC; for Modbus
    the instant the server answered), ``value`` (float64, exactly as it crosses the wire), ``acknowledged`` (the broker's
    PUBACK, or for Sparkplug's QoS 0 that the bytes left; always true for OPC UA and Modbus) and ``changed`` (the value
    differs from the tag's sample before: an OPC UA server does not notify of the others unless asked to).
    `info` holds ``start_ns``, ``stop_ns``, ``faults``, ``malformed`` (payloads by device), ``cpu_s`` and more.
    """

    samples: pl.DataFrame
    info: dict[str, Any]

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Truth:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the directory holds no complete truth.
        """
        import polars as pl

        path = Path(directory)
        try:
            info = json.loads((path / TRUTH_INFO).read_text(encoding="utf-8"))
            samples = pl.read_parquet(path / TRUTH_ROWS)
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            msg = f"{path}: no complete truth of a simulated factory ({error})"
            raise DataError(msg) from error
        return cls(samples, info)

    @property
    def faults(self) -> pl.DataFrame:
        """One row a fault that happened: kind, node, start, end (null: still on at the end)."""
        import polars as pl

        moment = pl.Datetime("ns", "UTC")
        rows = {name: [fault[name] for fault in self.info["faults"]] for name in ("kind", "node", "start_ns", "end_ns")}
        frame = pl.DataFrame(
            rows, schema={"kind": pl.String, "node": pl.String, "start_ns": pl.Int64, "end_ns": pl.Int64}
        )
        return frame.select("kind", "node", start=pl.col("start_ns").cast(moment), end=pl.col("end_ns").cast(moment))

    def counts(self) -> dict[str, int]:
        """Acknowledged samples of each protocol."""
        kept = self.samples.filter(self.samples["acknowledged"])
        return {str(p): int(n) for p, n in kept.group_by("protocol").len().sort("protocol").iter_rows()}


def write(directory: Path, samples: pl.DataFrame, info: dict[str, Any]) -> None:
    """Write both files, each atomically; the JSON, written last, says that the Parquet is complete."""
    directory.mkdir(parents=True, exist_ok=True)
    parquet = directory / (TRUTH_ROWS + ".part")
    samples.write_parquet(parquet, compression="zstd")
    parquet.replace(directory / TRUTH_ROWS)
    write_text(directory / TRUTH_INFO, json.dumps(info, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a small file atomically: readers see the old or the new text, never a part."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
