"""Left-overs of a crash: files that no version of the table names. Which are surely dead, and their removal.

A file is written first and committed after, so one that is not committed may only be waiting. It is dead when

* it is older than a limit (an hour), or
* it is of an append or load, and none was under way between the listing and the newest look at the log: they hold a shared lock
  from first file to commit, which whoever sweeps takes for an instant, or
* it is of a compaction or retention: one at a time holds a lock, and whoever sweeps holds it, or
* it is of a stream that has committed past it, or
* it is a temporary file of a process of this host that is no more.

Locks are of the local file system. On object stores, and for writers on other hosts without such locks, age alone counts.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from iiot_dask.core.errors import CapacityError, map_errors
from iiot_dask.history.store import TEMPORARY, Store, process_name, started

if TYPE_CHECKING:
    from iiot_dask.history.history import History

AGE_NS = 3_600 * 10**9
_APPEND = re.compile(r"(?:block|chunk)-(?:append-|s1-load-)")
_CARE = re.compile(r"(?:block|chunk)-s\d-|rollup-w\d+-")
_STREAM = re.compile(r"block-(?P<app>.+)-(?P<first>\d+)-(?P<stop>\d+)-\d+-\d+-\d+-[0-9a-f]{16}-[0-9a-f]{32}\.parquet")
_TEMPORARY = re.compile(re.escape(TEMPORARY) + r"(?P<owner>.+-\d+-\d+)-[0-9a-f]+")


@contextlib.contextmanager
def locked(store: Store, name: str, *, shared: bool) -> Iterator[None]:
    """Hold a lock of a local table, shared or alone; waits for it. Nothing on an object store."""
    if store.local is None:
        yield
        return
    with _open(store.local, name) as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _open(root: Path, name: str) -> Iterator[int]:
    folder = root / "_locks"
    with map_errors({OSError: CapacityError}, f"locking {str(folder / name)!r}"):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def appending(store: Store) -> contextlib.AbstractContextManager[None]:
    """What an append or load holds from its first file to its commit."""
    return locked(store, "append", shared=True)


def caring(store: Store) -> contextlib.AbstractContextManager[None]:
    """What a compaction or retention holds: one at a time."""
    return locked(store, "care", shared=False)


def _no_append_under_way(store: Store) -> bool:
    """Whether, at some moment during this call, no append held its lock. Never waits, so ingest is not held up."""
    if store.local is None:
        return False
    with _open(store.local, "append") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _gone(name: str) -> bool:
    """Whether a temporary file's process was of this host and is no more."""
    found = _TEMPORARY.fullmatch(name)
    if found is None or not Path("/proc/self/stat").exists():
        return False
    host, pid, since = found["owner"].rsplit("-", 2)
    return host == process_name().rsplit("-", 2)[0] and started(int(pid)) != int(since)


def sweep(history: History, age_ns: int = AGE_NS) -> list[str]:
    """Delete what is surely dead; the paths. The caller holds `caring`.

    Raises
    ------
    CapacityError
        If the storage refuses.
    """
    from deltalake.exceptions import DeltaError

    store, log = history.store, history.log
    listed = list(store.list())
    settled = _no_append_under_way(store)
    # Looked at after the listing: what was committed in between is then not mistaken for a left-over.
    log.refresh()
    with map_errors({DeltaError: CapacityError}, f"listing dead files of {history.url!r}"):
        known = set(log.paths()) | set(log.table.vacuum(0, dry_run=True, enforce_retention_duration=False))
    before = history.clock.now_ns() - age_ns
    offsets: dict[str, int] = {}
    dead = []
    for found in listed:
        name = found.path.rsplit("/", 1)[-1]
        if found.path in known:
            continue
        stream = _STREAM.fullmatch(name)
        if stream is not None and stream["app"] not in offsets:
            offsets[stream["app"]] = log.transaction(stream["app"]) or 0
        if (
            found.modified_ns < before
            or (settled and _APPEND.match(name))
            or (store.local is not None and not _APPEND.match(name) and _CARE.match(name))
            or (stream is not None and int(stream["stop"]) <= offsets[stream["app"]])
            or _gone(name)
        ):
            dead.append(found.path)
    for path in dead:
        store.delete(path)
    return dead
