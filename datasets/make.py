"""Makes the data sets of this folder and its README, from the simulator alone: ``python datasets/make.py``."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl

from iiot_dask.core.times import time_ns
from iiot_dask.sim import Factory, scenario
from iiot_dask.sim.signal import KINDS

HERE = Path(__file__).parent
START = "2026-01-05T06:00:00Z"
PERIOD_S = 30

README = """# Data sets

Small, synthetic, made by [`make.py`](make.py) from the simulator of this package; equal seeds give equal samples.
Real plants' data are not redistributed here.

- Origin: `iiot_dask.sim`, seed 7. No person, plant or product is behind any number.
- Licence: Apache-2.0, as the rest of the repository.
- Times are UTC, in nanoseconds; `quality` is the code of `iiot_dask.Quality` (0 = good, 128 and above = bad).

| file | rows | tags | what | sha256 |
|---|---|---|---|---|
{rows}

## Units

| signal | unit | resolution |
|---|---|---|
{units}

## Columns

- `mini_plant.parquet`: `tag`, `time`, `value`, `quality`. One mixer's ten signals over a day of three shifts, every {period} s.
- `shift_change.parquet`: `tag`, `time`, `value`, `quality`, `received`. Two minutes of a plant whose day lasts one, with
  an outage, a flatline and a device that sends malformed payloads (rows of bad quality without a value).
- `shift_change_faults.parquet`: `kind`, `node`, `start`, `end` of those three, what a detector should find.
- `shift_change_topology.parquet`: `node`, `parent`, tags as leaves.
"""


def mini_plant() -> pl.DataFrame:
    """One device over one day."""
    factory = Factory(tags=100, seed=7, day_s=86_400.0, faults=[])
    device = factory.devices[factory.of("json")[0]]
    tags = np.arange(device.start, device.stop)
    t_ns = np.arange(0, 86_400, PERIOD_S, dtype=np.int64) * 10**9
    tag, times = np.repeat(tags, len(t_ns)), np.tile(t_ns, len(tags))
    return pl.DataFrame(
        {
            "tag": pl.Series(factory.names, dtype=pl.String)[tag],
            "time": pl.Series(time_ns(START) + times).cast(pl.Datetime("ns", "UTC")),
            "value": factory.values(tag, times),
            "quality": np.zeros(len(tag), np.uint8),
        }
    )


def frames() -> dict[str, tuple[pl.DataFrame, str]]:
    """File name -> its rows and one line on them."""
    shift = scenario("shift-change", tags=100, seed=7, duration="2m", day="1m", start=START)
    return {
        "mini_plant.parquet": (mini_plant(), "a machine, one day"),
        "shift_change.parquet": (shift.samples, "a plant, two compressed days, three faults"),
        "shift_change_faults.parquet": (shift.faults, "the truth about those faults"),
        "shift_change_topology.parquet": (shift.topology, "what hangs from what"),
    }


def main() -> None:
    """Write every file and the README."""
    rows = []
    for name, (frame, what) in frames().items():
        path = HERE / name
        frame.write_parquet(path, compression="zstd", compression_level=19)
        tags = str(frame["tag"].n_unique()) if "tag" in frame.columns else ""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(f"| `{name}` | {frame.height} | {tags} | {what} | `{digest}` |")
        print(f"{name}: {frame.height} rows, {path.stat().st_size} bytes")
    units = [f"| `{k.name}` | {k.unit or '0 = closed, 1 = open'} | {10**-k.decimals:g} |" for k in KINDS[:10]]
    text = README.format(rows="\n".join(rows), units="\n".join(units), period=PERIOD_S)
    (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
