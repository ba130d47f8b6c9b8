"""A history written by format 1 stays readable for ever; it is written only by ``python test_golden_history.py --write-golden``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from iiot_dask.core.clock import ManualClock
from iiot_dask.history import History

GOLDEN = Path(__file__).parents[1] / "golden" / "history" / "format-1"
T0 = 1_790_000_000 * 10**9 // (86_400 * 10**9) * 86_400 * 10**9


def samples() -> list[pl.DataFrame]:
    """What the golden history holds: two appends that are compacted, and one that is not."""
    rng = np.random.Generator(np.random.PCG64(1))
    n = 1500
    first = pl.DataFrame(
        {
            "tag": ["site/a"] * n + ["site/ü"] * 40 + ["old"],
            "time": [T0 + i * 10**9 for i in range(n)] + [T0 + i * 60 * 10**9 for i in range(40)] + [-5],
            "value": [
                *np.round(rng.random(n), 2).tolist(),
                *(float(i) for i in range(38)),
                float("nan"),
                float("inf"),
                -0.0,
            ],
            "quality": pl.Series([0] * n + list(range(0, 240, 6)) + [255], dtype=pl.UInt8),
        }
    )
    again = first[::7].with_columns(value=pl.lit(7.5))
    late = first[::100].with_columns(value=pl.lit(8.25), time=pl.col("time") + 1)
    return [first, again, late]


def expected() -> pl.DataFrame:
    whole = pl.concat(samples()).unique(["tag", "time"], keep="last", maintain_order=True)
    order = pl.DataFrame({"tag": ["site/a", "site/ü", "old"], "id": [0, 1, 2]})
    sorted_ = whole.join(order, on="tag").sort("id", "time").drop("id")
    return sorted_.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")))


def test_the_golden_history_reads_as_ever(tmp_path: Path) -> None:
    copy = tmp_path / "history"
    shutil.copytree(GOLDEN, copy)
    history = History(copy)
    assert history.verify().ok
    assert {kind: figures.files > 0 for kind, figures in history.info().kinds.items()} == {"block": True, "chunk": True}
    assert_frame_equal(history.scan().collect(), expected())
    assert (
        history.aggregate("1d").collect()["count"].sum()
        == expected().filter((pl.col("quality") < 128) & pl.col("value").is_not_nan()).height
    )
    history.append(pl.DataFrame({"tag": ["new"], "time": [1], "value": [1.0]}))
    history.compact()
    assert_frame_equal(history.scan(["site/*", "old"]).collect(), expected())


def write() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    history = History(GOLDEN, clock=ManualClock(T0 + 40 * 86_400 * 10**9))
    first, again, late = samples()
    history.append(first)
    history.append(again)
    history.compact()
    history.append(late)
    history.vacuum("0s", dry_run=False)


if __name__ == "__main__" and sys.argv[1:] == ["--write-golden"]:
    write()
