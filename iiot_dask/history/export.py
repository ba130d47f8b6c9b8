"""`export`: the samples as plain Parquet, for programs that know nothing of this package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from iiot_dask.core.errors import CapacityError, ConfigError, map_errors
from iiot_dask.core.times import TimeLike

if TYPE_CHECKING:
    from iiot_dask.history.history import History
    from iiot_dask.history.queries import Tags

FILE_ROWS = 10_000_000
"""Samples of an exported file, about."""

Progress = Callable[[int, int], None]
"""Called with (done, total); the unit is the caller's business: samples, files or bytes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: samples, files (paths as text), bytes."""

    rows: int
    files: list[str]
    bytes: int

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def export(
    history: History,
    path: Path,
    tags: Tags = "*",
    start: TimeLike | None = None,
    end: TimeLike | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Write samples as Parquet files ``part-00000.parquet`` … in the directory `path`; see `History.export`."""
    with map_errors({OSError: CapacityError}, f"making the directory {str(path)!r}"):
        path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        msg = f"the export directory {str(path)!r} is not empty; an empty or new one is wanted"
        raise ConfigError(msg)
    total = history.info().rows
    done = 0
    writer: pq.ParquetWriter | None = None
    in_file = 0
    files: list[Path] = []
    try:
        for frame in history.frames(tags, start, end):
            table = frame.to_arrow(compat_level=_plain())
            if writer is None or in_file >= FILE_ROWS:
                if writer is not None:
                    writer.close()
                files.append(path / f"part-{len(files):05d}.parquet")
                writer, in_file = _writer(files[-1], table), 0
            writer.write_table(table)
            in_file += frame.height
            done += frame.height
            if progress is not None:
                progress(done, max(total, done))
    finally:
        if writer is not None:
            writer.close()
    return Exported(done, [str(f) for f in files], sum(f.stat().st_size for f in files))


def _plain() -> Any:
    import polars as pl

    # Old readers do not know Arrow's string views.
    return pl.CompatLevel.oldest()


def _writer(file: Path, table: Any) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file, table.schema, compression="zstd", use_dictionary=["tag", "value", "quality"],
        column_encoding={"time": "DELTA_BINARY_PACKED"}, write_page_checksum=True,
    )  # fmt: skip
