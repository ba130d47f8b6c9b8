"""`Bench`: a source in the hands of the conformance kit. An adapter's author writes one; the kit does the rest."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")
TURN_S = 30.0


class NotApplicable(Exception):  # noqa: N818 -- it is an answer, not an error
    """The source has no such thing; the reason is shown in the kit's report."""


class Bench:
    """A source that sends numbers, which can be cut off, mended and made to misbehave.

    A context manager: entered, the source is there. Every method returns once what it says is so. What a source does not
    have is left as it is here: the report then says "not applicable" and why.

    Parameters
    ----------
    folder
        An empty folder that it may use.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def section(self, tags: Sequence[str]) -> dict[str, Any]:
        """The adapter's section of a plant file, without `name` and `kind`, that reads these tags from this source."""
        raise NotImplementedError

    def send(self, rows: int) -> None:
        """Have `rows` more samples of each tag sent; a source that is polled need do nothing."""

    def absent_tag(self, section: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 -- for those that have it
        """The section with one more tag, ``kit/absent``, that the source does not have."""
        msg = "every tag is made by its source"
        raise NotApplicable(msg)

    def cut(self) -> None:
        """The source goes away as if its power failed."""
        msg = "the source can not go away"
        raise NotApplicable(msg)

    def mend(self) -> None:
        """It comes back where it was."""
        raise NotApplicable

    def poison(self, data: bytes) -> None:  # noqa: ARG002 -- for those that have it
        """Have these bytes sent where a message or an answer should be."""
        msg = "the source sends no bytes of its own"
        raise NotApplicable(msg)

    def stamp(self, time_ns: int) -> None:  # noqa: ARG002 -- for those that have it
        """Have one sample of each tag sent with this device time, ns since 1970."""
        msg = "the source tells no times"
        raise NotApplicable(msg)


class LoopThread:
    """An event loop in a thread, for benches whose source is an asyncio server."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bench", daemon=True)
        self._thread.start()

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there to its end.

        Raises
        ------
        TimeoutError
            If it takes more than 30 s.
        """
        return asyncio.run_coroutine_threadsafe(doing, self._loop).result(TURN_S)

    def close(self) -> None:
        """End the loop and its tasks."""

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TURN_S)
        self._loop.close()


class TcpBench(Bench):
    """A bench whose source is a TCP server on loopback: a subclass says what it does with a connection, in `serve`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = 0
        self.writers: set[asyncio.StreamWriter] = set()
        """Of those who are connected."""

    def __enter__(self) -> Self:
        self.thread = LoopThread()
        self.mend()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        self.thread.close()

    def cut(self) -> None:
        """Stop listening, abort every connection."""
        self.thread.run(self._stop())

    def mend(self) -> None:
        """Listen, from the second time on at the same port."""
        self.thread.run(self._start())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk until the client has left."""
        raise NotImplementedError

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the client has left, or was cut off
            await self.serve(reader, writer)
        self.writers.discard(writer)
        writer.close()
