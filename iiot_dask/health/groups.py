"""`Groups`: conditions of single tags other than silence, told one by one, or as one of the node where most tags have it.

When the clocks of 4,000 devices jump after a time server failed, that is one incident. A condition is held for a short
wait; then the highest node is looked for most of whose judged tags have the same condition; found, the incident is the
node's, else the tag's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iiot_dask.health.kinds import Kind
from iiot_dask.health.ledger import NEVER, Ledger, Live
from iiot_dask.health.tally import Tally
from iiot_dask.health.topology import NO_NODE, Topology


@dataclass(slots=True)
class _Condition:
    start_ns: int
    detected_ns: int
    score: float
    hold_ns: int
    ended_ns: int | None = None
    """It was over before its hold was."""
    incident: Live | None = None


def together(count: int, of: int, least: int, share: float) -> bool:
    """Whether so many tags with the same at the same time are one cause: enough, and a share of all or a hundred.

    Examples
    --------
    >>> together(7, 7, 8, 0.6), together(8, 10, 8, 0.6), together(100, 10_000, 8, 0.6)
    (False, True, True)
    """
    return count >= max(least, min(share * of, 100))


def common_node(names: list[str]) -> str:
    """The longest path that is common to all names; ``"*"`` when there is none.

    Examples
    --------
    >>> common_node(["a/b/c", "a/b/d"]), common_node(["x", "y"])
    ('a/b', '*')
    """
    first, last = min(names).split("/"), max(names).split("/")
    levels = [a for a, b in zip(first[:-1], last[:-1], strict=False) if a == b]
    same = next((i for i, (a, b) in enumerate(zip(first[:-1], last[:-1], strict=False)) if a != b), len(levels))
    return "/".join(first[:same]) or "*"


class Groups:
    """All tags that have one `kind` of condition.

    Parameters
    ----------
    kind
        Which.
    topology, judged, ledger
        Shared with the engine; `judged` counts tags whose rhythm is known, per node.
    share, back_share
        As in `Rules`.
    wait_ns
        The hold, ns; tags without a node are told at once.
    own_wait_ns
        A longer hold of a tag's own, ns.
    all_of, together_min, together_share
        How many tags there are, and when those without a node are told together.
    opened
        Told of each incident that opens.
    close
        Ends an incident (the engine's, which knows what else hangs on it).

    Examples
    --------
    >>> topology = Topology()
    >>> topology.add(range(4), ["a/1", "a/2", "a/3", "b/1"], ["a", "a", "a", "b"])
    >>> ledger = Ledger(topology, first_id=1, reopen_ns=0, open_max=9)
    >>> judged = {topology.node("a"): 3, topology.node("b"): 1}
    >>> groups = Groups(Kind.CLOCK_JUMP, topology, judged, ledger, share=0.6, back_share=0.4, wait_ns=2, close=ledger.close)
    >>> for tag in range(4): groups.begin(tag, 0, 8, 60.0)
    >>> groups.tick(10)
    >>> [(i.node, i.kind, len(i.tags)) for i in ledger.changes()]
    [('a', 'clock_jump', 3), ('b/1', 'clock_jump', 1)]
    """

    def __init__(
        self,
        kind: Kind,
        topology: Topology,
        judged: dict[int, int],
        ledger: Ledger,
        *,
        share: float,
        back_share: float,
        wait_ns: int,
        close: Callable[[Live, int], None],
        own_wait_ns: Callable[[int], int] | None = None,
        all_of: Callable[[], int] = lambda: 0,
        together_min: int = 8,
        together_share: float = 0.6,
        opened: Callable[[Live], None] | None = None,
    ) -> None:
        self.kind = kind
        self.topology = topology
        self.ledger = ledger
        self.back_share = back_share
        self.wait_ns = wait_ns
        self._close = close
        self._own_wait_ns = own_wait_ns
        self._all_of = all_of
        self._together = (together_min, together_share)
        self._opened = opened
        self._tally = Tally(topology, share)
        self._tally.judged = judged
        self._having: dict[int, _Condition] = {}
        self._pending: dict[int, None] = {}

    def begin(self, tag: int, start_ns: int, detected_ns: int, score: float) -> None:
        """A tag has it."""
        known = self._having.get(tag)
        if known is not None:
            known.ended_ns = None
            return
        open_one = self.ledger.find(self.kind.label, self.topology.tag_name(tag))
        alone = self.topology.node_of(tag) == NO_NODE and self._all_of() < self._together[0]
        wait_ns = self.wait_ns if self._own_wait_ns is None else max(self.wait_ns, self._own_wait_ns(tag))
        hold = detected_ns if alone or open_one else detected_ns + wait_ns
        self._having[tag] = _Condition(start_ns, detected_ns, score, hold)
        self._pending[tag] = None
        self._tally.count(tag, silent=1)

    def end(self, tag: int, at_ns: int) -> None:
        """A tag has it no more."""
        one = self._having.get(tag)
        if one is None:
            return
        if one.incident is None:
            # Still held: short, but it happened.
            one.ended_ns = at_ns
            return
        self._drop(tag)
        live = one.incident
        live.ill.discard(tag)
        if live.end_ns is None and len(live.ill) <= self.back_share * live.peak:
            for other in list(live.ill):
                self._let_go(other)
            self._close(live, at_ns)

    def tick(self, now_ns: int) -> None:
        """Tell what was held long enough."""
        for tag in [t for t in self._pending if self._having[t].hold_ns <= now_ns]:
            if tag in self._pending:
                self._judge(tag)
        for tag in [t for t, one in self._having.items() if one.ended_ns is not None and t not in self._pending]:
            self.end(tag, self._having[tag].ended_ns or now_ns)

    def deadline(self) -> int:
        """When `tick` next has something to do, ns."""
        return min((self._having[t].hold_ns for t in self._pending), default=NEVER)

    def moved(self, tag: int, by: int) -> None:
        """The tag is about to be hung elsewhere (-1), or was (+1)."""
        if tag in self._having:
            self._tally.count(tag, silent=by)

    def _judge(self, tag: int) -> None:
        one = self._having[tag]
        node = self._tally.explain(self.topology.node_of(tag))
        tags = [tag] if node == NO_NODE else [t for t in self.topology.below(node) if t in self._having]
        name = self.topology.tag_name(tag) if node == NO_NODE else self.topology.names[node]
        near = self._near(tag, one) if node == NO_NODE else []
        if near:
            tags, name = near, common_node([self.topology.tag_name(t) for t in near])
        # A whole device that sends faster or slower from one moment on was told to.
        planned = self.kind in {Kind.SLOW, Kind.BURST} and len(tags) > 1
        label = Kind.SCHEDULE_CHANGE.label if planned else self.kind.label
        live = self.ledger.find(label, name)
        if live is None:
            live = self.ledger.begin(label, name, one.start_ns, one.hold_ns, one.score)
            if live is not None and self._opened is not None:
                self._opened(live)
        for each in tags if live is not None else []:
            self._join(live, each)
        if live is not None and node != NO_NODE:
            live.detail = f"{len(tags)} of {self._tally.judged.get(node, 0)} tags"
        elif live is not None and near:
            live.detail = f"{len(tags)} of {self._all_of()} tags at once"
        self._pending.pop(tag, None)

    def _near(self, tag: int, one: _Condition) -> list[int]:
        """Tags that hang nowhere and got it at the same time, if they are enough to be one cause."""
        if self.topology.node_of(tag) != NO_NODE:
            return []
        near = [
            t for t in self._pending
            if self.topology.node_of(t) == NO_NODE and abs(self._having[t].detected_ns - one.detected_ns) <= self.wait_ns
        ]  # fmt: skip
        return near if together(len(near), self._all_of(), *self._together) else []

    def _join(self, live: Live | None, tag: int) -> None:
        assert live is not None
        one = self._having[tag]
        before = one.incident
        if before is not None and before is not live and before.end_ns is None:
            for cause in before.ill:
                if isinstance(cause, int) and cause in self._having:
                    self._having[cause].incident = live
            self.ledger.absorb(before, live, one.hold_ns)
        one.incident = live
        live.members[tag] = None
        live.add(tag)
        live.start_ns = min(live.start_ns, one.start_ns)
        live.score = max(live.score, one.score)
        self._pending.pop(tag, None)
        self.ledger.touch(live)

    def _let_go(self, tag: int | str) -> None:
        """The common cause went; a tag that still has the condition is judged again on its own."""
        one = self._having.get(tag) if isinstance(tag, int) else None
        if one is not None and isinstance(tag, int):
            one.incident = None
            one.hold_ns += self.wait_ns
            self._pending[tag] = None

    def _drop(self, tag: int) -> None:
        del self._having[tag]
        self._pending.pop(tag, None)
        self._tally.count(tag, silent=-1)
