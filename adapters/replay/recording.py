"""`Recording`: a Parquet or CSV file of samples, read in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iiot_dask.core.batch import TIME
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality
from iiot_dask.core.tags import check_tag

COLUMNS = ("tag", "time", "value")


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows: `codes` index `names`; `time` int64 ns UTC, `value` float64, `quality` uint8, all of one length."""

    names: list[str]
    codes: npt.NDArray[np.int32]
    time: npt.NDArray[np.int64]
    value: npt.NDArray[np.float64]
    quality: npt.NDArray[np.uint8]

    def after(self, count: int) -> Rows:
        """The rows without the first `count`."""
        return Rows(self.names, self.codes[count:], self.time[count:], self.value[count:], self.quality[count:])


class Recording:
    """A file of samples.

    Parameters
    ----------
    path
        ``.parquet`` or ``.csv``; columns tag (text), time (timestamp, no zone = UTC, or int ns), value (number) and
        optionally quality (uint8). A null value is NaN of quality `BAD_NO_VALUE`.
    rows
        Rows a piece.

    Attributes
    ----------
    size : int
        Bytes of the file, to tell another file of the same name.
    played : int
        Rows skipped so far.

    Raises
    ------
    ConfigError
        If the file is absent, of another kind, or lacks a column.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path = path
        self.played = 0
        try:
            self.size = path.stat().st_size
            self._pieces = _parquet(path, rows) if path.suffix == ".parquet" else _csv(path, rows)
            self._head = self._next()
        except (OSError, pa.ArrowException) as error:
            msg = f"recording {str(path)!r} can not be read: {error}"
            raise ConfigError(msg) from error

    def head(self) -> Rows | None:
        """The rows at the front, at least one; None at the end."""
        return self._head

    def skip(self, count: int) -> None:
        """Leave the first `count` rows behind."""
        self.played += count
        while self._head is not None and count >= len(self._head.time):
            count -= len(self._head.time)
            self._head = self._next()
        if self._head is not None and count:
            self._head = self._head.after(count)

    def close(self) -> None:
        """Close the file."""
        self._pieces.close()  # type: ignore[attr-defined]  # it is a generator

    def _next(self) -> Rows | None:
        for piece in self._pieces:
            if piece.num_rows:
                return self._rows(piece)
        return None

    def _rows(self, piece: Any) -> Rows:
        missing = [name for name in COLUMNS if name not in piece.schema.names]
        if missing:
            msg = f"recording {str(self.path)!r} has columns {piece.schema.names}; {', '.join(missing)} is missing"
            raise ConfigError(msg)
        tag = piece.column("tag").cast(pa.string()).dictionary_encode()
        time = piece.column("time")
        time = (time if pa.types.is_integer(time.type) else time.cast(TIME)).cast(pa.int64())
        if tag.null_count or time.null_count:
            msg = f"recording {str(self.path)!r} has rows without tag or time after row {self.played}"
            raise ConfigError(msg)
        value = piece.column("value").cast(pa.float64())
        if "quality" in piece.schema.names:
            quality = piece.column("quality").cast(pa.uint8()).fill_null(0).to_numpy(zero_copy_only=False)
        else:
            quality = np.zeros(len(value), np.uint8)
        absent = value.is_null().to_numpy(zero_copy_only=False)
        return Rows(
            [check_tag(name) for name in tag.dictionary.to_pylist()],
            tag.indices.to_numpy(zero_copy_only=False),
            time.to_numpy(zero_copy_only=False),
            value.fill_null(float("nan")).to_numpy(zero_copy_only=False),
            np.where(absent, np.uint8(Quality.BAD_NO_VALUE), quality),
        )


def _parquet(path: Path, rows: int) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows)


def _csv(path: Path, rows: int) -> Iterator[Any]:
    from pyarrow import csv

    if path.suffix != ".csv":
        msg = f"recording {str(path)!r} is neither .parquet nor .csv"
        raise ConfigError(msg)
    # A piece of CSV is a number of bytes; types are what the first one shows.
    with csv.open_csv(path, read_options=csv.ReadOptions(block_size=1 << 20)) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows)
