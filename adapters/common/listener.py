"""`Listener`: the HTTP side of adapters that are written to. aiohttp serves; here are bodies, access, limits, answers.

A body is read and unpacked within limits, given to the adapter's `take`, and answered only when its rows are durable.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import math
import ssl
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import ClientPayloadError, web

from iiot_dask.core.errors import CapacityError, ConfigError, InUseError

from .door import ClosedError

Answer = Callable[[int, str], web.Response]
"""(status, sentence) -> response: the shape of an error differs by protocol."""

THREAD_BYTES = 256 << 10
"""Bodies from this size on are unpacked and read in a thread, so that others are received meanwhile."""
GRACE_S = 2.0
BODY_S = 60.0
"""Longest pause in the middle of a body."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RefusedError(Exception):
    """A request that gets no further: status, sentence, seconds to wait before the next try (None: no use)."""

    def __init__(self, status: int, sentence: str, retry_s: float | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class Access:
    """Who may write: a token, a user with a password, or (both None) everyone."""

    token: str | None = None
    user: str | None = None
    password: str | None = None

    @property
    def open(self) -> bool:
        """Whether everyone may."""
        return self.token is None and self.password is None

    def allows(self, request: web.Request) -> bool:
        """Whether this request may write: ``Authorization: Token|Bearer|Basic``, or InfluxDB's ``u`` and ``p``."""
        if self.open:
            return True
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        scheme, rest = scheme.lower(), rest.strip()
        if scheme in ("token", "bearer") and self.token is not None and _equal(rest, self.token):
            return True
        pair = None
        if scheme == "basic":
            pair = _unbase(rest)
        elif scheme == "token" and ":" in rest:
            # How clients of version 2 give the user of a version 1 server.
            pair = rest
        elif "u" in request.query and "p" in request.query:
            pair = f"{request.query['u']}:{request.query['p']}"
        if pair is None or self.password is None:
            return False
        return _equal(pair, f"{self.user or ''}:{self.password}")


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())


def _unbase(text: str) -> str | None:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def address(listen: str | None, adapter: str) -> tuple[str, int]:
    """Host and port of a `listen` key.

    Raises
    ------
    ConfigError
        Naming adapter and value.

    Examples
    --------
    >>> address("127.0.0.1:8186", "t"), address("[::1]:0", "t")
    (('127.0.0.1', 8186), ('::1', 0))
    """
    host, _, port = (listen or "").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdigit() or int(port) > 65_535:
        msg = f"adapter {adapter!r}: listen = {listen!r}; 'HOST:PORT' is needed, such as '127.0.0.1:8186'"
        raise ConfigError(msg)
    return host, int(port)


def guard(host: str, access: Access, adapter: str, *, anonymous: bool) -> None:
    """Refuse to listen beyond this machine to everyone, unless that was asked for.

    Raises
    ------
    ConfigError
        Naming what is missing.
    """
    if host not in LOOPBACK and access.open and not anonymous:
        msg = (
            f"adapter {adapter!r} listens on {host!r}, which is not loopback, to everyone; give options.token or"
            " username and password, or say options.anonymous = true"
        )
        raise ConfigError(msg)


