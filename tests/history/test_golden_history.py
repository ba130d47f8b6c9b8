"""Histories written by every format stay readable for ever.

The newest one is written only by ``python test_golden_history.py --write-golden FOLDER``; older ones never again.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
from polars.testing import assert_frame_equal

from iiot_dask.core.clock import ManualClock
from iiot_dask.history import History, Retention, layout

GOLDEN = Path(__file__).parents[1] / "golden" / "history"
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
    shutil.copytree(GOLDEN / "format-1", copy)
    history = History(copy)
    assert history.verify().ok
    there = {kind for kind, figures in history.info().kinds.items() if figures.files}
    assert there == {"block", "chunk"}
    assert_frame_equal(history.scan().collect(), expected())
    assert (
        history.aggregate("1d").collect()["count"].sum()
        == expected().filter((pl.col("quality") < 128) & pl.col("value").is_not_nan()).height
    )
    history.append(pl.DataFrame({"tag": ["new"], "time": [1], "value": [1.0]}))
    history.compact()
    assert_frame_equal(history.scan(["site/*", "old"]).collect(), expected())


def test_an_older_history_is_raised_at_the_first_write(tmp_path: Path) -> None:
    copy = tmp_path / "history"
    shutil.copytree(GOLDEN / "format-1", copy)
    history = History(copy)
    assert history.log.found == 1
    version = history.log.version
    history.scan().collect()
    assert History(copy).log.version == version  # reading changes nothing
    history.append(pl.DataFrame({"tag": ["new"], "time": [1], "value": [1.0]}))
    assert History(copy).log.found == layout.FORMAT
    assert_frame_equal(history.scan(["site/*", "old"]).collect(), expected())


def test_the_golden_history_of_format_2_reads_as_ever(tmp_path: Path) -> None:
    copy = tmp_path / "history"
    shutil.copytree(GOLDEN / "format-2", copy)
    history = History(copy)
    assert history.log.found == 2
    assert history.verify().ok
    there = {kind for kind, figures in history.info().kinds.items() if figures.files}
    assert there == {"block", "chunk", "rollup"}
    # "aged" and "old" are past their time: of the first there are windows, of the second nothing was good.
    assert_frame_equal(history.scan().collect(), expected().filter(pl.col("tag") != "old"))
    aged = history.aggregate("1h", "aged").select("count", "min", "max", "mean", "first", "last").collect()
    assert aged.rows() == [(3, 1.0, 3.0, 2.0, 1.0, 2.0)]
    history.append(pl.DataFrame({"tag": ["new"], "time": [1], "value": [1.0]}))
    history.compact()
    assert_frame_equal(history.scan("site/*").collect(), expected().filter(pl.col("tag") != "old"))


def write(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    history = History(folder, clock=ManualClock(T0 + 40 * 86_400 * 10**9))
    first, again, late = samples()
    history.append(first)
    history.append(pl.DataFrame({"tag": ["aged"] * 3, "time": [5, 6, 7], "value": [1.0, 3.0, 2.0]}))
    history.append(again)
    history.compact()
    history.retain(Retention.of("60d", ["1h"]), dry_run=False)
    history.append(late)
    history.vacuum("0s", dry_run=False)


if __name__ == "__main__" and sys.argv[1:2] == ["--write-golden"]:
    # Into a folder of the caller's: the log names the place it was made at.
    write(Path(sys.argv[2]))
