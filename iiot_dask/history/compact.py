"""`compact`: hot blocks become sealed chunks, in atomic commits that prove themselves first.

A merge reads some files, writes their samples anew and swaps old for new in one commit. Before that commit: every sample of
the inputs was decoded exactly once (their counts add up), every sample that was not a duplicate is in the outputs (counts
and an order-independent checksum, of the outputs as read back from the storage), and every input is still in the log. Appends
go on meanwhile; if one takes the next version first, the commit is tried after it. Readers see the table before or after.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.core.errors import CapacityError, ChecksumError
from iiot_dask.history import delta, layout
from iiot_dask.history.blobs import Blobs
from iiot_dask.history.block import Columns, days, write_file
from iiot_dask.history.index import NS_MAX, NS_MIN
from iiot_dask.history.kernels import digest
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.merge import TOP as TOP_LEVEL
from iiot_dask.history.merge import File, closure, files_of, hot_slices, over, tiers
from iiot_dask.history.place import decode_counted
from iiot_dask.history.read import in_order, plan
from iiot_dask.history.seal import Head, seal
from iiot_dask.history.verify import read_back

if TYPE_CHECKING:
    from iiot_dask.history.history import History

ROWS_MAX = 6_000_000
"""Samples merged at a time (about 100 bytes each in memory)."""
COMMITS_MAX = 100
"""Tries of one commit while appends keep taking the next version."""
MASK = (1 << 64) - 1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did, or would do (`dry_run`: then the `after` figures are those of before).

    Samples and bytes are of the files merged; a sample merged twice counts twice in neither. `duplicates` are samples dropped
    because a later write has their (tag, time). `merges` counts commits, `conflicts` those lost to another compaction.
    """

    dry_run: bool
    merges: int = 0
    conflicts: int = 0
    duplicates: int = 0
    rows_before: int = 0
    rows_after: int = 0
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    version: int = 0

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def compact(
    history: History,
    progress: Progress | None = None,
    *,
    dry_run: bool = False,
    rows_max: int = ROWS_MAX,
    chunk_rows_min: int = layout.CHUNK_ROWS_MIN,
) -> Compaction:
    """Seal hot blocks and merge small sealed files; see `History.compact`."""
    history.log.refresh()
    history.tags.refresh()
    before = files_of(history.log.files())
    slices = hot_slices(before, rows_max, sealed_blocks=chunk_rows_min < layout.CHUNK_ROWS_MIN)
    rest = tiers(before, history.clock.now_ns())
    total = sum(f.rows for part in slices for f in part) + sum(f.rows for _, part in rest for f in part)
    if dry_run:
        return _report(history, before, Compaction(dry_run=True, merges=len(slices) + len(rest)))
    work = _Work(history, rows_max, chunk_rows_min, progress, total)
    for part in slices:
        work.merge(part, 1)
    while found := tiers(files_of(history.log.files()), history.clock.now_ns()):
        done = [work.merge(part, level) for level, part in found]
        if not any(done):
            break
    return _report(history, before, work.result)


def _report(history: History, before: list[File], result: Compaction) -> Compaction:
    after = files_of(history.log.files())
    return replace(
        result,
        rows_before=sum(f.rows for f in before),
        rows_after=sum(f.rows for f in after),
        files_before=len(before),
        files_after=len(after),
        bytes_before=sum(f.size for f in before),
        bytes_after=sum(f.size for f in after),
        version=history.log.version,
    )


