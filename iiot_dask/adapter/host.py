"""`Host`: runs every adapter of a plant in a process of its own.

One control thread owns the supervisors, the processes and their stdin and stderr; one `Courier` thread an adapter reads
its stdout and delivers. The control thread starts the children and ends after them, because on Linux a child dies with
the thread that started it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import structlog

from iiot_dask.adapter.channel import Channel, command
from iiot_dask.adapter.contract import Event
from iiot_dask.adapter.courier import Courier, Delivery
from iiot_dask.adapter.limits import Limits, take_limits
from iiot_dask.adapter.logfile import BoundedLog
from iiot_dask.adapter.message import Failure, Opening, read_up
from iiot_dask.adapter.message import State as ChildState
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
    Supervisor,
    Tick,
)
from iiot_dask.adapter.wire import UP, Decoder, Frame, Kind, encode
from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.errors import ConfigError, DataError
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.plantfile import LoadedPlant
from iiot_dask.core.registry import Registry

__all__ = ["AdapterStatus", "Delivery", "Host", "check_adapter"]

GROUP = "iiot_dask.adapters"
TICK_S = 0.25
ENDING_S = 0.005
MEASURE_NS = 1_000_000_000
CLOSED_NS = 10_000_000_000
"""Longest a process may live after it closed its stdout."""
GIVE_UP_NS = 2_000_000_000
"""After a stop's deadline, longest wait for a delivery that still blocks."""
CHECK_S = 30.0

log = structlog.get_logger("iiot_dask.adapter.host")

