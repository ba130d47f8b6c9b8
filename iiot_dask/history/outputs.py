"""Sorted samples become sealed files, and the proof that they hold what went in. Used by compaction, retention and imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from iiot_dask.core.errors import ChecksumError
from iiot_dask.history import layout
from iiot_dask.history.blobs import Blobs
from iiot_dask.history.block import Columns, days, write_file
from iiot_dask.history.kernels import digest
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.merge import TOP, File, over
from iiot_dask.history.read import in_order
from iiot_dask.history.seal import Head, seal
from iiot_dask.history.verify import read_back

if TYPE_CHECKING:
    from iiot_dask.history.history import History

MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sealing:
    """How samples are sealed. Picklable.

    `level` of the files, write `order` of their rows, days that are over and `whole` in them (those get level `merge.TOP`),
    fewest samples of a tag's chunk, and a `token` that makes the files' names theirs alone.
    """

    level: int
    order: int
    whole: frozenset[str]
    chunk_rows_min: int
    token: str


def whole_days(inputs: Sequence[File], files: Sequence[File], now_ns: int) -> frozenset[str]:
    """Days of `inputs` that are over and have no other files."""
    merged = {f.path for f in inputs}
    others = {f.day for f in files if f.path not in merged}
    days = {f.day for f in inputs} - others
    return frozenset(day for day in days if over([f for f in inputs if f.day == day], now_ns))


class Outputs:
    """Sealed rows, gathered by day and kind, written as files of at most `layout.FILE_ROWS_MAX` samples."""

    def __init__(self, history: History, sealing: Sealing) -> None:
        self.history = history
        self.sealing = sealing
        self.entries: list[FileEntry] = []
        self._pending: dict[tuple[str, str], tuple[list[Head], list[Blobs]]] = {}
        self._rows: dict[tuple[str, str], int] = {}

    def take(self, columns: Columns) -> None:
        """Seal sorted samples (by tag id)."""
        for day, part in days(columns):
            for kind, head, blobs in seal(part, self.sealing.order, self.sealing.chunk_rows_min):
                key = (day, kind)
                heads, all_blobs = self._pending.setdefault(key, ([], []))
                heads.append(head)
                all_blobs.extend(blobs)
                self._rows[key] = self._rows.get(key, 0) + int(head["count"].sum())
                if self._rows[key] >= layout.FILE_ROWS_MAX:
                    self._write(key)

    def finish(self) -> list[FileEntry]:
        """Write what is pending; all files written."""
        for key in sorted(self._pending):
            self._write(key)
        return self.entries

    def _write(self, key: tuple[str, str]) -> None:
        day, kind = key
        heads, blobs = self._pending.pop(key)
        self._rows.pop(key)
        head = {name: np.concatenate([h[name] for h in heads]) for name in heads[0]}
        names = self.history.tags.series(head["tag_id"]).to_list() if kind == layout.CHUNK else None
        level = TOP if day in self.sealing.whole else self.sealing.level
        name = f"s{level}-{self.sealing.token}"
        self.entries.append(write_file(self.history.store, kind, name, len(self.entries), day, 0, head, blobs, names))


@dataclass(frozen=True, slots=True)
class Tally:
    """The proof: samples decoded, samples kept and their checksum, against what inputs said and outputs hold. Picklable."""

    expected: int
    held: int = 0
    kept: int = 0
    sum: int = 0

    def count(self, columns: Columns, held: int) -> Tally:
        """With some more samples kept (by tag id), of `held` that were decoded."""
        tag, time, value, quality = columns
        return replace(
            self,
            held=self.held + held,
            kept=self.kept + len(tag),
            sum=(self.sum + digest(tag, time, value, quality)) & MASK,
        )

    def prove(self, history: History, entries: Sequence[FileEntry]) -> None:
        """Read the outputs back and compare.

        Raises
        ------
        ChecksumError
            If anything does not add up.
        """
        found = list(in_order(entries, lambda e: read_back(history.store, e.path)))
        rows, total = sum(n for n, _ in found), sum(d for _, d in found) & MASK
        if (self.held, rows, total) != (self.expected, self.kept, self.sum):
            msg = (
                f"sealing in {history.url!r} does not add up and was not committed: inputs say {self.expected} samples and "
                f"hold {self.held}; {self.kept} were kept and the outputs hold {rows} (checksum {total:016x}, {self.sum:016x})"
            )
            raise ChecksumError(msg)