def tls(certificate: str | None, key: str | None, ca: str | None, adapter: str) -> ssl.SSLContext | None:
    """The TLS context of a listener; None without a certificate. With a `ca`, clients must show a certificate of it.

    Raises
    ------
    ConfigError
        Naming the file that can not be used.
    """
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
        if ca is not None:
            context.load_verify_locations(ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        msg = f"adapter {adapter!r}: certificate {certificate!r}, private_key or ca can not be used: {error}"
        raise ConfigError(msg) from error
    return context


def unpack(body: bytes, limit: int) -> bytes:
    """A gzip (or zlib) body, unpacked; several members are fine.

    Raises
    ------
    RefusedError
        413 if it unpacks to more than `limit` bytes, 400 if it is damaged.

    Examples
    --------
    >>> import gzip
    >>> unpack(gzip.compress(b"a b=1"), 100)
    b'a b=1'
    """
    out: list[bytes] = []
    left = limit
    try:
        while body:
            unpacker = zlib.decompressobj(wbits=47)
            out.append(unpacker.decompress(body, left + 1))
            left -= len(out[-1])
            if left < 0:
                msg = f"body unpacks to more than {limit} bytes"
                raise RefusedError(413, msg)
            if not unpacker.eof:
                msg = "gzip body is cut off"
                raise RefusedError(400, msg)
            body = unpacker.unused_data
    except zlib.error as error:
        msg = f"body is no gzip: {error}"
        raise RefusedError(400, msg) from error
    return out[0] if len(out) == 1 else b"".join(out)


class Listener:
    """An HTTP server for writes.

    Parameters
    ----------
    host, port
        Where it listens; port 0 = any free one, see `port`.
    context
        TLS, or None.
    body_bytes_max
        Largest body, packed and unpacked.
    bytes_max
        Most bytes of bodies held at once; beyond it requests are refused with 429.
    durable_s
        Longest wait for the disk before a request is answered with 503.
    """

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, *, body_bytes_max: int, bytes_max: int,
        durable_s: float,
    ) -> None:  # fmt: skip
        self._host, self._port, self._context = host, port, context
        self._body_bytes_max = body_bytes_max
        self._bytes_max = bytes_max
        self._durable_s = durable_s
        self._held = 0
        self._runner: web.AppRunner | None = None
        self.port = port

    async def start(self, routes: list[web.RouteDef]) -> None:
        """Listen.

        Raises
        ------
        InUseError
            If the port is taken.
        ConfigError
            If the address can not be listened on.
        """
        app = web.Application(client_max_size=self._body_bytes_max)
        app.add_routes(routes)
        runner = web.AppRunner(
            app, access_log=None, auto_decompress=False, read_bufsize=1 << 20, keepalive_timeout=75.0,
            shutdown_timeout=GRACE_S, handle_signals=False,
        )  # fmt: skip
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, ssl_context=self._context, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            kind = InUseError if error.errno in (98, 48) else ConfigError
            msg = f"{self._host}:{self._port} can not be listened on: {error.strerror}"
            raise kind(msg) from error
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def close(self) -> None:
        """Answer what can be answered, then close every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def body(self, request: web.Request) -> bytes:
        """The request's body, unpacked.

        Raises
        ------
        RefusedError
            413 if it is too large, 408 if it stalls, 429 if too much is held already, 400 if it is damaged or cut off, 415 if it is
            packed in a way we do not read.
        """
        told = request.content_length
        if told is not None and told > self._body_bytes_max:
            msg = f"body of {told} bytes; at most {self._body_bytes_max} are taken (options.body_bytes_max)"
            raise RefusedError(413, msg)
        packing = request.headers.get("Content-Encoding", "identity").lower()
        if packing not in ("identity", "gzip", "x-gzip", "deflate", ""):
            msg = f"Content-Encoding {packing[:40]!r}; gzip, deflate and identity are read"
            raise RefusedError(415, msg)
        pieces: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(BODY_S) as patience:
                while piece := await request.content.readany():
                    patience.reschedule(loop.time() + BODY_S)
                    pieces.append(piece)
                    size += len(piece)
                    self._held += len(piece)
                    self._room(size)
        except TimeoutError as error:
            msg = f"nothing came for {BODY_S:g} s in the middle of the body"
            raise RefusedError(408, msg) from error
        except (ClientPayloadError, ConnectionError) as error:
            msg = f"body of {size} bytes is cut off: {error}"
            raise RefusedError(400, msg) from error
        finally:
            self._held -= size
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if packing in ("identity", ""):
            return whole
        if len(whole) < THREAD_BYTES // 8:
            return unpack(whole, self._body_bytes_max)
        return await asyncio.to_thread(unpack, whole, self._body_bytes_max)

    def _room(self, size: int) -> None:
        if size > self._body_bytes_max:
            msg = f"body of more than {self._body_bytes_max} bytes (options.body_bytes_max)"
            raise RefusedError(413, msg)
        if self._held > self._bytes_max:
            msg = f"bodies of {self._held} bytes are held; at most {self._bytes_max} (options.bytes_max)"
            raise RefusedError(429, msg, 1.0)

    async def durable(self, future: asyncio.Future[None]) -> None:
        """Wait until a push is on disk.

        Raises
        ------
        RefusedError
            503 when that takes too long or the adapter stops: the rows may or may not be kept, send them again.
        """
        try:
            await asyncio.wait_for(asyncio.shield(future), self._durable_s)
        except TimeoutError:
            msg = f"the disk has not taken the rows within {self._durable_s:g} s; send them again"
            raise RefusedError(503, msg, 5.0) from None
        except ClosedError as error:
            raise RefusedError(503, f"{error}; send the rows again", 1.0) from error

    async def answered(self, work: Awaitable[web.Response], answer: Answer) -> web.Response:
        """The response of a request's `work`, or `answer` with what refused it."""
        try:
            return await work
        except RefusedError as refused:
            response = answer(refused.status, refused.sentence)
            if refused.retry_s is not None:
                response.headers["Retry-After"] = str(max(1, math.ceil(refused.retry_s)))
        except ClosedError as error:
            response = answer(503, str(error))
            response.headers["Retry-After"] = "1"
        except CapacityError as error:
            response = answer(429, str(error))
            response.headers["Retry-After"] = "1"
        if response.status == 413:
            # What is left of the body is not worth receiving.
            response.force_close()
        return response


async def unreachable(host: str, port: int, context: ssl.SSLContext | None) -> str | None:
    """Why the address can not be listened on; None when it can."""
    probe = Listener(host, port, context, body_bytes_max=1, bytes_max=1, durable_s=1)
    try:
        await probe.start([])
    except (InUseError, ConfigError) as error:
        return str(error)
    await probe.close()
    return None
