"""`compact`: hot blocks become sealed chunks, in atomic commits that prove themselves first.

A merge reads some files, writes their samples anew and swaps old for new in one commit. Before that commit: every sample of
the inputs was decoded exactly once (their counts add up), every sample that was not a duplicate is in the outputs (counts
and an order-independent checksum, of the outputs as read back from the storage), and every input is still in the log. Appends
go on meanwhile; if one takes the next version first, the commit is tried after it. Readers see the table before or after.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.core.errors import CapacityError
from iiot_dask.history import delta, layout
from iiot_dask.history.index import NS_MAX, NS_MIN
from iiot_dask.history.jobs import run_jobs
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.merge import File, closure, files_of, hot_slices, tiers
from iiot_dask.history.outputs import Outputs, Sealing, Tally, whole_days
from iiot_dask.history.place import decode_counted
from iiot_dask.history.read import in_order, plan

if TYPE_CHECKING:
    from iiot_dask.history.history import History

ROWS_MAX = 6_000_000
"""Samples merged at a time (about 100 bytes each in memory)."""
COMMITS_MAX = 100
"""Tries of one commit while appends keep taking the next version."""
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
    client: Any | None = None,
) -> Compaction:
    """Seal hot blocks and merge small sealed files; see `History.compact`."""
    history.log.refresh()
    history.tags.refresh()
    before = files_of(history.log.files())
    slices = [(1, part) for part in hot_slices(before, rows_max, sealed_blocks=chunk_rows_min < layout.CHUNK_ROWS_MIN)]
    rest = tiers(before, history.clock.now_ns())
    total = sum(f.rows for _, part in (*slices, *rest) for f in part)
    if dry_run:
        return _report(history, before, Compaction(dry_run=True, merges=len(slices) + len(rest)))
    work = _Work(history, rows_max, chunk_rows_min, progress, total, client)
    work.merge(slices)
    while found := tiers(files_of(history.log.files()), history.clock.now_ns()):
        if not work.merge(found):
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


@dataclass(frozen=True, slots=True)
class Merge:
    """One merge, for whoever carries it out: the files to read and how to seal what they hold. Picklable."""

    url: str
    options: Mapping[str, str] | None
    inputs: tuple[File, ...]
    sealing: Sealing
    rows_max: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge wrote and proved; nothing is committed."""

    entries: list[FileEntry]
    tally: Tally


def merge_files(job: Merge, history: History | None = None, report: Callable[[int], None] | None = None) -> Merged:
    """Read, merge, seal, write and prove, in bounded memory; runs anywhere the storage is reached from.

    Raises
    ------
    ChecksumError
        If a file is damaged or anything does not add up.
    CapacityError
        If the storage refuses.
    """
    if history is None:
        from iiot_dask.history.history import History

        history = History(job.url, job.options)
    outputs = Outputs(history, job.sealing)
    tally = Tally(sum(f.rows for f in job.inputs))
    orders = {f.path: f.orders[1] for f in job.inputs}
    rows = history.index.rows(orders, None, NS_MIN, NS_MAX, orders)
    ids = np.arange(len(history.tags), dtype=np.int64)
    store = history.store
    groups = plan(rows, ids, NS_MIN, NS_MAX, job.rows_max)
    for group, (columns, held) in in_order(groups, lambda g: (g, decode_counted(store, g)), ahead=1):
        named = (group.ids[columns[0]], *columns[1:])
        tally = tally.count(named, held)
        outputs.take(named)
        if report is not None:
            report(held)
    entries = outputs.finish()
    tally.prove(history, entries)
    return Merged(entries, tally)


@dataclass(slots=True)
class _Work:
    history: History
    rows_max: int
    chunk_rows_min: int
    progress: Progress | None
    total: int
    client: Any | None
    done: int = 0
    result: Compaction = field(default_factory=lambda: Compaction(dry_run=False))

    def merge(self, wanted: Sequence[tuple[int, list[File]]]) -> bool:
        """Merge each (level, files) into files of that level; False if other compactions were first every time."""
        if self.client is not None:
            return self._all(self._jobs(wanted))
        # Alone, each merge is planned from the newest look at the log.
        won = [self._all(self._jobs([one])) for one in wanted]
        return any(won)

    def _jobs(self, wanted: Sequence[tuple[int, list[File]]]) -> list[Merge]:
        """Jobs that touch different files, whatever their merges have to draw in."""
        history = self.history
        history.log.refresh()
        files = files_of(history.log.files())
        there = {f.path for f in files}
        taken: set[str] = set()
        jobs = []
        for level, part in wanted:
            if any(f.path not in there for f in part):
                self._lost()
                continue
            inputs = closure(part, files)
            if any(f.path in taken for f in inputs):
                continue  # the next round takes it
            taken |= {f.path for f in inputs}
            sealing = Sealing(
                max(level, *(f.level for f in inputs)),
                max(f.orders[1] for f in inputs),
                whole_days(inputs, files, history.clock.now_ns()),
                self.chunk_rows_min,
                secrets.token_hex(8),
            )
            jobs.append(Merge(history.url, history.store.options, tuple(inputs), sealing, self.rows_max))
        return jobs

    def _all(self, jobs: Sequence[Merge]) -> bool:
        here = partial(merge_files, history=self.history, report=self._report)
        work = merge_files if self.client is not None else here
        won = False
        for job, merged in run_jobs(jobs, work, self.client):
            if self.client is not None:
                self._report(merged.tally.held)
            if self._commit(job.inputs, merged.entries):
                won = True
                dropped = merged.tally.held - merged.tally.kept
                self.result = replace(
                    self.result, merges=self.result.merges + 1, duplicates=self.result.duplicates + dropped
                )
                continue
            for entry in merged.entries:
                self.history.store.delete(entry.path)
            self._lost()
        return won

    def _report(self, held: int) -> None:
        self.done += held
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))

    def _lost(self) -> None:
        self.result = replace(self.result, conflicts=self.result.conflicts + 1)

    def _commit(self, inputs: Sequence[File], entries: list[FileEntry]) -> bool:
        log = self.history.log
        actions: list[delta.Action] = [
            *(delta.remove(f.path, f.size, {"day": f.day, "shard": str(f.shard)}) for f in inputs),
            *(
                delta.add(e.path, e.size, {"day": e.day, "shard": str(e.shard)}, e.stats, data_change=False)
                for e in entries
            ),
        ]
        for _ in range(COMMITS_MAX):
            log.refresh()
            there = set(log.paths())
            if any(f.path not in there for f in inputs):
                return False
            # Exactly at the next version: delta-rs does not notice two commits that remove the same file.
            if log.commit(actions, exact=True, metadata={"operationParameters": {"compaction": "true"}}):
                log.refresh()
                return True
        msg = f"compaction of {self.history.url!r}: {COMMITS_MAX} commits in a row lost to appends"
        raise CapacityError(msg)
