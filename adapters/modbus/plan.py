"""Which requests to send: points merged into few blocks, and blocks taken apart again when one address is illegal.

Pure. A block never exceeds what one request may carry (125 registers, 2000 bits: Modbus Application Protocol 1.1b3,
sections 6.1 and 6.3) and never splits a value. Gaps up to `Limits.gap` are read along, because a request costs more
than a register.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.quality import Quality

from .registers import Codes, Floats, Layout, Point, Table, Words, decode, text

WORDS_MAX = 125
BITS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request to a device may ask for: registers, bits, and unused registers (or bits) read along."""

    words: int = WORDS_MAX
    bits: int = BITS_MAX
    gap: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.words <= WORDS_MAX or not 1 <= self.bits <= BITS_MAX or self.gap < 0:
            msg = f"words {self.words}, bits {self.bits}, gap {self.gap}; 1..{WORDS_MAX}, 1..{BITS_MAX} and 0 or more are allowed"
            raise ConfigError(msg)

    def of(self, table: Table) -> int:
        """Most registers or bits of one request to `table`."""
        return self.bits if table in ("coil", "discrete") else self.words


@dataclass(frozen=True)
class Block:
    """One request: `count` registers or bits of one table from `start`, and the points inside, in address order."""

    unit: int
    table: Table
    start: int
    count: int
    points: tuple[Point, ...]

    @cached_property
    def tags(self) -> npt.NDArray[np.uint32]:
        """Local tag numbers of the points that are numbers, in the order `decode` returns them."""
        return np.array([point.tag for _, points in self._groups for point in points], np.uint32)

    @cached_property
    def texts(self) -> tuple[Point, ...]:
        """The points that are text."""
        return tuple(point for point in self.points if point.layout.type == "string")

    @cached_property
    def _groups(self) -> list[tuple[Layout, list[Point]]]:
        groups: dict[Layout, list[Point]] = {}
        for point in self.points:
            if point.layout.type != "string":
                groups.setdefault(point.layout, []).append(point)
        return list(groups.items())

    @cached_property
    def _program(self) -> tuple[list[tuple[Layout, npt.NDArray[np.intp]]], Floats, Floats, Floats]:
        """Gather indices per layout; scale, offset and sentinel (NaN = none) of all numeric points."""
        steps = []
        for how, points in self._groups:
            starts = np.array([point.start - self.start for point in points], np.intp)
            steps.append((how, starts[:, None] + np.arange(how.width)))
        flat = [point for _, points in self._groups for point in points]
        scale = np.array([point.scale for point in flat], np.float64)
        offset = np.array([point.offset for point in flat], np.float64)
        invalid = np.array([np.nan if point.invalid is None else point.invalid for point in flat], np.float64)
        return steps, scale, offset, invalid

    def decode(self, data: Words) -> tuple[Floats, Codes]:
        """Scaled values and qualities of all numeric points, aligned with `tags`.

        Parameters
        ----------
        data
            uint16 (count,): the registers as received; for bit tables 0 or 1 each.
        """
        steps, scale, offset, invalid = self._program
        if not steps:
            return np.empty(0), np.empty(0, np.uint8)
        parts = [decode(data[rows], how) for how, rows in steps]
        raw = np.concatenate([values for values, _ in parts])
        quality = np.concatenate([codes for _, codes in parts])
        quality[raw == invalid] = Quality.BAD_NO_VALUE
        with np.errstate(over="ignore", invalid="ignore"):
            values = raw * scale + offset
        quality[np.isinf(values)] = Quality.BAD_RANGE
        values[quality >= Quality.BAD] = np.nan
        return values, quality

    def read_texts(self, data: Words) -> list[tuple[Point, str]]:
        """The text points and what they say."""
        return [(p, text(data[p.start - self.start : p.stop - self.start], p.layout.order)) for p in self.texts]


def merge(points: Iterable[Point], limits: Limits) -> tuple[Block, ...]:
    """The blocks that read all points of one unit (any tables), fewest first-fit in address order.

    Examples
    --------
    >>> from .registers import Layout, Point
    >>> points = [Point(i, 1, "holding", 2 * i, Layout("float32", "abcd", 2)) for i in range(100)]
    >>> [(block.start, block.count) for block in merge(points, Limits())]
    [(0, 124), (124, 76)]
    """
    blocks: list[Block] = []
    run: list[Point] = []
    stop = 0
    for point in sorted(points, key=lambda p: (p.unit, p.table, p.start, p.stop, p.tag)):
        fits = (
            run
            and (point.unit, point.table) == (run[0].unit, run[0].table)
            and point.start <= stop + limits.gap
            and max(point.stop, stop) - run[0].start <= limits.of(point.table)
        )
        if not fits:
            if run:
                blocks.append(span(run))
            run, stop = [], 0
        run.append(point)
        stop = max(stop, point.stop)
    if run:
        blocks.append(span(run))
    return tuple(blocks)


def span(points: Sequence[Point]) -> Block:
    """The smallest block around points of one unit and table."""
    first = points[0]
    start = min(point.start for point in points)
    return Block(first.unit, first.table, start, max(point.stop for point in points) - start, tuple(points))


def split(block: Block) -> tuple[Block, Block]:
    """Two halves by number of points; each spans only its own points, so gaps between them are dropped.

    Raises
    ------
    ValueError
        If the block holds a single point: there is nothing left to take apart.
    """
    middle = len(block.points) // 2
    if not middle:
        msg = f"{block.table}:{block.start} of unit {block.unit} holds one point; it can not be split"
        raise ValueError(msg)
    return span(block.points[:middle]), span(block.points[middle:])


def rejoin(blocks: Iterable[Block], limits: Limits) -> tuple[Block, ...]:
    """Neighbours that touch, joined again: after a bisection only what is proven readable is read together.

    `blocks` are all known to be readable. Blocks with a gap between them stay apart - the gap may be what the device
    refused.
    """
    out: list[Block] = []
    for block in sorted(blocks, key=lambda b: (b.unit, b.table, b.start, b.count)):
        last = out[-1] if out else None
        if (
            last is not None
            and (last.unit, last.table) == (block.unit, block.table)
            and block.start <= last.start + last.count
            and max(block.start + block.count, last.start + last.count) - last.start <= limits.of(block.table)
        ):
            out[-1] = span(last.points + block.points)
        else:
            out.append(block)
    return tuple(out)
