"""`export`: the samples as plain Parquet, for programs that know nothing of this package.

An export reads one version of the table. Each file is written under a temporary name, renamed, and then noted in
``_export.json``; an export that was interrupted goes on after the last file noted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from iiot_dask.core.errors import CapacityError, ConfigError, DataError, map_errors
from iiot_dask.core.times import TimeLike
from iiot_dask.history import layout
from iiot_dask.history.queries import limits

if TYPE_CHECKING:
    from iiot_dask.history.history import History
    from iiot_dask.history.queries import Tags

FILE_ROWS = 10_000_000
"""Samples of an exported file, about."""
NOTE = "_export.json"
NOTE_VERSION = 1
PARTITIONS = ("day", "month")

Progress = Callable[[int, int], None]
"""Called with (done, total); the unit is the caller's business: samples, files or bytes."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: samples, files (paths as text), bytes; `resumed`: how many of the files were there before."""

    rows: int
    files: list[str]
    bytes: int
    version: int
    resumed: int = 0

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One file to be: its name, tag names (globs, escaped) or the question's, and times (inclusive, ns)."""

    name: str
    tags: Any
    start: int
    last: int


def export(
    history: History,
    path: Path,
    tags: Tags = "*",
    start: TimeLike | None = None,
    end: TimeLike | None = None,
    progress: Progress | None = None,
    *,
    partition: str | None = None,
    resume: bool = False,
) -> Exported:
    """Write samples as Parquet files under the directory `path`; see `History.export`."""
    if partition is not None and partition not in PARTITIONS:
        msg = f"partition {partition!r}; {' or '.join(map(repr, PARTITIONS))} is wanted"
        raise ConfigError(msg)
    with map_errors({OSError: CapacityError}, f"making the directory {str(path)!r}"):
        path.mkdir(parents=True, exist_ok=True)
    first, last = limits(start, end)
    question = {"url": history.url, "tags": tags, "start": first, "last": last, "partition": partition}
    note = _noted(path, json.loads(json.dumps(question)), resume=resume)
    if note is None:
        note = {
            "format": NOTE_VERSION,
            "question": question,
            "version": history.log.refresh(),
            "done": {},
            "complete": False,
        }
        _write_note(path, note)
    resumed = len(note["done"])
    # What is being read must not change on the way, nor between two tries.
    fixed = history.as_of(int(note["version"]))
    rows, ids = fixed.select(tags, first, last)
    total = int(rows.head["count"].sum())
    for piece in _pieces(fixed, tags, rows, ids, first, last, partition):
        if piece.name not in note["done"]:
            note["done"][piece.name] = _write(fixed, path / piece.name, piece)
            _write_note(path, note)
        done = sum(count for count, _ in note["done"].values())
        if progress is not None:
            progress(done, max(total, done))
    note["complete"] = True
    _write_note(path, note)
    if progress is not None:
        # Samples that were written again were counted before they were read.
        done = sum(count for count, _ in note["done"].values())
        progress(done, done)
    there = {name: counts for name, counts in note["done"].items() if counts[0]}
    return Exported(
        sum(c for c, _ in there.values()), [str(path / name) for name in there], sum(b for _, b in there.values()),
        int(note["version"]), resumed,
    )  # fmt: skip


def _noted(path: Path, question: dict[str, Any], *, resume: bool) -> dict[str, Any] | None:
    """The note of an export that may be continued."""
    if not any(path.iterdir()):
        return None
    file = path / NOTE
    if not resume or not file.exists():
        msg = f"the export directory {str(path)!r} is not empty; an empty or new one, or resume with the same question, is wanted"
        raise ConfigError(msg)
    with map_errors({ValueError: DataError}, f"reading {str(file)!r}"):
        note: dict[str, Any] = json.loads(file.read_text())
    if note["format"] > NOTE_VERSION or note["question"] != question:
        msg = f"{str(file)!r} is of another export: {note['question']}; this one is {question}"
        raise ConfigError(msg)
    for leftover in path.rglob("*.tmp"):
        leftover.unlink()
    return note


def _write_note(path: Path, note: dict[str, Any]) -> None:
    draft = path / f"{NOTE}.tmp"
    with map_errors({OSError: CapacityError}, f"writing {str(path / NOTE)!r}"):
        draft.write_text(json.dumps(note))
        draft.replace(path / NOTE)


def _pieces(
    history: History, tags: Tags, rows: Any, ids: Any, first: int, last: int, partition: str | None
) -> Iterator[_Piece]:
    """The files of an export, the same for the same version and question."""
    if not len(rows):
        return
    if partition is None:
        import glob

        low, high = np.searchsorted(ids, rows.head["tag_min"]), np.searchsorted(ids, rows.head["tag_max"], side="right")
        slope = np.zeros(len(ids) + 1)
        share = rows.head["count"] / np.maximum(high - low, 1)
        np.add.at(slope, low, share)
        np.add.at(slope, high, -share)
        total = np.cumsum(np.cumsum(slope)[:-1])
        cells = (np.maximum(total - 1, 0) // FILE_ROWS).astype(np.int64)
        edges = [0, *(np.flatnonzero(np.diff(cells)) + 1).tolist(), len(ids)]
        names = history.tags.series(ids).to_list()
        for i, (a, b) in enumerate(pairwise(edges)):
            yield _Piece(f"part-{i:05d}.parquet", [glob.escape(n) for n in names[a:b]], first, last)
        return
    unit = "D" if partition == "day" else "M"
    low = _cell(max(first, int(rows.head["start_ns"].min())), unit)
    high = _cell(min(last, int(rows.head["end_ns"].max())), unit)
    for cell in range(low, high + 1):
        a, b = max(first, _begin(cell, unit)), min(last, _begin(cell + 1, unit) - 1)
        if ((rows.head["start_ns"] <= b) & (rows.head["end_ns"] >= a)).any():
            label = np.array([cell]).astype(f"datetime64[{unit}]").astype(str)[0]
            yield _Piece(f"{partition}={label}/part-00000.parquet", tags, a, b)


def _cell(time: int, unit: str) -> int:
    """Number of the UTC day or month of a time (ns)."""
    return int(
        np.array([time // layout.DAY_NS]).astype("datetime64[D]").astype(f"datetime64[{unit}]").astype(np.int64)[0]
    )


def _begin(cell: int, unit: str) -> int:
    """Where a UTC day or month begins, ns."""
    days = np.array([cell]).astype(f"datetime64[{unit}]").astype("datetime64[D]").astype(np.int64)
    return int(days[0]) * layout.DAY_NS


def _write(history: History, file: Path, piece: _Piece) -> tuple[int, int]:
    """Write one file; (samples, bytes). One without samples is not written."""
    import polars as pl

    draft = file.with_name(file.name + ".tmp")
    rows = 0
    writer: pq.ParquetWriter | None = None
    with map_errors({OSError: CapacityError}, f"writing {str(file)!r}"):
        file.parent.mkdir(exist_ok=True)
        try:
            for frame in history.frames(piece.tags, piece.start, last=piece.last):
                # Old readers do not know Arrow's string views.
                table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
                writer = writer or _writer(draft, table)
                writer.write_table(table)
                rows += frame.height
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            return 0, 0
        with draft.open("rb") as handle:
            os.fsync(handle.fileno())
        draft.replace(file)
        return rows, file.stat().st_size


def _writer(file: Path, table: Any) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        file, table.schema, compression="zstd", use_dictionary=["tag", "value", "quality"],
        column_encoding={"time": "DELTA_BINARY_PACKED"}, write_page_checksum=True,
    )  # fmt: skip
