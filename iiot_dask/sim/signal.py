"""Pure, seeded signals: the value of any tag at any time, computed for whole columns and in any order.

Noise comes from a counter-based generator (SplitMix64 over seed, tag and time: Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), so a value depends on nothing but its tag and its time: blocks, single
samples and separate processes all see the same plant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.shift import Shifts

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of sensor; `base`, `gain`, `sway` and `noise` in `unit`.

    An analog value is ``base + gain * activity + sway * sin + noise``, rounded to `decimals` (the converter's resolution).
    `lag` is the part of a day over which activity is averaged first: heat and pressure follow slowly.
    """

    name: str
    unit: str
    shape: str
    base: float = 0.0
    gain: float = 0.0
    sway: float = 0.0
    noise: float = 0.0
    decimals: int = 0
    lag: float = 0.0


KINDS: tuple[Kind, ...] = (
    Kind("temperature", "degC", "analog", 55.0, 18.0, 4.0, 0.16, 1, 0.15),
    Kind("oil_temperature", "degC", "analog", 48.0, 9.0, 2.0, 0.13, 1, 0.2),
    Kind("pressure", "bar", "analog", 6.2, 1.1, 0.3, 0.014, 2, 0.05),
    Kind("inlet_pressure", "bar", "analog", 3.1, 0.4, 0.2, 0.012, 2, 0.05),
    Kind("flow", "l/min", "analog", 12.0, 60.0, 3.0, 0.25, 1),
    Kind("coolant_flow", "l/min", "analog", 20.0, 15.0, 2.0, 0.2, 1),
    Kind("rpm", "1/min", "analog", 250.0, 1250.0, 40.0, 3.0, 0),
    Kind("energy", "Wh", "counter", 10_000.0, 6.0),
    Kind("setpoint", "degC", "setpoint", 60.0, 2.5, decimals=1),
    Kind("valve", "", "valve"),
    Kind("load", "%", "analog", 20.0, 50.0, 5.0, 0.3, 1),
)
"""What a machine measures, in order (the first `MACHINE_KINDS`), and the load of an edge node."""

MACHINE_KINDS = 10

_SHAPES = ("analog", "counter", "setpoint", "valve")


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The SplitMix64 finaliser, element-wise: well mixed 64 bits for each 64 bits.

    Examples
    --------
    >>> [f"{int(v):x}" for v in mix(np.array([0x9E3779B97F4A7C15], np.uint64))]
    ['e220a8397b1dcdaf']
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(bits: npt.NDArray[np.uint64]) -> Floats:
    """Numbers in [0, 1) from the top 53 bits of each element."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(bits: npt.NDArray[np.uint64]) -> Floats:
    """Nearly standard normal numbers: the scaled sum of the four 16-bit quarters (Irwin-Hall, |z| < 3.5)."""
    total = np.zeros(bits.shape, np.float64)
    for shift in (0, 16, 32, 48):
        total += ((bits >> np.uint64(shift)) & np.uint64(0xFFFF)).astype(np.float64)
    out: Floats = (total - 2 * 65535.0) / np.sqrt(4 * (65536.0**2 - 1) / 12)
    return out


class Signals:
    """The signals of `n` tags; tag numbers index `kind`.

    Parameters
    ----------
    kind
        Position in `KINDS` of each tag, int64[n].
    seed
        Any integer; the same seed gives the same plant.
    shifts
        The plant's day.

    Examples
    --------
    >>> signals = Signals(np.array([0, 7]), seed=7, shifts=Shifts())
    >>> value = signals.at(np.array([0, 0, 1]), np.array([0, 10**9, 0]))
    >>> bool(40 < value[0] < 90), float(value[2] % 1)
    (True, 0.0)
    >>> bool((signals.at(np.array([1, 0]), np.array([0, 10**9])) == value[[2, 1]]).all())
    True
    """

    def __init__(self, kind: Ints, seed: int, shifts: Shifts) -> None:
        if len(kind) and not (kind.min() >= 0 and kind.max() < len(KINDS)):
            msg = f"signal kind {int(kind.max())} is outside 0..{len(KINDS) - 1}"
            raise ConfigError(msg)
        n = len(kind)
        self.shifts = shifts
        self.key = mix(np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ _word(seed))
        draw = [uniform(mix(self.key + np.uint64(k))) for k in range(4)]
        base, gain, sway, noise = (
            np.array([getattr(k, name) for k in KINDS], np.float64)[kind] for name in ("base", "gain", "sway", "noise")
        )
        self.base: Floats = base * (0.9 + 0.2 * draw[0])
        self.gain: Floats = gain * (0.8 + 0.4 * draw[1])
        self.sway: Floats = sway * (0.5 + draw[2])
        self.noise: Floats = noise
        self.turn_s: Floats = shifts.day_s * (0.35 + 0.65 * draw[2])
        self.lag_s: Floats = np.array([k.lag for k in KINDS])[kind] * shifts.day_s
        self.phase = draw[3]
        self.scale: Floats = 10.0 ** np.array([k.decimals for k in KINDS])[kind]
        self.shape = np.array([_SHAPES.index(k.shape) for k in KINDS])[kind]

    def at(self, tag: Ints, t_ns: Ints) -> Floats:
        """Values of tags (int64[m]) at times (int64[m], ns since the plant's start, >= 0): float64[m]."""
        t_s: Floats = t_ns.astype(np.float64) * 1e-9
        angle: Floats = t_s / self.turn_s[tag] + self.phase[tag]
        noise = normal(mix(self.key[tag] ^ mix(t_ns.astype(np.uint64))))
        out: Floats = self.base[tag] + self.gain[tag] * self._felt(t_s, self.lag_s[tag])
        out += self.sway[tag] * np.sin(2 * np.pi * angle) + self.noise[tag] * noise
        shape = self.shape[tag]
        for number, special in ((1, self._counter), (2, self._setpoint), (3, self._valve)):
            rows = np.flatnonzero(shape == number)
            if len(rows):
                out[rows] = special(tag[rows], t_s[rows], angle[rows])
        scale = self.scale[tag]
        rounded: Floats = np.rint(out * scale) / scale
        return rounded

    def _felt(self, t_s: Floats, lag_s: Floats) -> Floats:
        """Activity averaged over the last `lag_s` seconds."""
        slow = lag_s > 0
        out = self.shifts.activity(t_s)
        out[slow] = (self.shifts.work(t_s[slow]) - self.shifts.work(t_s[slow] - lag_s[slow])) / lag_s[slow]
        return out

    def _counter(self, tag: Ints, t_s: Floats, _angle: Floats) -> Floats:
        out: Floats = np.floor(self.base[tag] + self.gain[tag] * self.shifts.work(t_s))
        return out

    def _setpoint(self, tag: Ints, t_s: Floats, _angle: Floats) -> Floats:
        step = mix(self.key[tag] ^ self.shifts.number(t_s).astype(np.uint64)) % np.uint64(4)
        out: Floats = self.base[tag] + self.gain[tag] * step.astype(np.float64)
        return out

    def _valve(self, _tag: Ints, _t_s: Floats, angle: Floats) -> Floats:
        return (np.mod(5 * angle, 1.0) < 0.6).astype(np.float64)


def _word(seed: int) -> np.uint64:
    return np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
