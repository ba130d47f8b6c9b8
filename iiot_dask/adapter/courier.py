"""`Courier`: the one thread through which everything of one adapter is delivered, in order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from iiot_dask.adapter.channel import Channel
from iiot_dask.adapter.contract import Event, Poll
from iiot_dask.adapter.message import Failure, State, read_up
from iiot_dask.adapter.supervisor import Broken, Faulted, Occurrence, Opened
from iiot_dask.adapter.wire import UP, Decoder
from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import DataError
from iiot_dask.core.metrics import Metrics

WAITING_MAX = 64
"""Most runs and events that wait for a delivery that blocks; restarts stop then, so it is never reached."""
ERROR_KINDS = frozenset({"malformed", "rejected", "overflow"})


@dataclass(frozen=True, slots=True)
class Delivery:
    """A poll on its way to ingest. Local tag numbers restart at 0 with each incarnation."""

    adapter: str
    incarnation: int
    poll: Poll


@dataclass(frozen=True, slots=True)
class Word:
    """In the queue where an event of the host's waits in a list of its own."""


class Courier(threading.Thread):
    """Reads one child after the other, and hands over what they say.

    Parameters
    ----------
    name
        The adapter's name.
    deliver
        Takes a delivery; may block, which fills the pipe and makes the child wait.
    notify
        Called with (incarnation, event) for the supervisor, and with (incarnation, None) when a child's stdout has ended.
    clock, metrics
        Time and counts.
    rate
        Most rows/s taken from the child, averaged over a second; past it the child waits.

    Attributes
    ----------
    busy
        Whether `deliver` runs now.
    heard_ns
        Steady time at which the child was last heard, or the last delivery ended.
    samples, errors, last_ns
        Rows delivered; unusable messages the adapter reported; wall time of the last rows (None: never).
    session_down
        Why the adapter itself said it is disconnected; None while it is not.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Delivery], None],
        notify: Callable[[int, Occurrence | None], None],
        clock: Clock,
        metrics: Metrics,
        rate: float = float("inf"),
    ) -> None:
        super().__init__(name=f"iiot-adapter-{name}", daemon=True)
        self.adapter = name
        self.busy = False
        self.heard_ns = 0
        self.samples = 0
        self.errors = 0
        self.last_ns: int | None = None
        self.session_down: str | None = None
        self.abandoned = False
        self.rate = rate
        self._hurry = threading.Event()
        self._credit = rate
        self._paced_ns = 0
        self._deliver = deliver
        self._notify = notify
        self._clock = clock
        self._metrics = metrics
        self._queue: queue.Queue[Channel | Word | None] = queue.Queue(WAITING_MAX)
        self._told: deque[Delivery] = deque(maxlen=WAITING_MAX)

    # -- for the control thread --------------------------------------------------------------------------------------

    def follow(self, channel: Channel) -> None:
        """Read this child once everything before it is delivered."""
        self.heard_ns = self._clock.monotonic_ns()
        self._hurry.clear()
        self._queue.put_nowait(channel)

    def tell(self, incarnation: int, event: Event) -> None:
        """Deliver an event of the host's own: after what came before it, and not only when the child ends."""
        self._told.append(Delivery(self.adapter, incarnation, Poll(events=(event,))))
        self._queue.put_nowait(Word())

    def hurry(self) -> None:
        """Keep no pace until the next child: this one has been asked to end."""
        self._hurry.set()

    def finish(self) -> None:
        """End the thread once everything is delivered."""
        self._hurry.set()
        self._queue.put_nowait(None)

    # -- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until `finish`."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, Channel):
                self._follow(item)
            else:
                self._say()

    def _say(self) -> None:
        while self._told:
            self._hand_over(self._told.popleft())

    def _follow(self, channel: Channel) -> None:
        decoder = Decoder(UP)
        broken: str | None = None
        self.session_down = None
        while data := channel.read():
            self.heard_ns = self._clock.monotonic_ns()
            if broken is not None or self.abandoned:
                # Only so that the pipe runs dry and its end is seen; the child is being killed.
                continue
            decoder.feed(data)
            broken = self._frames(decoder, channel)
            self._say()
            if broken is not None:
                self._metrics.count("adapter_broken_streams_total", adapter=self.adapter)
                self._notify(channel.incarnation, Broken(broken))
        if broken is None and decoder.pending:
            # Killed in the middle of a frame: its rows are not acknowledged and come again.
            self._metrics.count("adapter_truncated_frames_total", adapter=self.adapter)
        channel.finish_reading()
        self.session_down = None
        channel.drained = True
        self._notify(channel.incarnation, None)

    def _frames(self, decoder: Decoder, channel: Channel) -> str | None:
        """Deliver every complete frame; returns why this child can not be listened to any longer, or None."""
        try:
            while frame := decoder.next_frame():
                said = read_up(frame)
                self._metrics.count("adapter_frames_total", adapter=self.adapter)
                if isinstance(said, Poll):
                    refused = self._hand_over(Delivery(self.adapter, channel.incarnation, said))
                    if refused is not None:
                        return refused
                elif isinstance(said, Failure):
                    self._notify(channel.incarnation, Faulted(said.family, said.sentence))
                elif isinstance(said, State) and said.state == "opened":
                    self._notify(channel.incarnation, Opened())
        except DataError as error:
            return f"sent a damaged frame: {error}"
        return None

    def _hand_over(self, delivery: Delivery) -> str | None:
        """Deliver; returns why it was refused, or None."""
        if self.abandoned:
            return "the host has stopped"
        self.busy = True
        began_ns = self._clock.monotonic_ns()
        try:
            self._deliver(delivery)
        except Exception as error:  # noqa: BLE001 -- counted, and the supervisor makes it the adapter's reason
            self._metrics.count("adapter_refused_deliveries_total", adapter=self.adapter)
            return f"its rows are refused: {type(error).__name__}: {error}"
        finally:
            # In this order: silence is counted from heard_ns as soon as busy is off.
            self.heard_ns = self._clock.monotonic_ns()
            self.busy = False
            self._metrics.count("adapter_deliver_seconds_total", (self.heard_ns - began_ns) / 1e9, adapter=self.adapter)
        self._note(delivery.poll)
        return None

    def _pace(self, rows: int) -> None:
        """Wait until the rows just taken are within the rate: a bucket that holds one second's worth."""
        now_ns = self._clock.monotonic_ns()
        self._credit = min(self.rate, self._credit + (now_ns - self._paced_ns) / 1e9 * self.rate) - rows
        self._paced_ns = now_ns
        if self._credit >= 0 or self._hurry.is_set():
            return
        self._metrics.count("adapter_paced_total", adapter=self.adapter)
        self.busy = True
        self._hurry.wait(-self._credit / self.rate)
        self.heard_ns = self._clock.monotonic_ns()
        self.busy = False

    def _note(self, poll: Poll) -> None:
        rows = 0 if poll.batch is None else len(poll.batch)
        if rows:
            self.samples += rows
            self.last_ns = self._clock.now_ns()
            self._metrics.count("adapter_samples_total", rows, adapter=self.adapter)
            if self.rate != float("inf"):
                self._pace(rows)
        for event in poll.events:
            if event.kind in ERROR_KINDS:
                self.errors += event.count
            if event.node == self.adapter and event.kind in ("connected", "disconnected"):
                self.session_down = (event.reason or "disconnected") if event.kind == "disconnected" else None
