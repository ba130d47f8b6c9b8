"""An adapter's own process: ``python -m iiot_dask.adapter.child``. Frames in on stdin, frames out on stdout, logs on stderr.

Life: the OPEN frame says everything; `open`, then `read` for ever, each answer written before the next read, so a full
pipe makes the adapter wait and nothing else. A STATE frame once a second (or in a quarter of `limits.silence`) says the
read loop is alive: it is sent by that loop itself, so a read that hangs is silence, and silence is what the host acts on. Acknowledgements run
beside a waiting `read`. STOP, SIGTERM or the end of stdin: finish the read, wait shortly for the last acknowledgement,
`close`, exit 0. Any error: one ERROR frame, `close`, exit with a number of sysexits.h.

The parent's death kills this process (PR_SET_PDEATHSIG on Linux); elsewhere the end of stdin closes it, and a thread ends
it if that takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from iiot_dask.adapter.childlog import Blotter, set_up, set_up_structlog
from iiot_dask.adapter.contract import Adapter, Context, Kept, Poll
from iiot_dask.adapter.limits import Limits, apply
from iiot_dask.adapter.message import Failure, Family, Opening, State, poll_frames, read_kept
from iiot_dask.adapter.wire import DOWN, Decoder, Frame, Kind, encode
from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.errors import DataError, IiotError, LocalAdapterError
from iiot_dask.core.plantfile import secret
from iiot_dask.core.registry import Registry

HEARTBEAT_NS = 1_000_000_000
IDLE_S = 0.01
"""Rest after a read that returned nothing at once, so that such an adapter does not eat a core."""
ORPHAN_S = 10.0
"""Longest life after stdin has ended."""
PIECE_BYTES = 1 << 16
EXIT: Final[dict[Family, int]] = {"config": 78, "remote": 69, "local": 70}  # EX_CONFIG, EX_UNAVAILABLE, EX_SOFTWARE
VERBS = ("--check", "--discover", "--decode")
_PR_SET_PDEATHSIG = 1

log = logging.getLogger("iiot_dask.adapter.child")


@dataclass(slots=True)
class Inbound:
    """What came down the pipe; filled by a thread, read by the loop."""

    opening: asyncio.Future[Opening]
    kept: asyncio.Future[list[Kept]]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: bool = False
    position: str | None = None

    def take(self, frame: Frame) -> None:
        """Take one frame, on the loop."""
        if frame.kind is Kind.OPEN:
            if self.opening.done():
                return
            try:
                self.opening.set_result(Opening.of(frame))
            except DataError as error:
                self.opening.set_exception(error)
        elif frame.kind is Kind.KEPT:
            if not self.kept.done():
                try:
                    self.kept.set_result(read_kept(frame))
                except DataError as error:
                    self.kept.set_exception(error)
        elif frame.kind is Kind.ACK:
            # Only the newest matters: a burst of them becomes one call.
            self.position = frame.payload.decode()
            self.acked.set()
        else:
            self.stop.set()

    def end(self, error: DataError | None) -> None:
        """No more will come."""
        if not self.opening.done():
            why = "stdin ended before the OPEN frame; this process is started by iiot-dask, not by hand"
            self.opening.set_exception(error or LocalAdapterError(why))
        if not self.kept.done():
            self.kept.set_result([])
        self.gone = True
        self.stop.set()


def listen(descriptor: int, loop: asyncio.AbstractEventLoop, inbound: Inbound, orphan_s: float | None) -> None:
    """Thread: read frames from the host until there are no more; then end this process after `orphan_s` at the latest."""
    decoder = Decoder(DOWN)
    error = None
    while data := os.read(descriptor, PIECE_BYTES):
        decoder.feed(data)
        try:
            while frame := decoder.next_frame():
                _call(loop, inbound.take, frame)
        except DataError as damaged:
            error = damaged
            break
    _call(loop, inbound.end, error)
    if orphan_s is not None:
        orphan = threading.Timer(orphan_s, os._exit, (EXIT["local"],))
        orphan.daemon = True
        orphan.start()


def _call(loop: asyncio.AbstractEventLoop, function: object, argument: object) -> None:
    # The loop is closed once the process is on its way out; nothing is left to be told then.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, argument)  # type: ignore[arg-type]  # both pairs above fit


class Outbound:
    """Writes frames to the pipe; a full pipe suspends the caller, not the loop, so protocol keep-alives go on."""

    def __init__(self, descriptor: int, clock: Clock) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._turn = asyncio.Lock()
        self.written_ns = clock.monotonic_ns()
        os.set_blocking(descriptor, False)

    async def send(self, frame: Frame) -> None:
        """Write one frame whole.

        Raises
        ------
        BrokenPipeError
            If the host is gone.
        """
        async with self._turn:
            left = memoryview(encode(frame))
            while left:
                try:
                    left = left[os.write(self._descriptor, left) :]
                except BlockingIOError:
                    await self._room()
            self.written_ns = self._clock.monotonic_ns()

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._descriptor, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_writer(self._descriptor)


class Session:
    """One adapter's life in this process.

    Parameters
    ----------
    adapter
        Constructed, not opened.
    limits
        Times to keep.
    inbound, outbound
        The two pipes.
    clock
        Steady clock of the heartbeat.
    """

    def __init__(self, adapter: Adapter, limits: Limits, inbound: Inbound, outbound: Outbound, clock: Clock) -> None:
        self.adapter = adapter
        self.limits = limits
        self.inbound = inbound
        self.outbound = outbound
        self.clock = clock
        self.sent: str | None = None
        self.done: str | None = None
        self.settled = asyncio.Event()

    async def run(self, position: str | None) -> None:
        """Open, read until told to stop, close; raises whatever the adapter raises.

        Raises
        ------
        LocalAdapterError
            If what it reads breaks the contract.
        """
        acknowledging = asyncio.create_task(self._acknowledge())
        try:
            if await self._open(position):
                await self.outbound.send(State("opened").frame())
                await self._read(acknowledging)
                await self._linger(acknowledging)
        finally:
            acknowledging.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                # An acknowledgement that failed raises here, unless another error is already on its way.
                await acknowledging

    async def _open(self, position: str | None) -> bool:
        opening = asyncio.create_task(self.adapter.open(position))
        stopping = asyncio.create_task(self.inbound.stop.wait())
        await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if opening.done():
            opening.result()
            return True
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        return False

    async def _read(self, acknowledging: asyncio.Task[None]) -> None:
        while not self.inbound.stop.is_set():
            began_ns = self.clock.monotonic_ns()
            poll = await self.adapter.read()
            await self._hand_over(poll)
            now_ns = self.clock.monotonic_ns()
            if now_ns - self.outbound.written_ns >= min(HEARTBEAT_NS, self.limits.silence // 4):
                await self.outbound.send(State("alive").frame())
            if acknowledging.done():
                acknowledging.result()
            idle = poll == Poll() and now_ns - began_ns < IDLE_S * 1e9
            # Even a read that never waits must let acknowledgements and keep-alives have their turn.
            await asyncio.sleep(IDLE_S if idle else 0)

    async def _hand_over(self, poll: Poll) -> None:
        for frame in poll_frames(poll):
            if poll.position is not None:
                self.sent = poll.position
                self.settled.clear()
            await self.outbound.send(frame)

    async def _acknowledge(self) -> None:
        while True:
            await self.inbound.acked.wait()
            self.inbound.acked.clear()
            position = self.inbound.position
            assert position is not None
            await self.adapter.acknowledge(position)
            self.done = position
            if position == self.sent:
                self.settled.set()

    async def _linger(self, acknowledging: asyncio.Task[None]) -> None:
        """Give the last rows time to become durable, so that the source need not send them again."""
        if self.sent is None or self.sent == self.done or self.inbound.gone or self.limits.linger == 0:
            return
        settled = asyncio.create_task(self.settled.wait())
        await asyncio.wait((settled, acknowledging), timeout=self.limits.linger / 1e9, return_when="FIRST_COMPLETED")
        settled.cancel()


async def close(adapter: Adapter, timeout_s: float) -> None:
    """`close`, but not for ever; what it raises is logged: the session is over either way."""
    problem: Exception | None = None
    try:
        await asyncio.wait_for(adapter.close(), timeout_s)
    except TimeoutError:
        log.warning("close() did not return within %g s", timeout_s)
    except Exception as error:  # noqa: BLE001 -- logged below; rows and the verdict are already out
        problem = error
    if problem is not None:
        log.warning("close() failed: %s", problem, exc_info=problem)


async def answer(verb: str, kind: type[Adapter], context: Context, inbound: Inbound, blotter: Blotter) -> list[Frame]:
    """The frames that answer one of the verbs which need no session.

    Raises
    ------
    LocalAdapterError
        If the adapter does not have the verb.
    """
    if verb == "check":
        problems = await kind.check(context)
        return [State("checked", tuple(blotter(p) for p in problems)).frame()]
    asked: Any = getattr(kind, verb, None)
    if asked is None:
        msg = f"adapter {context.config.name!r} can not {verb}: kind {context.config.kind!r} has no such verb"
        raise LocalAdapterError(msg)
    poll = Poll(tags=tuple(await asked(context))) if verb == "discover" else await asked(context, await inbound.kept)
    return [*poll_frames(poll), State("checked").frame()]


async def serve(descriptors: tuple[int, int], blotter: Blotter, *, verb: str | None) -> int:
    """Run one adapter, or answer one verb, to its end; returns the exit status."""
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    inbound = Inbound(loop.create_future(), loop.create_future())
    outbound = Outbound(descriptors[1], clock)
    loop.add_signal_handler(signal.SIGTERM, inbound.stop.set)
    # Who asks a verb writes its frames and closes the pipe; it keeps the time itself.
    heard = (descriptors[0], loop, inbound, ORPHAN_S if verb is None else None)
    threading.Thread(target=listen, args=heard, name="host", daemon=True).start()
    adapter: Adapter | None = None
    limits = Limits.model_validate({})
    try:
        opening = await inbound.opening
        limits = Limits.model_construct(**opening.limits)
        apply(limits, opening.config.name)
        registry: Registry[Adapter] = Registry("iiot_dask.adapters", "adapter")
        kind = registry.load(opening.config.kind)
        set_up_structlog(blotter)
        context = context_of(opening, blotter, clock)
        if verb is not None:
            for frame in await answer(verb, kind, context, inbound, blotter):
                await outbound.send(frame)
            return 0
        adapter = kind(context)
        await Session(adapter, limits, inbound, outbound, clock).run(opening.position)
    except BrokenPipeError:
        log.warning("the host is gone")
    except Exception as error:  # noqa: BLE001 -- goes to the host as an ERROR frame, with the traceback in the log
        return await fail(error, outbound, blotter)
    finally:
        if adapter is not None:
            await close(adapter, limits.close / 1e9)
    with contextlib.suppress(BrokenPipeError):
        await outbound.send(State("closed").frame())
    return 0


async def fail(error: Exception, outbound: Outbound, blotter: Blotter) -> int:
    """Tell the host why this process ends; returns the exit status."""
    failure = Failure.of(error)
    if isinstance(error, IiotError):
        log.error("adapter ends: %s", failure.sentence)
    else:
        log.error("adapter ends: %s", failure.sentence, exc_info=error)
    with contextlib.suppress(BrokenPipeError):
        await outbound.send(Failure(failure.family, blotter(failure.sentence)).frame())
    return EXIT[failure.family]


def context_of(opening: Opening, blotter: Blotter, clock: Clock) -> Context:
    """The adapter's context; secrets are resolved here, in the process that needs them, and never travel."""
    base = Path(opening.base)

    def resolve(reference: str) -> str:
        return blotter.add(secret(reference, base))

    return Context(opening.config, resolve, clock, opening.classes)


def take_descriptors() -> tuple[int, int]:
    """Private copies of stdin and stdout. What a library prints goes to the log and can not damage a frame."""
    descriptors = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return descriptors


def die_with_parent() -> None:
    """Linux: have the kernel send SIGKILL when the thread that started this process is gone."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def main(arguments: list[str]) -> NoReturn:
    """Entry point: ``--VERB``, if it is only to answer one, and the adapter's name, for people who look at `ps`."""
    die_with_parent()
    # Ctrl-C goes to the terminal's whole group; the host decides when its adapters stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptors = take_descriptors()
    faulthandler.enable()
    blotter = Blotter()
    set_up(blotter)
    verb = next((argument[2:] for argument in arguments if argument in VERBS), None)
    status = asyncio.Runner().run(serve(descriptors, blotter, verb=verb))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not a plain return: shutting down would wait for whatever blocking call an adapter left in a thread.
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
