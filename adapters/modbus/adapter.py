"""`ModbusAdapter`: the plant file's tags become points, units and lanes; `read` runs what is due."""

from __future__ import annotations

import asyncio
import zlib
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from pydantic import Field, ValidationError

from iiot_dask.adapter.contract import Context, Event, Poll, TagInfo
from iiot_dask.core.config import Model, Span
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import span_ns

from .lane import Answers, Lane, Standing
from .plan import BITS_MAX, WORDS_MAX, Limits
from .probe import probe
from .registers import Address, Point, layout, parse_address
from .schedule import Backoff, Group, Unit, spread
from .session import Endpoint, Session, tls_context

ROWS_MAX = 100_000
WAIT_S = 0.1
RETRY_NS = 1_000_000_000
RECONNECT_NS = 250_000_000
RECONNECT_CAP_NS = 5_000_000_000
REFUSED_MAX = 3
REPORT_NS = 10_000_000_000


class Options(Model):
    """`[adapters.options]` of a Modbus adapter."""

    connections: int = Field(
        4, ge=1, le=32, description="connections the unit ids are dealt to, so that one that hangs holds up few"
    )
    gap: int = Field(16, ge=0, le=WORDS_MAX, description="unused registers (or bits) read along to save a request")
    words: int = Field(WORDS_MAX, ge=1, le=WORDS_MAX, description="most registers a request")
    bits: int = Field(BITS_MAX, ge=1, le=BITS_MAX, description="most coils a request")
    base: int = Field(0, ge=0, le=1, description="number of the first register in the tags' addresses")
    backoff_max: Span = Field(
        span_ns("30s"), gt=0, description="a unit that does not answer is asked at least this often"
    )
    invalid: dict[str, float] = Field(default_factory=dict, description="tag glob -> raw number that means 'no value'")


