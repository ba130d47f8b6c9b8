"""Which way rows go: stream, micro-batch or batch. A pure policy over measured facts, with hysteresis, that explains itself.

The three ways run the same operators over the same rows and differ in how many rows one step gathers. A step has a fixed
cost (scheduling, a task, a fsync) and a cost a row; gathering longer spreads the fixed cost and costs latency. So each way
has a price (busy seconds a second) and a latency; the router takes the cheapest one that keeps the deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from iiot_dask.core.errors import ConfigError

Path = Literal["stream", "micro-batch", "batch"]
PATHS: tuple[Path, ...] = ("stream", "micro-batch", "batch")
GATHER_S: Mapping[str, float] = {"stream": 0.02, "micro-batch": 0.25, "batch": 10.0}
"""How long a way gathers rows for one step, seconds; a stream takes what one micro-batch of the journal holds."""
STEP_S = 0.004
"""First guess of a step's fixed cost, seconds; learnt from then on."""
ROW_S = 1e-6
"""First guess of a row's cost, seconds."""
SWITCH_AT = 0.8
"""A cheaper way must cost at most this share of the present one."""
HOLD_S = 5.0
"""Least time between two changes that only save money, seconds; a missed deadline is answered at once."""
BUSY_MAX = 0.7
"""A way that would be busier than this counts as too slow."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a source: rows a second, peak over mean, and what a step and a row cost (seconds)."""

    rate: float = 0.0
    burst: float = 1.0
    step_s: float = STEP_S
    row_s: float = ROW_S