PublicState = Literal["starting", "running", "waiting", "degraded", "stopped", "failed"]
_PUBLIC: dict[State, PublicState] = {
    State.IDLE: "starting",
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.ENDING: "waiting",
    State.WAITING: "waiting",
    State.STOPPING: "running",
    State.STOPPED: "stopped",
    State.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One adapter now.

    `state`: *starting* until its `open` has returned; *running*; *waiting* for its device or for a restart; *degraded*
    when it failed too often and is restarted slowly; *stopped*; *failed* when only a person can help. `samples` and
    `errors` (faults and unusable messages) are totals over all incarnations, `last_ns` the wall time of the last rows
    (ns, None: never), `reason` the last fault in a sentence, `rss_bytes` and `cpu_share` (cores) of the process, 0 when
    there is none.
    """

    name: str
    kind: str
    state: PublicState
    pid: int | None
    restarts: int
    samples: int
    errors: int
    last_ns: int | None
    reason: str
    incarnation: int
    rss_bytes: int
    cpu_share: float


@dataclass(slots=True)
class _Line:
    """Everything the control thread keeps of one adapter."""

    config: AdapterConfig
    limits: Limits
    supervisor: Supervisor
    courier: Courier
    log: BoundedLog
    position: str | None
    unsent: str | None = None
    channel: Channel | None = None
    process: psutil.Process | None = None
    rss_bytes: int = 0
    cpu_share: float = 0.0
    logged: bool = field(default=False)


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
        self._lines = {
            config.name: self._line(config, deliver, positions.get(config.name), log_dir, policy or Policy())
            for config in plant.config.adapters
        }
        self._lock = threading.Lock()
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

    def _line(
        self,
        config: AdapterConfig,
        deliver: Callable[[Delivery], None],
        position: str | None,
        log_dir: Path | None,
        policy: Policy,
    ) -> _Line:
        installed = Registry[object](GROUP, "adapter").names()
        if config.kind not in installed:
            msg = f"adapter {config.name!r} has kind {config.kind!r}, which is not installed; installed: {', '.join(installed)}"
            raise ConfigError(msg)
        shown, limits = take_limits(config)
        timed = Policy(
            **{name: getattr(policy, name) for name in Policy.__slots__}
            | {"open_ns": limits.open, "silence_ns": limits.silence}
        )
        name = config.name
        courier = Courier(name, deliver, lambda at, event: self._notify(name, at, event), self._clock, self._metrics)
        path = None if log_dir is None else log_dir / f"adapter-{name}.jsonl"
        return _Line(shown, limits, Supervisor(timed, self._rng), courier, BoundedLog(path), position)

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
        line = self._lines[adapter]
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

    def _status(self, name: str, line: _Line) -> AdapterStatus:
        supervisor, channel = line.supervisor, line.channel
        state, reason = _PUBLIC[supervisor.state], supervisor.reason
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
            supervisor.incarnation, line.rss_bytes, line.cpu_share,
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
        while self._events:
            name, incarnation, event = self._events.popleft()
            self._heard(self._lines[name], incarnation, event, now_ns)
        measure = now_ns - self._measured_ns >= MEASURE_NS
        if measure:
            self._measured_ns = now_ns
        for line in self._lines.values():
            self._tend(line, now_ns)
            if measure:
                self._measure(line)
        if self._stop_ns is None:
            return False
        for line in self._lines.values():
            if line.supervisor.state not in (State.STOPPING, State.STOPPED, State.FAILED):
                self._on(line, Stop(max(0, self._stop_ns + self._timeout_ns - now_ns)))
        return all(line.channel is None for line in self._lines.values())

    def _heard(self, line: _Line, incarnation: int, event: Occurrence | None, now_ns: int) -> None:
        channel = line.channel
        if channel is None or channel.incarnation != incarnation:
            return
        if event is None:
            channel.drained_ns = now_ns
            return
        if isinstance(event, Opened):
            channel.opened = True
        self._on(line, event)

    def _tend(self, line: _Line, now_ns: int) -> None:
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

    def _acknowledge(self, line: _Line, channel: Channel) -> None:
        if not channel.opened:
            return
        with self._lock:
            if line.unsent is not None and channel.acknowledge(line.unsent):
                line.unsent = None

    def _bury(self, line: _Line, channel: Channel, now_ns: int) -> None:
        """The process is gone: once its last frame is delivered, say so; give up on a delivery that outlasts a stop."""
        if not channel.drained:
            if self._stop_ns is None or now_ns < self._stop_ns + self._timeout_ns + GIVE_UP_NS:
                return
            line.courier.abandoned = True
            self._metrics.count("adapter_abandoned_deliveries_total", adapter=line.config.name)
        self._unregister(channel)
        sentence = channel.reap()
        line.channel = None
        line.process = None
        line.rss_bytes, line.cpu_share = 0, 0.0
        self._on(line, Exited(sentence))

    def _heard_ns(self, line: _Line, now_ns: int) -> int:
        courier, channel = line.courier, line.channel
        if courier.busy or channel is None:
            return now_ns
        heard_ns = courier.heard_ns
        if now_ns - heard_ns >= line.limits.silence and channel.unread:
            # It has spoken; this process was the one that did not listen (suspended, or starved of CPU).
            return now_ns
        return heard_ns

    def _measure(self, line: _Line) -> None:
        if line.channel is None:
            return
        try:
            if line.process is None:
                line.process = psutil.Process(line.channel.pid)
            line.rss_bytes = line.process.memory_info().rss
            line.cpu_share = line.process.cpu_percent() / 100
        except psutil.Error:
            # It is ending this moment; `has_ended` will say so.
            return
        name = line.config.name
        self._metrics.gauge("adapter_rss_bytes", line.rss_bytes, adapter=name)
        self._metrics.gauge("adapter_cpu_share", line.cpu_share, adapter=name)
        if line.rss_bytes > line.limits.memory:
            self._on(
                line, Broken(f"uses {line.rss_bytes} bytes of memory; options.limits.memory = {line.limits.memory}")
            )

    # -- actions -----------------------------------------------------------------------------------------------------

    def _on(self, line: _Line, event: Occurrence) -> None:
        before = line.supervisor.state
        for action in line.supervisor.on(event, self._clock.monotonic_ns()):
            self._do(line, action)
        after = line.supervisor.state
        if after is not before:
            log.info("adapter", name=line.config.name, state=after.name.lower(), reason=line.supervisor.reason)

    def _do(self, line: _Line, action: Action) -> None:
        match action:
            case Launch(incarnation):
                self._launch(line, incarnation)
            case SendStop():
                if line.channel is not None:
                    line.channel.send(Frame(Kind.STOP))
                    line.channel.flush()
            case Kill():
                if line.channel is not None:
                    line.channel.kill()
            case Report(kind, reason):
                name = line.config.name
                event = Event(kind, name, self._clock.now_ns(), reason)
                line.courier.tell(line.supervisor.incarnation, event)
                self._metrics.count("adapter_reports_total", adapter=name, kind=kind)

    def _launch(self, line: _Line, incarnation: int) -> None:
        name = line.config.name
        with self._lock:
            position, line.unsent = line.position, None
        opening = Opening(line.config, self._base, position, self._classes, line.limits.model_dump())
        try:
            channel = Channel(name, opening.frame(), self._base, line.log, incarnation)
        except (OSError, DataError) as error:
            self._on(line, Exited(f"can not be started: {error}"))
            return
        line.channel = channel
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


def check_adapter(plant: LoadedPlant, config: AdapterConfig, timeout_s: float = CHECK_S) -> list[str]:
    """Have an adapter look at its endpoint and tags, in a process of its own.

    Parameters
    ----------
    plant
        The loaded plant file.
    config
        One of its adapters.
    timeout_s
        Seconds until the process is killed.

    Returns
    -------
    list of str
        Sentences on what is wrong; empty when all is well.
    """
    try:
        shown, limits = take_limits(config)
    except ConfigError as error:
        return [str(error)]
    base = plant.path.parent
    opening = Opening(shown, base, None, _classes(plant), limits.model_dump())
    done = subprocess.Popen(
        command("--check", config.name), cwd=base, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with done:
        try:
            out, err = done.communicate(encode(opening.frame()), timeout_s)
        except subprocess.TimeoutExpired:
            done.kill()
            return [f"adapter {config.name!r} did not finish its check within {timeout_s:g} s"]
    return _verdict(config.name, out, done.returncode, err)


def _verdict(name: str, out: bytes, code: int, err: bytes) -> list[str]:
    decoder = Decoder(UP)
    decoder.feed(out)
    try:
        while frame := decoder.next_frame():
            said = read_up(frame)
            if isinstance(said, ChildState) and said.state == "checked":
                return list(said.problems)
            if isinstance(said, Failure):
                return [said.sentence]
    except DataError as error:
        return [f"adapter {name!r} answered its check with damaged bytes: {error}"]
    log_ = BoundedLog(None)
    log_.write(err)
    return [f"adapter {name!r} ended with status {code} before it answered: {log_.last_line}"]
