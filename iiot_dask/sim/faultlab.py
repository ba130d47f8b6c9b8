"""The fault lab: seeded healthy transmissions, to which faults are done.

A tag has a period, jitter, latency, natural loss, rare natural copies and bad samples, and a signal of its own
(`SIGNALS`). `FAULTS` maps the contract's kinds to what is done to rows; `faultlab_record` puts labelled records together
from these. Strength 1.0 is strong, 0.5 half, 0.25 quarter. Parameters are drawn from ranges: tune on seeds below 1000,
report on others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.jit import njit

END_S = 1_767_571_200.0
"""When every record ends: 2026-01-05T00:00:00Z, s since 1970-01-01 UTC."""
SIGNALS = ("ar", "wave", "quantised", "ar", "wave", "counter", "state", "setpoint")
"""What a healthy tag measures; two thirds are analog."""
ANALOG = frozenset({"ar", "wave", "quantised"})

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Rows:
    """Samples of one tag: device and receive time (s since 1970-01-01 UTC), value, quality, sequence number.

    `smooth` is the value without its noise, `sigma` the standard deviation of value - smooth, `jitter_s` the usual
    scatter of arrivals, `signal` one of `SIGNALS`.
    """

    time: Floats
    received: Floats
    value: Floats
    smooth: Floats
    quality: npt.NDArray[np.uint8]
    seq: npt.NDArray[np.int64]
    period: float
    sigma: float
    jitter_s: float
    signal: str

    def take(self, at: npt.NDArray[np.integer] | Mask) -> Rows:
        """The rows at these positions."""
        return replace(self, **{name: getattr(self, name)[at] for name in _COLUMNS})

    def join(self, other: Rows) -> Rows:
        """Both, in no order."""
        both: dict[str, Any] = {n: np.append(getattr(self, n), getattr(other, n)) for n in _COLUMNS}
        return replace(self, **both)

    def ordered(self) -> Rows:
        """In order of arrival."""
        return self.take(np.argsort(self.received, kind="stable"))


_COLUMNS = ("time", "received", "value", "smooth", "quality", "seq")


@njit
def _autoregressive(noise: Floats, rho: float) -> None:
    """Turn white noise into AR(1) of the same variance, in place."""
    gain = np.sqrt(1.0 - rho * rho)
    for i in range(1, len(noise)):
        noise[i] = rho * noise[i - 1] + gain * noise[i]


def healthy(count: int, rng: np.random.Generator, signal: str | None = None) -> Rows:
    """About `count` samples of one healthy tag with parameters of its own.

    Examples
    --------
    >>> rows = healthy(500, np.random.default_rng(1))
    >>> rows.signal in SIGNALS, 450 < len(rows.time) <= 500, bool((np.diff(rows.time) > 0).all())
    (True, True, True)
    """
    signal = str(rng.choice(SIGNALS)) if signal is None else signal
    period = float(np.exp(rng.uniform(0.0, np.log(60.0))))
    jitter, latency = rng.uniform(0.005, 0.08), rng.uniform(0.005, 0.1)
    loss = np.exp(rng.uniform(np.log(3e-4), np.log(0.03)))
    seq = np.arange(count)
    # All records end together.
    time = END_S - rng.uniform(0, period) + (seq - count + rng.uniform(-jitter, jitter, count) / 2) * period
    value, smooth, sigma = _signal(signal, seq, rng)
    received = time + rng.exponential(latency, count) + rng.uniform(-3, 3)
    quality = np.where(rng.random(count) < 0.001, np.uint8(132), np.uint8(0))
    rows = Rows(
        time, received, value, smooth, quality, seq + int(rng.integers(1, 1000)), period, sigma,
        jitter * period / 2 + latency, signal,
    )  # fmt: skip
    rows = rows.take(rng.random(count) >= loss)
    again = rows.take(rng.random(len(rows.time)) < 3e-4)
    again.received += rng.uniform(0.0, 0.02, len(again.time)) * period
    return rows.join(again).ordered() if len(again.time) else rows


def _signal(signal: str, n: npt.NDArray[np.int64], rng: np.random.Generator) -> tuple[Floats, Floats, float]:
    """(value, value without noise, standard deviation of the noise) of a kind of signal."""
    count, level, sigma = len(n), float(rng.uniform(10, 100)), float(rng.uniform(0.2, 2.0))
    if signal == "setpoint":
        steps = np.cumsum(rng.random(count) < 0.001)
        value = np.asarray(level + 5.0 * rng.integers(-3, 4, int(steps[-1]) + 1), np.float64)[steps]
        return value, value, 0.0
    if signal == "state":
        value = (np.cumsum(rng.random(count) < 0.02) % 2).astype(np.float64)
        return value, value, 0.0
    if signal == "counter":
        value = np.cumsum(rng.poisson(rng.uniform(0.3, 4.0), count)).astype(np.float64)
        return value, value, 0.0
    noise = rng.normal(size=count)
    _autoregressive(noise, rng.uniform(0.0, 0.9))
    smooth = np.full(count, level)
    if signal == "wave":
        smooth += rng.uniform(0.5, 3.0) * sigma * np.sin(2 * np.pi * (n / rng.uniform(40, 400) + rng.random()))
    value = smooth + sigma * noise
    step = sigma * rng.uniform(0.1, 0.6) if signal == "quantised" else 1e-3
    return np.round(value / step) * step, smooth, sigma
