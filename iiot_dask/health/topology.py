"""Which node a tag hangs from, and which nodes hang from which: the tree that incidents are explained by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import SchemaError

if TYPE_CHECKING:
    import polars as pl

NO_NODE = -1
DEPTH_MAX = 64
"""Longest way from a tag to a root; a longer one is taken for a cycle."""


class Topology:
    """A forest of nodes with tags as leaves; nodes are small ints inside, names outside.

    Not thread-safe. Memory: a few hundred bytes a node, 12 bytes and the name a tag.

    Examples
    --------
    >>> t = Topology()
    >>> t.add([0, 1], ["s1/press/1/t", "s1/press/1/p"], ["s1/press/1", "s1/press/1"])
    >>> [t.names[n] for n in t.up(t.node_of(0))]
    ['s1/press/1', 's1/press', 's1']
    >>> t.tag_name(1), t.node("s1/press") != NO_NODE, t.node("elsewhere")
    ('s1/press/1/p', True, -1)
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.parents: list[int] = []
        self.children: list[list[int]] = []
        self.tags: list[list[int]] = []
        """Tag ids that hang directly from each node."""
        self.adapter_of: dict[int, str] = {}
        """Node -> adapter that reads its tags, where known."""
        self._index: dict[str, int] = {}
        self._tag_node: npt.NDArray[np.int64] = np.full(0, NO_NODE, np.int64)
        self._tag_names: dict[int, str] = {}

    def add(
        self, ids: Sequence[int], names: Sequence[str], devices: Sequence[str], adapters: Sequence[str] | None = None
    ) -> None:
        """Hang tags from the device paths they belong to; parents follow from the path's levels. Repeats are fine."""
        if not len(ids):
            return
        self._room(int(max(ids)) + 1)
        for i, (tag, name, device) in enumerate(zip(ids, names, devices, strict=True)):
            node = self._path(device)
            self._hang(int(tag), name, node)
            if adapters is not None and node != NO_NODE:
                self.adapter_of[node] = adapters[i]

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | None, tags: Sequence[str]) -> Topology:
        """From explicit rows (node, parent); tag ids are positions in `tags`, and a tag without a row stands alone.

        Raises
        ------
        SchemaError
            If a column is missing, a node has two parents, or parents form a cycle.
        """
        out = cls()
        out._room(len(tags))
        parent: dict[str, str] = {}
        if frame is not None:
            if not {"node", "parent"} <= set(frame.columns):
                msg = f"topology has columns {frame.columns}; 'node' and 'parent' are needed"
                raise SchemaError(msg)
            for node, above in frame.select("node", "parent").iter_rows():
                if above is not None and parent.setdefault(node, above) != above:
                    msg = f"topology node {node!r} has two parents, {parent[node]!r} and {above!r}; one is allowed"
                    raise SchemaError(msg)
        for tag, name in enumerate(tags):
            chain = [name]
            while chain[-1] in parent:
                chain.append(parent[chain[-1]])
                if len(chain) > DEPTH_MAX:
                    msg = f"topology of {name!r} is deeper than {DEPTH_MAX} levels or a cycle: {chain[:4]} ..."
                    raise SchemaError(msg)
            below = NO_NODE
            for level in reversed(chain[1:]):
                below = out._node(level, below)
            out._hang(tag, name, below)
        return out

    def node(self, name: str) -> int:
        """The node of that name, or `NO_NODE`."""
        return self._index.get(name, NO_NODE)

    def node_of(self, tag: int) -> int:
        """The node a tag hangs from, or `NO_NODE`."""
        return int(self._tag_node[tag]) if tag < len(self._tag_node) else NO_NODE

    def tag_name(self, tag: int) -> str:
        """The tag's name; an unknown one shows its number."""
        return self._tag_names.get(tag, f"#{tag}")

    def up(self, node: int) -> Iterator[int]:
        """The node and its ancestors, root last."""
        while node != NO_NODE:
            yield node
            node = self.parents[node]

    def below(self, node: int) -> Iterator[int]:
        """The ids of all tags at or below the node."""
        stack = [node]
        while stack:
            at = stack.pop()
            yield from self.tags[at]
            stack.extend(self.children[at])

    def _path(self, device: str) -> int:
        if device in self._index:
            return self._index[device]
        node = NO_NODE
        levels = [level for level in device.split("/") if level]
        for depth in range(len(levels)):
            node = self._node("/".join(levels[: depth + 1]), node)
        return node

    def _node(self, name: str, parent: int) -> int:
        have = self._index.get(name)
        if have is not None:
            return have
        node = len(self.names)
        self._index[name] = node
        self.names.append(name)
        self.parents.append(parent)
        self.children.append([])
        self.tags.append([])
        if parent != NO_NODE:
            self.children[parent].append(node)
        return node

    def _hang(self, tag: int, name: str, node: int) -> None:
        before = int(self._tag_node[tag])
        self._tag_names[tag] = name
        if before == node:
            return
        if before != NO_NODE:
            self.tags[before].remove(tag)
        self._tag_node[tag] = node
        if node != NO_NODE:
            self.tags[node].append(tag)

    def _room(self, tags: int) -> None:
        if tags > len(self._tag_node):
            grown = np.full(max(tags, 2 * len(self._tag_node), 64), NO_NODE, np.int64)
            grown[: len(self._tag_node)] = self._tag_node
            self._tag_node = grown
