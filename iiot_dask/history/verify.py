"""`verify`: every byte of every file is read and checked; what is damaged is named, everything else stays readable.

Checked, outside in: the file is there and has the size and the hash (SHA-256) its name and the log say; its footer's hash;
every page's checksum; every row's check; every blob's checksum; the samples are sorted, as many as the row says, and have the
statistics it says, to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from iiot_dask.core.errors import ChecksumError, DataError, IiotError
from iiot_dask.history import layout, rollup
from iiot_dask.history.blobs import Blobs, Samples
from iiot_dask.history.index import FileIndex, Rows, read_index
from iiot_dask.history.jobs import run_jobs
from iiot_dask.history.kernels import digest, statistics
from iiot_dask.history.read import decode_row, in_order, read_blobs
from iiot_dask.history.rollup import Windows
from iiot_dask.history.store import Store

if TYPE_CHECKING:
    from iiot_dask.history.history import History

BATCH_ROWS = 64
"""Rows of a file decoded at a time."""
JOB_FILES = 8
"""Files of a job on a cluster."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: files, rows (samples) and bytes checked and intact, and one sentence for each damage."""

    files: int
    rows: int
    bytes: int
    damaged: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"ok": self.ok, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Checks:
    """Files to check, as the log has them, for whoever does it. Picklable."""

    url: str
    options: Mapping[str, str] | None
    entries: tuple[Mapping[str, Any], ...]
    tags: int


def check_files(job: Checks) -> list[tuple[int, int, list[str]]]:
    """(bytes, samples, problems) of each file."""
    store = Store(job.url, job.options)
    found = in_order(job.entries, lambda entry: _check(store, entry, job.tags))
    return [(int(e["size_bytes"]), rows, problems) for e, (_, rows, problems) in zip(job.entries, found, strict=True)]


def verify(history: History, progress: Progress | None = None, client: Any | None = None) -> Verification:
    """Check the log and every file of the table; see `History.verify`."""
    damaged: list[str] = []
    try:
        history.log.refresh()
        files = list(history.log.files().iter_rows(named=True))
    except IiotError as error:
        return Verification(0, 0, 0, [str(error)])
    try:
        history.tags.refresh()
    except IiotError as error:
        damaged.append(str(error))
    tags, options = len(history.tags), history.store.options
    size = JOB_FILES if client is not None else os.cpu_count() or 1
    jobs = [Checks(history.url, options, tuple(files[a : a + size]), tags) for a in range(0, len(files), size)]
    rows = total = good = done = 0
    for _, found in run_jobs(jobs, check_files, client):
        for length, held, problems in found:
            damaged += problems
            if not problems:
                good, rows, total = good + 1, rows + held, total + length
        done += len(found)
        if progress is not None:
            progress(done, len(files))
    return Verification(good, rows, total, sorted(damaged))


def _check(store: Store, entry: Mapping[str, Any], tags: int) -> tuple[str, int, list[str]]:
    """(path, samples, problems) of one file as the log has it."""
    path = entry["path"]
    try:
        check_bytes(store, path, entry["size_bytes"])
        file = read_index(store, path)
    except (IiotError, OSError) as error:
        return path, 0, [str(error)]
    problems: list[str] = []
    if int(file.head["tag_max"].max()) >= tags:
        problems.append(f"file {path!r} has tag id {int(file.head['tag_max'].max())}; the tag table knows {tags} tags")
    problems += _bounds(file, entry)
    for row, outcome in check_rows(store, file):
        if isinstance(outcome, IiotError):
            problems.append(_name(file, row, outcome))
    return path, int(file.head["count"].sum()), problems


def _bounds(file: FileIndex, entry: Mapping[str, Any]) -> list[str]:
    """What the log says of a file that its rows do not; the write order is the log's own."""
    found = layout.log_stats(file.head, layout.parse_name(file.path).kind)
    return [
        f"the log says {side}.{name} {entry.get(f'{side}.{name}')!r} of file {file.path!r}; its rows have {value!r}"
        for side in ("min", "max")
        for name, value in found[f"{side}Values"].items()
        if name != "order" and entry.get(f"{side}.{name}") != value
    ]


def _name(file: FileIndex, row: int, error: IiotError) -> str:
    head = file.head
    low, high = int(head["tag_min"][row]), int(head["tag_max"][row])
    tags = f"tag id {low}" if low == high else f"tag ids {low} to {high}"
    return f"{error} ({tags}, {int(head['start_ns'][row])} to {int(head['end_ns'][row])} ns)"


