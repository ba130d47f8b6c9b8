"""`vacuum`: files no reader and no commit can want any more are deleted; by default only named.

Two sorts: files a commit removed (their tombstone in the log says when), and files no version of the log names (left by a
crash between write and commit, or temporary ones). Both must be older than the retention: a worker's file waits for its
commit, and a reader may be in the middle of a version that was replaced a moment ago.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from iiot_dask.core.errors import CapacityError, map_errors

if TYPE_CHECKING:
    from iiot_dask.history.history import History

_HOUR_NS = 3_600 * 10**9


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What `vacuum` deleted, or would delete: paths below the table and their bytes."""

    dry_run: bool
    files: list[str] = field(default_factory=list)
    bytes: int = 0

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def vacuum(history: History, retention_ns: int, *, dry_run: bool) -> Vacuumed:
    """Find and delete dead files older than `retention_ns`; see `History.vacuum`."""
    from deltalake.exceptions import DeltaError

    # Listed before the log is read: what is committed in between is then not mistaken for a left-over.
    listed = {found.path: found for found in history.store.list()}
    history.log.refresh()
    table = history.log.table
    with map_errors({DeltaError: CapacityError}, f"listing dead files of {history.url!r}"):
        hours = retention_ns // _HOUR_NS
        due = set(table.vacuum(hours, dry_run=True, enforce_retention_duration=False)) & set(listed)
        removed = set(table.vacuum(0, dry_run=True, enforce_retention_duration=False))
    alive = set(history.log.paths())
    before = history.clock.now_ns() - retention_ns
    orphans = {p for p, f in listed.items() if p not in alive and p not in removed and f.modified_ns < before}
    dead = sorted((due | orphans) - alive)
    if not dry_run:
        for path in dead:
            history.store.delete(path)
    return Vacuumed(dry_run, dead, sum(listed[path].size for path in dead))
