"""The incidents being written: numbers, opening, reopening, ending, merging, and which of them changed."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from iiot_dask.health.incident import Incident
from iiot_dask.health.topology import Topology

NEVER = (1 << 63) - 1


@dataclass(slots=True)
class Live:
    """An incident being written; the fields of `Incident` and what the engine needs besides."""

    id: int
    node: str
    kind: str
    start_ns: int
    detected_ns: int
    score: float
    end_ns: int | None = None
    parent: int | None = None
    detail: str = ""
    members: dict[int, None] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Members known by name only: of a restored incident."""
    ill: set[int | str] = field(default_factory=set)
    """What keeps it open: members whose condition lasts, and ``down:NODE`` for what an event said."""
    peak: int = 0
    """Most that `ill` ever held."""
    last_ns: int = 0
    count: int = 0
    confirm_ns: int = NEVER
    """A restored incident must be confirmed by then, ns."""
    quiet_ns: int = 0
    """A flapping one ends after so long without a beginning, ns."""

    def add(self, cause: int | str) -> None:
        """One more thing that keeps it open."""
        self.ill.add(cause)
        self.peak = max(self.peak, len(self.ill))
        self.confirm_ns = NEVER


DETECTION_NS = 300_000_000_000
"""A condition may be detected so long after it began; ended incidents can be continued for that much longer."""
QUIET_NS = 600_000_000_000
"""A flapping incident restored after a restart ends after so long without a beginning, ns."""
ENDED_MAX = 1000
"""Ended incidents remembered for `Ledger.all`."""


class Ledger:
    """Open, recently ended and changed incidents.

    Parameters
    ----------
    topology
        For the names of members.
    first_id
        The next number.
    reopen_ns
        The same (kind, node) within this time after its end is the same incident, ns.
    open_max
        Most incidents open at once; further ones are counted in `dropped`.

    Examples
    --------
    >>> ledger = Ledger(Topology(), first_id=1, reopen_ns=10, open_max=5)
    >>> live = ledger.begin("flatline", "a", 0, 5, 1.0)
    >>> ledger.close(live, 7)
    >>> ledger.begin("flatline", "a", 9, 12, 1.0) is live, live.end_ns
    (True, None)
    >>> [i.incident for i in ledger.changes()], ledger.changes()
    ([1], [])
    """

    def __init__(self, topology: Topology, *, first_id: int, reopen_ns: int, open_max: int) -> None:
        self.topology = topology
        self.next_id = first_id
        self.reopen_ns = reopen_ns
        self.open_max = open_max
        self.dropped = 0
        self.open: dict[tuple[str, str], Live] = {}
        self._recent: OrderedDict[tuple[str, str], Live] = OrderedDict()
        self._changed: dict[int, Live] = {}
        self._ended: OrderedDict[int, Incident] = OrderedDict()

    def find(self, kind: str, node: str) -> Live | None:
        """The open incident of that kind and node."""
        return self.open.get((kind, node))

    def begin(self, kind: str, node: str, start_ns: int, detected_ns: int, score: float) -> Live | None:
        """Open one, or continue one that ended a moment ago; None when too many are open."""
        key = (kind, node)
        live = self._recent.pop(key, None)
        if live is not None and live.end_ns is not None and start_ns - live.end_ns <= self.reopen_ns:
            live.end_ns = None
            live.peak = 0
        elif len(self.open) >= self.open_max:
            self.dropped += 1
            return None
        else:
            live = Live(self.next_id, node, kind, start_ns, detected_ns, score)
            self.next_id += 1
        live.last_ns = detected_ns
        self.open[key] = live
        self.touch(live)
        return live

    def again(self, live: Live) -> None:
        """Take up one that had ended."""
        if live.end_ns is not None:
            live.end_ns = None
            live.peak = 0
            if self._recent.get((live.kind, live.node)) is live:
                del self._recent[live.kind, live.node]
            self.touch(live)

    def restore(self, one: Incident) -> Live:
        """Continue an incident read from the store."""
        live = Live(one.incident, one.node, one.kind, one.start_ns, one.detected_ns, one.score, detail=one.detail)
        live.names = one.tags
        live.last_ns = one.detected_ns
        live.quiet_ns = QUIET_NS if one.kind == "flapping" else 0
        self.open[one.kind, one.node] = live
        self.next_id = max(self.next_id, one.incident + 1)
        return live

    def close(self, live: Live, at_ns: int) -> None:
        """End it; `ill` is left to the caller to hand on."""
        self._leave(live)
        live.end_ns = live.last_ns = max(at_ns, live.start_ns)
        key = (live.kind, live.node)
        self._recent.pop(key, None)
        self._recent[key] = live

    def absorb(self, part: Live, into: Live, at_ns: int) -> None:
        """`part` turns out to be a part of `into`."""
        self._leave(part)
        part.parent, part.end_ns = into.id, max(at_ns, part.start_ns)
        into.start_ns = min(into.start_ns, part.start_ns)
        for cause in part.ill:
            into.add(cause)
        into.members.update(part.members)
        part.ill = set()
        self.touch(into)

    def rename(self, live: Live, kind: str, node: str) -> None:
        """Give it a wider explanation under the same number."""
        self._leave(live)
        live.kind, live.node = kind, node
        self.open[kind, node] = live

    def touch(self, live: Live) -> None:
        """Remember that it changed."""
        self._changed[live.id] = live

    def changes(self) -> list[Incident]:
        """What changed since the last call, oldest first."""
        out = [self.record(live) for live in sorted(self._changed.values(), key=lambda x: x.id)]
        self._changed.clear()
        for one in out:
            self._ended.pop(one.incident, None)
            if one.end_ns is not None and one.parent is None:
                self._ended[one.incident] = one
        while len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)
        return out

    def all(self) -> list[Incident]:
        """The open ones and the last `ENDED_MAX` that ended, parts left out, oldest first."""
        rows = {**self._ended, **{x.id: self.record(x) for x in self.open.values()}}
        return [rows[i] for i in sorted(rows)]

    def forget(self, now_ns: int) -> None:
        """Drop ended incidents that can not come back any more."""
        keep_ns = self.reopen_ns + DETECTION_NS
        while self._recent and next(iter(self._recent.values())).last_ns + keep_ns < now_ns:
            self._recent.popitem(last=False)

    def record(self, live: Live) -> Incident:
        """The incident as it stands."""
        names = tuple(self.topology.tag_name(t) for t in live.members)
        return Incident(
            live.id, live.node, live.kind, live.start_ns, live.detected_ns, live.end_ns, live.score,
            tuple(dict.fromkeys(live.names + names)), live.detail, live.parent,
        )  # fmt: skip

    def _leave(self, live: Live) -> None:
        key = (live.kind, live.node)
        if self.open.get(key) is live:
            del self.open[key]
        self.touch(live)
