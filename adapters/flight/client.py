"""`EdgeClient`: puts batches to a flight adapter and knows which are on disk; what an edge forwards with.

A batch stays in memory until it is acknowledged. When the connection breaks, the client connects again with back-off,
asks for the stream's durable position and sends what comes after it; what it holds is bounded, so `send` waits instead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import orjson
import pyarrow as pa
from pyarrow import flight

from iiot_dask.core.errors import CapacityError, RemoteAdapterError, SchemaError

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.05, 5.0


class EdgeClient:
    """One stream to one flight adapter; for one thread.

    Parameters
    ----------
    location
        ``grpc+tcp://HOST:PORT`` or ``grpc+tls://HOST:PORT``.
    stream
        Name of the stream, 1 to 63 bytes: the adapter remembers its position under it.
    token
        Sent as ``authorization: Bearer …``.
    ca, certificate, private_key
        PEM bytes: whom to trust, and what to show where client certificates are asked for.
    held_rows
        Most rows sent and not yet acknowledged.
    timeout_s
        Longest wait, in `send` and `flush`, for room or acknowledgement over all attempts to connect.

    Attributes
    ----------
    durable
        Newest position known to be on disk; None = none.

    Examples
    --------
    ::

        with EdgeClient("grpc+tcp://127.0.0.1:8815", "edge-7") as edge:
            for position, batch in outbox.after(edge.durable):
                edge.send(batch, position)
            edge.flush()
    """

    def __init__(
        self, location: str, stream: str, *, token: str | None = None, ca: bytes | None = None,
        certificate: bytes | None = None, private_key: bytes | None = None, held_rows: int = 2_000_000,
        timeout_s: float = 60.0,
    ) -> None:  # fmt: skip
        self.location = location
        self.stream = stream
        self.durable: int | None = None
        self._options = flight.FlightCallOptions(
            headers=[] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        )
        self._tls = {"tls_root_certs": ca, "cert_chain": certificate, "private_key": private_key}
        self._held_rows = held_rows
        self._timeout_s = timeout_s
        self._held: deque[tuple[int, pa.RecordBatch]] = deque()  # bounded by held_rows: `send` waits
        self._rows = 0
        self._last: int | None = None
        self._changed = threading.Condition()
        # gRPC takes one write at a time, and the end of writing is one.
        self._writing = threading.Lock()
        self._client: Any = None
        self._writer: Any = None
        self._hearing: threading.Thread | None = None
        self._broken: Exception | None = None
        self.reconnects = 0

    def __enter__(self) -> Self:
        self._until(lambda: True, self._connect)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()

    def send(self, batch: pa.RecordBatch, position: int) -> None:
        """Put a batch; returns once it is on its way, which waits while too many rows are not acknowledged.

        Parameters
        ----------
        batch
            Columns tag, time, value and optionally quality, seq (see `columns`); one schema a stream.
        position
            Its place in the stream; each above the one before. At or below `durable` it is not sent again.

        Raises
        ------
        SchemaError
            If the position does not grow, or the adapter refuses the batch.
        CapacityError
            If nothing was acknowledged for `timeout_s`.
        RemoteAdapterError
            If the adapter was not reached for `timeout_s`.
        """
        if self._last is not None and position <= self._last:
            msg = f"position {position} after {self._last}; positions of a stream grow"
            raise SchemaError(msg)
        self._last = position
        if self.durable is not None and position <= self.durable:
            return
        self._until(lambda: not self._held or self._rows + batch.num_rows <= self._held_rows, self._mend)
        with self._changed:
            self._held.append((position, batch))
            self._rows += batch.num_rows
        self._put(position, batch)

    def flush(self) -> None:
        """Wait until everything sent is on disk.

        Raises
        ------
        CapacityError
            If that takes longer than `timeout_s`.
        RemoteAdapterError, SchemaError
            As for `send`.
        """
        self._until(lambda: not self._held, self._mend)

    def close(self) -> None:
        """Let go of the connection; what was not acknowledged is forgotten here."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                with self._writing:
                    writer.done_writing()
                if self._hearing is not None:
                    self._hearing.join(self._timeout_s)
            except (pa.ArrowException, OSError) as error:
                # Everything that matters was acknowledged by `flush`; why the goodbye failed is kept.
                self._broken = error
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- the connection ----------------------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool], mend: Callable[[], None]) -> None:
        """Wait until `done()`, mending the connection when it breaks; each try after one that gained nothing waits longer."""
        deadline, delay, before = time.monotonic() + self._timeout_s, BACKOFF_MIN_S, self.durable
        mended = False
        while True:
            with self._changed:
                left = max(0.0, deadline - time.monotonic())
                if self._client is not None:
                    self._changed.wait_for(lambda: self._broken is not None or done(), left)
                broken = self._broken
                if self._client is not None and broken is None and done():
                    return
            if self._client is not None and broken is None:
                msg = f"{self._rows} rows were not acknowledged within {self._timeout_s:g} s by {self.location}"
                raise CapacityError(msg)
            if broken is not None:
                raise_if_final(broken)
            if time.monotonic() + delay > deadline:
                msg = f"{self.location} was not reached for {self._timeout_s:g} s: {broken}"
                raise RemoteAdapterError(msg) from broken
            if mended:
                time.sleep(delay)
                delay = BACKOFF_MIN_S if self.durable != before else min(2 * delay, BACKOFF_MAX_S)
            mended, before = True, self.durable
            try:
                mend()
            except (pa.ArrowException, OSError) as error:
                raise_if_final(error)
                with self._changed:
                    self._broken = error

    def _connect(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = flight.connect(self.location, **{k: v for k, v in self._tls.items() if v is not None})
        (answer,) = self._client.do_action(flight.Action("position", self.stream.encode()), self._options)
        position = orjson.loads(answer.body.to_pybytes())["position"]
        with self._changed:
            self._broken = None
            self._settle(position)

    def _mend(self) -> None:
        """Connect again and send what the adapter does not have."""
        self.reconnects += 1
        self._writer = None
        self._connect()
        with self._changed:
            held = list(self._held)
        for position, batch in held:
            self._put(position, batch)

    def _put(self, position: int, batch: pa.RecordBatch) -> None:
        try:
            if self._writer is None:
                command = orjson.dumps({"version": 1, "stream": self.stream})
                self._writer, reader = self._client.do_put(
                    flight.FlightDescriptor.for_command(command), batch.schema, self._options
                )
                self._hearing = threading.Thread(
                    target=self._hear, args=(reader, self._writer), name=f"flight-{self.stream}", daemon=True
                )
                self._hearing.start()
            with self._writing:
                self._writer.write_with_metadata(batch, b"%d" % position)
        except (pa.ArrowException, OSError) as error:
            with self._changed:
                self._broken = self._broken or error
                self._changed.notify_all()

    def _hear(self, reader: Any, writer: Any) -> None:
        """Thread: take acknowledgements until the connection ends."""
        why: Exception = RemoteAdapterError(f"{self.location} ended the stream")
        try:
            while (told := reader.read()) is not None:
                message = orjson.loads(told.to_pybytes())
                with self._changed:
                    self._settle(message["position"])
                if "closing" in message:
                    why = RemoteAdapterError(message["closing"])
                    with self._writing:
                        writer.done_writing()
            # Says why, where there is a reason.
            writer.close()
        except (pa.ArrowException, OSError) as error:
            why = error
        with self._changed:
            if writer is self._writer:
                self._broken = why
            self._changed.notify_all()

    def _settle(self, position: int | None) -> None:
        """Everything up to `position` is durable; the lock is held."""
        if position is None:
            return
        if self.durable is None or position > self.durable:
            self.durable = position
        while self._held and self.durable is not None and self._held[0][0] <= self.durable:
            self._rows -= self._held.popleft()[1].num_rows
        self._changed.notify_all()


def raise_if_final(error: Exception) -> None:
    """Raise what no second attempt can change.

    Raises
    ------
    RemoteAdapterError
        If the token or a certificate is refused.
    SchemaError
        If the adapter refuses the batches.
    """
    if isinstance(error, flight.FlightUnauthenticatedError):
        raise RemoteAdapterError(str(error)) from error
    if isinstance(error, flight.FlightServerError):
        raise SchemaError(str(error)) from error
