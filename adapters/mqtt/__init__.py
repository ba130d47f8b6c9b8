"""MQTT adapter: JSON, plain numbers and Sparkplug B from a broker, acknowledged only once they are on disk."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import ClassVar

import numpy as np

from iiot_dask.adapter.contract import Context, Event, Poll
from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import LocalAdapterError

from .columns import Samples
from .connect import settings
from .decode import Decoder
from .inbox import Taken
from .naming import Tags
from .options import options
from .session import Session
from .topics import routes

ROWS_MAX = 100_000
"""Most rows of one `Poll`, as the contract says."""
WAIT_S = 0.1


class MqttAdapter:
    """Subscribes, decodes in bulk, and acknowledges what is durable. See README.md beside this file."""

    kind: ClassVar[str] = "mqtt"
    summary: ClassVar[str] = "MQTT 3.1.1 and 5: JSON, plain numbers, Sparkplug B; acknowledged after the disk"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._name = context.config.name
        self._routes = routes(context.config.topics, self._name)
        self._options = options(context.config.options, self._name)
        self._tags = Tags(context.classes, self._options.topics_max)
        self._decoder = Decoder(self._routes, self._tags, self._options, self._name)
        self._session: Session | None = None
        self._came = asyncio.Event()
        self._ready: deque[Poll] = deque()  # bounded: filled only when empty, from one arena
        # Positions of another incarnation confirm nothing here: its messages come again, with packet ids of their own.
        self._mark = f"{context.clock.now_ns():x}"

    async def open(self, position: str | None) -> None:
        """Start connecting. `position` is of no use to MQTT: the broker knows what was not acknowledged.

        Raises
        ------
        ConfigError
            If the endpoint, a certificate or a secret is wrong.
        """
        del position
        chosen = settings(self._context, self._options, self._routes)
        await asyncio.to_thread(self._warm)
        loop = asyncio.get_running_loop()

        def came() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._came.set)

        self._session = Session(chosen, self._context.clock, np.random.default_rng(), came)
        self._session.start()

    def _warm(self) -> None:
        """Compile before the first byte comes, on routes of this adapter but tags of nobody."""
        from . import warm

        warm.up(self._routes)

    async def read(self) -> Poll:
        """The next rows, new tags and events; an empty poll after about 100 ms without any.

        Raises
        ------
        LocalAdapterError
            If the session's thread ended by an error.
        """
        if self._ready:
            return self._ready.popleft()
        session = self._running()
        if not session.inbox.held:
            self._came.clear()
            if not session.inbox.held:
                try:
                    await asyncio.wait_for(self._came.wait(), WAIT_S)
                except TimeoutError:
                    return Poll(events=self._events(session))
        if self._options.linger and session.inbox.held < ROWS_MAX // 2:
            await asyncio.sleep(self._options.linger / 1e9)
        taken = session.take()
        if taken is None:
            return Poll(events=self._events(session))
        self._ready.extend(self._polls(session, taken))
        return self._ready.popleft()

    def _running(self) -> Session:
        if self._session is None:
            msg = f"adapter {self._name!r} is read before it was opened"
            raise LocalAdapterError(msg)
        if not self._session.alive:
            msg = f"adapter {self._name!r}: the session's thread has ended"
            raise LocalAdapterError(msg)
        return self._session

    def _polls(self, session: Session, taken: Taken) -> list[Poll]:
        """Decode what was taken; more than `ROWS_MAX` rows make several polls, and only the last has the position."""
        samples = self._decoder.decode(taken.data, taken.rows, self._context.clock.monotonic_ns())
        position = f"{self._mark}:{taken.number}" if taken.acknowledged else None
        events = (*samples.events, *self._events(session))
        rows = len(samples)
        cuts = list(range(0, rows, ROWS_MAX)) or [0]
        polls = []
        for k in cuts:
            first, last = k == 0, k + ROWS_MAX >= rows
            polls.append(
                Poll(
                    tags=self._tags.fresh() if first else (),
                    batch=_batch(samples, k, k + ROWS_MAX) if rows else None,
                    events=events if first else (),
                    position=position if last else None,
                )
            )
        return polls

    def _events(self, session: Session) -> tuple[Event, ...]:
        """What happened to the session, and what the Sparkplug host has to say; its requests are sent."""
        told = [Event(notice.kind, self._name, notice.time_ns, notice.reason) for notice in session.notices()]
        clock = self._context.clock
        sends, events = self._decoder.host.tick(clock.monotonic_ns(), clock.now_ns())
        for topic, request in sends:
            session.publish(topic, request)
        return (*told, *events)

    async def acknowledge(self, position: str) -> None:
        """Everything up to `position` is on disk: PUBACK (QoS 1) or PUBREC (QoS 2) goes out."""
        mark, _, number = position.partition(":")
        if mark == self._mark and self._session is not None:
            self._session.acknowledge(int(number))

    async def close(self) -> None:
        """Disconnect; the broker keeps the session and what was not acknowledged."""
        if self._session is not None:
            await asyncio.to_thread(self._session.close)

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Connect, subscribe and say what is wrong, as sentences."""
        from .check import check

        return await check(context)


def _batch(samples: Samples, start: int, stop: int) -> Batch:
    part = slice(start, stop)
    return Batch.of(
        tag=samples.tag[part],
        time=samples.time[part],
        value=samples.value[part],
        quality=samples.quality[part],
        received=samples.received[part],
    )