@dataclass(frozen=True, slots=True)
class Choice:
    """One way: what it would cost (busy share of a core), how late its results would be (seconds), if it would do."""

    path: Path
    busy: float
    latency_s: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Route:
    """The way taken, why, and every way's figures."""

    path: Path
    reason: str
    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.reason}"]
        lines += [
            f"  {c.path:<12} {c.busy:8.2%} of a core, results within {c.latency_s:.3f} s{'' if c.fits else ' (does not do)'}"
            for c in self.choices
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table of the ways."""
        rows = "".join(
            f"<tr><td>{c.path}</td><td>{c.busy:.2%}</td><td>{c.latency_s:.3f} s</td><td>{'yes' if c.fits else 'no'}</td></tr>"
            for c in self.choices
        )
        return f"<b>{self.path}</b>: {escape(self.reason)}<table><tr><th>way</th><th>core</th><th>latency</th><th>fits</th></tr>{rows}</table>"


def weigh(facts: Facts, deadline_s: float) -> tuple[Choice, ...]:
    """Price and latency of each way at the source's peak rate.

    Examples
    --------
    >>> [c.fits for c in weigh(Facts(rate=1000.0), 1.0)]
    [True, True, False]
    """
    out = []
    for path in PATHS:
        gather = GATHER_S[path]
        peak = facts.rate * facts.burst
        # A quiet source has no more steps than rows.
        steps = min(1 / gather, max(facts.rate, 0.1))
        busy = steps * facts.step_s + facts.rate * facts.row_s
        work = facts.step_s + peak * gather * facts.row_s
        latency = gather + work
        out.append(Choice(path, busy, latency, latency <= deadline_s and busy <= BUSY_MAX))
    return tuple(out)


def choose(facts: Facts, deadline_s: float, before: Path, held_s: float, override: Path | None = None) -> Route:
    """The way to take now.

    Parameters
    ----------
    before, held_s
        The present way and for how long it has been taken, seconds.
    override
        A way somebody asked for; taken whatever it costs.

    Examples
    --------
    >>> choose(Facts(rate=10.0), 60.0, "stream", 100.0).path
    'batch'
    >>> choose(Facts(rate=10.0), 0.1, "batch", 0.0).path
    'stream'
    """
    choices = weigh(facts, deadline_s)
    by = {c.path: c for c in choices}
    if override is not None:
        return Route(override, "asked for by an override", choices)
    fitting = [c for c in choices if c.fits]
    if not fitting:
        least = min(choices, key=lambda c: (max(c.latency_s / deadline_s, c.busy / BUSY_MAX), c.busy))
        return Route(
            least.path, f"no way keeps {deadline_s:g} s at {facts.rate:,.0f} rows/s; this one misses by least", choices
        )
    best = min(fitting, key=lambda c: c.busy)
    now = by[before]
    if not now.fits:
        why = (
            f"{before} would take {now.latency_s:.2f} s and {now.busy:.0%} of a core; the deadline is {deadline_s:g} s"
        )
        return Route(best.path, why, choices)
    if best.path != before and best.busy <= SWITCH_AT * now.busy:
        if held_s < HOLD_S:
            return Route(
                before, f"{best.path} would be cheaper; the way is held for {HOLD_S:g} s after a change", choices
            )
        return Route(best.path, f"costs {best.busy / now.busy:.0%} of {before} and keeps {deadline_s:g} s", choices)
    return Route(before, f"keeps {deadline_s:g} s; no other way that does is {1 - SWITCH_AT:.0%} cheaper", choices)


@dataclass(slots=True)
class Router:
    """Measures one source's steps and follows `choose`; keeps the last changes.

    Parameters
    ----------
    override
        A way to take whatever is measured.
    """

    override: Path | None = None
    path: Path = "stream"
    facts: Facts = field(default_factory=Facts)
    changes: list[tuple[int, Path, str]] = field(default_factory=list)
    """(monotonic ns, way, reason) of the last 100 changes."""
    _since_ns: int = 0
    _rows: float = 0.0
    _from_ns: int = 0
    _peak: float = 0.0

    def __post_init__(self) -> None:
        if self.override is not None and self.override not in PATHS:
            msg = f"router override {self.override!r}; {', '.join(PATHS)} are allowed"
            raise ConfigError(msg)
        if self.override is not None:
            self.path = self.override

    def observe(self, rows: int, busy_s: float, now_ns: int) -> None:
        """Take note of a step: rows, how long it kept a core busy, the monotonic time it ended at."""
        f = self.facts
        # Two unknowns from one figure: big steps teach the cost of a row, small ones that of a step.
        row_s, step_s = f.row_s, f.step_s
        if rows * f.row_s > f.step_s:
            row_s += 0.1 * (max(busy_s - f.step_s, 0.0) / rows - f.row_s)
        else:
            step_s += 0.1 * (max(busy_s - rows * f.row_s, 1e-5) - f.step_s)
        if self._from_ns == 0:
            self._from_ns = now_ns
        self._rows += rows
        age = (now_ns - self._from_ns) / 1e9
        rate, burst = f.rate, f.burst
        if age >= 1.0:
            seen = self._rows / age
            rate = seen if f.rate == 0.0 else f.rate + 0.3 * (seen - f.rate)
            self._peak = max(seen, self._peak * 0.97)
            burst = max(1.0, self._peak / rate) if rate else 1.0
            self._rows, self._from_ns = 0.0, now_ns
        self.facts = Facts(rate, burst, step_s, row_s)

    def decide(self, deadline_s: float, now_ns: int) -> Route:
        """Choose again and remember a change."""
        route = choose(self.facts, deadline_s, self.path, (now_ns - self._since_ns) / 1e9, self.override)
        if route.path != self.path:
            self.path, self._since_ns = route.path, now_ns
            self.changes.append((now_ns, route.path, route.reason))
            del self.changes[:-100]
        return route

    def explain(self, deadline_s: float) -> Route:
        """The present way with its reason: that of the last change, and today's figures of every way."""
        reason = self.changes[-1][2] if self.changes else "the way every source starts with"
        if self.override is not None:
            reason = "asked for by an override"
        return Route(self.path, reason, weigh(self.facts, deadline_s))
