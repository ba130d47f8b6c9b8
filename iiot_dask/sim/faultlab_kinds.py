"""Every kind of the contract, done to the rows of one healthy tag.

Strength 1.0 is strong, 0.5 half, 0.25 quarter; what is there or not there (a silence, an epoch) knows no strength. Sources
of the taxonomy: Sharma, Golubchik, Govindan 2010 (value faults); Cerar et al. 2020 (links that fade or break); OPC UA Part 8
and Sparkplug 3.0 (status, sequence numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from iiot_dask.core.quality import Quality
from iiot_dask.sim.faultlab import Mask, Rows, healthy

Fault = Callable[[Rows, Mask, float, np.random.Generator], Rows]
"""(rows, which rows are in the fault's time, strength 0..1, randomness) -> rows as they arrive, in any order."""

# -- presence and rate ----------------------------------------------------------------------------------------------


def silence(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """Nothing comes."""
    return r.take(~on)


def flapping(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """The link comes and goes; weaker = fewer times."""
    at, off = np.flatnonzero(on), np.zeros(len(on), np.bool_)
    i = 0
    while i < len(at):
        gone, there = int(rng.integers(25, 40)), int(rng.integers(12, 30) / k)
        off[at[i : i + gone]] = True
        i += gone + there
    return r.take(~off)


def slow(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """Every third or second sample only, and the device counts what it sends."""
    keep = r.take(~on | (np.arange(len(on)) % (3 if k > 0.7 else 2) == 0))
    keep.seq = np.arange(len(keep.time)) + int(r.seq[0])
    return keep


def burst(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Three or two times as often."""
    times, at = (3 if k > 0.7 else 2), np.flatnonzero(on)
    out = r
    for j in range(1, times):
        more = r.take(at)
        more.time, more.received = more.time + j * r.period / times, more.received + j * r.period / times
        more.value = more.value + r.sigma * rng.normal(0, 0.1, len(at)).round(3)
        out = out.join(more)
    out = out.take(np.argsort(out.time, kind="stable"))
    out.seq = np.arange(len(out.time)) + int(r.seq[0])
    return out


def storm(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Each sample is sent again and again."""
    again = r.take(np.repeat(np.flatnonzero(on), round(3 + 5 * k)))
    again.received += rng.uniform(0.0, 0.05, len(again.time)) * r.period
    return r.join(again)


def jitter(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Arrivals scatter several times as much as usual."""
    wide = min(0.9, max(0.35, 8.0 * r.jitter_s / r.period)) * k
    r.received[on] += rng.uniform(0.0, wide, int(on.sum())) * r.period
    return r


def hold(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Something on the way buffers, then passes everything on at once."""
    at = np.flatnonzero(on)
    size = 3 + round(4 * k)
    for i in range(0, len(at), size):
        part = at[i : i + size]
        r.received[part] = r.received[part[-1]] + np.arange(len(part)) * 1e-3 + rng.uniform(0, 1e-3)
    return r


# -- order, sequence, clock -----------------------------------------------------------------------------------------


def duplicate(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Samples come twice, the second at once or a little later."""
    again = r.take(np.flatnonzero(on & (rng.random(len(on)) < 0.3 * k)))
    again.received += rng.uniform(0.0, rng.choice([0.02, 0.6]), len(again.time)) * r.period
    return r.join(again)


def out_of_order(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Some take a longer way."""
    hit = on & (rng.random(len(on)) < 0.2 * k)
    r.received[hit] += r.period * rng.uniform(1.5, 4.0, int(hit.sum()))
    return r


def backdated(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Some say they are old."""
    hit = on & (rng.random(len(on)) < 0.1 * k)
    r.time[hit] -= max(120.0, 60 * r.period) * rng.uniform(1.0, 5.0, int(hit.sum()))
    return r


def future(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Some say they are of tomorrow."""
    hit = on & (rng.random(len(on)) < 0.1 * k)
    r.time[hit] += max(120.0, 60 * r.period) * rng.uniform(1.0, 5.0, int(hit.sum()))
    return r


def loss(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Some never come."""
    return r.take(~(on & (rng.random(len(on)) < 0.2 * k)))


def reset(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """The device starts anew, and counts from zero."""
    first = int(np.flatnonzero(on)[0])
    r.seq[first:] -= r.seq[first]
    return r


def clock_jump(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """The device's clock is set wrong, by a minute or by whole quarters of an hour."""
    far = 900.0 * rng.integers(1, 8) if rng.random() < 0.3 else max(60.0 * k, 4 * r.period)
    r.time[on] += rng.choice([-1.0, 1.0]) * max(far, 4 * r.period)
    return r


def clock_drift(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """The device's clock runs fast or slow."""
    since = r.time[on] - r.time[on][0]
    r.time[on] += rng.choice([-1.0, 1.0]) * 0.02 * k * since
    return r


def clock_stuck(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """The device's clock stands still."""
    r.time[on] = r.time[on][0]
    return r


def epoch(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """The device forgot the date: 1970 or 2000."""
    r.time[on] = rng.choice([0.0, 946_684_800.0]) + r.time[on] - r.time[on][0]
    return r


def identity(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """A second device sends under the same name, with its own counter, phase and level."""
    at = np.flatnonzero(on)[:: 1 if k > 0.3 else 2]
    other = r.take(at)
    shift = rng.uniform(0.3, 0.7) * r.period
    other.time, other.received = other.time + shift, other.received + shift
    other.value = other.value + r.sigma * rng.normal(0, 2) + r.sigma * rng.normal(0, 1, len(at)).round(3)
    other.seq = np.arange(len(at)) + int(rng.integers(1, 100_000))
    return r.join(other)


# -- quality and form -----------------------------------------------------------------------------------------------


def bad_quality(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """The device says of some samples that they are bad."""
    r.quality[on & (rng.random(len(on)) < 0.5 * k)] = Quality.BAD_SENSOR_FAILURE
    return r


def corrupt(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Some payloads can not be read: bad, and without a value."""
    hit = on & (rng.random(len(on)) < 0.3 * k)
    r.quality[hit], r.value[hit] = Quality.BAD, np.nan
    return r


def schema_change(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """What was a number is none any more."""
    r.value[on & (rng.random(len(on)) < k)] = np.nan
    return r


# -- value ----------------------------------------------------------------------------------------------------------


def flatline(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """The value stands still."""
    r.value[on] = r.value[on][0]
    return r


def spike(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Single samples far off."""
    hit = on & (rng.random(len(on)) < 0.05 * k)
    far = r.sigma * rng.uniform(12, 30, int(hit.sum())) * (0.5 + 0.5 * k)
    r.value[hit] += rng.choice([-1.0, 1.0], int(hit.sum())) * far
    return r


def noise_up(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Noise of five or three times the usual size."""
    r.value[on] += 4.0 * k * r.sigma * rng.normal(size=int(on.sum()))
    return r


def noise_down(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """A sensor that hardly answers: its noise shrinks to a tenth, or a fourth."""
    r.value[on] = r.smooth[on] + (r.value[on] - r.smooth[on]) * (0.1 if k > 0.7 else 0.25)
    return r


def step(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """A bias from one sample to the next."""
    r.value[on] += rng.choice([-1.0, 1.0]) * 10.0 * k * r.sigma
    return r


def drift(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """A bias that grows."""
    ramp = np.linspace(0.0, 1.0, int(on.sum()))
    r.value[on] += rng.choice([-1.0, 1.0]) * 16.0 * k * r.sigma * ramp
    return r


def out_of_range(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:
    """Beyond all sense, pinned to a rail, or cut off at a limit."""
    way = rng.integers(3)
    if way == 0:
        r.value[on] += rng.choice([-1.0, 1.0]) * 120.0 * k * r.sigma
    elif way == 1:
        r.value[on] = rng.choice([-999.0, 32767.0, 65535.0, 9999.0])
    else:
        limit = r.smooth[on].mean() + (1.0 - k) * r.sigma
        r.value[on] = np.minimum(r.value[on], limit)
    return r


UNITS: Final = ((1.8, 32.0), (1000.0, 0.0), (0.001, 0.0), (1.0, 273.15), (6.894757, 0.0), (0.1, 0.0), (3.6, 0.0))
"""(factor, offset): °C to °F, kilo, milli, °C to K, psi to kPa, a tenth, m/s to km/h."""


def unit_change(r: Rows, on: Mask, k: float, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """The same quantity in another unit."""
    factor, offset = UNITS[int(rng.integers(len(UNITS)))]
    r.value[on] = r.value[on] * factor + offset
    return r


FAULTS: dict[str, Fault] = {
    "silence": silence, "flapping": flapping, "slow": slow, "burst": burst, "storm": storm, "jitter": jitter, "hold": hold,
    "duplicate": duplicate, "out_of_order": out_of_order, "backdated": backdated, "future": future, "loss": loss,
    "reset": reset, "clock_jump": clock_jump, "clock_drift": clock_drift, "clock_stuck": clock_stuck, "epoch": epoch,
    "identity": identity, "bad_quality": bad_quality, "corrupt": corrupt, "schema_change": schema_change,
    "flatline": flatline, "spike": spike, "noise_up": noise_up, "noise_down": noise_down, "step": step, "drift": drift,
    "range": out_of_range, "unit_change": unit_change,
}  # fmt: skip
"""Kind -> how it is done to one tag; `outage` and `schedule_change` are done to many, see `faultlab_record`."""
VALUE_KINDS = frozenset(
    {"flatline", "spike", "noise_up", "noise_down", "step", "drift", "range", "unit_change"}
)  # fmt: skip
"""Kinds that need an analog signal."""

# -- what is no fault -----------------------------------------------------------------------------------------------


def redelivery(r: Rows, at: int, rng: np.random.Generator) -> Rows:
    """After a reconnect the last few samples come again, once (MQTT QoS 1)."""
    again = r.take(np.arange(max(0, at - int(rng.integers(2, 6))), at))
    again.received = np.full(len(again.time), r.received[at]) + np.arange(len(again.time)) * 1e-3
    return r.join(again)


def restart(r: Rows, at: int, rng: np.random.Generator) -> Rows:
    """A device is switched off and on: a few samples are never taken, the counter goes on."""
    gone = int(rng.integers(2, 5))
    keep = np.ones(len(r.time), np.bool_)
    keep[at : at + gone] = False
    out = r.take(keep)
    out.seq[at:] -= gone
    return out


def one_late(r: Rows, at: int, rng: np.random.Generator) -> Rows:
    """One sample takes another way."""
    r.received[at] += r.period * rng.uniform(1.5, 3.0)
    return r


def short_counter(r: Rows, at: int, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """A counter of one byte comes round, as Sparkplug's does."""
    r.seq %= 256
    return r


def daily(r: Rows, at: int, rng: np.random.Generator) -> Rows:  # noqa: ARG001
    """Day and night."""
    r.value = r.value + 2.0 * r.sigma * np.sin(2 * np.pi * (r.time / 86_400.0 + rng.random()))
    return r


HARMLESS: dict[str, Callable[[Rows, int, np.random.Generator], Rows]] = {
    "redelivery": redelivery, "restart": restart, "one_late": one_late, "short_counter": short_counter, "daily": daily,
}  # fmt: skip
"""Name -> what happens to a healthy tag around row `at`; none of it may be named a fault."""


def analog(count: int, rng: np.random.Generator) -> Rows:
    """A healthy tag whose value can be judged."""
    return healthy(count, rng, str(rng.choice(["ar", "wave", "quantised"])))