def options(context: Context) -> Options:
    """The adapter's own options.

    Raises
    ------
    ConfigError
        Naming the key.
    """
    try:
        return Options.model_validate(context.config.options)
    except ValidationError as error:
        problems = [f"options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        msg = f"adapter {context.config.name!r}: {'; '.join(problems)}"
        raise ConfigError(msg) from error


def points_of(context: Context, base: int, invalid: dict[str, float]) -> tuple[list[TagInfo], list[Point], list[int]]:
    """Every configured tag as it is announced and as it is read, and its scan period in ns; in the file's order.

    Raises
    ------
    ConfigError
        Naming the tag whose address or type is wrong.
    """
    infos, points, periods = [], [], []
    for number, tag in enumerate(context.config.tags):
        if tag.address is None:
            msg = f"tag {tag.tag!r} of adapter {context.config.name!r} has no address, such as 'holding:100'"
            raise ConfigError(msg)
        try:
            address: Address = parse_address(tag.address, base)
            how = layout(address, tag.type, tag.order)
        except ConfigError as error:
            msg = f"tag {tag.tag!r} of adapter {context.config.name!r}: {error}"
            raise ConfigError(msg) from error
        if tag.scan <= 0:
            msg = f"tag {tag.tag!r} of adapter {context.config.name!r}: scan {tag.scan} ns; more than 0 is needed"
            raise ConfigError(msg)
        state = how.type in ("bool", "bits")
        device = tag.tag.rpartition("/")[0] or context.config.name
        shown = f"{tag.unit_id}/{tag.address}"
        infos.append(TagInfo(tag.tag, device, shown, tag.unit, tag.scan, "state" if state else None))
        sentinel = next((value for glob, value in invalid.items() if fnmatchcase(tag.tag, glob)), None)
        points.append(Point(number, tag.unit_id, address.table, address.start, how, tag.scale, tag.offset, sentinel))
        periods.append(tag.scan)
    if not points:
        msg = f"adapter {context.config.name!r} has no tags; [[adapters.tags]] lists them"
        raise ConfigError(msg)
    return infos, points, periods


class ModbusAdapter:
    """Polls Modbus devices; reads only.

    A row's time is when the answer arrived: Modbus carries none. A device that does not answer gives no rows but one
    `device_down` event; an exception it answers with gives rows of NaN whose quality names the exception.
    """

    kind: ClassVar[str] = "modbus"
    summary: ClassVar[str] = "Modbus TCP, TLS, UDP and RTU over TCP: polled registers and coils"
    options_model: ClassVar[type[Model]] = Options
    bench: ClassVar[str] = "iiot_dask_adapters.modbus.bench:ModbusBench"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._options = options(context)
        self._endpoint = Endpoint.parse(context.config.endpoint)
        self._infos, self._points, self._periods = points_of(context, self._options.base, self._options.invalid)
        self._answers = Answers()
        self._lanes: list[Lane] = []
        self._running: dict[asyncio.Task[None], Lane] = {}
        self._gate = asyncio.Event()
        self._announced = False
        self._reported_ns = 0
        self._reported = 0

    @property
    def overruns(self) -> int:
        """Scans that were due but not made in time, since `open`."""
        return sum(group.overruns for lane in self._lanes for unit in lane.units for group in unit.groups)

    async def open(self, position: str | None) -> None:
        """Plan the requests; the first `read` connects. Modbus has no past to resume from: `position` is ignored.

        Raises
        ------
        ConfigError
            If a certificate can not be read.
        """
        del position
        start = self._context.clock.monotonic_ns()
        # Seeded by name: adapters that fail together must not retry together, yet each run is the same.
        rng = np.random.default_rng(zlib.crc32(self._context.config.name.encode()))
        units = self._units(rng)
        spread([group for unit in units for group in unit.groups], start)
        self._reported_ns = start
        count = min(self._options.connections, len(units))
        standing = Standing(self._context.config.name, self._answers, self._context.clock)
        self._lanes = [
            Lane(
                self._infos, self._session(), units[rank::count], self._answers, self._context.clock,
                Backoff(RECONNECT_NS, RECONNECT_CAP_NS, rng), standing, self._gate,
            )
            for rank in range(count)
        ]  # fmt: skip

    def _session(self) -> Session:
        config = self._context.config
        tls = tls_context(config.ca, config.certificate, config.private_key) if self._endpoint.scheme == "tls" else None
        return Session(self._endpoint, config.timeout / 1e9, tls)

    def _units(self, rng: np.random.Generator) -> list[Unit]:
        limits = Limits(self._options.words, self._options.bits, self._options.gap)
        sorted_points: dict[int, dict[int, list[Point]]] = {}
        for point, period in zip(self._points, self._periods, strict=True):
            sorted_points.setdefault(point.unit, {}).setdefault(period, []).append(point)
        units = []
        for number, by_period in sorted_points.items():
            groups = [Group(number, period, tuple(points), limits) for period, points in sorted(by_period.items())]
            nodes = {self._infos[point.tag].device: None for group in groups for point in group.points}
            units.append(Unit(number, tuple(nodes), groups, Backoff(RETRY_NS, self._options.backoff_max, rng)))
        return units

    async def read(self) -> Poll:
        """Run what is due and hand over what was answered; an unanswered request is waited for 100 ms at a time.

        Requests go out only while this runs: what was answered is never left behind, but for a request that a slow
        device has kept waiting for longer than that.
        """
        clock = self._context.clock
        now = clock.monotonic_ns()
        busy = set(self._running.values())
        for lane in self._lanes:
            if lane not in busy and lane.next_ns() <= now and self._answers.rows < ROWS_MAX:
                self._running[asyncio.create_task(lane.turn())] = lane
        self._gate.set()
        try:
            await self._wait(now)
        finally:
            self._gate.clear()
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            task.result()
        self._share()
        return self._poll()

    def _share(self) -> None:
        """A lane that is refused a connection while another one is answered: the device allows no more connections."""
        busy = set(self._running.values())
        for lane in [lane for lane in self._lanes if lane.refused >= REFUSED_MAX and lane not in busy]:
            host = next((other for other in self._lanes if other.answered_ns > lane.refused_ns), None)
            if host is None:
                continue
            self._lanes.remove(lane)
            host.units += lane.units
            for unit in lane.units:
                unit.retry_ns = 0
            reason = f"{self._endpoint} allows {len(self._lanes)} connections; unit ids share them"
            self._answers.events.append(Event("info", self._context.config.name, self._context.clock.now_ns(), reason))

    async def _wait(self, now: int) -> None:
        """Until every lane has done its turn, but for those whose device is slow: they end when they end."""
        brisk = [task for task, lane in self._running.items() if not lane.slow(WAIT_S)]
        if brisk:
            await asyncio.wait(brisk, timeout=WAIT_S)
            return
        busy = set(self._running.values())
        due = min((lane.next_ns() for lane in self._lanes if lane not in busy), default=now + round(WAIT_S * 1e9))
        patience = min(WAIT_S, max(0.0, (due - now) / 1e9))
        if self._running:
            await asyncio.wait(self._running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(patience)

    def _poll(self) -> Poll:
        self._report()
        tags = () if self._announced else tuple(self._infos)
        self._announced = True
        batch, events = self._answers.take(ROWS_MAX)
        return Poll(tags, batch, events)

    def _report(self) -> None:
        """Say every 10 s how many scans were missed, if any."""
        now = self._context.clock.monotonic_ns()
        if now - self._reported_ns < REPORT_NS:
            return
        total = self.overruns
        if total > self._reported:
            missed = total - self._reported
            reason = f"{missed} scans were missed in {(now - self._reported_ns) / 1e9:.0f} s: requests take longer than the scan periods allow"
            self._answers.events.append(
                Event("info", self._context.config.name, self._context.clock.now_ns(), reason, missed)
            )
        self._reported_ns, self._reported = now, total

    async def acknowledge(self, position: str) -> None:
        """Nothing to do: a Modbus device keeps no samples."""

    async def finish(self) -> Poll:
        """Send no more requests, wait for those that are out and hand over their answers: the last `read` before `close`."""
        await self._settle()
        return self._poll()

    async def close(self) -> None:
        """Let the requests that are out come home, then close the connections."""
        await self._settle()
        for lane in self._lanes:
            lane.session.close()

    async def _settle(self) -> None:
        for lane in self._lanes:
            lane.stopping = True
        self._gate.set()
        if self._running:
            await asyncio.wait(self._running)
        for task in self._running:
            task.result()
        self._running.clear()

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Connect and read every tag once: what is wrong, one sentence each."""
        try:
            adapter = cls(context)
            session = adapter._session()
        except ConfigError as error:
            return [str(error)]
        limits = Limits(adapter._options.words, adapter._options.bits, adapter._options.gap)
        return await probe(session, adapter._infos, adapter._points, limits)