@dataclass(slots=True)
class _Work:
    history: History
    rows_max: int
    chunk_rows_min: int
    progress: Progress | None
    total: int
    done: int = 0
    result: Compaction = field(default_factory=lambda: Compaction(dry_run=False))

    def merge(self, wanted: list[File], level: int) -> bool:
        """Merge files into ones of `level`; False if another compaction was first (nothing is changed then)."""
        history = self.history
        history.log.refresh()
        files = files_of(history.log.files())
        there = {f.path for f in files}
        if any(f.path not in there for f in wanted):
            return self._lost()
        inputs = closure(wanted, files)
        outputs = Outputs(history, max(level, *(f.level for f in inputs)), inputs, files, self.chunk_rows_min)
        tally = Tally(sum(f.rows for f in inputs))
        rows = history.index.rows([f.path for f in inputs], None, NS_MIN, NS_MAX, {f.path: f.orders[1] for f in inputs})
        ids = np.arange(len(history.tags), dtype=np.int64)
        groups = plan(rows, ids, NS_MIN, NS_MAX, self.rows_max)
        for group, (columns, held) in in_order(groups, lambda g: (g, decode_counted(history.store, g)), ahead=1):
            named = (group.ids[columns[0]], *columns[1:])
            tally.count(named, held)
            outputs.take(named)
            self.done += held
            if self.progress is not None:
                self.progress(self.done, max(self.total, self.done))
        entries = outputs.finish()
        tally.prove(history, entries)
        if not self._commit(inputs, entries):
            for entry in entries:
                history.store.delete(entry.path)
            return self._lost()
        self.result = replace(
            self.result, merges=self.result.merges + 1, duplicates=self.result.duplicates + tally.held - tally.kept
        )
        return True

    def _lost(self) -> bool:
        self.result = replace(self.result, conflicts=self.result.conflicts + 1)
        return False

    def _commit(self, inputs: list[File], entries: list[FileEntry]) -> bool:
        log = self.history.log
        for _ in range(COMMITS_MAX):
            log.refresh()
            there = set(log.paths())
            if any(f.path not in there for f in inputs):
                return False
            actions: list[delta.Action] = [
                *(delta.remove(f.path, f.size, {"day": f.day, "shard": str(f.shard)}) for f in inputs),
                *(
                    delta.add(e.path, e.size, {"day": e.day, "shard": str(e.shard)}, e.stats, data_change=False)
                    for e in entries
                ),
            ]
            # Exactly at the next version: delta-rs does not notice two commits that remove the same file.
            if log.commit(actions, exact=True, metadata={"operationParameters": {"compaction": "true"}}):
                log.refresh()
                return True
        msg = f"compaction of {self.history.url!r}: {COMMITS_MAX} commits in a row lost to appends"
        raise CapacityError(msg)


@dataclass(slots=True)
class Tally:
    """The proof: samples decoded, samples kept and their checksum, against what the inputs said and the outputs hold."""

    expected: int
    held: int = 0
    kept: int = 0
    sum: int = 0

    def count(self, columns: Columns, held: int) -> None:
        """Samples kept (by tag id), of how many that were decoded."""
        tag, time, value, quality = columns
        self.held += held
        self.kept += len(tag)
        self.sum = (self.sum + digest(tag, time, value, quality)) & MASK

    def prove(self, history: History, entries: list[FileEntry]) -> None:
        """Raise ChecksumError unless everything adds up."""
        found = list(in_order(entries, lambda e: read_back(history.store, e.path)))
        rows, total = sum(n for n, _ in found), sum(d for _, d in found) & MASK
        if (self.held, rows, total) != (self.expected, self.kept, self.sum):
            msg = (
                f"compaction of {history.url!r} does not add up and was not committed: inputs say {self.expected} samples and "
                f"hold {self.held}; {self.kept} were kept and the outputs hold {rows} (checksum {total:016x}, {self.sum:016x})"
            )
            raise ChecksumError(msg)


class Outputs:
    """Sealed rows, gathered by day and kind, written as files of at most `layout.FILE_ROWS_MAX` samples."""

    def __init__(
        self, history: History, level: int, inputs: list[File], files: list[File], chunk_rows_min: int
    ) -> None:
        self.history = history
        self.chunk_rows_min = chunk_rows_min
        self.level = level
        self.order = max(f.orders[1] for f in inputs)
        self.token = secrets.token_hex(8)
        self.entries: list[FileEntry] = []
        self._pending: dict[tuple[str, str], tuple[list[Head], list[Blobs]]] = {}
        self._rows: dict[tuple[str, str], int] = {}
        merged = {f.path for f in inputs}
        self._others = {f.day for f in files if f.path not in merged}
        self._over = {f.day for f in inputs if over([g for g in inputs if g.day == f.day], history.clock.now_ns())}

    def take(self, columns: Columns) -> None:
        """Seal sorted samples."""
        for day, part in days(columns):
            for kind, head, blobs in seal(part, self.order, self.chunk_rows_min):
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
        names = None
        if kind == layout.CHUNK:
            names = self.history.tags.series(head["tag_id"]).to_list()
        # A day that is over and all in these outputs is whole at once.
        level = TOP_LEVEL if day in self._over and day not in self._others else self.level
        name = f"s{level}-{self.token}"
        self.entries.append(write_file(self.history.store, kind, name, len(self.entries), day, 0, head, blobs, names))
