"""How many tags could complain and how many do, per topology node, and which node explains what is silent."""

from __future__ import annotations

from iiot_dask.health.topology import NO_NODE, Topology


class Tally:
    """Counts of judged and silent tags for every node, kept up to date by +1 / -1 along the way to the root.

    Examples
    --------
    >>> t = Topology()
    >>> t.add(range(4), ["l/a/1", "l/a/2", "l/b/1", "l/b/2"], ["l/a", "l/a", "l/b", "l/b"])
    >>> tally = Tally(t, share=0.6)
    >>> for tag in range(4): tally.count(tag, judged=1)
    >>> for tag in (0, 1): tally.count(tag, silent=1)
    >>> t.names[tally.explain(t.node_of(0))]
    'l/a'
    >>> for tag in (2, 3): tally.count(tag, silent=1)
    >>> t.names[tally.explain(t.node_of(0))]
    'l'
    """

    def __init__(self, topology: Topology, share: float) -> None:
        self.topology = topology
        self.needed = share
        self.judged: dict[int, int] = {}
        self.silent: dict[int, int] = {}
        self.gone: set[int] = set()
        """Nodes known to be down from an event."""

    def count(self, tag: int, *, judged: int = 0, silent: int = 0) -> None:
        """Add to the counts of every node above the tag."""
        for node in self.topology.up(self.topology.node_of(tag)):
            if judged:
                self.judged[node] = self.judged.get(node, 0) + judged
            if silent:
                self.silent[node] = self.silent.get(node, 0) + silent

    def share(self, node: int) -> float:
        """Silent share of the judged tags at or below the node, 0..1."""
        judged = self.judged.get(node, 0)
        return self.silent.get(node, 0) / judged if judged else 0.0

    def ill(self, node: int) -> bool:
        """Whether this branch is down, by its tags or by an event."""
        return node in self.gone or self.share(node) >= self.needed

    def explain(self, node: int) -> int:
        """The highest node from here up that explains the silence; `NO_NODE` if none does.

        A node with tags of its own needs two silent tags and their share; a node with branches needs two ill branches
        and their share. A node with one branch says nothing more than the branch.
        """
        found = NO_NODE
        for at in self.topology.up(node):
            branches = [c for c in self.topology.children[at] if self.judged.get(c, 0) or c in self.gone]
            if self.topology.tags[at] or not branches:
                explains = at in self.gone or (self.silent.get(at, 0) >= 2 and self.share(at) >= self.needed)
            elif len(branches) == 1:
                continue
            else:
                ill = sum(self.ill(c) for c in branches)
                explains = ill >= 2 and ill >= self.needed * len(branches)
            if explains:
                found = at
            elif len(branches) > 1:
                break
        return found
