"""Who starts, watches and restarts an adapter's process: a table of rules. Events in, actions out, times passed in.

The rules in words. A child that is wrongly configured is not restarted: only a person can help (`FAILED`). Any other end
that was not asked for is followed by a restart after a wait that doubles up to a cap, with jitter so that adapters which
fell together do not rise together. More than `budget` restarts within `window_ns` make the adapter *degraded*: it is
still restarted, but slowly, because a plant's device may come back after a week. A child that ran `settle_ns` without a
fault has earned its budget back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from iiot_dask.adapter.message import Family

S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """Times and counts of the rules; times in ns."""

    open_ns: int = 120 * S
    """Longest from launch to opened."""
    silence_ns: int = 30 * S
    """Longest without a frame, once opened."""
    exit_ns: int = 10 * S
    """Longest a child that reported an error may take to end."""
    first_ns: int = S // 2
    """Wait before the first restart; doubles with each one."""
    cap_ns: int = 30 * S
    """Longest wait while the budget lasts."""
    jitter: float = 0.5
    """Each wait is shortened by a random share of it, up to this."""
    budget: int = 8
    """Restarts within `window_ns` before the adapter counts as degraded."""
    window_ns: int = 600 * S
    """Span the budget is counted over."""
    slow_ns: int = 60 * S
    """Wait between restarts of a degraded adapter."""
    settle_ns: int = 60 * S
    """A run this long without a fault gives the budget back."""

    def wait_ns(self, restarts: int, rng: np.random.Generator, *, degraded: bool) -> int:
        """Wait before the restart that follows `restarts` recent ones, in ns.

        Capped exponential back-off with jitter (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).

        Examples
        --------
        >>> policy, rng = Policy(jitter=0.0), np.random.default_rng(7)
        >>> [policy.wait_ns(n, rng, degraded=False) / S for n in (0, 1, 2, 50)]
        [0.5, 1.0, 2.0, 30.0]
        """
        base = self.slow_ns if degraded else min(self.cap_ns, self.first_ns << min(restarts, 40))
        return int(base * (1 - self.jitter * rng.random()))


class State(Enum):
    """Where an adapter's process is in its life."""

    IDLE = "not started"
    STARTING = "launched, not opened yet"
    RUNNING = "opened"
    ENDING = "going down after a fault"
    WAITING = "between two runs"
    STOPPING = "asked to stop"
    STOPPED = "ended as asked"
    FAILED = "wrongly configured; needs a person"


# -- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """The host begins."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The child's `open` returned."""


@dataclass(frozen=True, slots=True)
class Faulted:
    """The child sent an ERROR frame; it is about to end by itself."""

    family: Family
    sentence: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The child can not be used any more though it lives: a damaged frame, or its rows are refused."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The process has ended and every frame it sent has been delivered."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `heard_ns`: the newest instant at which the child could not be blamed for silence."""

    heard_ns: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The host ends; `timeout_ns` from now the child is killed."""

    timeout_ns: int


Occurrence = Start | Opened | Faulted | Broken | Exited | Tick | Stop
EVENTS: tuple[type[Occurrence], ...] = (Start, Opened, Faulted, Broken, Exited, Tick, Stop)

# -- actions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """Start a process with this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class SendStop:
    """Ask the process to end."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the incident engine that the adapter went or came back."""

    kind: Literal["disconnected", "connected"]
    reason: str


Action = Launch | SendStop | Kill | Report

