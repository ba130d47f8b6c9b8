"""When to read what: scan groups on a fixed grid with spread phases, and back-off for what does not answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .plan import Block, Limits, merge, rejoin
from .registers import Point

GOLDEN = 0.618_033_988_749_895
GARBLED_MAX = 3
REPLAN_NS = 30_000_000_000
"""A layout that changed because of an illegal address is rebuilt at most this often, ns."""


@dataclass
class Group:
    """The points of one unit that share a scan period, and the blocks that read them.

    Examples
    --------
    >>> group = Group(1, 1_000, (), Limits(), due_ns=500)
    >>> group.take(400), group.take(2_700), group.due_ns, group.overruns
    (False, True, 3500, 2)
    """

    unit: int
    period_ns: int
    points: tuple[Point, ...]
    limits: Limits
    due_ns: int = 0
    overruns: int = 0
    blocks: tuple[Block, ...] = ()
    refused: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Tag -> (steady ns from when to ask again, times refused in a row)."""
    replanned_ns: int | None = None

    def __post_init__(self) -> None:
        self.blocks = self.blocks or merge(self.points, self.limits)

    def take(self, now_ns: int, *, counting: bool = True) -> bool:
        """Is a scan due? If so the next one is put on the grid, and scans that were missed are counted.

        Not `counting`: the unit was backing off, nobody meant to ask it meanwhile.
        """
        if now_ns < self.due_ns:
            return False
        missed = (now_ns - self.due_ns) // self.period_ns
        self.overruns += missed if counting else 0
        self.due_ns += (missed + 1) * self.period_ns
        return True

    def due_blocks(self, now_ns: int) -> list[Block]:
        """The blocks to read in this scan: all but single points refused of late, which are asked ever less often."""
        if not self.refused:
            return list(self.blocks)
        return [b for b in self.blocks if len(b.points) > 1 or self.refused.get(b.points[0].tag, (0, 0))[0] <= now_ns]

    def adopt(self, old: Block, good: list[Block], bad: list[Block], now_ns: int) -> None:
        """Remember what a bisection of `old` found: `good` blocks answer, each of `bad` is one refused point.

        With no bad point at all the request was too long for the device (or a gap was refused): blocks are then not
        joined to more than was seen to work.
        """
        kept = [block for block in self.blocks if block is not old]
        largest = max((block.count for block in good), default=0)
        limits = self.limits if bad else Limits(min(largest, self.limits.words), min(largest, self.limits.bits))
        self.blocks = (*kept, *rejoin(good, limits), *bad)
        for block in bad:
            self.refuse(block.points[0].tag, now_ns)
        self.replanned_ns = now_ns if self.replanned_ns is None else self.replanned_ns

    def refuse(self, tag: int, now_ns: int) -> None:
        """A single point was refused (again): ask again after a delay that doubles up to 64 scans or a minute."""
        times = self.refused.get(tag, (0, 0))[1] + 1
        delay = min(self.period_ns * 2 ** min(times - 1, 6), max(60_000_000_000, self.period_ns))
        # Half a period early, so that the scan at that grid point finds it ripe.
        self.refused[tag] = (now_ns + delay - self.period_ns // 2, times)

    def accept(self, tag: int, now_ns: int) -> None:
        """A refused point answers: merge everything afresh, unless that was done a moment ago."""
        self.refused.pop(tag, None)
        if self.replanned_ns is None or now_ns - self.replanned_ns >= REPLAN_NS:
            self.replanned_ns = now_ns
            self.blocks = merge(self.points, self.limits)
            self.refused.clear()


@dataclass
class Backoff:
    """Delays that double from `base_ns` to `cap_ns`, each spread by ±20 % so that many do not return as one.

    Examples
    --------
    >>> backoff = Backoff(1_000, 4_000, np.random.default_rng(1))
    >>> [round(backoff.next() / 1_000) for _ in range(4)]
    [1, 2, 3, 5]
    """

    base_ns: int
    cap_ns: int
    rng: np.random.Generator
    failures: int = 0

    def next(self) -> int:
        """The delay before the next try, ns; one more failure is counted."""
        delay = min(self.base_ns * 2 ** min(self.failures, 32), self.cap_ns)
        self.failures += 1
        return int(delay * self.rng.uniform(0.8, 1.2))

    def reset(self) -> None:
        """It answered."""
        self.failures = 0


@dataclass
class Unit:
    """One unit id: its scan groups, whether it answers, and from when it may be asked again."""

    number: int
    nodes: tuple[str, ...]
    groups: list[Group]
    backoff: Backoff
    down: bool = False
    retry_ns: int = 0
    garbled: int = 0
    """Malformed answers in a row."""

    def ready(self, now_ns: int) -> bool:
        """Whether it may be asked and there is something to ask."""
        return now_ns >= self.retry_ns and any(now_ns >= group.due_ns for group in self.groups)

    def next_ns(self) -> int:
        """Steady time of its next request, ns."""
        return max(self.retry_ns, min(group.due_ns for group in self.groups))

    def fail(self, now_ns: int) -> bool:
        """It did not answer; true the first time in a row."""
        first, self.down = not self.down, True
        self.retry_ns = now_ns + self.backoff.next()
        return first

    def garble(self, now_ns: int) -> bool:
        """It answered nonsense: back off; true when that makes it count as down (the third time in a row)."""
        self.garbled += 1
        if self.garbled >= GARBLED_MAX:
            return self.fail(now_ns)
        self.retry_ns = now_ns + self.backoff.next()
        return False

    def answer(self) -> bool:
        """It answered; true if it had not before."""
        was, self.down = self.down, False
        self.retry_ns = self.garbled = 0
        self.backoff.reset()
        return was


def spread(groups: list[Group], start_ns: int) -> None:
    """Give the groups phases within their period (golden-ratio steps: even for any number of groups)."""
    for rank, group in enumerate(groups):
        group.due_ns = start_ns + int((rank * GOLDEN) % 1.0 * group.period_ns)
