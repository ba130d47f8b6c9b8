"""`OpcUaAdapter`: keeps a subscription alive in the background; `read` hands over what it brought."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from pydantic import Field, ValidationError

from iiot_dask.adapter.contract import Context, Poll, TagInfo
from iiot_dask.core.config import Model, Span
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.tags import check_tag
from iiot_dask.core.times import span_ns

from .browse import TEXTUAL, Variable, tag_name, walk
from .inbox import Inbox, named
from .nodes import NodeText
from .notification import read_data_change
from .probe import probe
from .rows import Book
from .security import Security
from .session import CallFailedError, Session, SessionLostError

WAIT_S = 0.1
TICK_S = 0.25
RETRY_S = 0.5
STUCK_S = 15.0


class Options(Model):
    """`[adapters.options]` of an OPC UA adapter."""

    publish: Span = Field(span_ns("100ms"), gt=0, description="publishing interval asked for")
    prefix: str | None = Field(
        None, description="put before the names of browsed tags; the adapter's name and '/' if absent"
    )
    browse_max: int = Field(100_000, ge=1, le=1_000_000, description="most variables browsing may find")
    browse_depth: int = Field(32, ge=1, le=1_000)
    watchdog: Span = Field(
        span_ns("5s"), gt=0, description="the server's clock is read this often, to see that it is alive"
    )
    retry: Span = Field(span_ns("10s"), gt=0, description="nodes the server refused are tried again this often")
    backoff_max: Span = Field(span_ns("30s"), gt=0, description="a lost server is tried at least this often")


class OpcUaAdapter:
    """Subscribes to variables; reads only.

    A row's time is the source timestamp; where the server sends none, its own (else the receive time) with quality
    `UNCERTAIN_TIME_REPLACED`. Bad values are rows of NaN. What is no number is counted in `rejected` events.
    """

    kind: ClassVar[str] = "opcua"
    summary: ClassVar[str] = "OPC UA: subscriptions with certificates, browsing, resumed sessions"
    options_model: ClassVar[type[Model]] = Options
    bench: ClassVar[str] = "iiot_dask_adapters.opcua.bench:OpcUaBench"

    def __init__(self, context: Context) -> None:
        config = context.config
        self._context = context
        self._config = config
        try:
            self.options = Options.model_validate(config.options)
        except ValidationError as error:
            problems = [f"options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
            msg = f"adapter {config.name!r}: {'; '.join(problems)}"
            raise ConfigError(msg) from error
        if not (config.endpoint or "").startswith("opc.tcp://"):
            msg = f"adapter {config.name!r}: endpoint {config.endpoint!r}; 'opc.tcp://host:port' is expected"
            raise ConfigError(msg)
        if not config.tags and not config.browse:
            msg = f"adapter {config.name!r} has neither tags nor browse; [[adapters.tags]] or browse = ['ns=2;s=Line7']"
            raise ConfigError(msg)
        self._infos: list[TagInfo] = []
        self._nodes: list[NodeText] = []
        self._numbers: dict[str, int] = {}
        self._by_node: dict[NodeText, int] = {}
        self._roots = [(NodeText.parse(text), text) for text in config.browse]
        for tag in config.tags:
            if tag.node is None:
                msg = f"tag {tag.tag!r} of adapter {config.name!r} has no node, such as 'ns=2;s=Name'"
                raise ConfigError(msg)
            self._add(tag.tag, NodeText.parse(tag.node), tag.node, tag.unit)
        self._announced = 0
        self._book = Book()
        self._inbox = Inbox(config.name, self._infos, self._book, context.clock)
        self._refused: dict[int, str] = {}
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def _add(self, name: str, node: NodeText, shown: str, unit: str | None = None, kind: str | None = None) -> None:
        period = next((span for glob, span in self._context.classes if fnmatchcase(name, glob)), None)
        device = name.rpartition("/")[0] or self._config.name
        state = "state" if kind == "state" else None
        self._numbers[name] = self._by_node[node] = len(self._infos)
        self._infos.append(TagInfo(name, device, shown, unit, period, state))  # type: ignore[arg-type]
        self._nodes.append(node)

    def _secured(self) -> Security:
        reference = self._config.password
        return Security.of(self._config, self._context.secret(reference) if reference else None)

    def _new_session(self) -> Session:
        assert self._config.endpoint is not None
        return Session(
            self._config.endpoint, self._config.timeout / 1e9, self._secured(), self._inbox.take, self._inbox.malformed
        )

    async def open(self, position: str | None) -> None:
        """Start connecting. A subscription begins with current values: there is nothing to resume, `position` is ignored.

        Raises
        ------
        ConfigError
            If certificates are missing or the password can not be resolved.
        """
        del position
        # The first call compiles (or loads) the kernels, for seconds: before there is a session to keep alive.
        read_data_change(bytes(4))
        self._session = self._new_session()
        self._task = asyncio.create_task(self._run(self._session))

    async def read(self) -> Poll:
        """What arrived; waits up to 100 ms for something.

        Raises
        ------
        ConfigError
            If a certificate or key turned out to be unusable.
        """
        if self._task is not None and self._task.done():
            self._task.result()
        if self._announced == len(self._infos):
            with contextlib.suppress(TimeoutError):  # nothing arrived: an empty poll
                await asyncio.wait_for(self._inbox.arrived.wait(), WAIT_S)
        return self._poll()

    def _poll(self) -> Poll:
        # Rows first: they may only name tags that are announced with or before them.
        batch, events = self._inbox.give()
        tags = tuple(self._infos[self._announced :])
        self._announced = len(self._infos)
        return Poll(tags, batch, events)

    async def acknowledge(self, position: str) -> None:
        """Nothing to do: a server does not wait for us to be durable."""

    async def finish(self) -> Poll:
        """Wait one publishing interval for changes already made, and hand them over: the last `read` before `close`."""
        if self._session is not None and self._session.connected:
            await asyncio.sleep(1.5 * self.options.publish / 1e9)
        return self._poll()

    async def close(self) -> None:
        """End subscription, session and connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._session is not None:
            await self._session.close()

    async def _run(self, session: Session) -> None:
        """Connect, watch, and connect again: for ever."""
        rng = np.random.default_rng(zlib.crc32(self._config.name.encode()))
        failures = 0
        while True:
            try:
                await self._establish(session)
                failures = 0
                await self._watch(session)
            except (SessionLostError, CallFailedError) as error:
                if not self._lost:
                    self._lost = True
                    self._inbox.event("disconnected", self._config.name, str(error))
            delay = min(RETRY_S * 2 ** min(failures, 16), self.options.backoff_max / 1e9)
            # The first try after a loss is made at once: most losses are a cable or a restart of moments.
            await asyncio.sleep(delay * rng.uniform(0.8, 1.2) if failures else 0)
            failures += 1

    async def _establish(self, session: Session) -> None:
        resumed = await session.resume()
        if not resumed:
            await session.connect()
            await session.subscribe(self.options.publish / 1e6)
            self._refused.clear()
            await self._monitor(session, list(range(len(self._infos))))
            for root, shown in self._roots:
                await self._browse(session, root, shown)
        self._lost = False
        how = "the session was resumed" if resumed else "a new session"
        self._inbox.event("connected", self._config.name, f"{self._config.endpoint}: {how}")

    async def _monitor(self, session: Session, numbers: list[int]) -> None:
        """Ask for these tags; those that can not be had are reported, and tried again later."""
        items, refused = [], {}
        for number in numbers:
            node = self._nodes[number].resolve(session.namespaces)
            if node is None:
                refused[number] = f"the server has no namespace {self._nodes[number].uri!r}"
            else:
                items.append((number, node))
        if items:
            self._book.subscribe(np.array([number for number, _ in items]), self._context.clock.now_ns())
            refused |= await session.monitor(items, self._config.sampling / 1e6, self._config.queue_size)
        reasons: dict[tuple[str, str], list[int]] = {}
        for number in numbers:
            if number not in refused:
                self._refused.pop(number, None)
            elif self._refused.get(number) != refused[number]:
                self._refused[number] = refused[number]
                reasons.setdefault((self._infos[number].device, refused[number]), []).append(number)
        for (device, reason), which in reasons.items():
            names = named([f"{self._infos[n].tag} ({self._infos[n].address})" for n in which])
            self._inbox.event("rejected", device, f"{names}: {reason}", len(which))

    async def _browse(self, session: Session, root: NodeText, shown: str) -> None:
        """Announce and monitor the variables below a root that are not known yet."""
        node = root.resolve(session.namespaces)
        try:
            found, cut = await find(session, node, self.options)
        except CallFailedError as error:
            self._inbox.event("rejected", self._config.name, f"browsing {shown}: {error}")
            return
        if cut:
            self._inbox.event(
                "info", self._config.name, f"browsing {shown} stopped at a limit with {len(found)} variables"
            )
        usable = await numeric(session, found)
        if len(usable) < len(found):
            skipped = len(found) - len(usable)
            self._inbox.event(
                "info", self._config.name, f"browsing {shown}: {skipped} variables are no single numbers", skipped
            )
        prefix = f"{self._config.name}/" if self.options.prefix is None else self.options.prefix
        first = len(self._infos)
        for variable, state in usable:
            text = NodeText.parse(variable.node)
            text = NodeText(session.namespaces[text.index], 0, text.kind, text.id) if text.index else text
            if text not in self._by_node:
                name = check_tag(tag_name(prefix, variable.path, self._numbers.__contains__))
                self._add(name, text, variable.node, None, "state" if state else None)
        await self._monitor(session, list(range(first, len(self._infos))))

    async def _watch(self, session: Session) -> None:
        """Look after a session until something is wrong with it.

        Raises
        ------
        SessionLostError
            Saying what is wrong.
        """
        loop = asyncio.get_running_loop()
        checked = retried = ticked = loop.time()
        clock, gaps = None, session.gaps
        while True:
            await asyncio.sleep(TICK_S)
            now = loop.time()
            if session.trouble is not None:
                raise SessionLostError(session.trouble)
            if session.gaps > gaps:
                reason = "notification messages were lost on the way and the server no longer has them"
                self._inbox.event("overflow", self._config.name, reason, session.gaps - gaps)
                gaps = session.gaps
            if now - session.published_s > 3 * session.keep_alive_s + session.timeout_s:
                await self._distrust(
                    session, f"nothing was published for {now - session.published_s:.0f} s, not even a keep-alive"
                )
            if now - checked >= self.options.watchdog / 1e9:
                checked = now
                before, clock = clock, await session.server_time()
                ticked = now if clock != before else ticked
                if now - ticked > max(STUCK_S, 3 * self.options.watchdog / 1e9):
                    await self._distrust(session, f"the server's clock stands still at {clock}")
            if self._refused and now - retried >= self.options.retry / 1e9:
                retried = now
                await self._monitor(session, sorted(self._refused))

    @staticmethod
    async def _distrust(session: Session, reason: str) -> None:
        """Give up a session that is up but of no use; it is not resumed."""
        await session.close()
        raise SessionLostError(reason)

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Connect, look at every tag and browse root: what is wrong, one sentence each."""
        try:
            adapter = cls(context)
            session = adapter._new_session()
        except ConfigError as error:
            return [str(error)]
        return await probe(session, adapter._infos, adapter._nodes, adapter._roots)


async def find(session: Session, root: str | None, options: Options) -> tuple[list[Variable], bool]:
    """The variables below a root.

    Raises
    ------
    CallFailedError
        If the server has no such node or namespace.
    """
    if root is None:
        msg = "the server has no such namespace"
        raise CallFailedError(msg)
    return await walk(session.children, root, await session.name(root), options.browse_depth, options.browse_max)


async def numeric(session: Session, found: list[Variable]) -> list[tuple[Variable, bool]]:
    """Those that may be single numbers by their data type and rank, each with whether it is a Boolean."""
    kinds = await session.types([variable.node for variable in found])
    return [
        (variable, kind == 1)
        for variable, (kind, rank) in zip(found, kinds, strict=True)
        if kind not in TEXTUAL and rank < 0
    ]
