"""Topic filters and tag templates: which topics a route takes, and what the tag of one is called. Pure.

Source: MQTT 5.0, 4.7 (wildcards, topics that begin with ``$``) and 4.8 (shared subscriptions).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from iiot_dask.core.config import Topic
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.tags import check_tag

TOPIC_BYTES_MAX = 65_535
_HOLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Route:
    """One `[[adapters.topics]]` table, checked.

    `levels` are those of the filter without its ``$share/group/`` head; `holes` is the number of wildcards.
    """

    topic: Topic
    levels: tuple[str, ...]
    holes: int

    @classmethod
    def of(cls, topic: Topic, adapter: str) -> Route:
        """Check filter and template.

        Raises
        ------
        ConfigError
            Naming adapter, filter or template, and the rule it breaks.
        """
        levels = tuple(topic.filter.split("/"))
        if levels[0] == "$share":
            if len(levels) < 3 or not levels[1] or any(c in levels[1] for c in "+#"):
                msg = f"adapter {adapter!r}: filter {topic.filter!r}: a shared subscription is '$share/GROUP/FILTER'"
                raise ConfigError(msg)
            levels = levels[2:]
        for k, level in enumerate(levels):
            if ("+" in level or "#" in level) and (level not in ("+", "#") or (level == "#" and k != len(levels) - 1)):
                msg = f"adapter {adapter!r}: filter {topic.filter!r}: '+' stands for one whole level, '#' for all at the end"
                raise ConfigError(msg)
        holes = sum(level in ("+", "#") for level in levels)
        for hole in _HOLE.findall(topic.tag):
            if not hole.isdigit() or not 1 <= int(hole) <= holes:
                msg = (
                    f"adapter {adapter!r}: tag template {topic.tag!r}: {{{hole}}} is none of the {holes} wildcards of"
                    f" {topic.filter!r}"
                )
                raise ConfigError(msg)
        return cls(topic, levels, holes)

    def match(self, levels: Sequence[str]) -> tuple[str, ...] | None:
        """What stands at the wildcards when a topic's levels match, else None.

        Examples
        --------
        >>> route = Route.of(Topic(filter="f/+/#", tag="x/{1}/{2}"), "a")
        >>> route.match("f/press/1/t".split("/")), route.match("f/press".split("/")), route.match(["g"])
        (('press', '1/t'), ('press', ''), None)
        """
        found: list[str] = []
        for k, level in enumerate(self.levels):
            if level == "#":
                # '#' also takes the parent level; a leading wildcard never takes a '$' topic.
                if k == 0 and levels[0].startswith("$"):
                    return None
                found.append("/".join(levels[k:]))
                return tuple(found)
            if k >= len(levels):
                return None
            if level == "+":
                if k == 0 and levels[0].startswith("$"):
                    return None
                found.append(levels[k])
            elif level != levels[k]:
                return None
        return tuple(found) if len(levels) == len(self.levels) else None

    def fill(self, found: Sequence[str]) -> str:
        """The template with what stands at the wildcards; levels that come out empty are left out."""
        text = _HOLE.sub(lambda hole: found[int(hole[1]) - 1], self.topic.tag)
        return "/".join(level for level in text.split("/") if level)

    def tag(self, found: Sequence[str]) -> str:
        """The tag's name.

        Raises
        ------
        ConfigError
            If the topic makes no legal tag name.
        """
        return check_tag(self.fill(found))


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that matches filter `narrow` matches filter `wide`; shared subscriptions cover nothing else.

    Examples
    --------
    >>> covers("#", "m/+/#"), covers("m/+/t", "m/a/t"), covers("m/a/t", "m/+/t"), covers("m/#", "m"), covers("#", "$SYS/#")
    (True, True, False, True, False)
    """
    if "$share/" in (wide[:7], narrow[:7]):
        return wide == narrow
    a, b = wide.split("/"), narrow.split("/")
    if b[0].startswith("$") and a[0] in ("+", "#"):
        return False
    for k, level in enumerate(a):
        if level == "#":
            return True
        if k == len(b) or b[k] == "#" or (level != "+" and level != b[k]):
            return False
    return len(a) == len(b)


def subscriptions(filters: Sequence[str]) -> tuple[str, ...]:
    """What to ask a broker for so that it sends what any of the filters takes: those no other one covers.

    A broker may send a message once for every subscription that matches it (MQTT 5.0, 3.3.4), and routes are matched here
    anyway.

    Examples
    --------
    >>> subscriptions(["m/+/#", "#", "m/+/#", "$share/g/m/a"])
    ('#', '$share/g/m/a')
    """
    found = list(dict.fromkeys(filters))
    return tuple(f for f in found if not any(other != f and covers(other, f) for other in found))


def device(tag: str) -> str:
    """The node a tag hangs from: its path without the last level.

    Examples
    --------
    >>> device("site1/press/1/temperature"), device("alone")
    ('site1/press/1', 'alone')
    """
    return tag.rpartition("/")[0] or tag


def routes(topics: Sequence[Topic], adapter: str) -> tuple[Route, ...]:
    """All routes of an adapter, in the order of the file.

    Raises
    ------
    ConfigError
        If there is none, or one is wrong.
    """
    if not topics:
        msg = f"adapter {adapter!r} has no [[adapters.topics]]; at least one filter is needed"
        raise ConfigError(msg)
    return tuple(Route.of(topic, adapter) for topic in topics)
