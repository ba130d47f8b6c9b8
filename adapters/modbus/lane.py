"""One connection and the units it serves: polls what is due, keeps what was answered, reports what did not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Event, EventKind, TagInfo
from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import Clock
from iiot_dask.core.quality import from_modbus

from .plan import Block, split
from .schedule import Backoff, Group, Unit
from .session import LostError, MalformedError, NoAnswerError, Reply, Session

ILLEGAL = frozenset({2, 3})
"""Exceptions that may concern one address of a block only: illegal data address, illegal data value (too many)."""
GATEWAY = frozenset({10, 11})
"""Exceptions a gateway answers in place of a unit that does not."""


@dataclass
class Answers:
    """What was answered and not yet handed over: columns in pieces, and events. Bounded by one turn of each lane."""

    tags: list[npt.NDArray[np.uint32]] = field(default_factory=list)
    values: list[npt.NDArray[np.float64]] = field(default_factory=list)
    quality: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    times: list[npt.NDArray[np.int64]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    rows: int = 0

    def add(
        self,
        tags: npt.NDArray[np.uint32],
        values: npt.NDArray[np.float64],
        quality: npt.NDArray[np.uint8],
        time_ns: int,
    ) -> None:
        """One block's rows, all received at `time_ns`."""
        if len(tags):
            self.tags.append(tags)
            self.values.append(values)
            self.quality.append(quality)
            self.times.append(np.full(len(tags), time_ns, np.int64))
            self.rows += len(tags)

    def take(self, rows_max: int) -> tuple[Batch | None, tuple[Event, ...]]:
        """Hand over whole blocks up to `rows_max` rows, and all events."""
        events, self.events = tuple(self.events), []
        n = rows = 0
        while n < len(self.tags) and rows + len(self.tags[n]) <= rows_max:
            rows += len(self.tags[n])
            n += 1
        if not n:
            return None, events
        parts: list[npt.NDArray[np.generic]] = []
        for column in (self.tags, self.times, self.values, self.quality):
            parts.append(np.concatenate(column[:n]))
            del column[:n]
        self.rows -= rows
        return Batch.of(tag=parts[0], time=parts[1], value=parts[2], quality=parts[3], received=parts[1]), events


class Standing:
    """Whether the adapter has a connection at all, over all its lanes: said once when that changes."""

    def __init__(self, name: str, answers: Answers, clock: Clock) -> None:
        self.name = name
        self._answers = answers
        self._clock = clock
        self._up: set[int] = set()
        self._said: EventKind | None = None

    def gained(self, lane: Lane, reason: str) -> None:
        """A lane has a connection."""
        self._up.add(id(lane))
        self._say("connected", reason)

    def lost(self, lane: Lane, reason: str) -> None:
        """A lane has none."""
        self._up.discard(id(lane))
        if not self._up:
            self._say("disconnected", reason)

    def _say(self, kind: EventKind, reason: str) -> None:
        if kind != self._said:
            self._said = kind
            self._answers.events.append(Event(kind, self.name, self._clock.now_ns(), reason))


