"""The open benchmark's generator: seeded tags with labelled transmission faults over healthy backgrounds.

Every tag has a period, jitter, latency, natural loss and an autocorrelated value of its own. Half of them get one fault
each, at a known time; some of the healthy half get a *legitimate* change (a schedule that changes, a planned restart of the
sequence), which must not be named a fault. Parameters are drawn from ranges; tune on seeds below 1000, report on others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import polars as pl

S = 1_000_000_000
START_NS = 1_767_571_200 * S
"""When every record ends: 2026-01-05T00:00:00Z."""
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Rows:
    """Samples of one tag before they are sent: device time and receive time (s), value, quality, sequence."""

    time: Floats
    received: Floats
    value: Floats
    quality: npt.NDArray[np.uint8]
    seq: npt.NDArray[np.int64]
    period: float

    def take(self, at: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Rows:
        """The rows at these positions."""
        return Rows(self.time[at], self.received[at], self.value[at], self.quality[at], self.seq[at], self.period)

    def join(self, other: Rows) -> Rows:
        """Both, in no order."""
        return Rows(
            np.append(self.time, other.time), np.append(self.received, other.received),
            np.append(self.value, other.value), np.append(self.quality, other.quality), np.append(self.seq, other.seq),
            self.period,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Label:
    """What was done to a tag: kind, and from when to when (ns since 1970-01-01 UTC; no end: until the record's)."""

    tag: str
    kind: str
    start_ns: int
    end_ns: int | None


Fault = Callable[[Rows, npt.NDArray[np.bool_], float, np.random.Generator], Rows]
"""(rows, which rows are in the fault's time, strength 0..1, randomness) -> rows as they arrive."""


def _silence(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    return r.take(~on)


def _duplicate(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    again = r.take(np.flatnonzero(on & (rng.random(len(on)) < 0.3 * k)))
    again.received += rng.uniform(0.0, 0.02, len(again.time)) * r.period
    return r.join(again)


def _storm(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    again = r.take(np.repeat(np.flatnonzero(on), round(3 + 5 * k)))
    again.received += rng.uniform(0.0, 0.05, len(again.time)) * r.period
    return r.join(again)


def _out_of_order(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    hit = on & (rng.random(len(on)) < 0.2 * k)
    r.received[hit] += r.period * rng.uniform(1.5, 4.0, int(hit.sum()))
    return r


def _backdated(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    hit = on & (rng.random(len(on)) < 0.1 * k)
    r.time[hit] -= max(120.0, 60 * r.period) * rng.uniform(1.0, 5.0, int(hit.sum()))
    return r


def _future(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    hit = on & (rng.random(len(on)) < 0.1 * k)
    r.time[hit] += max(120.0, 60 * r.period) * rng.uniform(1.0, 5.0, int(hit.sum()))
    return r


def _loss(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    return r.take(~(on & (rng.random(len(on)) < 0.2 * k)))


def _reset(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    r.seq[np.flatnonzero(on)[0] :] -= r.seq[np.flatnonzero(on)[0]]
    return r


def _clock_jump(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    r.time[on] += rng.choice([-1.0, 1.0]) * max(60.0 * k, 4 * r.period)
    return r


def _clock_drift(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    since = r.time[on] - r.time[on][0]
    r.time[on] += rng.choice([-1.0, 1.0]) * 0.02 * k * since
    return r


def _clock_stuck(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    r.time[on] = r.time[on][0]
    return r


def _epoch(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    zero = rng.choice([0.0, 946_684_800.0])
    r.time[on] = zero + r.time[on] - r.time[on][0]
    return r


def _bad_quality(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    r.quality[on & (rng.random(len(on)) < 0.5 * k)] = 132
    return r


def _flatline(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    r.value[on] = r.value[on][0]
    return r


def _slow(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    every = 3 if k > 0.7 else 2
    at = np.arange(len(on))
    keep = r.take(~on | (at % every == 0))
    keep.seq = np.arange(len(keep.time)) + int(r.seq[0])
    return keep


def _burst(r: Rows, on: npt.NDArray[np.bool_], k: float, rng: np.random.Generator) -> Rows:
    times = 3 if k > 0.7 else 2
    at = np.flatnonzero(on)
    out = r
    for j in range(1, times):
        more = r.take(at)
        step = j * r.period / times
        more.time, more.received = more.time + step, more.received + step
        more.value = more.value + rng.normal(0, 0.01, len(at)).round(3)
        out = out.join(more)
    order = np.argsort(out.time, kind="stable")
    out = out.take(order)
    out.seq = np.arange(len(order)) + int(r.seq[0])
    return out


FAULTS: dict[str, Fault] = {
    "silence": _silence, "duplicate": _duplicate, "storm": _storm, "out_of_order": _out_of_order,
    "backdated": _backdated, "future": _future, "loss": _loss, "reset": _reset, "clock_jump": _clock_jump,
    "clock_drift": _clock_drift, "clock_stuck": _clock_stuck, "epoch": _epoch, "bad_quality": _bad_quality,
    "flatline": _flatline, "slow": _slow, "burst": _burst,
}  # fmt: skip
"""Kind -> how it is done."""


def healthy(count: int, rng: np.random.Generator) -> Rows:
    """`count` samples of one healthy tag with parameters of its own."""
    period = float(np.exp(rng.uniform(0.0, np.log(60.0))))
    jitter, latency, loss = (
        rng.uniform(0.005, 0.08),
        rng.uniform(0.005, 0.1),
        np.exp(rng.uniform(np.log(3e-4), np.log(0.03))),
    )
    seq = np.arange(count)
    # All records end together.
    time = START_NS / 1e9 - rng.uniform(0, period) + (seq - count + rng.uniform(-jitter, jitter, count) / 2) * period
    noise = rng.normal(size=count)
    value = np.empty(count)
    rho = rng.uniform(0.0, 0.9)
    level = 0.0
    for i in range(count):
        level = rho * level + noise[i]
        value[i] = level
    value = (rng.uniform(10, 100) + value * rng.uniform(0.2, 2.0)).round(3)
    received = time + rng.exponential(latency, count) + rng.uniform(-3, 3)
    rows = Rows(time, received, value, np.zeros(count, np.uint8), seq + int(rng.integers(1, 1000)), period)
    # Bad samples, copies and late ones happen in health too, rarely.
    rows.quality[rng.random(count) < 0.001] = 132
    return rows.take(rng.random(count) >= loss)


def labelled(
    tags: int = 400, samples: int = 2400, *, seed: int, strength: float = 1.0, faulty: float = 0.5
) -> tuple[pl.DataFrame, list[Label]]:
    """A record and what was done to it.

    Parameters
    ----------
    tags, samples
        Tags, and samples of each before faults.
    seed
        Tune below 1000, report from 1000 on.
    strength
        1.0 strong, 0.5 half, and so on.
    faulty
        Share of tags with a fault, each kind in turn.

    Returns
    -------
    frame, labels
        Rows ``tag``, ``time``, ``value``, ``quality``, ``received``, ``seq`` in order of `received` (times int64 ns), and the
        faults.

    Examples
    --------
    >>> frame, labels = labelled(32, 600, seed=1)
    >>> frame.columns, len(labels), labels[0].kind
    (['tag', 'time', 'value', 'quality', 'received', 'seq'], 16, 'silence')
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    kinds = list(FAULTS)
    parts, labels = [], []
    for i in range(tags):
        rows = healthy(samples, rng)
        name = f"tag{i}"
        if i < faulty * tags:
            kind = kinds[i % len(kinds)]
            start, end = sorted(
                rows.time[[int(len(rows.time) * x) for x in (rng.uniform(0.4, 0.5), rng.uniform(0.75, 0.9))]]
            )
            on = (rows.time >= start) & (rows.time < end)
            began = float(rows.received[on][0])
            over = float(rows.received[on][-1])
            rows = FAULTS[kind](rows, on, strength, rng)
            labels.append(Label(name, kind, round(began * S), round(over * S)))
        parts.append(
            pl.DataFrame(
                {
                    "tag": pl.Series([name]).new_from_index(0, len(rows.time)),
                    "time": (rows.time * S).round().astype(np.int64),
                    "value": rows.value,
                    "quality": rows.quality,
                    "received": (rows.received * S).round().astype(np.int64),
                    "seq": rows.seq.astype(np.uint64),
                }
            )
        )
    return pl.concat(parts).sort("received", maintain_order=True), labels