# fmt: off
TABLE: dict[State, tuple[str, ...]] = {
    #                Start      Opened     Faulted           Broken            Exited     Tick             Stop
    State.IDLE:     ("launch",  "nothing", "nothing",        "nothing",        "nothing", "nothing",       "stopped"),
    State.STARTING: ("nothing", "opened",  "faulted",        "broken",         "ended",   "starting_tick", "stop"),
    State.RUNNING:  ("nothing", "nothing", "faulted",        "broken",         "ended",   "running_tick",  "stop"),
    State.ENDING:   ("nothing", "nothing", "nothing",        "broken",         "ended",   "ending_tick",   "stop"),
    State.WAITING:  ("nothing", "nothing", "nothing",        "nothing",        "nothing", "waiting_tick",  "stopped"),
    State.STOPPING: ("nothing", "nothing", "stopping_fault", "stopping_fault", "stopped", "stopping_tick", "nothing"),
    State.STOPPED:  ("again",   "nothing", "nothing",        "nothing",        "nothing", "nothing",       "nothing"),
    State.FAILED:   ("again",   "nothing", "nothing",        "nothing",        "nothing", "nothing",       "nothing"),
}
# fmt: on
"""The rules: what each state does at each event; a name is the method of `Supervisor` with an underscore before it."""

RULES: dict[tuple[State, type[Occurrence]], str] = {
    (state, event): rule for state, row in TABLE.items() for event, rule in zip(EVENTS, row, strict=True)
}


