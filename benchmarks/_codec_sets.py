"""Sets for the codec benchmark: files, what is in ../shared/datasets, and signals nobody tuned the codecs on.

The generated kinds were written after the codecs and are not to be tuned on: a codec that wants to win here has to win on a
kind of its own first. Seeds only vary them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

SHARED = Path(__file__).parents[2] / "shared" / "datasets"
NOT_SERIES = {"nasa_http_rate", "wsn_library_transmissions"}
ROWS = 60_000
START = 1_764_000_000_000_000_000
Column = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
Floats = npt.NDArray[np.float64]


def _walk(rng: np.random.Generator, n: int, step: float, pull: float = 0.001) -> Floats:
    """A random walk pulled back to 0, as processes under control do."""
    noise = rng.normal(0, step, n)
    out = np.empty(n)
    level = 0.0
    for i in range(n):
        level += noise[i] - pull * level
        out[i] = level
    return out


def _every(n: int, period_ns: int) -> npt.NDArray[np.int64]:
    return START + np.arange(n, dtype=np.int64) * period_ns


def _transmitter(rng: np.random.Generator, n: int) -> Column:
    """4-20 mA through a 16-bit converter, scaled to an offset range, as float64."""
    counts = np.clip(np.round(27_000 + 900 * _walk(rng, n, 0.05) + rng.normal(0, 3, n)), 0, 65_535)
    return _every(n, 10**9), -50.0 + counts * (300.0 / 65_535.0)


def _thermocouple(rng: np.random.Generator, n: int) -> Column:
    """0.1 degC in a controlled furnace, sampled twice a second with a busy controller's delays."""
    x = 780 + 4 * np.sin(np.arange(n) / 140) + _walk(rng, n, 0.15) + rng.normal(0, 0.12, n)
    return _every(n, 500_000_000) + rng.exponential(2_000_000, n).astype(np.int64) // 1_000_000 * 1_000_000, np.round(
        x, 1
    )


def _float32_flow(rng: np.random.Generator, n: int) -> Column:
    """A flow computer's float32 register, nothing rounded."""
    return _every(n, 10**9), (120 + _walk(rng, n, 0.4) + rng.normal(0, 0.2, n)).astype(np.float32).astype(np.float64)


def _average(rng: np.random.Generator, n: int) -> Column:
    """Means of six whole numbers: x.1667 and so on, not rounded."""
    return _every(n, 60 * 10**9), np.round(6 * (400 + 20 * _walk(rng, n, 0.3) + rng.normal(0, 4, n))) / 6


