"""Fewer samples at the edge: swinging door and dead band, with a heartbeat, the last held point always flushed.

Both take samples of one tag in ascending time and keep some of them; what is kept is exact. Between kept points the
value is a straight line (door) or the last one (band), and what was dropped lies within the bound of that.
Source: Bristol, "Swinging door trending", ISA 1990; US patent 4,669,097 (expired). Unlike the classic form, the slopes
are kept against the dropped points themselves, so the bound holds for the line to the point before the one that broke
the door.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from iiot_dask.codec.bits import Floats, Ints, kernel
from iiot_dask.core.errors import CodecError, ConfigError

Mode = Literal["door", "band"]
STATE = np.dtype(
    [
        ("started", np.bool_),
        ("holding", np.bool_),
        ("anchor_ns", np.int64),
        ("anchor", np.float64),
        ("held_ns", np.int64),
        ("held", np.float64),
        ("low", np.float64),
        ("high", np.float64),
    ]
)


@kernel
def _keep(out_t: Any, out_x: Any, at: Any, t: Any, x: Any) -> Any:
    out_t[at] = t
    out_x[at] = x
    return at + 1


@kernel
def swing(state: Any, t: Any, x: Any, bound: Any, heartbeat: Any, out_t: Any, out_x: Any) -> Any:
    """Swinging door over a batch; returns the points written (at most 2 a sample)."""
    s = state[0]
    at = 0
    for i in range(len(t)):
        if s.started and np.isfinite(s.anchor) and np.isfinite(x[i]):
            dt = np.float64(t[i] - s.anchor_ns)
            # The line from the anchor to this point must pass every dropped point within the bound.
            slope = (x[i] - s.anchor) / dt
            if s.low <= slope <= s.high and t[i] - s.anchor_ns < heartbeat:
                s.low = max(s.low, (x[i] - bound - s.anchor) / dt)
                s.high = min(s.high, (x[i] + bound - s.anchor) / dt)
                s.holding = True
                s.held_ns = t[i]
                s.held = x[i]
                continue
        if s.holding:
            at = _keep(out_t, out_x, at, s.held_ns, s.held)
            s.anchor_ns = s.held_ns
            s.anchor = s.held
            s.holding = False
            dt = np.float64(t[i] - s.anchor_ns)
            if np.isfinite(x[i]) and t[i] - s.anchor_ns < heartbeat:
                s.low = (x[i] - bound - s.anchor) / dt
                s.high = (x[i] + bound - s.anchor) / dt
                s.holding = True
                s.held_ns = t[i]
                s.held = x[i]
                continue
        at = _keep(out_t, out_x, at, t[i], x[i])
        s.started = True
        s.anchor_ns = t[i]
        s.anchor = x[i]
        s.low = -np.inf
        s.high = np.inf
    return at


@kernel
def band(state: Any, t: Any, x: Any, bound: Any, heartbeat: Any, out_t: Any, out_x: Any) -> Any:
    """Dead band over a batch: a sample is kept when it leaves the bound about the last kept one, or at the heartbeat."""
    s = state[0]
    at = 0
    for i in range(len(t)):
        still = abs(x[i] - s.anchor) <= bound or (np.isnan(x[i]) and np.isnan(s.anchor))
        if s.started and still and t[i] - s.anchor_ns < heartbeat:
            s.holding = True
            s.held_ns = t[i]
            s.held = x[i]
            continue
        at = _keep(out_t, out_x, at, t[i], x[i])
        s.started = True
        s.holding = False
        s.anchor_ns = t[i]
        s.anchor = x[i]
    return at


class Door:
    """Swinging door or dead band for one tag, batch by batch.

    Parameters
    ----------
    bound
        Largest difference of a dropped value from what the kept ones say, in the tag's unit.
    heartbeat_ns
        A sample is kept at least this often, ns, as long as samples come.
    mode
        ``"door"``: straight lines between kept points; ``"band"``: the last kept value holds.

    Raises
    ------
    ConfigError
        If bound or heartbeat is not positive.

    Examples
    --------
    >>> door = Door(0.1, heartbeat_ns=3600 * 10**9)
    >>> t, x = door.push(np.arange(100) * 10**9, np.arange(100) * 0.5)
    >>> t.tolist(), door.flush()[0].tolist(), door.dropped
    ([0], [99000000000], 98)
    """

    def __init__(self, bound: float, heartbeat_ns: int, mode: Mode = "door") -> None:
        if not 0 < bound < np.inf or heartbeat_ns <= 0:
            msg = f"bound {bound!r} and heartbeat {heartbeat_ns!r} ns must be positive and finite"
            raise ConfigError(msg)
        self.bound = bound
        self.heartbeat_ns = heartbeat_ns
        self.mode: Mode = mode
        self.dropped = 0
        self._state = np.zeros(1, STATE)
        self._last_ns: int | None = None

    def push(self, times: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Ints, Floats]:
        """The samples to send now: (int64 ns, float64).

        Raises
        ------
        CodecError
            If times do not ascend strictly, within the batch and from the one before, or the columns differ in length.
        """
        t, x = np.array(times, np.int64), np.array(values, np.float64)
        if len(t) != len(x):
            msg = f"{len(t)} times and {len(x)} values; both columns must be of equal length"
            raise CodecError(msg)
        if len(t) and (bool(np.any(t[1:] <= t[:-1])) or (self._last_ns is not None and int(t[0]) <= self._last_ns)):
            msg = f"times of a {self.mode} must ascend strictly; sort them and drop duplicates first"
            raise CodecError(msg)
        if len(t):
            self._last_ns = int(t[-1])
        out_t, out_x = np.empty(2 * len(t) + 1, np.int64), np.empty(2 * len(t) + 1)
        run = swing if self.mode == "door" else band
        pending = int(self._state["holding"][0])
        kept = run(self._state, t, x, self.bound, self.heartbeat_ns, out_t, out_x)
        self.dropped += len(t) - kept + pending - int(self._state["holding"][0])
        return out_t[:kept].copy(), out_x[:kept].copy()

    def flush(self) -> tuple[Ints, Floats]:
        """The last held point, if there is one: send it before going quiet."""
        s = self._state[0]
        if not s["holding"]:
            return np.empty(0, np.int64), np.empty(0)
        out = np.array([s["held_ns"]], np.int64), np.array([s["held"]], np.float64)
        s["holding"] = False
        s["anchor_ns"], s["anchor"], s["low"], s["high"] = s["held_ns"], s["held"], -np.inf, np.inf
        return out


def rebuild(kept_times: Ints, kept_values: Floats, times: Ints, mode: Mode = "door") -> Floats:
    """What kept samples say at `times`: straight lines, or the last value, float64.

    Examples
    --------
    >>> rebuild(np.array([0, 10]), np.array([1.0, 3.0]), np.array([0, 5, 10])).tolist()
    [1.0, 2.0, 3.0]
    """
    at = np.clip(np.searchsorted(kept_times, times, side="right") - 1, 0, len(kept_times) - 1)
    if mode == "band":
        return kept_values[at]
    after = np.minimum(at + 1, len(kept_times) - 1)
    step = np.maximum(kept_times[after] - kept_times[at], 1)
    share = (times - kept_times[at]) / step
    exact = times == kept_times[at]
    line = kept_values[at] + share * (kept_values[after] - kept_values[at])
    return np.where(exact, kept_values[at], line)