class Supervisor:
    """The state of one adapter's process.

    Parameters
    ----------
    policy
        Times and counts.
    rng
        For the jitter.
    first
        Number of the first process.

    Attributes
    ----------
    state, degraded, reason
        Where it is; whether the restart budget is used up; the last fault in a sentence ("" when there was none).
    incarnation, restarts, faults
        Number of the present or last process from 0 (-1: none yet); restarts and faults in all.
    due_ns
        The instant a `Tick` will next do something; None: never.

    Examples
    --------
    >>> s = Supervisor(Policy(jitter=0.0), np.random.default_rng(7))
    >>> s.on(Start(), 0), s.on(Opened(), 1 * S)
    ([Launch(incarnation=0)], [])
    >>> s.on(Exited("ended by SIGKILL"), 2 * S)
    [Report(kind='disconnected', reason='ended by SIGKILL; restart in 0.5 s')]
    >>> s.on(Tick(2 * S), 3 * S), s.on(Opened(), 4 * S)
    ([Launch(incarnation=1)], [Report(kind='connected', reason='restarted')])
    """

    def __init__(self, policy: Policy, rng: np.random.Generator, first: int = 0) -> None:
        self.policy = policy
        self.state = State.IDLE
        self.degraded = False
        self.reason = ""
        self.incarnation = first - 1
        self.restarts = 0
        self.faults = 0
        self.due_ns: int | None = None
        self._rng = rng
        self._recent: deque[int] = deque(maxlen=policy.budget + 1)
        self._doublings = 0
        self._down = False
        self._config = False
        self._opened_ns = 0

    def on(self, event: Occurrence, now_ns: int) -> list[Action]:
        """Take an event that happened at `now_ns` (steady clock); returns what to do, in order."""
        rule: Callable[[Occurrence, int], list[Action]] = getattr(self, f"_{RULES[self.state, type(event)]}")
        return rule(event, now_ns)

    # -- rules; named in `TABLE` -------------------------------------------------------------------

    def _nothing(self, _event: Occurrence, _now_ns: int) -> list[Action]:
        return []

    def _launch(self, _event: Occurrence, now_ns: int) -> list[Action]:
        self.incarnation += 1
        self._go(State.STARTING, now_ns + self.policy.open_ns)
        return [Launch(self.incarnation)]

    def _again(self, event: Occurrence, now_ns: int) -> list[Action]:
        """A person starts it: whatever happened before no longer counts."""
        self._settle()
        self._config = False
        return self._launch(event, now_ns)

    def _opened(self, _event: Occurrence, now_ns: int) -> list[Action]:
        self._opened_ns = now_ns
        self._go(State.RUNNING, now_ns + self.policy.silence_ns)
        # In a crash loop "it is back" would be a lie once a minute: that is told when it has settled.
        return [] if self.degraded else self._report_up()

    def _faulted(self, event: Occurrence, now_ns: int) -> list[Action]:
        assert isinstance(event, Faulted)
        self.reason = event.sentence
        self._config = event.family == "config"
        self._go(State.ENDING, now_ns + self.policy.exit_ns)
        return []

    def _broken(self, event: Occurrence, _now_ns: int) -> list[Action]:
        assert isinstance(event, Broken)
        return self._kill(event.sentence)

    def _starting_tick(self, _event: Occurrence, now_ns: int) -> list[Action]:
        if not self._past(now_ns):
            return []
        return self._kill(f"open() did not return within {self.policy.open_ns / S:g} s")

    def _running_tick(self, event: Occurrence, now_ns: int) -> list[Action]:
        assert isinstance(event, Tick)
        self.due_ns = event.heard_ns + self.policy.silence_ns
        actions: list[Action] = []
        if now_ns - self._opened_ns >= self.policy.settle_ns:
            self._settle()
            actions = self._report_up()
        if not self._past(now_ns):
            return actions
        return actions + self._kill(f"sent nothing for {(now_ns - event.heard_ns) / S:.1f} s; read() hangs")

    def _ending_tick(self, _event: Occurrence, now_ns: int) -> list[Action]:
        if not self._past(now_ns):
            return []
        self.due_ns = None
        return [Kill()]

    def _waiting_tick(self, event: Occurrence, now_ns: int) -> list[Action]:
        if not self._past(now_ns):
            return []
        self.restarts += 1
        return self._launch(event, now_ns)

    def _ended(self, event: Occurrence, now_ns: int) -> list[Action]:
        """A run is over that nobody asked to end."""
        assert isinstance(event, Exited)
        self.faults += 1
        if self.state is not State.ENDING:
            self.reason = event.sentence
        if self._config:
            self._go(State.FAILED, None)
            return self._report_down(self.reason)
        self._recent.append(now_ns)
        span = now_ns - self._recent[0]
        self.degraded = self.degraded or (len(self._recent) > self.policy.budget and span <= self.policy.window_ns)
        wait_ns = self.policy.wait_ns(self._doublings, self._rng, degraded=self.degraded)
        self._doublings += 1
        self._go(State.WAITING, now_ns + wait_ns)
        loop = f"crash loop, {len(self._recent)} ends within {span / S:.0f} s: " if self.degraded else ""
        return self._report_down(f"{loop}{self.reason}; restart in {wait_ns / S:.1f} s")

    def _stop(self, event: Occurrence, now_ns: int) -> list[Action]:
        assert isinstance(event, Stop)
        self._go(State.STOPPING, now_ns + event.timeout_ns)
        return [SendStop()]

    def _stopped(self, _event: Occurrence, _now_ns: int) -> list[Action]:
        self._go(State.STOPPED, None)
        return []

    def _stopping_fault(self, event: Occurrence, _now_ns: int) -> list[Action]:
        assert isinstance(event, (Faulted, Broken))
        self.faults += 1
        self.reason = event.sentence
        if isinstance(event, Faulted):
            return []
        self.due_ns = None
        return [Kill()]

    def _stopping_tick(self, _event: Occurrence, now_ns: int) -> list[Action]:
        if not self._past(now_ns):
            return []
        self.reason = "did not stop in time; killed"
        self.due_ns = None
        return [Kill()]

    # -- shared ----------------------------------------------------------------------------------------------------

    def _go(self, state: State, due_ns: int | None) -> None:
        self.state = state
        self.due_ns = due_ns

    def _past(self, now_ns: int) -> bool:
        return self.due_ns is not None and now_ns >= self.due_ns

    def _kill(self, sentence: str) -> list[Action]:
        self.reason = sentence
        self._config = False
        self._go(State.ENDING, None)
        return [Kill()]

    def _settle(self) -> None:
        self.degraded = False
        self._doublings = 0
        self._recent.clear()
        self.reason = ""

    def _report_up(self) -> list[Action]:
        if not self._down:
            return []
        self._down = False
        return [Report("connected", "restarted")]

    def _report_down(self, reason: str) -> list[Action]:
        # One report for one absence, however many restarts it takes.
        if self._down:
            return []
        self._down = True
        return [Report("disconnected", reason)]
