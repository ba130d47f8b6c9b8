"""`info`: how much a history holds and how small, from the Delta log and file names alone."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from iiot_dask.core.batch import ROW_BYTES
from iiot_dask.core.times import time_text
from iiot_dask.history.layout import BLOCK, CHUNK, ROLLUP, parse_name


@dataclass(frozen=True, slots=True)
class Kind:
    """Figures of one kind of row: `files`, `rows` (samples), `bytes` of its files, bytes a sample (0.0 if empty)."""

    files: int
    rows: int
    bytes: int
    bytes_per_sample: float


@dataclass(frozen=True, slots=True)
class Info:
    """What a history holds.

    `rows` counts stored samples; ones that repeat a (tag, time) of another row count until compaction drops them. `ratio` is
    against 16 bytes a sample (int64 time + float64 value). `start` and `end` are the first and last time as ISO text (None
    when empty). `bytes` are those of live data files; `kinds` splits the figures into blocks (hot), chunks (sealed) and roll-up
    rows (their `rows` are windows, and count in no other figure than files and bytes).
    """

    url: str
    version: int
    tags: int
    rows: int
    files: int
    bytes: int
    bytes_per_sample: float
    ratio: float
    start: str | None
    end: str | None
    kinds: dict[str, Kind]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def document(self) -> dict[str, Any]:
        """Plain data for JSON, as every report of a history has it."""
        return self.as_dict()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{k.files:,}</td><td>{k.rows:,}</td><td>{k.bytes:,}</td><td>{k.bytes_per_sample:.3f}</td></tr>"
            for name, k in self.kinds.items()
        )
        return (
            f"<b>History</b> {html.escape(self.url)}, version {self.version}: {self.rows:,} samples of {self.tags:,} tags, "
            f"{self.start or '-'} to {self.end or '-'}, {self.bytes_per_sample:.3f} bytes a sample ({self.ratio:.1f}:1)"
            f"<table><tr><th>rows</th><th>files</th><th>samples</th><th>bytes</th><th>bytes a sample</th></tr>{rows}</table>"
        )


def info_of(url: str, version: int, tags: int, files: pl.DataFrame) -> Info:
    """Figures from the files of a log."""
    paths: list[str] = files["path"].to_list()
    sizes: list[int] = files["size_bytes"].to_list() if files.height else []
    named = [(parse_name(path), size) for path, size in zip(paths, sizes, strict=True)]
    kinds = {}
    for kind in (BLOCK, CHUNK, ROLLUP):
        mine = [(name, size) for name, size in named if name.kind == kind]
        rows, size = sum(n.rows for n, _ in mine), sum(s for _, s in mine)
        kinds[kind] = Kind(len(mine), rows, size, size / rows if rows else 0.0)
    rows, size = sum(k.rows for n, k in kinds.items() if n != ROLLUP), sum(k.bytes for k in kinds.values())
    return Info(
        url=url,
        version=version,
        tags=tags,
        rows=rows,
        files=len(paths),
        bytes=size,
        bytes_per_sample=size / rows if rows else 0.0,
        ratio=rows * ROW_BYTES / size if size else 0.0,
        start=time_text(_bound(files["min.start_ns"].min())) if files.height else None,
        end=time_text(_bound(files["max.end_ns"].max())) if files.height else None,
        kinds=kinds,
    )


def _bound(value: Any) -> int:
    return int(value)
