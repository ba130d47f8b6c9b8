"""The Arrow Flight side: `DoPut` and a few actions on gRPC's threads; rows go to an `Inbox`, acknowledgements come back.

A put is one record batch. Its metadata, decimal digits, is its position in its stream; what comes back as put metadata
is JSON, ``{"position": p, "puts": n}``: everything up to position `p`, the first `n` puts of this connection, is on
disk. Two of them may be told as one. With a key ``closing`` the adapter stops: the sender is to end its stream.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import flight

from iiot_dask.adapter.contract import EventKind
from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import CapacityError, SchemaError

from ..common.door import ClosedError
from .columns import Columns, Memory, check_schema
from .inbox import Inbox, Receipt

Tell = Callable[[EventKind, str, int], None]
POSITION_MAX = 2**63 - 1


class Gate(flight.ServerMiddlewareFactory):  # type: ignore[misc]  # pyarrow has no types
    """Lets in who shows the token."""

    def __init__(self, token: str) -> None:
        self._right = f"bearer {token}".encode()

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> None:
        """Look at one call's headers.

        Raises
        ------
        flight.FlightUnauthenticatedError
            If the token is not in them.
        """
        del info
        for name, values in headers.items():
            if name.lower() == "authorization":
                for value in values:
                    scheme, _, rest = (value.decode() if isinstance(value, bytes) else value).partition(" ")
                    if hmac.compare_digest(f"{scheme.lower()} {rest}".encode(), self._right):
                        return
        msg = "authorization failed: 'authorization: Bearer TOKEN' is needed"
        raise flight.FlightUnauthenticatedError(msg)


class Server(flight.FlightServerBase):  # type: ignore[misc]  # pyarrow has no types
    """Takes puts.

    Parameters
    ----------
    location
        ``grpc://HOST:PORT`` or ``grpc+tls://HOST:PORT``; listens when constructed.
    inbox, columns
        Where rows go, and what makes rows.
    tell
        Called from any thread with (event kind, sentence, count).
    durable_s
        Longest wait for the disk once a sender has sent everything.
    connections_max
        Most connections that put at once.
    rows_max
        Most rows of one put.
    """

    def __init__(
        self, location: str, inbox: Inbox, columns: Columns, clock: Clock, tell: Tell, *, token: str | None,
        durable_s: float, connections_max: int, rows_max: int, **tls: Any,
    ) -> None:  # fmt: skip
        middleware = {} if token is None else {"gate": Gate(token)}
        super().__init__(location, middleware=middleware, **tls)
        self._inbox = inbox
        self._columns = columns
        self._clock = clock
        self._tell = tell
        self._durable_s = durable_s
        self._rows_max = rows_max
        self._slots = threading.BoundedSemaphore(connections_max)
        self._connections_max = connections_max
        self._open: dict[int, Receipt] = {}
        self._closing = ""
        # One put at a time is turned into rows: they share the table of tags.
        self._turn = threading.Lock()

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """One connection's puts; returns when all of them are durable and acknowledged.

        Raises
        ------
        flight.FlightError
            Saying what is wrong with the stream, its schema or a batch, or that the adapter stops.
        """
        del context
        if not self._slots.acquire(blocking=False):
            msg = f"{self._connections_max} connections put already (options.connections_max)"
            raise flight.FlightUnavailableError(msg)
        try:
            self._serve(descriptor, reader, writer)
        finally:
            self._slots.release()

    def _serve(self, descriptor: Any, reader: Any, writer: Any) -> None:
        try:
            stream = stream_of(descriptor)
            if stream is not None:
                self._inbox.enter(stream)
            check_schema(reader.schema)
        except (SchemaError, CapacityError) as error:
            self._tell("rejected", f"put refused: {error}", 1)
            raise flight.FlightServerError(str(error)) from error
        receipt = Receipt()
        self._open[id(receipt)] = receipt
        if self._closing:
            # Seen by `hang_up` or by us, whichever comes later.
            receipt.fail(self._closing)
        over = threading.Event()
        quiet = threading.Event()
        threading.Thread(
            target=acknowledge, args=(receipt, writer, over, quiet), name="flight-acknowledge", daemon=True
        ).start()
        try:
            self._take(reader, stream, receipt)
            with receipt.changed:
                receipt.changed.wait_for(lambda: receipt.failed or receipt.puts == receipt.taken, self._durable_s)
                if receipt.failed:
                    raise flight.FlightUnavailableError(receipt.failed)
                if receipt.puts < receipt.taken:
                    msg = f"the disk has not taken the rows within {self._durable_s:g} s; send them again"
                    raise flight.FlightTimedOutError(msg)
        except ClosedError as error:
            raise flight.FlightUnavailableError(str(error)) from error
        except SchemaError as error:
            self._tell("rejected", f"put refused: {error}", 1)
            raise flight.FlightServerError(str(error)) from error
        finally:
            del self._open[id(receipt)]
            over.set()
            with receipt.changed:
                receipt.changed.notify_all()
            # Not `join`: it would leave a record of this thread of gRPC's in `threading` for ever.
            quiet.wait()

    def hang_up(self, why: str) -> None:
        """Ask every sender to end its stream: a connection on which nothing comes can not be ended from here."""
        self._closing = why
        for receipt in list(self._open.values()):
            receipt.fail(why)

    def _take(self, reader: Any, stream: str | None, receipt: Receipt) -> None:
        memory = Memory()
        newest = -1 if stream is None else -1 if (held := self._inbox.durable(stream)) is None else held
        last = -1
        for chunk in reader:
            if chunk.data is None:
                continue
            position = position_of(chunk.app_metadata, last)
            if position <= last:
                msg = f"position {position} after {last}; positions of a stream grow"
                raise SchemaError(msg)
            last = position
            if stream is not None and position <= newest:
                # On disk already: the acknowledgement was lost, not the rows.
                with receipt.changed:
                    receipt.taken += 1
                receipt.settle(position)
                continue
            if chunk.data.num_rows > self._rows_max:
                msg = f"a put of {chunk.data.num_rows} rows; at most {self._rows_max} are taken (options.put_rows_max)"
                raise SchemaError(msg)
            with self._turn:
                rows, refused = self._columns.rows(chunk.data, self._clock.now_ns(), memory)
            for why, count in refused.items():
                self._tell("rejected", why, count)
            self._inbox.put(rows, stream, position, receipt)

    def do_action(self, context: Any, action: Any) -> Iterator[Any]:
        """``position``: body a stream's name, answer ``{"position": p or null}``: what need not be sent again.

        Raises
        ------
        flight.FlightServerError
            If the action is none of those there are.
        """
        del context
        if action.type != "position":
            msg = f"action {action.type!r}; 'position' is allowed"
            raise flight.FlightServerError(msg)
        stream = action.body.to_pybytes().decode("utf-8", "replace") if action.body is not None else ""
        return iter([flight.Result(pa.py_buffer(orjson.dumps({"position": self._inbox.durable(stream)})))])

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """The actions there are."""
        del context
        return [("position", "newest durable position of the stream named in the body, as JSON")]

    def list_flights(self, context: Any, criteria: Any) -> Iterator[Any]:
        """None: nothing is read here."""
        del context, criteria
        return iter([])


def acknowledge(receipt: Receipt, writer: Any, over: threading.Event, quiet: threading.Event) -> None:
    """Thread: write the newest durable position as it moves, until `over` or the adapter stops; then `quiet` is set."""
    try:
        _acknowledge(receipt, writer, over)
    finally:
        quiet.set()


def _acknowledge(receipt: Receipt, writer: Any, over: threading.Event) -> None:
    told = 0
    while True:
        with receipt.changed:
            while receipt.puts == told and not receipt.failed and not over.is_set():
                receipt.changed.wait()
            puts, position, closing = receipt.puts, receipt.durable, receipt.failed
        if puts == told and not closing:
            return
        message = {"position": position, "puts": puts} | ({"closing": closing} if closing else {})
        try:
            writer.write(pa.py_buffer(orjson.dumps(message)))
        except (pa.ArrowException, OSError) as error:
            # The sender is gone; the rows are not, and it asks for its position when it comes again.
            receipt.fail(f"the sender is gone: {error}")
            return
        told = puts
        if closing:
            return


def stream_of(descriptor: Any) -> str | None:
    """The stream a put belongs to: ``{"version": 1, "stream": NAME}`` as command; a path or nothing = none.

    Raises
    ------
    SchemaError
        If the command is something else.
    """
    command = descriptor.command
    if not command:
        return None
    try:
        document = orjson.loads(command)
        version, stream = document["version"], document["stream"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f'command {command[:80]!r}; {{"version": 1, "stream": NAME}} or a path is needed'
        raise SchemaError(msg) from error
    if version != 1 or not isinstance(stream, str):
        msg = f"command of version {version!r} for stream {stream!r}; version 1 and a name are needed"
        raise SchemaError(msg)
    return stream


def position_of(metadata: Any, last: int) -> int:
    """Position of a put: the digits of its metadata, else one more than the `last`.

    Raises
    ------
    SchemaError
        If the metadata is no position.
    """
    if metadata is None or metadata.size == 0:
        return last + 1
    text = metadata.to_pybytes()
    if not text.isdigit() or len(text) > 19 or int(text) > POSITION_MAX:
        msg = f"put metadata {text[:40]!r}; the position as 1 to 19 decimal digits is needed"
        raise SchemaError(msg)
    return int(text)
