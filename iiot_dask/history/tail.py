"""The live tail: rows that are durable elsewhere, and not in the table yet, as rows of the index like any others.

A journal holds what a stream has not committed; whoever knows how to read it (stage `query`) gives a history a `Tail`. Its
records become *block rows* of a file that is no file: same columns, a write order above every committed one, samples
decoded on demand. So everything that reads rows (scan, windows, latest) needs no second way, and the last write wins as ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import CapacityError
from iiot_dask.history.blobs import Samples
from iiot_dask.history.delta import Log
from iiot_dask.history.index import FLOATS, INTS, LiveFile, Rows, in_set

ATTEMPTS_MAX = 20
"""Times a look at log and journal is tried again because a commit and a trim came in between."""


class Snapshot(Protocol):
    """What a tail held at one moment. Stays readable until closed, whatever the journal trims."""

    @property
    def heads(self) -> dict[str, npt.NDArray[Any]]:
        """Of each record: tag_min, tag_max, start_ns, end_ns, count (int64), in the order written."""
        ...

    def samples(self, row: int) -> Samples:
        """One record, decoded: sorted by tag then time, one a (tag, time), with its runs of tags."""
        ...


class Tail(Protocol):
    """Where rows wait for a stream to commit them."""

    @property
    def app_id(self) -> str:
        """Under which a stream commits them."""
        ...

    def snapshot(self, committed: int, *, complete: bool = True) -> Snapshot | None:
        """Everything from offset `committed` on; None if some of it is gone, because it was committed meanwhile.

        With `complete` False what is left of it, whatever is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Added:
    """A snapshot, ready to join committed rows."""

    snapshot: Snapshot

    def added_to(self, rows: Rows, ids: npt.NDArray[np.integer] | None, start: int, last: int) -> Rows:
        """`rows` and those of the snapshot that may hold samples of `ids` (None: all) with ``start <= time <= last``."""
        heads = self.snapshot.heads
        keep = (heads["end_ns"] >= start) & (heads["start_ns"] <= last)
        if ids is not None:
            keep &= in_set(heads["tag_min"], heads["tag_max"], ids)
        row = np.flatnonzero(keep)
        if not len(row):
            return rows
        # Above every order a commit has given; among themselves in the order of the journal.
        top = np.int64(np.iinfo(np.int64).max)
        head = {name: np.full(len(row), -1 if name == "tag_id" else 0, np.int64) for name in INTS}
        head |= {name: np.full(len(row), np.nan) for name in FLOATS}
        head |= {name: column[row] for name, column in heads.items()}
        head["order"] = top - np.int64(len(heads["count"])) + row
        return Rows(
            [*rows.files, LiveFile("the journal", self.snapshot.samples)],
            np.concatenate([rows.file, np.full(len(row), len(rows.files), np.int64)]),
            np.concatenate([rows.row, row]),
            {name: np.concatenate([column, head[name]]) for name, column in rows.head.items()},
        )


@contextlib.contextmanager
def with_tail(tail: Tail | None, log: Log) -> Iterator[Added | None]:
    """The newest log and what the tail holds beyond it, without a gap between the two.

    Raises
    ------
    CapacityError
        If commits and trims keep coming in between.
    """
    log.refresh()
    if tail is None:
        yield None
        return
    before = -1
    for _ in range(ATTEMPTS_MAX):
        # First what is committed, then the tail beyond it, then (by the caller) the files, which may be newer: rows that
        # are in both are the same rows, and one of each stays.
        committed = log.transaction(tail.app_id) or 0
        # Nothing was committed since the last try and still some is gone: this log is older than its journal (a copy).
        found = tail.snapshot(committed, complete=committed != before)
        before = committed
        if found is not None:
            yield Added(found)
            return
        log.refresh()
    msg = f"the journal of {tail.app_id!r} was trimmed {ATTEMPTS_MAX} times between two looks; try again"
    raise CapacityError(msg)


@dataclass(frozen=True, slots=True)
class Fixed:
    """The part of a snapshot that a question on another machine needs, decoded; a `Tail` and a `Snapshot`. Picklable."""

    app_id: str
    heads: dict[str, npt.NDArray[Any]]
    rows: tuple[Samples, ...]

    def samples(self, row: int) -> Samples:
        """One record."""
        return self.rows[row]

    def snapshot(self, committed: int, *, complete: bool = True) -> Fixed:
        """Itself: it belongs to one version of the table, which its reader is fixed to as well."""
        del committed, complete
        return self


FIXED_ROWS_MAX = 50_000_000
"""Most samples that travel with one part (24 bytes each)."""


def fixed(rows: Rows, ids: npt.NDArray[np.int64] | None, start: int, last: int) -> Fixed | None:
    """The live rows among `rows` that may hold samples of `ids` (None: all) with ``start <= time <= last``; None: none.

    Raises
    ------
    CapacityError
        If they are too many to travel.
    """
    live = [i for i, file in enumerate(rows.files) if isinstance(file, LiveFile)]
    if not live:
        return None
    keep = np.isin(rows.file, live) & (rows.head["end_ns"] >= start) & (rows.head["start_ns"] <= last)
    if ids is not None:
        keep &= in_set(rows.head["tag_min"], rows.head["tag_max"], ids)
    mine = rows.take(keep)
    total = int(mine.head["count"].sum())
    if total > FIXED_ROWS_MAX:
        msg = (
            f"{total:,} samples of the live tail would travel to a worker; at most {FIXED_ROWS_MAX:,}: wait for a flush"
        )
        raise CapacityError(msg)
    if not len(mine):
        return None
    found = []
    for at, row in zip(mine.file.tolist(), mine.row.tolist(), strict=True):
        file = mine.files[at]
        assert isinstance(file, LiveFile), "only live files were taken"
        found.append(file.samples(row))
    names = ("tag_min", "tag_max", "start_ns", "end_ns", "count")
    return Fixed("fixed", {name: mine.head[name] for name in names}, tuple(found))
