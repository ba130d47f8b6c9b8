"""Event-time watermarks: per source, with idle sources, and an allowed lateness per tag.

A watermark is a promise: no more rows at or before it, except late ones. A source (a device, an adapter) has seen its
newest row at some time; each of its tags may be late by its class' `lateness`. A source that has been quiet for `idle`
of wall time does not hold the others back: it is taken to be where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iiot_dask.flow.names import Names

NEVER = -(2**63) + 1
"""The watermark before anything was seen, ns."""
END = 2**63 - 1
"""The watermark at the end of the input, ns."""


@dataclass(frozen=True, slots=True)
class Marks:
    """How far each tag is complete: `tag[i]` for tag number i, ns; `low`: all of them, ns."""

    tag: npt.NDArray[np.int64]
    low: int

    def back(self, span_ns: int) -> Marks:
        """The same promise about rows stamped `span_ns` earlier (the start of a window, say)."""
        if span_ns == 0:
            return self
        safe = np.where(self.tag == END, END, np.maximum(self.tag, NEVER + span_ns) - span_ns)
        return Marks(safe, self.low if self.low == END else max(self.low, NEVER + span_ns) - span_ns)

    def of(self, size: int) -> npt.NDArray[np.int64]:
        """One watermark a tag for `size` tags; tags unknown here are as complete as all are."""
        if size <= len(self.tag):
            return self.tag[:size]
        out = np.full(size, self.low, np.int64)
        out[: len(self.tag)] = self.tag
        return out


def one_source(tags: Sequence[str]) -> list[str]:
    """Every tag belongs to one source: the default where no topology says otherwise."""
    return [""] * len(tags)


@dataclass(slots=True)
class Watermarks:
    """Follows sources and tells how far each tag is complete.

    Parameters
    ----------
    names
        The run's tag numbers.
    lateness_ns
        Allowed lateness, ns: of a tag by its name. Called once a tag.
    idle_ns
        A source without rows for this long by `now` is idle, ns.
    source
        Names the sources of tags. Called once a tag.

    Examples
    --------
    >>> names = Names(["a", "b"])
    >>> w = Watermarks(names, lambda tag: 5, idle_ns=100, source=lambda tags: list(tags))
    >>> w.see(np.array([0, 1], np.uint32), np.array([50, 20]), now_ns=0)
    >>> w.marks(now_ns=0).tag.tolist(), w.marks(now_ns=0).low
    ([45, 15], 15)
    >>> w.see(np.array([0], np.uint32), np.array([90]), now_ns=150)
    >>> w.marks(now_ns=150).tag.tolist()  # b is idle: it no longer holds back
    [85, 85]
    """

    names: Names
    lateness_ns: Callable[[str], int]
    idle_ns: int
    source: Callable[[Sequence[str]], Sequence[str]] = one_source
    sources: dict[str, int] = field(default_factory=dict)
    newest: list[int] = field(default_factory=list)
    seen_ns: list[int] = field(default_factory=list)
    source_of: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    allowed: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    kept: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def _learn(self, ids: npt.NDArray[np.uint32]) -> None:
        """Sources of tags not seen before; numbers that operators gave out (derived tags) never come here."""
        more = int(ids.max()) + 1 - len(self.source_of)
        if more > 0:
            self.source_of = np.concatenate([self.source_of, np.full(more, -1, np.int64)])
            self.allowed = np.concatenate([self.allowed, np.zeros(more, np.int64)])
            self.kept = np.concatenate([self.kept, np.full(more, NEVER, np.int64)])
        fresh = np.unique(ids[self.source_of[ids] < 0])
        if not len(fresh):
            return
        names = [self.names.known[number] for number in fresh]
        for number, name, source in zip(fresh, names, self.source(names), strict=True):
            if source not in self.sources:
                self.sources[source] = len(self.newest)
                self.newest.append(NEVER)
                self.seen_ns.append(0)
            self.source_of[number] = self.sources[source]
            self.allowed[number] = self.lateness_ns(name)

    def see(self, ids: npt.NDArray[np.uint32], times: npt.NDArray[np.int64], now_ns: int) -> None:
        """Take note of rows: tag numbers and times (ns), and the wall time they came at."""
        if not len(ids):
            return
        self._learn(ids)
        top = np.full(len(self.newest), NEVER, np.int64)
        np.maximum.at(top, self.source_of[ids], times)
        for number in np.flatnonzero(top > NEVER):
            self.newest[number] = max(self.newest[number], int(top[number]))
            self.seen_ns[number] = now_ns

    def marks(self, now_ns: int) -> Marks:
        """How far each tag is complete at wall time `now_ns`; never goes back."""
        known = self.source_of >= 0
        if not known.any():
            return Marks(self.kept.copy(), NEVER)
        newest = np.array(self.newest, np.int64)
        quiet = np.array([now_ns - seen > self.idle_ns for seen in self.seen_ns])
        if not quiet.all():
            floor = newest[~quiet].min()
            newest = np.where(quiet, np.maximum(newest, floor), newest)
        tag = newest[self.source_of]
        tag = np.where(tag > NEVER + self.allowed, tag - self.allowed, NEVER)
        np.maximum(self.kept, np.where(known, tag, NEVER), out=self.kept)
        low = int(self.kept[known].min())
        return Marks(np.where(known, self.kept, low), low)
