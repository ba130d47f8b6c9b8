"""`Host`: runs every adapter of a plant in a process of its own.

One control thread owns the supervisors, the processes and their stdin and stderr; one `Courier` thread an adapter reads
its stdout and delivers. The control thread starts the children and ends after them, because on Linux a child dies with
the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import structlog

from iiot_dask.adapter import cgroup
from iiot_dask.adapter.ask import check_adapter
from iiot_dask.adapter.channel import Channel, Program
from iiot_dask.adapter.contract import Event, EventKind
from iiot_dask.adapter.courier import Delivery
from iiot_dask.adapter.environment import command, environment
from iiot_dask.adapter.line import PUBLIC, AdapterStatus, Line, line_of, section, timed
from iiot_dask.adapter.message import Opening
from iiot_dask.adapter.supervisor import (
    Action,
    Broken,
    Exited,
    Kill,
    Launch,
    Occurrence,
    Opened,
    Policy,
    Report,
    SendStop,
    Start,
    State,
    Stop,
    Tick,
)
from iiot_dask.adapter.wire import Frame, Kind
from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.plantfile import LoadedPlant

__all__ = ["AdapterStatus", "Delivery", "Host", "check_adapter"]

TICK_S = 0.25
ENDING_S = 0.005
MEASURE_NS = 1_000_000_000
CLOSED_NS = 10_000_000_000
"""Longest a process may live after it closed its stdout."""
GIVE_UP_NS = 2_000_000_000
"""After a stop's deadline, longest wait for a delivery that still blocks."""
ASKED_STOP_NS = 15_000_000_000
"""Longest an adapter that a person stops may take."""

log = structlog.get_logger("iiot_dask.adapter.host")


