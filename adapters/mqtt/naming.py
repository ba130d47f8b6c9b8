"""From topics to local tag numbers: routes are matched once per topic, at first sight; then it is arrays."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.errors import ConfigError

from .columns import NOTHING, Growing
from .topic_table import UNKNOWN, TopicTable
from .topics import Route, device

Ints = npt.NDArray[np.int64]


class Tags:
    """Local tag numbers, announced once each, and the device nodes they hang from.

    Parameters
    ----------
    classes
        (glob, period in ns), the first that matches a tag gives its expected period.
    limit
        Most tags named; `add` gives `NOTHING` beyond.
    """

    def __init__(self, classes: Sequence[tuple[str, int]], limit: int) -> None:
        self._classes = [(re.compile(fnmatch.translate(glob)).match, period) for glob, period in classes]
        self._limit = limit
        self._number: dict[str, int] = {}
        self._node: dict[str, int] = {}
        self._fresh: list[TagInfo] = []
        self.nodes: list[str] = []
        self.node_of = Growing()

    def __len__(self) -> int:
        return len(self._number)

    def node(self, path: str) -> int:
        """Number of a device node."""
        number = self._node.get(path)
        if number is None:
            number = self._node[path] = len(self.nodes)
            self.nodes.append(path)
        return number

    def add(self, tag: str, address: str) -> int:
        """Number of a tag, announced at first sight; `NOTHING` when there are too many."""
        number = self._number.get(tag)
        if number is None:
            if len(self._number) >= self._limit:
                return NOTHING
            number = self._number[tag] = len(self._number)
            period = next((p for match, p in self._classes if match(tag)), None)
            self._fresh.append(TagInfo(tag, device(tag), address, period_ns=period))
            self.node_of.append(self.node(device(tag)))
        return number

    def fresh(self) -> tuple[TagInfo, ...]:
        """Tags named since the last call."""
        out = tuple(self._fresh)
        self._fresh.clear()
        return out


class Naming:
    """Topic bytes to (group, tags): all routes of one filter are a group, and each gives a tag of every message.

    The first filter of the file that matches a topic takes it. Sparkplug groups name no tags here.
    """

    def __init__(self, routes: Sequence[Route], tags: Tags, topics_max: int) -> None:
        groups: dict[str, list[Route]] = {}
        for route in routes:
            groups.setdefault(route.topic.filter, []).append(route)
        self.groups: list[list[Route]] = list(groups.values())
        self.table = TopicTable(topics_max)
        self._tags = tags
        self._group, self._base, self._node = Growing(), Growing(), Growing()
        self._flat = Growing()
        self._sparkplug: list[tuple[int, Route, tuple[str, ...], str]] = []

    def sparkplug(self) -> list[tuple[int, Route, tuple[str, ...], str]]:
        """Sparkplug topics seen for the first time since the last call: number, route, what stood at its wildcards, topic."""
        out, self._sparkplug = self._sparkplug, []
        return out

    def numbers(self, data: npt.NDArray[np.uint8], starts: Ints, sizes: Ints) -> Ints:
        """Topic numbers, `NOTHING` where the limit is reached; new topics are matched with the routes."""
        known = len(self.table)
        out = self.table.numbers(data, starts, sizes)
        for number in range(known, len(self.table)):
            self._learn(number, self.table.text(number))
        return out

    def _learn(self, number: int, topic: bytes) -> None:
        group, tags, node = NOTHING, [], NOTHING
        try:
            text = topic.decode()
        except UnicodeDecodeError:
            text = ""
        levels = text.split("/")
        for k, routes in enumerate(self.groups):
            found = routes[0].match(levels) if text else None
            if found is None:
                continue
            group = k
            if routes[0].topic.payload == "sparkplug":
                self._sparkplug.append((number, routes[0], found, text))
            else:
                tags = [self._tag(route, found, text) for route in routes]
                named = next((t for t in tags if t != NOTHING), NOTHING)
                node = int(self._tags.node_of.of(np.array([named]))[0])
                if named == NOTHING:
                    group = NOTHING
            break
        self._group.append(group)
        self._node.append(node)
        self._base.append(len(self._flat) if tags else NOTHING)
        for tag in tags:
            self._flat.append(tag)

    def _tag(self, route: Route, found: Sequence[str], topic: str) -> int:
        try:
            name = route.tag(found)
        except ConfigError:
            # No legal name: its messages are counted as rejected, with the topic as raw bytes.
            return NOTHING
        return self._tags.add(name, topic)

    def group_of(self, numbers: Ints) -> Ints:
        """Per topic its group, `NOTHING` when no filter takes it or its tag has no legal name."""
        return self._group.of(numbers)

    def node_of(self, numbers: Ints) -> Ints:
        """Per topic the position of its device in `Tags.nodes`."""
        return self._node.of(numbers)

    def tag_of(self, numbers: Ints, route: int) -> Ints:
        """Per topic the tag of its group's `route`-th route."""
        base = self._base.of(numbers)
        return self._flat.of(np.where(base == NOTHING, UNKNOWN, base + route))
