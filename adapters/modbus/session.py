"""The one file that touches pymodbus: a connection that reads blocks and says exactly what went wrong when it can not.

pymodbus owns connecting, framing and transaction ids; the payload is taken as bytes, so that a block becomes an array
without a Python loop per register. It renames its API between minor versions: this was written against 3.16.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from pymodbus.client.base import FRAMER_NAME_TO_CLASS
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerType
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.bit_message import ReadCoilsRequest, ReadDiscreteInputsRequest
from pymodbus.pdu.register_message import ReadHoldingRegistersRequest, ReadInputRegistersRequest
from pymodbus.transaction import TransactionManager
from pymodbus.transport import CommParams, CommType

from iiot_dask.core.errors import ConfigError, RemoteAdapterError

from .registers import FUNCTION, Table, Words

PORT = 502
PORT_TLS = 802
RAW_BYTES_MAX = 260
"""Largest Modbus TCP frame, bytes."""

_SCHEMES: dict[str, tuple[CommType, FramerType]] = {
    "tcp": (CommType.TCP, FramerType.SOCKET),
    "tls": (CommType.TLS, FramerType.SOCKET),  # MODBUS/TCP Security keeps the MBAP header inside TLS
    "udp": (CommType.UDP, FramerType.SOCKET),
    "rtu+tcp": (CommType.TCP, FramerType.RTU),
    "ascii+tcp": (CommType.TCP, FramerType.ASCII),
}
_REQUESTS: dict[int, type[ModbusPDU]] = {
    1: ReadCoilsRequest, 2: ReadDiscreteInputsRequest, 3: ReadHoldingRegistersRequest, 4: ReadInputRegistersRequest,
}  # fmt: skip

# Whatever pymodbus logs about a failed request comes back to us as an exception and leaves as an event.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)


class NoAnswerError(RemoteAdapterError, TimeoutError):
    """The unit did not answer in time."""


class LostError(RemoteAdapterError):
    """No connection: refused, unreachable, or closed by the other side."""


class MalformedError(RemoteAdapterError):
    """The answer breaks the protocol; `raw` holds its bytes."""

    def __init__(self, message: str, raw: bytes) -> None:
        super().__init__(message)
        self.raw = raw[:RAW_BYTES_MAX]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how to connect: ``tcp://host:502``, ``tls://``, ``udp://``, ``rtu+tcp://``, ``ascii+tcp://``."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str | None) -> Endpoint:
        """Read an endpoint.

        Raises
        ------
        ConfigError
            If the scheme is unknown or the host is missing.

        Examples
        --------
        >>> Endpoint.parse("tcp://127.0.0.1:5020"), Endpoint.parse("tls://plc").port
        (Endpoint(scheme='tcp', host='127.0.0.1', port=5020), 802)
        """
        parts = urlsplit(text or "")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _SCHEMES or not parts.hostname or port == -1 or parts.path not in ("", "/"):
            msg = f"endpoint {text!r}: 'scheme://host:port' with scheme {', '.join(_SCHEMES)} is expected"
            raise ConfigError(msg)
        return cls(parts.scheme, parts.hostname, port or (PORT_TLS if parts.scheme == "tls" else PORT))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a unit answered: `data` (uint16, registers or one 0/1 a bit), or an exception code above 0."""

    data: Words
    exception: int = 0


class _Bytes(ModbusPDU):  # type: ignore[misc]  # pymodbus is untyped to mypy here
    """A read response kept as bytes: byte count, then the payload."""

    payload = b""
    rtu_byte_count_pos = 2

    def decode(self, data: bytes) -> None:
        self.payload = bytes(data)


_RESPONSES = [type(f"_Response{code}", (_Bytes,), {"function_code": code}) for code in _REQUESTS]


class _Link(TransactionManager):  # type: ignore[misc]
    """pymodbus' transaction manager, told to wake a waiting request at once when the connection fails under it."""

    raw = b""
    expected = 0

    def callback_data(self, data: bytes, addr: Any = None) -> int:
        self.raw = data
        try:
            if isinstance(self.framer, FRAMER_NAME_TO_CLASS[FramerType.SOCKET]):
                self._check_header(data)
            return int(super().callback_data(data, addr))
        except (ModbusException, MalformedError) as error:
            self.fail(MalformedError(str(error), data))
            return len(data)

    def callback_disconnected(self, exc: Exception | None) -> None:
        super().callback_disconnected(exc)
        self.fail(LostError(f"the connection was closed{f': {exc}' if exc else ''}"))

    def fail(self, error: Exception) -> None:
        if self._lock.locked() and not self.response_future.done():
            self.response_future.set_exception(error)

    @staticmethod
    def _check_header(data: bytes) -> None:
        """A wrong protocol id or length would make the framer wait for ever: the stream is out of step."""
        if len(data) < 6:
            return
        protocol, length = int.from_bytes(data[2:4], "big"), int.from_bytes(data[4:6], "big")
        if protocol or not 3 <= length <= 254:
            msg = f"MBAP header with protocol id {protocol} and length {length}; 0 and 3..254 are allowed"
            raise MalformedError(msg, data)


