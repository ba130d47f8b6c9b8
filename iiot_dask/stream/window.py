"""Tumbling-window aggregates per tag, updated in place: count, min, max, sum, first and last of every window.

State is a struct of arrays, one open window a tag. A row of a newer window closes the open one; a row of an older
window (late) comes out at once as a partial of its own, marked late, so nothing is dropped and sums still add up; so
does a row of the far future.
Windows of quiet tags close when the watermark has passed them. Bad quality and NaN do not enter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import SchemaError
from iiot_dask.core.jit import njit

NO_WINDOW = np.int64(np.iinfo(np.int64).min)

WINDOW_DTYPE = np.dtype(
    [
        ("window_ns", np.int64),
        ("first_ns", np.int64),
        ("last_ns", np.int64),
        ("count", np.int64),
        ("min", np.float64),
        ("max", np.float64),
        ("sum", np.float64),
        ("first", np.float64),
        ("last", np.float64),
    ]
)
OUT_DTYPE = np.dtype(
    [("tag", np.uint32), ("late", np.bool_), *[(n, WINDOW_DTYPE[n]) for n in WINDOW_DTYPE.names or ()]]
)


@njit
def _put(out: Any, at: int, tag: int, late: bool, w: Any) -> None:
    out[at].tag = tag
    out[at].late = late
    out[at].window_ns = w.window_ns
    out[at].first_ns = w.first_ns
    out[at].last_ns = w.last_ns
    out[at].count = w.count
    out[at].min = w.min
    out[at].max = w.max
    out[at].sum = w.sum
    out[at].first = w.first
    out[at].last = w.last


@njit
def _start(w: Any, window: int, time: int, value: float) -> None:
    w.window_ns = window
    w.first_ns = time
    w.last_ns = time
    w.count = 1
    w.min = value
    w.max = value
    w.sum = value
    w.first = value
    w.last = value


@njit
def _add(w: Any, time: int, value: float) -> None:
    w.count += 1
    w.sum += value
    w.min = min(w.min, value)
    w.max = max(w.max, value)
    if time < w.first_ns:
        w.first_ns = time
        w.first = value
    if time >= w.last_ns:
        w.last_ns = time
        w.last = value


@njit
def update_kernel(
    state: Any, local: Any, tag: Any, time: Any, value: Any, quality: Any, every_ns: int, ahead_ns: int, out: Any
) -> int:
    """Fold rows into the open windows; returns how many closed or late windows were written to `out`.

    `state`: WINDOW_DTYPE[tags]; `local`: index into it per row; `out`: OUT_DTYPE with room for one entry a row. Rows at
    or after `ahead_ns` do not open a window: they would make every later row of their tag a late one. Late rows of one
    tag and window that follow each other come out as one entry.
    """
    n = 0
    for i in range(len(time)):
        if quality[i] >= 128 or value[i] != value[i]:
            continue
        window = time[i] - time[i] % every_ns
        w = state[local[i]]
        if w.window_ns == window:
            _add(w, time[i], value[i])
        elif w.window_ns < window and time[i] < ahead_ns:
            if w.window_ns != NO_WINDOW:
                _put(out, n, tag[i], False, w)
                n += 1
            _start(w, window, time[i], value[i])
        elif n and out[n - 1].late and out[n - 1].tag == tag[i] and out[n - 1].window_ns == window:
            _add(out[n - 1], time[i], value[i])
        else:
            out[n].tag = tag[i]
            out[n].late = True
            _start(out[n], window, time[i], value[i])
            n += 1
    return n


@njit
def close_kernel(state: Any, before_ns: int, shard: int, shards: int, out: Any) -> int:
    """Close every open window that starts before `before_ns`; returns how many were written to `out`."""
    n = 0
    for i in range(len(state)):
        w = state[i]
        if w.window_ns != NO_WINDOW and w.window_ns < before_ns:
            _put(out, n, i * shards + shard, False, w)
            w.window_ns = NO_WINDOW
            n += 1
    return n


@dataclass(slots=True)
class Windows:
    """The open windows of one shard; picklable, about 72 bytes a tag.

    Parameters
    ----------
    shard, shards
        Which tags: ``tag % shards == shard``.
    every_ns
        Window length, ns; windows start at multiples of it since 1970.
    lateness_ns
        How long after its end (by `now`) a quiet tag's window stays open, ns.
    ahead_ns
        Rows further ahead of `now` than this (a device clock gone wrong) come out as late partials, ns.

    Examples
    --------
    >>> w = Windows(0, 1, every_ns=10, lateness_ns=0)
    >>> batch = Batch.of(tag=[0, 0, 0], time=[1, 2, 11], value=[5.0, 7.0, 9.0], received=[0, 0, 0])
    >>> closed = w.update(batch, now_ns=12)
    >>> closed["window_ns"].tolist(), closed["count"].tolist(), closed["sum"].tolist()
    ([0], [2], [12.0])
    """

    shard: int
    shards: int
    every_ns: int
    lateness_ns: int
    ahead_ns: int = 60_000_000_000
    state: npt.NDArray[np.void] | None = None
    swept_ns: int = 0

    def update(self, batch: Batch, now_ns: int) -> npt.NDArray[np.void]:
        """Fold a batch in; the windows that closed, OUT_DTYPE (tag, late, window_ns, …), oldest state first."""
        parts = []
        if len(batch):
            local = (batch.tag // np.uint32(self.shards)).astype(np.int64)
            state = self._room(int(local.max()) + 1)
            out = np.empty(len(batch), OUT_DTYPE)
            ahead = now_ns + self.ahead_ns
            n = update_kernel(
                state, local, batch.tag, batch.time, batch.value, batch.quality, self.every_ns, ahead, out
            )
            parts.append(out[:n])
        if self.state is not None and now_ns - self.swept_ns >= self.every_ns:
            self.swept_ns = now_ns
            out = np.empty(len(self.state), OUT_DTYPE)
            before = now_ns - self.lateness_ns - self.every_ns + 1
            n = close_kernel(self.state, before, self.shard, self.shards, out)
            parts.append(out[:n].copy())
        return np.concatenate(parts) if parts else np.empty(0, OUT_DTYPE)

    def _room(self, tags: int) -> npt.NDArray[np.void]:
        have = 0 if self.state is None else len(self.state)
        if tags > have:
            grown = np.zeros(max(tags, 2 * have, 64), WINDOW_DTYPE)
            grown["window_ns"] = NO_WINDOW
            if self.state is not None:
                grown[:have] = self.state
            self.state = grown
        assert self.state is not None
        return self.state

    def to_array(self) -> npt.NDArray[np.void]:
        """The open windows, WINDOW_DTYPE: what `from_array` takes back."""
        return np.empty(0, WINDOW_DTYPE) if self.state is None else self.state

    def from_array(self, state: npt.NDArray[np.void]) -> None:
        """Go on from what `to_array` gave.

        Raises
        ------
        SchemaError
            If the array is not of WINDOW_DTYPE.
        """
        if state.dtype != WINDOW_DTYPE:
            msg = f"window state has dtype {state.dtype}; expected {WINDOW_DTYPE}"
            raise SchemaError(msg)
        self.state = state.copy() if len(state) else None
