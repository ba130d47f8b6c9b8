"""Which files a compaction merges. Pure: figures of files in, lists of files out.

Files have a *level*: 0 = hot, written by a stream or an append; 1 and up = sealed. Hot files are merged in the order
written, a bounded number of samples at a time; `FAN_IN` files of one level and day are merged into one of the next; a day
that is over is merged once more, to `TOP`, so that its chunks are whole.

Last write wins, so a merge must not jump over a row: what it writes counts as new as its newest input. `closure` therefore
draws in every file that may overlap an input and is newer than that input but older than the newest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from iiot_dask.history.layout import BLOCK, DAY_NS, ROLLUP, parse_name

FAN_IN = 8
"""Sealed files of one level and day that are merged into one of the next."""
TOP = 9
"""Level of a day that is over and whole."""
REWRITE_ROWS = 2_000_000
"""Whole files of so many samples are rewritten for late rows at once; larger ones wait for `FAN_IN` or a tenth of them."""
_LEVEL = re.compile(r"/(?:block|chunk)-s(\d)-")


@dataclass(frozen=True, slots=True)
class File:
    """A file as the log knows it: samples, bytes, day (ISO), shard, level, and ranges of tag, time (ns) and order."""

    path: str
    rows: int
    size: int
    day: str
    shard: int
    level: int
    tags: tuple[int, int]
    times: tuple[int, int]
    orders: tuple[int, int]

    def may_overlap(self, other: File) -> bool:
        """Whether ranges of tag and time both meet."""
        return (
            self.tags[0] <= other.tags[1]
            and other.tags[0] <= self.tags[1]
            and self.times[0] <= other.times[1]
            and other.times[0] <= self.times[1]
        )


def level_of(path: str) -> int:
    """Level from a file's name.

    Examples
    --------
    >>> level_of("day=2026-11-24/shard=0/chunk-s2-ab-0-9-00-11.parquet"), level_of("day=2026-11-24/shard=0/block-append-x.parquet")
    (2, 0)
    """
    found = _LEVEL.search(path)
    return int(found[1]) if found else 0


def files_of(frame: pl.DataFrame, *, rollups: bool = False) -> list[File]:
    """The files of a log that hold samples, oldest write first; with `rollups` those of roll-up rows too."""
    out = [
        File(
            row["path"],
            parse_name(row["path"]).rows,
            row["size_bytes"],
            row["partition.day"].isoformat(),
            int(row["partition.shard"]),
            level_of(row["path"]),
            (row["min.tag_min"], row["max.tag_max"]),
            (row["min.start_ns"], row["max.end_ns"]),
            (row["min.order"], row["max.order"]),
        )
        for row in frame.iter_rows(named=True)
        if rollups or parse_name(row["path"]).kind != ROLLUP
    ]
    return sorted(out, key=lambda f: (f.orders, f.path))


def hot_slices(files: Sequence[File], rows_max: int, *, sealed_blocks: bool = False) -> list[list[File]]:
    """Hot files in the order written, in runs of at most `rows_max` samples (or one file).

    With `sealed_blocks` also the blocks an earlier compaction left for tags that had too few samples for a chunk.
    """
    out: list[list[File]] = []
    total = 0
    for file in files:
        if file.level and not (sealed_blocks and parse_name(file.path).kind == BLOCK):
            continue
        if not out or total + file.rows > rows_max:
            out.append([])
            total = 0
        out[-1].append(file)
        total += file.rows
    return out


def tiers(files: Sequence[File], now_ns: int) -> list[tuple[int, list[File]]]:
    """(level to write, files) of the days that have enough sealed files to merge, or are over and not yet whole."""
    out = []
    days: dict[str, list[File]] = {}
    for file in files:
        if file.level:
            days.setdefault(file.day, []).append(file)
    for _, mine in sorted(days.items()):
        small = [file for file in mine if file.level < TOP]
        whole = [file for file in mine if file.level == TOP]
        if over(mine, now_ns) and small:
            late = [file for file in whole if any(file.may_overlap(other) for other in small)]
            cost = sum(file.rows for file in late)
            if not whole or len(small) >= FAN_IN or cost <= max(REWRITE_ROWS, 10 * sum(file.rows for file in small)):
                out.append((TOP, small + late))
            continue
        for level in sorted({file.level for file in small}):
            if sum(file.level == level for file in small) >= FAN_IN:
                out.append((min(level + 1, TOP - 1), [file for file in small if file.level == level]))
                break
    return out


def over(files: Sequence[File], now_ns: int) -> bool:
    """Whether the day of these files is over (by an hour: most of what comes late is there by then)."""
    return max(file.times[1] for file in files) // DAY_NS < (now_ns - DAY_NS // 24) // DAY_NS


def closure(inputs: Sequence[File], others: Sequence[File]) -> list[File]:
    """`inputs` and every other file that a merge of them must not jump over."""
    chosen = {file.path: file for file in inputs}
    growing = True
    while growing:
        growing = False
        newest = max(file.orders[1] for file in chosen.values())
        for file in others:
            if file.path in chosen or file.orders[0] > newest:
                continue
            # `file` has rows older than the newest input: harmless unless they are newer than an input they overlap.
            if any(file.orders[1] >= mine.orders[0] and file.may_overlap(mine) for mine in list(chosen.values())):
                chosen[file.path] = file
                growing = True
    return sorted(chosen.values(), key=lambda f: (f.orders, f.path))