class Session:
    """One connection to one endpoint; one request at a time. It reconnects only when `connect` is called.

    Parameters
    ----------
    timeout_s
        Longest wait for a connection and for each answer, seconds.
    context
        TLS context, for ``tls://``.
    """

    def __init__(self, endpoint: Endpoint, timeout_s: float, context: ssl.SSLContext | None = None) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._context = context
        self._link: _Link | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection is up, as far as this side knows."""
        return self._link is not None and bool(self._link.is_active())

    async def connect(self) -> None:
        """Open a new connection.

        Raises
        ------
        LostError
            Refused, unreachable or not answering.
        """
        self.close()
        comm_type, framer = _SCHEMES[self.endpoint.scheme]
        params = CommParams(
            comm_type=comm_type, host=self.endpoint.host, port=self.endpoint.port, comm_name=str(self.endpoint),
            timeout_connect=self.timeout_s, reconnect_delay=0, sslctx=self._context,
        )  # fmt: skip
        decoder = DecodePDU(is_server=False)
        for response in _RESPONSES:
            decoder.register(response)
        link = _Link(params, FRAMER_NAME_TO_CLASS[framer](decoder), 0, False, None, None, None)
        # pymodbus closes the connection after a few unanswered requests; one dead unit must not do that to the others.
        link.max_until_disconnect = 1 << 30
        try:
            link.transport, _ = await asyncio.wait_for(link.call_create(), self.timeout_s)
        except TimeoutError as error:
            msg = f"{self.endpoint} did not accept a connection within {self.timeout_s:g} s"
            raise LostError(msg) from error
        except OSError as error:
            msg = f"{self.endpoint} can not be reached: {error}"
            raise LostError(msg) from error
        self._link = link

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    async def read(self, unit: int, table: Table, start: int, count: int) -> Reply:
        """Read `count` registers or bits.

        After a malformed answer, and after a timeout where a late answer could not be told from the next one's (no
        transaction ids, or half an answer arrived), the connection is closed: the stream starts afresh.

        Raises
        ------
        NoAnswerError
            No answer in time; `connected` tells whether the connection was kept.
        LostError
            No connection.
        MalformedError
            The answer breaks the protocol.
        """
        link = self._link
        if link is None or not link.is_active():
            msg = f"no connection to {self.endpoint}"
            raise LostError(msg)
        code = FUNCTION[table]
        what = f"unit {unit} of {self.endpoint}, {table}:{start} x {count}"
        link.raw = b""
        try:
            response = await link.execute(False, _REQUESTS[code](address=start, count=count, dev_id=unit))
        except (LostError, MalformedError):
            self.close()
            raise
        except (ModbusException, OSError) as error:
            rest = link.recv_buffer
            if rest:
                self.close()
                msg = f"{what}: the answer stops after {len(rest)} bytes"
                raise MalformedError(msg, rest) from error
            if self.endpoint.scheme in ("rtu+tcp", "ascii+tcp") or not link.is_active():
                self.close()
            msg = f"{what}: no answer within {self.timeout_s:g} s"
            raise NoAnswerError(msg) from error
        try:
            return _reply(response, code, count, link.raw, what)
        except MalformedError:
            self.close()
            raise


def _reply(response: Any, code: int, count: int, raw: bytes, what: str) -> Reply:
    if response.function_code == code | 0x80:
        return Reply(np.empty(0, np.uint16), int(response.exception_code) or 4)
    payload: bytes = getattr(response, "payload", b"")
    size = 2 * count if code > 2 else -(-count // 8)
    if response.function_code != code or len(payload) != size + 1 or payload[0] != size:
        got = f"function {response.function_code} with {max(len(payload) - 1, 0)} bytes"
        msg = f"{what}: {got} came back; function {code} with {size} bytes was expected"
        raise MalformedError(msg, raw)
    if code > 2:
        return Reply(np.frombuffer(payload, ">u2", offset=1).astype(np.uint16))
    bits = np.unpackbits(np.frombuffer(payload, np.uint8, offset=1), bitorder="little")[:count]
    return Reply(bits.astype(np.uint16))


def tls_context(ca: str | None, certificate: str | None, private_key: str | None) -> ssl.SSLContext:
    """A context that checks the server's certificate against `ca` (a PEM file; None = the system's), TLS 1.2 or newer.

    Raises
    ------
    ConfigError
        If a file can not be read or does not hold what it should.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        if certificate is not None:
            context.load_cert_chain(certificate, private_key)
    except OSError as error:  # ssl.SSLError is one
        msg = f"ca {ca!r}, certificate {certificate!r}, private_key {private_key!r}: {error}"
        raise ConfigError(msg) from error
    return context
