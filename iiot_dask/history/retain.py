"""`retain`: rows past their time become windows, coarser windows, nothing; in atomic commits that prove themselves first.

Day by day: the files that hold rows before the limit, and every file whose rows they may repeat, are decoded in groups of
bounded size; what is older than the limit is folded into windows (with those that are there already, so that late rows repair
them), what is younger is sealed again. Before the commit: every sample was decoded once, every sample not rolled up is in the
outputs (counts and checksums of the outputs as read back), and the windows stand for as many good samples as went in.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.core.errors import CapacityError, ChecksumError
from iiot_dask.history import delta, layout, rollup
from iiot_dask.history.blobs import Blobs
from iiot_dask.history.block import Columns, where, write_file
from iiot_dask.history.compact import ROWS_MAX, Progress
from iiot_dask.history.index import NS_MAX, NS_MIN
from iiot_dask.history.jobs import run_jobs
from iiot_dask.history.layout import FileEntry
from iiot_dask.history.merge import File, closure, files_of
from iiot_dask.history.outputs import MASK, Outputs, Sealing, Tally, whole_days
from iiot_dask.history.place import decode_counted
from iiot_dask.history.read import Group, in_order, plan
from iiot_dask.history.retention import Retention, Step
from iiot_dask.history.rollup import Windows
from iiot_dask.history.verify import read_back_windows

if TYPE_CHECKING:
    from iiot_dask.history.history import History

FILE_ROWS = 100_000
"""Roll-up rows of a file."""
TRIES_MAX = 5
"""Times a day is begun anew because late rows for it were committed meanwhile."""


@dataclass(frozen=True, slots=True)
class Retained:
    """What `retain` did, or would do (`dry_run`).

    `samples` and `windows` are those rolled up or dropped; `windows_made` those that stand for them. `steps` says in words what
    was past its time. Bytes are of live files.
    """

    dry_run: bool
    policy: str
    samples: int = 0
    windows: int = 0
    windows_made: int = 0
    files_before: int = 0
    files_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    commits: int = 0
    conflicts: int = 0
    version: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def retain(
    history: History,
    policy: Retention,
    progress: Progress | None = None,
    *,
    dry_run: bool = True,
    rows_max: int = ROWS_MAX,
    client: Any | None = None,
) -> Retained:
    """Apply a policy; see `History.retain`."""
    history.log.refresh()
    history.tags.refresh()
    before = files_of(history.log.files(), rollups=True)
    steps = list(policy.steps(history.clock.now_ns()))
    said = [_said(step, _due(before, step)) for step in steps]
    result = Retained(dry_run, policy.text(), steps=[s for s in said if s["files"]])
    if dry_run:
        result = replace(
            result,
            samples=sum(s["rows"] for s in said if not s["source_ns"]),
            windows=sum(s["rows"] for s in said if s["source_ns"]),
        )
    else:
        work = _Work(history, rows_max, progress, sum(s["rows"] for s in said), client, result)
        for step in steps:
            work.step(step)
        result = work.result
    after = files_of(history.log.files(), rollups=True)
    return replace(
        result,
        files_before=len(before),
        files_after=len(after),
        bytes_before=sum(f.size for f in before),
        bytes_after=sum(f.size for f in after),
        version=history.log.version,
    )


def _said(step: Step, due: Sequence[File]) -> dict[str, Any]:
    return {
        "source_ns": step.source,
        "target_ns": step.target,
        "before_ns": step.before,
        "files": len(due),
        "rows": sum(f.rows for f in due),
    }


def _due(files: Sequence[File], step: Step) -> list[File]:
    """Files of the step's source with rows before its limit."""
    return [f for f in files if rollup.every_of(f.path) == step.source and f.times[0] < step.before]


def batches(due: Sequence[File]) -> list[list[File]]:
    """Files by day, oldest first."""
    days: dict[str, list[File]] = {}
    for file in due:
        days.setdefault(file.day, []).append(file)
    return [days[day] for day in sorted(days)]


def together(chosen: Sequence[File], files: Sequence[File], step: Step) -> list[File]:
    """`chosen` and all files that must be taken with them: what may repeat their rows, or lies between them in order."""
    due = _due(files, step)
    mine = [f for f in files if rollup.every_of(f.path) == step.source]
    out = {f.path: f for f in chosen}
    while True:
        known = len(out)
        for file in due:
            if file.path not in out and any(file.may_overlap(other) for other in out.values()):
                out[file.path] = file
        if not step.source:
            out = {f.path: f for f in closure(list(out.values()), mine)}
        if len(out) == known:
            return sorted(out.values(), key=lambda f: (f.orders, f.path))


@dataclass(frozen=True, slots=True)
class Roll:
    """One commit's work, for whoever carries it out. Picklable.

    `inputs` hold rows of the step's source, `repaired` windows of its target that theirs may add to.
    """

    url: str
    options: Mapping[str, str] | None
    step: Step
    inputs: tuple[File, ...]
    repaired: tuple[File, ...]
    sealing: Sealing
    rows_max: int