class Host:
    """Starts, watches, restarts and stops a plant's adapters.

    Parameters
    ----------
    plant
        The loaded plant file.
    deliver
        Called with each `Delivery` on a thread of the adapter's own, one call at a time an adapter; may block. If it
        raises, the adapter is restarted from its last acknowledged position.
    positions
        Newest durable position of each adapter, from the run before.
    clock, metrics
        Time and counts.
    log_dir
        Folder for one bounded ``adapter-NAME.jsonl`` each; None: logs are dropped.
    policy
        Times and counts of the supervisor; the adapter's own limits override `open_ns` and `silence_ns`.
    rng
        For the jitter of restarts.

    Raises
    ------
    ConfigError
        If an adapter's kind is not installed, or its limits are wrong.
    """

    def __init__(
        self,
        plant: LoadedPlant,
        deliver: Callable[[Delivery], None],
        positions: Mapping[str, str],
        *,
        clock: Clock,
        metrics: Metrics,
        log_dir: Path | None = None,
        policy: Policy | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._base = plant.path.parent
        self._classes = _classes(plant)
        self._rng = np.random.default_rng() if rng is None else rng
        self._deliver = deliver
        self._log_dir = log_dir
        self._policy = policy or Policy()
        # Replaced, never changed: other threads walk through it.
        self._lines = {
            config.name: self._line(config, positions.get(config.name), 0) for config in plant.config.adapters
        }
        self._gone: dict[str, tuple[int, str | None]] = {}
        self._parent = cgroup.find()
        self._lock = threading.Lock()
        # bounded: one a call of a person's; the control thread takes them at once
        self._requests: deque[Callable[[], None]] = deque()  # bounded
        # bounded: at most a few events a frame that is no rows, and a child that sends those without end is broken off
        self._events: deque[tuple[str, int, Occurrence | None]] = deque()  # bounded
        self._wake_out, self._wake_in = -1, -1
        self._selector: selectors.BaseSelector | None = None
        self._thread: threading.Thread | None = None
        self._stop_ns: int | None = None
        self._timeout_ns = 0
        self._measured_ns = 0
        self._failure = ""
        self._finished = False

    def _line(self, config: AdapterConfig, position: str | None, first: int) -> Line:
        name = config.name
        return line_of(
            config, deliver=self._deliver, notify=lambda at, event: self._notify(name, at, event), position=position,
            log_dir=self._log_dir, policy=self._policy, first=first, clock=self._clock, metrics=self._metrics,
            rng=self._rng,
        )  # fmt: skip

    # -- for everyone ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every adapter; returns at once."""
        if self._thread is not None:
            return
        self._wake_out, self._wake_in = os.pipe()
        for descriptor in (self._wake_out, self._wake_in):
            os.set_blocking(descriptor, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        for line in self._lines.values():
            line.courier.start()
        self._thread = threading.Thread(target=self._control, name="iiot-adapters", daemon=True)
        self._thread.start()

    def acknowledge(self, adapter: str, position: str, incarnation: int | None = None) -> None:
        """Everything up to `position` is durable; returns at once, and only the newest position is sent.

        From any thread, but one an adapter: positions are opaque, so the order of the calls is the only order there is.

        Parameters
        ----------
        adapter, position
            Whose, and what it said.
        incarnation
            Whom it came from, as in the `Delivery`. A position of a run before the present one is counted
            (``adapter_stale_acks_total``) and goes no further: the present run began at an older one, sends those rows
            again and would take the number for one of its own. None: of the present run.
        """
        line = self._lines.get(adapter)
        if line is None:
            # Removed while its last rows were written.
            return
        with self._lock:
            if incarnation is not None and incarnation < line.supervisor.incarnation:
                self._metrics.count("adapter_stale_acks_total", adapter=adapter)
                return
            line.position = position
            woken = line.unsent is not None
            line.unsent = position
        if not woken:
            self._wake()

    def status(self) -> list[AdapterStatus]:
        """Every adapter now, in the order of the plant file. From any thread."""
        return [self._status(name, line) for name, line in self._lines.items()]

    # -- one adapter while the others run ----------------------------------------------------------------------------

    def start_adapter(self, name: str) -> None:
        """Start an adapter that was stopped, or that failed; nothing happens to one that runs. Returns at once.

        Raises
        ------
        ConfigError
            If there is no such adapter.
        """
        line = self._named(name)

        def start() -> None:
            line.wanted = "run"
            if line.supervisor.state is State.FAILED and line.draft is None:
                line.draft = line.config, line.limits

        self._ask(start)

    def stop_adapter(self, name: str) -> None:
        """End an adapter cleanly and leave it so; its position is kept. Returns at once.

        Raises
        ------
        ConfigError
            If there is no such adapter.
        """
        line = self._named(name)

        def stop() -> None:
            line.wanted = "stop"

        self._ask(stop)

    def restart_adapter(self, name: str) -> None:
        """End an adapter cleanly and start it from its last position: the new process imports what is installed now.

        Raises
        ------
        ConfigError
            If there is no such adapter.
        """
        line = self._named(name)

        def restart() -> None:
            line.draft = line.draft or (line.config, line.limits)

        self._ask(restart)

    def configure(self, config: AdapterConfig) -> None:
        """Add an adapter, or restart one with another section from its last position. Returns at once.

        Raises
        ------
        ConfigError
            If its kind is not installed or its limits are wrong; nothing changes then.
        """
        draft = section(config)

        def change() -> None:
            line = self._lines.get(config.name)
            if line is None:
                first, position = self._gone.pop(config.name, (0, None))
                line = self._line(config, position, first)
                self._lines = self._lines | {config.name: line}
                line.courier.start()
                self._on(line, Start())
            else:
                line.wanted, line.draft = "run", draft

        self._ask(change)

    def remove(self, name: str) -> None:
        """End an adapter cleanly and forget it, but for its position. Returns at once.

        Raises
        ------
        ConfigError
            If there is no such adapter.
        """
        line = self._named(name)

        def drop() -> None:
            line.wanted = "gone"

        self._ask(drop)

    def apply(self, plant: LoadedPlant) -> dict[str, str]:
        """Bring the adapters to what another version of the plant file says; those it says the same of are not touched.

        Returns
        -------
        dict of str to str
            What will happen to whom: ``"added"``, ``"changed"``, ``"removed"``.

        Raises
        ------
        ConfigError
            If any section is wrong; nothing changes then.
        """
        drafts = {config.name: section(config) for config in plant.config.adapters}
        done = {name: "removed" for name in self._lines if name not in drafts}
        for name, draft in drafts.items():
            line = self._lines.get(name)
            if line is None or line.wanted == "gone":
                done[name] = "added"
            elif (line.draft or (line.config, line.limits)) != draft:
                done[name] = "changed"
        self._classes = _classes(plant)
        for config in plant.config.adapters:
            if config.name in done:
                self.configure(config)
        for name, what in done.items():
            if what == "removed":
                self.remove(name)
        return done

    def _named(self, name: str) -> Line:
        line = self._lines.get(name)
        if line is None:
            msg = f"no adapter {name!r}; there are {', '.join(self._lines) or 'none'}"
            raise ConfigError(msg)
        return line

    def _ask(self, request: Callable[[], None]) -> None:
        self._requests.append(request)
        self._wake()

    def stop(self, timeout_s: float = 15.0) -> None:
        """Stop every adapter: children end after their current read, what they sent is delivered, then the rest is killed.

        Parameters
        ----------
        timeout_s
            Seconds until children are killed.
        """
        thread = self._thread
        if thread is None or self._finished:
            return
        self._timeout_ns = round(timeout_s * 1e9)
        self._stop_ns = self._clock.monotonic_ns()
        self._wake()
        thread.join()
        self._finished = True
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _status(self, name: str, line: Line) -> AdapterStatus:
        supervisor, channel = line.supervisor, line.channel
        state, reason = PUBLIC[supervisor.state], supervisor.reason
        down = line.courier.session_down
        if self._failure:
            state, reason = "failed", self._failure
        elif supervisor.degraded and state in ("starting", "running", "waiting"):
            state = "degraded"
        elif state == "running" and down is not None:
            state, reason = "waiting", down
        return AdapterStatus(
            name, line.config.kind, state, None if channel is None else channel.pid, supervisor.restarts,
            line.courier.samples, line.courier.errors + supervisor.faults, line.courier.last_ns, reason,
            supervisor.incarnation, line.rss_bytes, line.cpu_share, line.held_by,
        )  # fmt: skip

    def _notify(self, name: str, incarnation: int, event: Occurrence | None) -> None:
        self._events.append((name, incarnation, event))
        self._wake()

    def _wake(self) -> None:
        # A full pipe is a wake-up that is already on its way; a closed one has nobody to wake.
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_in, b"\0")

    # -- the control thread ------------------------------------------------------------------------------------------

    def _control(self) -> None:
        try:
            for line in self._lines.values():
                self._on(line, Start())
            while not self._turn():
                self._wait()
            self._settle()
        except Exception as error:  # noqa: BLE001 -- shown by status() for every adapter, counted and logged
            self._fail(error)
        finally:
            for line in self._lines.values():
                if line.channel is not None:
                    line.channel.kill()
                line.log.close()

    def _fail(self, error: Exception) -> None:
        self._failure = f"the host of the adapters failed: {type(error).__name__}: {error}"
        self._metrics.count("adapter_host_failures_total")
        log.error("host failed", error=str(error), exc_info=error)

    def _turn(self) -> bool:
        """Do all there is to do now; True when everything has ended as asked."""
        now_ns = self._clock.monotonic_ns()
        while self._requests:
            self._requests.popleft()()
        while self._events:
            name, incarnation, event = self._events.popleft()
            if name in self._lines:
                self._heard(self._lines[name], incarnation, event, now_ns)
        measure = now_ns - self._measured_ns >= MEASURE_NS
        if measure:
            self._measured_ns = now_ns
        for line in self._lines.values():
            self._tend(line, now_ns)
            if measure:
                self._measure(line)
            if self._stop_ns is None:
                self._steer(line)
        if self._stop_ns is None:
            return False
        for line in self._lines.values():
            if line.supervisor.state not in (State.STOPPING, State.STOPPED, State.FAILED):
                self._on(line, Stop(max(0, self._stop_ns + self._timeout_ns - now_ns)))
        return all(line.channel is None for line in self._lines.values())

    def _heard(self, line: Line, incarnation: int, event: Occurrence | None, now_ns: int) -> None:
        channel = line.channel
        if channel is None or channel.incarnation != incarnation:
            return
        if event is None:
            channel.drained_ns = now_ns
            return
        if isinstance(event, Opened):
            channel.opened = True
        self._on(line, event)

    def _tend(self, line: Line, now_ns: int) -> None:
        channel = line.channel
        if channel is not None:
            channel.copy_log()
            self._acknowledge(line, channel)
            channel.flush()
            self._selector_writes(channel)
            if channel.has_ended():
                self._bury(line, channel, now_ns)
            elif channel.drained_ns is not None and now_ns - channel.drained_ns > CLOSED_NS:
                self._on(line, Broken(f"closed its pipe but did not end within {CLOSED_NS / 1e9:g} s"))
        self._on(line, Tick(self._heard_ns(line, now_ns)))

    def _acknowledge(self, line: Line, channel: Channel) -> None:
        if not channel.opened:
            return
        with self._lock:
            if line.unsent is not None and channel.acknowledge(line.unsent):
                line.unsent = None

    def _bury(self, line: Line, channel: Channel, now_ns: int) -> None:
        """The process is gone: once its last frame is delivered, say so; give up on a delivery that outlasts a stop."""
        if not channel.drained:
            if self._stop_ns is None or now_ns < self._stop_ns + self._timeout_ns + GIVE_UP_NS:
                return
            line.courier.abandoned = True
            self._metrics.count("adapter_abandoned_deliveries_total", adapter=line.config.name)
        self._unregister(channel)
        sentence = channel.reap()
        line.release()
        self._on(line, Exited(sentence))

    def _steer(self, line: Line) -> None:
        """Bring a line to what a person asked for: stop it, then change it, start it or drop it."""
        state = line.supervisor.state
        over = state in (State.STOPPED, State.FAILED)
        if line.wanted == "run" and line.draft is None:
            if state is State.STOPPED:
                self._on(line, Start())
        elif not over:
            if state is not State.STOPPING:
                self._on(line, Stop(ASKED_STOP_NS))
        elif line.channel is None:
            self._settle_line(line)

    def _settle_line(self, line: Line) -> None:
        if line.wanted == "gone":
            line.courier.finish()
            line.log.close()
            self._gone[line.config.name] = (line.supervisor.incarnation + 1, line.position)
            self._lines = {name: other for name, other in self._lines.items() if other is not line}
        elif line.draft is not None:
            with self._lock:
                if line.draft[0].kind != line.config.kind:
                    line.position = None  # another kind's positions mean nothing to this one
                line.config, line.limits = line.draft
                line.draft = None
            line.supervisor.policy = timed(self._policy, line.limits)
            line.courier.rate = line.limits.rate
            if line.wanted == "run":
                self._on(line, Start())

    def _heard_ns(self, line: Line, now_ns: int) -> int:
        courier, channel = line.courier, line.channel
        if courier.busy or channel is None:
            return now_ns
        heard_ns = courier.heard_ns
        if now_ns - heard_ns >= line.limits.silence and channel.unread:
            # It has spoken; this process was the one that did not listen (suspended, or starved of CPU).
            return now_ns
        return heard_ns

    def _measure(self, line: Line) -> None:
        over = line.measure()
        if line.channel is None:
            return
        name = line.config.name
        self._metrics.gauge("adapter_rss_bytes", line.rss_bytes, adapter=name)
        self._metrics.gauge("adapter_cpu_share", line.cpu_share, adapter=name)
        while line.notes:
            self._tell(line, "info", line.notes.pop())
        if over is not None:
            self._on(line, Broken(over))

    # -- actions -----------------------------------------------------------------------------------------------------

    def _on(self, line: Line, event: Occurrence) -> None:
        before = line.supervisor.state
        for action in line.supervisor.on(event, self._clock.monotonic_ns()):
            self._do(line, action)
        after = line.supervisor.state
        if after is not before:
            log.info("adapter", name=line.config.name, state=after.name.lower(), reason=line.supervisor.reason)

    def _do(self, line: Line, action: Action) -> None:
        match action:
            case Launch(incarnation):
                self._launch(line, incarnation)
            case SendStop():
                line.courier.hurry()
                if line.channel is not None:
                    line.channel.send(Frame(Kind.STOP))
                    line.channel.flush()
            case Kill():
                if line.channel is not None:
                    line.channel.kill()
            case Report(kind, reason):
                self._tell(line, kind, reason)
                self._metrics.count("adapter_reports_total", adapter=line.config.name, kind=kind)

    def _tell(self, line: Line, kind: EventKind, reason: str) -> None:
        line.courier.tell(line.supervisor.incarnation, Event(kind, line.config.name, self._clock.now_ns(), reason))

    def _launch(self, line: Line, incarnation: int) -> None:
        name = line.config.name
        with self._lock:
            position, line.unsent = line.position, None
        opening = Opening(line.config, self._base, position, self._classes, line.limits.model_dump())
        program = Program(
            command(line.config, name), environment(line.config, line.limits), self._base, line.limits.queue
        )
        try:
            channel = Channel(program, opening.frame(), line.log, incarnation)
        except (OSError, DataError) as error:
            self._on(line, Exited(f"can not be started: {error}"))
            return
        line.channel = channel
        line.hold(self._parent)
        self._metrics.count("adapter_launches_total", adapter=name)
        assert self._selector is not None
        self._selector.register(channel.stderr, selectors.EVENT_READ, channel)
        line.courier.follow(channel)
        channel.flush()
        self._selector_writes(channel)

    # -- waiting -----------------------------------------------------------------------------------------------------

    def _selector_writes(self, channel: Channel) -> None:
        """Wait for room in stdin exactly while something waits to be written."""
        assert self._selector is not None
        registered = channel.stdin in self._selector.get_map()
        if channel.backlog and not registered:
            self._selector.register(channel.stdin, selectors.EVENT_WRITE, channel)
        elif registered and not channel.backlog:
            self._selector.unregister(channel.stdin)

    def _unregister(self, channel: Channel) -> None:
        assert self._selector is not None
        for descriptor in (channel.stdin, channel.stderr):
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)

    def _wait(self) -> None:
        """Sleep until a thread, a pipe or a deadline calls."""
        assert self._selector is not None
        now_ns = self._clock.monotonic_ns()
        wait_s = TICK_S
        for line in self._lines.values():
            due_ns = line.supervisor.due_ns
            if due_ns is not None:
                wait_s = min(wait_s, max(0.0, (due_ns - now_ns) / 1e9))
            if line.channel is not None and (line.channel.drained_ns is not None or line.channel.ended):
                # A pipe ends a moment before its process can be collected.
                wait_s = min(wait_s, ENDING_S)
        for key, _ in self._selector.select(wait_s):
            if key.fd == self._wake_out:
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._wake_out, 4096):
                        pass
            elif isinstance(key.data, Channel) and key.fd == key.data.stderr and not key.data.copy_log():
                self._selector.unregister(key.fd)

    def _settle(self) -> None:
        """Let the couriers deliver what is left, the host's own last events among it."""
        assert self._stop_ns is not None
        assert self._selector is not None
        for line in self._lines.values():
            line.courier.finish()
        for line in self._lines.values():
            left_ns = self._stop_ns + self._timeout_ns + GIVE_UP_NS - self._clock.monotonic_ns()
            line.courier.join(max(0.0, left_ns / 1e9))
            line.courier.abandoned = True
        self._selector.close()


def _classes(plant: LoadedPlant) -> tuple[tuple[str, int], ...]:
    return tuple((c.match, c.period) for c in plant.config.classes if c.period)