class Lane:
    """Polls its units over one `Session`.

    A unit that does not answer costs one timeout and then backs off; a connection that fails is tried again at once,
    then with growing delays. Nothing here sleeps: `turn` does what is due now, `next_ns` says when something is.
    """

    def __init__(
        self,
        infos: Sequence[TagInfo],
        session: Session,
        units: list[Unit],
        answers: Answers,
        clock: Clock,
        backoff: Backoff,
        standing: Standing,
        gate: asyncio.Event,
    ) -> None:
        self.infos = infos
        self.standing = standing
        self.gate = gate
        self.stopping = False
        self._asked_s: float | None = None
        self.session = session
        self.units = units
        self.answers = answers
        self.clock = clock
        self.backoff = backoff
        self.retry_ns = 0
        self.refused = 0
        """Connections in a row that could not be made."""
        self.refused_ns = 0
        """Steady time of the first of them, ns."""
        self.answered_ns = 0
        """Steady time of the last answer, ns."""
        self.texts: dict[int, str] = {}

    def next_ns(self) -> int:
        """Steady time of the next thing to do, ns."""
        return max(self.retry_ns, min(unit.next_ns() for unit in self.units))

    def slow(self, patience_s: float) -> bool:
        """Whether the request that is out has been so for longer than this."""
        return self._asked_s is not None and asyncio.get_running_loop().time() - self._asked_s > patience_s

    async def turn(self) -> None:
        """Read everything that is due, unit by unit, most overdue first."""
        now = self.clock.monotonic_ns()
        if now < self.retry_ns:
            return
        for unit in sorted((u for u in self.units if u.ready(now)), key=Unit.next_ns):
            if not self.session.connected and not await self._connect():
                return
            await self._scan(unit)

    async def _scan(self, unit: Unit) -> None:
        counting = not unit.down
        for group in unit.groups:
            now = self.clock.monotonic_ns()
            if not group.take(now, counting=counting):
                continue
            for block in group.due_blocks(now):
                if not await self._block(unit, group, block):
                    return

    async def _block(self, unit: Unit, group: Group, block: Block) -> bool:
        """Read one block; false when the unit, or the connection, is not to be asked further now."""
        reply = await self._ask(unit, block)
        if reply is None:
            return False
        now = self.clock.monotonic_ns()
        if reply.exception in ILLEGAL and len(block.points) > 1:
            return await self._bisect(unit, group, block)
        self._deliver(block, reply)
        if reply.exception in GATEWAY:
            self._down(unit, f"the gateway answers exception {reply.exception} for unit {unit.number}")
            return False
        self._up(unit)
        if len(block.points) == 1 and (reply.exception in ILLEGAL or block.points[0].tag in group.refused):
            if reply.exception in ILLEGAL:
                group.refuse(block.points[0].tag, now)
            elif not reply.exception:
                group.accept(block.points[0].tag, now)
        return True

    async def _bisect(self, unit: Unit, group: Group, block: Block) -> bool:
        """Find the addresses the device refuses: halves of halves, down to single points; remember the outcome."""
        todo = list(reversed(split(block)))
        good: list[Block] = []
        bad: list[Block] = []
        while todo:
            part = todo.pop()
            reply = await self._ask(unit, part)
            if reply is None:
                return False
            if reply.exception in ILLEGAL and len(part.points) > 1:
                todo.extend(reversed(split(part)))
                continue
            self._deliver(part, reply)
            self._up(unit)
            (bad if reply.exception in ILLEGAL else good).append(part)
        group.adopt(block, good, bad, self.clock.monotonic_ns())
        if bad:
            addresses = ", ".join(f"{part.table}:{part.start}" for part in bad[:10])
            self._event("info", unit.nodes[0], f"unit {unit.number} refuses {len(bad)} addresses: {addresses}")
        return True

    async def _ask(self, unit: Unit, block: Block) -> Reply | None:
        """One request. A lost connection is opened once more and the request repeated; None = no answer."""
        await self.gate.wait()
        if self.stopping:
            return None
        for again in (True, False):
            self._asked_s = asyncio.get_running_loop().time()
            try:
                return await self.session.read(unit.number, block.table, block.start, block.count)
            except NoAnswerError as error:
                self._down(unit, str(error))
                return None
            except MalformedError as error:
                # An answer, but no usable one: the unit is asked less often, the bytes are kept for a person.
                self.answers.events.append(
                    Event("malformed", unit.nodes[0], self.clock.now_ns(), str(error), raw=error.raw[:RAW_BYTES_MAX])
                )
                if unit.garble(self.clock.monotonic_ns()):
                    self._events("device_down", unit, str(error))
                return None
            except LostError as error:
                if not again:
                    self._down(unit, str(error))
                    return None
                self.standing.lost(self, str(error))
                if not await self._connect():
                    return None
            finally:
                self._asked_s = None
        return None

    async def _connect(self) -> bool:
        await self.gate.wait()
        if self.stopping:
            return False
        self._asked_s = asyncio.get_running_loop().time()
        try:
            await self.session.connect()
        except LostError as error:
            now = self.clock.monotonic_ns()
            self.standing.lost(self, str(error))
            self.refused_ns = self.refused_ns if self.refused else now
            self.refused += 1
            self.retry_ns = now + self.backoff.next()
            for unit in self.units:
                if not unit.down:
                    unit.down = True
                    self._events("device_down", unit, str(error))
            return False
        finally:
            self._asked_s = None
        self.backoff.reset()
        self.retry_ns = 0
        for unit in self.units:
            # What kept a unit from answering may have been the connection: ask at once.
            unit.retry_ns = 0
        self.refused = 0
        self.standing.gained(self, str(self.session.endpoint))
        return True

    def _deliver(self, block: Block, reply: Reply) -> None:
        now = self.clock.now_ns()
        self.answered_ns = self.clock.monotonic_ns()
        if reply.exception:
            n = len(block.tags)
            code = np.full(n, int(from_modbus(reply.exception)), np.uint8)
            self.answers.add(block.tags, np.full(n, np.nan), code, now)
            return
        values, quality = block.decode(reply.data)
        self.answers.add(block.tags, values, quality, now)
        for point, said in block.read_texts(reply.data):
            if self.texts.get(point.tag) != said:
                self.texts[point.tag] = said
                info = self.infos[point.tag]
                self._event("info", info.device, f"{info.tag} = {said!r}")

    def _down(self, unit: Unit, reason: str) -> None:
        if unit.fail(self.clock.monotonic_ns()):
            self._events("device_down", unit, reason)

    def _up(self, unit: Unit) -> None:
        if unit.answer():
            self._events("device_up", unit, f"unit {unit.number} answers")

    def _events(self, kind: EventKind, unit: Unit, reason: str) -> None:
        for node in unit.nodes:
            self._event(kind, node, reason)

    def _event(self, kind: EventKind, node: str, reason: str) -> None:
        self.answers.events.append(Event(kind, node, self.clock.now_ns(), reason))