@dataclass(frozen=True, slots=True)
class Rolled:
    """What was written and proved: files, rows rolled up or dropped, windows made."""

    entries: list[FileEntry]
    rolled: int
    made: int


def roll_files(job: Roll, history: History | None = None) -> Rolled:
    """Read, fold, seal, write and prove, in bounded memory; runs anywhere the storage is reached from.

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
    work = _Rolling(history, job)
    files = (*job.inputs, *job.repaired)
    orders = {f.path: f.orders[1] for f in files}
    rows = history.index.rows(orders, None, NS_MIN, NS_MAX, orders)
    ids = np.arange(len(history.tags), dtype=np.int64)
    for found in in_order(plan(rows, ids, NS_MIN, NS_MAX, job.rows_max), work.decode, ahead=1):
        work.take(*found)
    entries = work.finish()
    work.prove(entries)
    return Rolled(entries, work.rolled, work.made)


@dataclass(slots=True)
class _Work:
    history: History
    rows_max: int
    progress: Progress | None
    total: int
    client: Any | None
    result: Retained
    done: int = 0

    def step(self, step: Step) -> None:
        """Carry out one step: days apart from each other at once, again while other writers were first."""
        for tried in range(TRIES_MAX):
            self.history.log.refresh()
            files = files_of(self.history.log.files(), rollups=True)
            jobs = self._jobs(files, step)
            work = roll_files if self.client is not None else partial(roll_files, history=self.history)
            for job, rolled in run_jobs(jobs, work, self.client):
                self._settle(job, rolled, files, last_try=tried == TRIES_MAX - 1)
            files = files_of(self.history.log.files(), rollups=True)
            if not _due(files, step):
                return
        msg = f"retention of {self.history.url!r}: other writers changed the same files {TRIES_MAX} times in a row"
        raise CapacityError(msg)

    def _jobs(self, files: Sequence[File], step: Step) -> list[Roll]:
        """Jobs that touch different files."""
        history, taken, jobs = self.history, set[str](), []
        for batch in batches(_due(files, step)):
            gone = [f for f in batch if f.times[1] < step.before]
            # Without a target, files whose every row is past its time need not be read.
            inputs = gone if not step.target and gone else together(batch, files, step)
            repaired = _repaired(inputs, files, step)
            if any(f.path in taken for f in (*inputs, *repaired)):
                continue  # the next try takes them
            taken |= {f.path for f in (*inputs, *repaired)}
            sealing = Sealing(
                max(f.level for f in inputs),
                max(f.orders[1] for f in (*inputs, *repaired)),
                whole_days(inputs, files, history.clock.now_ns()),
                layout.CHUNK_ROWS_MIN,
                secrets.token_hex(8),
            )
            jobs.append(
                Roll(history.url, history.store.options, step, tuple(inputs), tuple(repaired), sealing, self.rows_max)
            )
        return jobs

    def _settle(self, job: Roll, rolled: Rolled, files: Sequence[File], *, last_try: bool) -> None:
        rows_in = sum(f.rows for f in job.inputs)
        self.done += rows_in
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))
        if not self._commit(job, rolled.entries, {f.path for f in files}, last_try=last_try):
            for entry in rolled.entries:
                self.history.store.delete(entry.path)
            self.result = replace(self.result, conflicts=self.result.conflicts + 1)
            return
        samples, windows = (0, rolled.rolled) if job.step.source else (rolled.rolled, 0)
        self.result = replace(
            self.result,
            commits=self.result.commits + 1,
            samples=self.result.samples + samples,
            windows=self.result.windows + windows,
            windows_made=self.result.windows_made + rolled.made,
        )

    def _commit(self, job: Roll, entries: list[FileEntry], known: set[str], *, last_try: bool) -> bool:
        log = self.history.log
        removed = (*job.inputs, *job.repaired)
        while True:
            log.refresh()
            now = files_of(log.files(), rollups=True)
            there = {f.path for f in now}
            if any(f.path not in there for f in removed):
                return False
            fresh = [f for f in _due(now, job.step) if f.path not in known]
            # Late rows of the same time: counted properly only if taken along, so begin anew (but not for ever).
            if not last_try and any(f.may_overlap(mine) for f in fresh for mine in job.inputs):
                return False
            actions: list[delta.Action] = [
                *(
                    delta.remove(f.path, f.size, {"day": f.day, "shard": str(f.shard)}, data_change=True)
                    for f in removed
                ),
                *(delta.add(e.path, e.size, {"day": e.day, "shard": str(e.shard)}, e.stats) for e in entries),
            ]
            if log.commit(actions, exact=True, metadata={"operationParameters": {"retention": "true"}}):
                log.refresh()
                return True


def _repaired(inputs: Sequence[File], files: Sequence[File], step: Step) -> list[File]:
    """Files of the target's windows that the inputs' may add to."""
    if not step.target:
        return []
    # A window reaches before its first sample: inputs are taken as whole windows.
    wide = [replace(f, times=(f.times[0] // step.target * step.target, f.times[1])) for f in inputs]
    return [f for f in files if rollup.every_of(f.path) == step.target and any(f.may_overlap(mine) for mine in wide)]


class _Rolling:
    """Groups in, files out, and the proof."""

    def __init__(self, history: History, job: Roll) -> None:
        self.history = history
        self.step = job.step
        self.token = job.sealing.token
        self.order = job.sealing.order
        self.tally = Tally(sum(f.rows for f in job.inputs))
        self.outputs = None if job.step.source else Outputs(history, job.sealing)
        self.rolled = self.made = 0
        self._digest = 0
        self._entries: list[FileEntry] = []
        self._pending: dict[tuple[str, int], tuple[list[Any], list[Blobs]]] = {}

    def decode(self, group: Group) -> tuple[Columns | None, int, dict[int, Windows]]:
        """Samples of a group (None: there are none), how many its rows held, and its windows by their length."""
        every = np.array([rollup.every_of(f.path) for f in group.rows.files], np.int64)
        length = every[group.rows.file] if len(every) else np.zeros(0, np.int64)
        windows = {}
        for e in {self.step.source, self.step.target} - {0}:
            rows = group.rows.take((length == e) & np.isin(group.rows.head["tag_id"], group.ids))
            found = Windows.join(rollup.read(self.history.store, rows))
            windows[e] = found.take((found.window >= group.start) & (found.window <= group.last))
        samples = group.rows.take(length == 0)
        if not len(samples):
            return None, 0, windows
        columns, held = decode_counted(self.history.store, Group(group.ids, group.start, group.last, samples))
        return (group.ids[columns[0]], *columns[1:]), held, windows

    def take(self, columns: Columns | None, held: int, windows: dict[int, Windows]) -> None:
        """Fold what is old, keep what is young."""
        source, target, before = self.step.source, self.step.target, self.step.before
        aged = Windows.empty()
        if columns is not None:
            old = columns[1] < before
            self.rolled += int(old.sum())
            young = where(columns, ~old)
            self.tally = self.tally.count(young, held)
            assert self.outputs is not None, "samples come from samples only"
            if len(young[0]):
                self.outputs.take(young)
            if target:
                aged = rollup.of_samples(where(columns, old), target)
        if source:
            fine = windows[source]
            old = fine.window < before
            self.rolled += int(old.sum())
            self._keep(rollup.fold(fine.take(~old), source), source)
            aged = fine.take(old)
        if target:
            whole = Windows.join([windows[target], aged])
            folded = rollup.fold(whole, target)
            if int(folded.good.sum()) != int(whole.good.sum()):
                msg = f"retention of {self.history.url!r} does not add up and was not committed: windows lost samples"
                raise ChecksumError(msg)
            self.made += len(folded)
            self._keep(folded, target)

    def _keep(self, windows: Windows, every: int) -> None:
        if not len(windows):
            return
        self._digest = (self._digest + rollup.digest(windows)) & MASK
        day = windows.window // layout.DAY_NS
        for d in np.unique(day).tolist():
            key = (layout.day_text(d * layout.DAY_NS), every)
            heads, blobs = self._pending.setdefault(key, ([], []))
            head, encoded = rollup.rows_of(windows.take(day == d), every, self.order)
            heads.append(head)
            blobs.extend(encoded)
            if len(blobs) >= FILE_ROWS:
                self._write(*key)

    def _write(self, day: str, every: int) -> None:
        heads, blobs = self._pending.pop((day, every))
        head = {name: np.concatenate([h[name] for h in heads]) for name in heads[0]}
        names = self.history.tags.series(head["tag_id"]).to_list()
        name = f"w{every}-{self.token}"
        self._entries.append(
            write_file(self.history.store, layout.ROLLUP, name, len(self._entries), day, 0, head, blobs, names)
        )

    def finish(self) -> list[FileEntry]:
        """All files written."""
        for key in sorted(self._pending):
            self._write(*key)
        return [*self._entries, *(self.outputs.finish() if self.outputs is not None else [])]

    def prove(self, entries: list[FileEntry]) -> None:
        """Raise ChecksumError unless everything adds up."""
        found = sum(read_back_windows(self.history.store, e.path) for e in self._entries) & MASK
        if found != self._digest:
            msg = f"retention of {self.history.url!r} does not add up and was not committed: windows were not stored as made"
            raise ChecksumError(msg)
        if self.outputs is not None:
            self.tally.prove(self.history, [e for e in entries if e not in self._entries])
