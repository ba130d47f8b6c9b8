"""Finding variables below a node: breadth first, each node once, bounded in depth and number."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .session import Found

_UNFIT = re.compile(r"[/\x00-\x1f\x7f]")
TEXTUAL = frozenset(range(12, 26)) | {294, 295, 296}
"""Built-in and standard data types (numeric ids, namespace 0) whose values are no numbers; enumerations are not in it."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable and the browse names that lead to it, the root's first."""

    node: str
    path: tuple[str, ...]


async def walk(
    children: Callable[[Sequence[str]], Awaitable[list[list[Found]]]],
    root: str,
    name: str,
    depth_max: int,
    variables_max: int,
) -> tuple[list[Variable], bool]:
    """All variables at or below `root` in breadth-first order, and whether a limit cut the search short.

    Parameters
    ----------
    children
        What lies directly below each of several nodes, in the same order.
    """
    seen = {root}
    level = [Variable(root, (name,))]
    out: list[Variable] = []
    for _ in range(depth_max):
        below = await children([here.node for here in level])
        following: list[Variable] = []
        for here, found in zip(level, below, strict=True):
            for child in found:
                if child.node in seen:
                    continue
                seen.add(child.node)
                there = Variable(child.node, (*here.path, child.name))
                following.append(there)
                if child.variable:
                    if len(out) >= variables_max:
                        return out, True
                    out.append(there)
        if not following:
            return out, False
        level = following
    return out, True


def tag_name(prefix: str, path: Sequence[str], taken: Callable[[str], bool]) -> str:
    """A legal tag name from browse names; ``~2``, ``~3`` … after it where two nodes would share one.

    Examples
    --------
    >>> tag_name("plc-7/", ("Line7", "I/O", "Speed"), {"plc-7/Line7/I_O/Speed"}.__contains__)
    'plc-7/Line7/I_O/Speed~2'
    """
    levels = [_UNFIT.sub("_", level) or "_" for level in path]
    name = prefix + "/".join("_" if level in (".", "..") else level for level in levels)
    found, number = name, 1
    while taken(found):
        number += 1
        found = f"{name}~{number}"
    return found