def _energy(rng: np.random.Generator, n: int) -> Column:
    """A kWh counter with three decimals, replaced twice."""
    x = np.cumsum(np.abs(0.8 + 0.3 * np.sin(np.arange(n) / 900) + rng.normal(0, 0.05, n)))
    return _every(n, 60 * 10**9), np.round(x - x[(np.arange(n) * 3 // n) * (n // 3)], 3)


def _events(rng: np.random.Generator, n: int) -> Column:
    """Report by exception: a level in mm, sent when it moves, stamped to the millisecond."""
    x = np.cumsum(rng.choice([-2.0, -1.0, 1.0, 2.0], n))
    return START + np.cumsum(rng.exponential(3e9, n)).astype(np.int64) // 1_000_000 * 1_000_000, 1500 + x


def _opc(rng: np.random.Generator, n: int) -> Column:
    """OPC UA source times: 100 ns ticks of a clock that wakes 0.1 to 3 ms late; pressure with two decimals."""
    late = rng.gamma(2.0, 4_000, n).astype(np.int64) * 100
    return _every(n, 250_000_000) + late, np.round(6.2 + 0.3 * _walk(rng, n, 0.02) + rng.normal(0, 0.01, n), 2)


def _bursts(rng: np.random.Generator, n: int) -> Column:
    """100 samples at 1 kHz every 10 s from a 16-bit vibration sensor, in g."""
    i = np.arange(n)
    t = START + (i // 100) * 10_000_000_000 + (i % 100) * 1_000_000
    tone = 800 * np.sin(i % 100 / 2.3) + 250 * np.sin(i % 100 / 0.9) + rng.normal(0, 60, n)
    return t, np.round(tone) * (16.0 / 32_768.0)


def _mains(rng: np.random.Generator, n: int) -> Column:
    """Voltage at 12.8 kHz with harmonics, whole counts; times to the microsecond."""
    phase = np.arange(n) * 2 * np.pi * 50.02 / 12_800
    x = 22_800 * np.sin(phase) + 900 * np.sin(5 * phase + 0.4) + 300 * np.sin(7 * phase) + rng.normal(0, 25, n)
    return START + np.round(np.arange(n) * 1e6 / 12_800).astype(np.int64) * 1000, np.round(x)


def _analyser(rng: np.random.Generator, n: int) -> Column:
    """An analyser's value of six significant digits, held for some scans, missing (NaN) when it is calibrated."""
    held = np.repeat(np.exp(_walk(rng, n // 12 + 1, 0.02)), 12)[:n]
    x = np.array([float(f"{v:.6g}") for v in held])
    x[(np.arange(n) % 9000) < 200] = np.nan
    return _every(n, 5 * 10**9), x


def _position(rng: np.random.Generator, n: int) -> Column:
    """Degrees of latitude with seven decimals from a vehicle."""
    return _every(n, 200_000_000), np.round(52.1 + np.cumsum(np.cumsum(rng.normal(0, 2e-9, n)) * 0.2) % 0.02, 7)


def _states(rng: np.random.Generator, n: int) -> Column:
    """A machine's state code: long stays, short visits."""
    stays = rng.geometric(1 / 180, n // 20 + 2)
    return _every(n, 10**9), np.repeat(rng.choice([0.0, 1.0, 2.0, 40.0], len(stays)), stays)[:n].copy()


KINDS: dict[str, Callable[[np.random.Generator, int], Column]] = {
    "gen_transmitter": _transmitter,
    "gen_thermocouple": _thermocouple,
    "gen_float32_flow": _float32_flow,
    "gen_average_of_6": _average,
    "gen_energy_counter": _energy,
    "gen_events": _events,
    "gen_opc_ticks": _opc,
    "gen_bursts": _bursts,
    "gen_mains": _mains,
    "gen_analyser": _analyser,
    "gen_position": _position,
    "gen_states": _states,
}


def generated(seed: int = 2611, rows: int = ROWS, tags: int = 3) -> Iterator[tuple[str, pl.DataFrame]]:
    """(name, rows) of every kind, some tags each."""
    for at, (name, kind) in enumerate(KINDS.items()):
        parts = []
        for tag in range(tags):
            t, x = kind(np.random.default_rng([seed, at, tag]), rows)
            ts = pl.Series(t).cast(pl.Datetime("ns", "UTC"))
            parts.append(pl.DataFrame({"ts": ts[: len(x)], "sensor": str(tag), "value": x[: len(t)]}))
        yield name, pl.concat(parts)


def sets(files: list[Path], seed: int, rows: int | None = None) -> Iterator[tuple[str, pl.DataFrame]]:
    """(name, rows) of every set: the files given, else the shared ones that are there and the generated kinds."""
    found = files or sorted(p for p in SHARED.glob("*.parquet") if p.stem not in NOT_SERIES)
    for path in found:
        frame = pl.read_parquet(path)
        yield path.stem, frame if rows is None else frame.group_by("sensor", maintain_order=True).head(rows)
    if not files:
        yield from generated(seed, rows or ROWS)


def tags(frame: pl.DataFrame, chunk: int) -> list[list[Column]]:
    """Chunks of (times ns, values) of each tag."""
    out = []
    for part in frame.partition_by("sensor", maintain_order=True):
        t = part["ts"].dt.epoch("ns").to_numpy().copy()
        x = part["value"].to_numpy().astype(np.float64)
        out.append([(t[a : a + chunk].copy(), x[a : a + chunk].copy()) for a in range(0, len(t), chunk)])
    return out
