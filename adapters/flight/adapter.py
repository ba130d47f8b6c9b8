"""`FlightAdapter`: an Arrow Flight server that edges and anyone with Arrow put batches to."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any, ClassVar

from iiot_dask.adapter.contract import Context, Event, EventKind, Poll
from iiot_dask.core.errors import ConfigError, InUseError, LocalAdapterError

from ..common.door import EVENTS_MAX, WAIT_S
from ..common.listener import LOOPBACK, address
from ..common.settings import validated
from ..common.tags import Tags
from .inbox import Inbox
from .options import Options

GRACE_S = 3.0
"""Longest wait, at a stop, for senders to end their streams."""


class FlightAdapter:
    """Takes Arrow batches; a put is acknowledged once it is on disk. See README.md beside this file."""

    kind: ClassVar[str] = "flight"
    summary: ClassVar[str] = "Arrow Flight: batches put by edges and Arrow clients, acknowledged after the disk"
    options: ClassVar[type[Options]] = Options

    def __init__(self, context: Context) -> None:
        config = context.config
        self._context = context
        self._name = config.name
        self._options = validated(Options, config.options, self._name)
        listen = (config.listen or "").removeprefix("grpc+tls://").removeprefix("grpc+tcp://").removeprefix("grpc://")
        self._host, self._port = address(listen, self._name)
        self._secure = config.certificate is not None
        if (config.listen or "").startswith("grpc+tls://") and not self._secure:
            msg = f"adapter {self._name!r}: listen = {config.listen!r} needs certificate and private_key"
            raise ConfigError(msg)
        self._tags = Tags(context.classes, self._options.tags_max, self._name)
        self._came = asyncio.Event()
        self._inbox: Inbox | None = None
        self._server: Any = None
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._events_lost = 0

    @property
    def port(self) -> int:
        """The port listened on, once open."""
        return self._port if self._server is None else int(self._server.port)

    async def open(self, position: str | None) -> None:
        """Listen; `position` says what each stream need not send again.

        Raises
        ------
        ConfigError
            If a certificate or a secret is wrong, or the address can not be listened on.
        InUseError
            If the port is taken.
        """
        loop = asyncio.get_running_loop()

        def came() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._came.set)

        mark = f"{self._context.clock.now_ns():x}"
        self._inbox = Inbox(self._options.queue_rows, mark, came, position)
        await asyncio.to_thread(self._listen, self._inbox)
        self._tell("connected", f"listens on {self._host}:{self.port}", 1)

    def _listen(self, inbox: Inbox) -> None:
        # gRPC and Arrow's Flight library are loaded only in a process that serves.
        import pyarrow as pa

        from .columns import Columns
        from .server import Server

        columns = Columns(self._tags)
        warm()
        host = f"[{self._host}]" if ":" in self._host else self._host
        location = f"grpc+{'tls' if self._secure else 'tcp'}://{host}:{self._port}"
        try:
            self._server = Server(
                location, inbox, columns, self._context.clock, self._tell, token=self._token(),
                durable_s=self._options.durable / 1e9, connections_max=self._options.connections_max,
                rows_max=self._options.put_rows_max, **self._tls(),
            )  # fmt: skip
        except (pa.ArrowException, OSError) as error:
            kind = InUseError if in_use(self._host, self._port) else ConfigError
            msg = f"adapter {self._name!r}: {location} can not be listened on: {error}"
            raise kind(msg) from error

    def _token(self) -> str | None:
        token = None if self._options.token is None else self._context.secret(self._options.token)
        mutual = self._secure and self._context.config.ca is not None
        if self._host not in LOOPBACK and token is None and not mutual and not self._options.anonymous:
            msg = (
                f"adapter {self._name!r} listens on {self._host!r}, which is not loopback, to everyone; give"
                " options.token, or certificate and ca, or say options.anonymous = true"
            )
            raise ConfigError(msg)
        return token

    def _tls(self) -> dict[str, Any]:
        config = self._context.config
        if not self._secure:
            return {}
        try:
            assert config.certificate is not None
            certificate = Path(config.certificate).read_bytes()
            key = Path(config.private_key or config.certificate).read_bytes()
            ca = None if config.ca is None else Path(config.ca).read_bytes()
        except OSError as error:
            msg = f"adapter {self._name!r}: certificate, private_key or ca can not be read: {error}"
            raise ConfigError(msg) from error
        mutual = {} if ca is None else {"verify_client": True, "root_certificates": ca}
        return {"tls_certificates": [(certificate, key)], **mutual}

    async def read(self) -> Poll:
        """The next rows.

        Raises
        ------
        LocalAdapterError
            If it was not opened.
        """
        inbox = self._running()
        if not inbox.waiting and not self._events:
            self._came.clear()
            if not inbox.waiting and not self._events:
                try:
                    await asyncio.wait_for(self._came.wait(), WAIT_S)
                except TimeoutError:
                    return Poll()
        rows, position = inbox.take()
        return Poll(self._tags.fresh(), rows.batch() if len(rows) else None, self._told(), position)

    def _running(self) -> Inbox:
        if self._inbox is None:
            msg = f"adapter {self._name!r} is read before it was opened"
            raise LocalAdapterError(msg)
        return self._inbox

    async def acknowledge(self, position: str) -> None:
        """Everything up to `position` is on disk: its senders are told."""
        self._running().acknowledge(position)

    async def close(self) -> None:
        """Tell everyone who still waits, and stop listening.

        A sender that neither sends nor ends its stream can not be cut off by Flight; after `GRACE_S` it is left to the
        end of this process.
        """
        why = f"adapter {self._name!r} stops; what was not acknowledged is to be sent again"
        if self._inbox is not None:
            self._inbox.close(why)
        if self._server is not None:
            server, self._server = self._server, None
            server.hang_up(why)
            ended = threading.Thread(target=server.shutdown, name="flight-shutdown", daemon=True)
            ended.start()
            await asyncio.to_thread(ended.join, GRACE_S)

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Whether the address can be listened on and the files and secrets are there."""
        try:
            adapter = cls(context)
            adapter._token()
            adapter._tls()
        except ConfigError as error:
            return [str(error)]
        if adapter._port and in_use(adapter._host, adapter._port):
            return [f"{adapter._host}:{adapter._port} is in use"]
        return []

    def _tell(self, kind: EventKind, reason: str, count: int) -> None:
        """Report an event, from any thread."""
        event = Event(kind, self._name, self._context.clock.now_ns(), reason, count)
        with self._lock:
            if len(self._events) < EVENTS_MAX:
                self._events.append(event)
            else:
                self._events_lost += count

    def _told(self) -> tuple[Event, ...]:
        with self._lock:
            events, self._events = self._events, []
            if self._events_lost:
                now_ns = self._context.clock.now_ns()
                events.append(Event("overflow", self._name, now_ns, "events left out", self._events_lost))
                self._events_lost = 0
        return tuple(events)


def in_use(host: str, port: int) -> bool:
    """Whether someone listens there already."""
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def warm() -> None:
    """Compile the kernels before the first put comes."""
    import pyarrow as pa

    from .columns import Columns

    batch = pa.record_batch({"tag": ["a"], "time": [1], "value": [0.5]})
    Columns(Tags((), 2, "warm")).rows(batch, 1)
