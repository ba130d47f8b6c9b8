"""`LineAdapter`: the write side of InfluxDB, version 1 and 2, over one HTTP listener."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Sequence
from typing import ClassVar
from urllib.parse import parse_qsl

from aiohttp import web

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Context, Event, Kept, Poll
from iiot_dask.core.errors import ConfigError, LocalAdapterError

from ..common.door import Door
from ..common.listener import (
    THREAD_BYTES,
    Access,
    Listener,
    RefusedError,
    address,
    guard,
    tls,
    unreachable,
)
from ..common.settings import validated
from ..common.tags import Tags
from ..common.template import Template
from .answers import v1, v2, with_headers
from .options import Options
from .parser import HOLES, UNITS_NS, UNITS_V1_NS, Parsed, Parser

TEXTS_NS = 10_000_000_000
"""Left-out text values are told at most this often, ns."""
FAULTS_SHOWN = 20
LINE_SHOWN = 200
_CREATE = re.compile(r"\s*CREATE\s+DATABASE\s+\S", re.IGNORECASE)


class LineAdapter:
    """Listens for line protocol; a write is answered once it is on disk. See README.md beside this file."""

    kind: ClassVar[str] = "line"
    summary: ClassVar[str] = "InfluxDB line protocol by HTTP, as Telegraf and every Influx client send it"
    options: ClassVar[type[Options]] = Options

    def __init__(self, context: Context) -> None:
        config = context.config
        self._context = context
        self._name = config.name
        self._options = validated(Options, config.options, self._name)
        self._host, self._port = address(config.listen, self._name)
        self._tags = Tags(context.classes, self._options.tags_max, self._name)
        where = f"adapter {self._name!r}: options.tag"
        self._parser = Parser(Template(self._options.tag, where, fixed=HOLES), self._tags, self._options.tags_max)
        self._door = Door(self._name, self._options.queue_rows, f"{context.clock.now_ns():x}", self._tags.fresh)
        self._access = Access()
        self._listener: Listener | None = None
        self._texts = 0
        self._texts_ns = 0

    @property
    def port(self) -> int:
        """The port listened on, once open."""
        return self._port if self._listener is None else self._listener.port

    async def open(self, position: str | None) -> None:
        """Listen. `position` is of no use: who was not answered sends again.

        Raises
        ------
        ConfigError
            If the address, a certificate or a secret is wrong.
        InUseError
            If the port is taken.
        """
        del position
        context = self._settle()
        await asyncio.to_thread(warm)
        chosen = self._options
        listener = Listener(
            self._host, self._port, context, body_bytes_max=chosen.body_bytes_max, bytes_max=chosen.bytes_max,
            durable_s=chosen.durable / 1e9,
        )  # fmt: skip
        await listener.start(
            [
                web.post("/write", self._write_v1),
                web.post("/api/v2/write", self._write_v2),
                web.route("*", "/query", self._query),
                web.get("/ping", self._ping),
                web.get("/health", self._health),
                web.get("/ready", self._ready),
            ]
        )
        self._listener = listener
        self._tell("connected", f"listens on {self._host}:{listener.port}")

    def _settle(self) -> ssl.SSLContext | None:
        config, secret = self._context.config, self._context.secret
        self._access = Access(
            None if self._options.token is None else secret(self._options.token),
            config.username,
            None if config.password is None else secret(config.password),
        )
        guard(self._host, self._access, self._name, anonymous=self._options.anonymous)
        return tls(config.certificate, config.private_key, config.ca, self._name)

    async def read(self) -> Poll:
        """The next rows.

        Raises
        ------
        LocalAdapterError
            If it was not opened.
        """
        if self._listener is None:
            msg = f"adapter {self._name!r} is read before it was opened"
            raise LocalAdapterError(msg)
        self._tell_texts()
        return await self._door.poll(self._context.clock.now_ns)

    async def acknowledge(self, position: str) -> None:
        """Everything up to `position` is on disk: the writes in it are answered."""
        self._door.acknowledge(position)

    async def close(self) -> None:
        """Answer everyone who waits with 503, and stop listening."""
        self._door.close()
        if self._listener is not None:
            await self._listener.close()

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Whether the address can be listened on and the files and secrets are there."""
        try:
            adapter = cls(context)
            tls_context = adapter._settle()
        except ConfigError as error:
            return [str(error)]
        problem = await unreachable(adapter._host, adapter._port, tls_context)
        return [] if problem is None else [problem]

    @classmethod
    async def decode(cls, context: Context, kept: Sequence[Kept]) -> Poll:
        """Read lines again that were reported as malformed or rejected; a time is needed in them."""
        adapter = cls(context)
        for item in kept:
            parsed = adapter._parser.parse(item.raw, "", 1, item.time_ns)
            if len(parsed.rows):
                adapter._door.push(parsed.rows)
            adapter._report(parsed)
        return adapter._door.take(context.clock.now_ns())

    # -- requests ----------------------------------------------------------------------------------------------------

    async def _write_v1(self, request: web.Request) -> web.Response:
        return await self._running().answered(self._write(request, "db", UNITS_V1_NS, 1), v1)

    async def _write_v2(self, request: web.Request) -> web.Response:
        return await self._running().answered(self._write(request, "bucket", UNITS_NS, 2), v2)

    def _running(self) -> Listener:
        assert self._listener is not None, "requests come after open()"
        return self._listener

    async def _write(self, request: web.Request, db: str, units: dict[str, int], version: int) -> web.Response:
        self._admit(request)
        precision = request.query.get("precision", "ns")
        if precision not in units:
            msg = f"precision {precision[:20]!r}; {', '.join(units)} are allowed"
            raise RefusedError(400, msg)
        if self._door.full:
            msg = f"{self._door.held} rows wait for the disk; at most {self._options.queue_rows} may"
            raise RefusedError(429, msg, 1.0)
        listener = self._running()
        body = await listener.body(request)
        told = (body, request.query.get(db, ""), units[precision], self._context.clock.now_ns())
        if len(body) < THREAD_BYTES:
            parsed = self._parser.parse(*told)
        else:
            parsed = await asyncio.to_thread(self._parser.parse, *told)
        self._report(parsed)
        if len(parsed.rows):
            await listener.durable(self._door.push(parsed.rows))
        if not parsed.faulty:
            return with_headers(web.Response(status=204))
        sentence = fault_sentence(parsed)
        return v1(400, sentence) if version == 1 else v2(400, sentence)

    def _admit(self, request: web.Request) -> None:
        if not self._access.allows(request):
            msg = "authorization failed"
            raise RefusedError(401, msg)

    async def _query(self, request: web.Request) -> web.Response:
        """Telegraf creates its database before it writes; anything else is not answered here."""

        async def work() -> web.Response:
            self._admit(request)
            text = request.query.get("q", "")
            if not text and request.method == "POST":
                form = (await self._running().body(request)).decode("utf-8", "replace")
                text = form if form.startswith("CREATE") else dict(parse_qsl(form[:4096])).get("q", "")
            if not _CREATE.match(text):
                msg = "queries are not answered here; 'iiot-dask query' does"
                raise RefusedError(400, msg)
            return with_headers(web.json_response({"results": [{"statement_id": 0}]}))

        return await self._running().answered(work(), v1)

    async def _ping(self, request: web.Request) -> web.Response:
        if request.query.get("verbose", "false") not in ("false", "0", ""):
            return with_headers(web.json_response({"version": "1.8.0"}))
        return with_headers(web.Response(status=204))

    async def _health(self, _: web.Request) -> web.Response:
        full = self._door.full
        document: dict[str, object] = {
            "name": "iiot-dask", "message": "waits for the disk" if full else "ready for writes",
            "status": "fail" if full else "pass", "checks": [], "version": "2.0.0",
        }  # fmt: skip
        return with_headers(web.json_response(document, status=503 if full else 200))

    async def _ready(self, _: web.Request) -> web.Response:
        return with_headers(web.json_response({"status": "ready"}))

    # -- events ------------------------------------------------------------------------------------------------------

    def _tell(self, kind: str, reason: str, count: int = 1, raw: bytes = b"") -> None:
        now_ns = self._context.clock.now_ns()
        self._door.tell(Event(kind, self._name, now_ns, reason, count, raw[:RAW_BYTES_MAX]))  # type: ignore[arg-type]

    def _report(self, parsed: Parsed) -> None:
        """Faulty lines as events, one a reason, with the first line."""
        self._texts += parsed.texts
        first: dict[tuple[bool, str], bytes] = {}
        counts: dict[tuple[bool, str], int] = {}
        for fault in parsed.faults:
            key = fault.malformed, fault.reason
            first.setdefault(key, fault.line)
            counts[key] = counts.get(key, 0) + 1
        for (malformed, reason), line in first.items():
            self._tell("malformed" if malformed else "rejected", reason, counts[malformed, reason], line)
        rest = parsed.faulty - len(parsed.faults)
        if rest:
            self._tell("rejected", f"more than {len(parsed.faults)} faulty lines in one write", rest)

    def _tell_texts(self) -> None:
        now_ns = self._context.clock.monotonic_ns()
        if self._texts and now_ns - self._texts_ns >= TEXTS_NS:
            self._texts_ns = now_ns
            self._tell("info", "text values are not stored; numbers and booleans are", self._texts)
            self._texts = 0


def fault_sentence(parsed: Parsed) -> str:
    """What InfluxDB says of a write of which not all was taken."""
    told = [
        f"unable to parse '{fault.line[:LINE_SHOWN].decode('utf-8', 'replace')}': {fault.reason}"
        for fault in parsed.faults[:FAULTS_SHOWN]
    ]
    more = parsed.faulty - len(told)
    if more > 0:
        told.append(f"… and {more} more")
    text = "\n".join(told)
    return f"partial write: {text} dropped={parsed.faulty}" if len(parsed.rows) else text


def warm() -> None:
    """Compile the kernels before the first write comes."""
    tags = Tags((), 10, "warm")
    parser = Parser(Template("{measurement}/{field}", "warm", fixed=HOLES), tags, 10)
    parser.parse(b'm,t=a f=1.5,g=2i,b=t,s="x" 1\nm,t=a f=1.5e300,g=1\n m f=1', "", 1, 1)