def check_bytes(store: Store, path: str, size: int) -> None:
    """Compare a file's size and hash with the log and its name.

    Raises
    ------
    ChecksumError
        If they differ.
    DataError
        If the file is missing.
    """
    content = memoryview(store.get(path))
    if len(content) != size:
        msg = f"file {path!r} under {store.url!r} has {len(content)} bytes; the log says {size}"
        raise ChecksumError(msg)
    if layout.file_hash(content) != layout.parse_name(path).hash:
        msg = f"file {path!r} under {store.url!r} is damaged: its bytes do not have the hash in its name"
        raise ChecksumError(msg)


def check_rows(store: Store, file: FileIndex) -> Iterator[tuple[int, Samples | Windows | IiotError]]:
    """Decode and check each row of a file: its number, and its samples (or windows) or what is wrong."""
    n = len(file.head["count"])
    rows = Rows([file], np.zeros(n, np.int64), np.arange(n), file.head)
    for first in range(0, n, BATCH_ROWS):
        numbers = np.arange(first, min(n, first + BATCH_ROWS))
        try:
            blobs = read_blobs(store, file, numbers)
        except DataError as error:
            yield from ((int(row), error) for row in numbers)
            continue
        for row, blob in zip(numbers.tolist(), blobs, strict=True):
            try:
                samples = _checked(blob, file, row, rows)
            except IiotError as error:
                yield row, error
            else:
                yield row, samples


def _checked(blobs: Blobs, file: FileIndex, row: int, rows: Rows) -> Samples | Windows:
    if rollup.is_rollup(file.path):
        windows = rollup.decode_named(
            blobs, int(file.head["tag_id"][row]), int(file.head["count"][row]), file.path, row
        )
        rollup.check(windows, file.head, row)
        return windows
    samples = decode_row(blobs, file.path, row, rows, row)
    _check_samples(samples, file, row)
    return samples


def _check_samples(samples: Samples, file: FileIndex, row: int) -> None:
    head = file.head
    time = samples.time
    edges = np.array([0, len(time)]) if samples.lengths is None else np.concatenate([[0], np.cumsum(samples.lengths)])
    rising = np.diff(time) > 0
    rising[edges[1:-1] - 1] = True
    ids = samples.runs
    if not rising.all() or (ids is not None and not (np.diff(ids) > 0).all()):
        msg = f"row {row} of file {file.path!r} is not sorted by tag and time"
        raise ChecksumError(msg)
    found = statistics(time, samples.value, samples.quality, np.array([0, len(time)], np.int64))
    names = (
        ("good", "min", "max", "sum")
        if ids is not None
        else ("good", "min", "max", "sum", "first", "last", "first_ns", "last_ns")
    )
    for name in names:
        if found[name].tobytes() != head[name][row : row + 1].tobytes():
            msg = (
                f"row {row} of file {file.path!r} says {name} {head[name][row]!r}; its samples have {found[name][0]!r}"
            )
            raise ChecksumError(msg)


def read_back(store: Store, path: str) -> tuple[int, int]:
    """Read a file just written, checking everything; its samples and their digest (see `kernels.digest`).

    Raises
    ------
    ChecksumError
        If anything is not as it should be.
    """
    _same_bytes(store, path)
    file = read_index(store, path)
    rows = total = 0
    for row, outcome in check_rows(store, file):
        if isinstance(outcome, IiotError):
            raise outcome
        assert isinstance(outcome, Samples), "windows are read back by read_back_windows"
        count = len(outcome.time)
        tag = np.full(count, file.head["tag_id"][row])
        if outcome.runs is not None and outcome.lengths is not None:
            tag = np.repeat(outcome.runs, outcome.lengths)
        rows += count
        total += digest(tag, outcome.time, outcome.value, outcome.quality)
    return rows, total


def read_back_windows(store: Store, path: str) -> int:
    """Read a file of roll-up rows just written, checking everything; the digest of its windows (see `rollup.digest`).

    Raises
    ------
    ChecksumError
        If anything is not as it should be.
    """
    _same_bytes(store, path)
    total = 0
    for _, outcome in check_rows(store, read_index(store, path)):
        if isinstance(outcome, IiotError):
            raise outcome
        assert isinstance(outcome, Windows), "the file's name says that it holds windows"
        total += rollup.digest(outcome)
    return total


def _same_bytes(store: Store, path: str) -> None:
    if layout.file_hash(memoryview(store.get(path))) != layout.parse_name(path).hash:
        msg = f"file {path!r} under {store.url!r} was not stored as written"
        raise ChecksumError(msg)
