"""Latest and as-of values, and grids of them, against the plain way over all samples."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from query_shapes import HOUR, T0, TIME, good

from iiot_dask.core.errors import ConfigError
from iiot_dask.history import History, latest, place

MOMENTS = [
    T0 - 50 * 24 * HOUR,
    T0 - 1,
    T0 + 7 * 60 * 10**9,
    T0 + 5 * HOUR,
    T0 + 6 * HOUR,
    T0 + 17 * HOUR + 1,
    T0 + 99 * HOUR,
]


def last_before(frame: pl.DataFrame, moment: int) -> pl.DataFrame:
    return (
        frame.filter(pl.col("time").to_physical() <= moment)
        .group_by("tag", maintain_order=True)
        .agg(pl.all().sort_by("time").last())
        .sort("tag")
    )


@pytest.mark.parametrize("first_rows", [1, 100, 10**6])
@pytest.mark.parametrize("moment", MOMENTS)
def test_as_of(shaped: History, monkeypatch, moment: int, first_rows: int) -> None:
    monkeypatch.setattr(latest, "FIRST_ROWS", first_rows)
    whole = shaped.scan().collect()
    assert_frame_equal(shaped.at(moment).sort("tag"), last_before(whole, moment))
    found = shaped.at(moment, good=True).sort("tag").drop("quality")
    assert_frame_equal(found, last_before(good(shaped), moment).drop("quality"))


def test_latest(shaped: History) -> None:
    whole = shaped.scan().collect()
    assert_frame_equal(shaped.latest().sort("tag"), last_before(whole, 2**63 - 1))
    assert shaped.latest("line0/*")["tag"].str.starts_with("line0/").all()
    assert shaped.latest("nothing").is_empty()
    with pytest.raises(ConfigError, match="soon"):
        shaped.at("soon")


def test_latest_of_sealed_chunks_decodes_nothing(tmp_path, monkeypatch) -> None:
    history = History(tmp_path)
    at = np.repeat(np.arange(2000), 30)
    tags = np.tile([f"t{i:02}" for i in range(30)], 2000)
    history.append(
        pl.DataFrame({"tag": tags, "time": T0 + at * 10**9, "value": at + np.tile(np.arange(30), 2000) / 100})
    )
    history.compact()
    monkeypatch.setattr(place, "_decode_file", lambda *_: pytest.fail("decoded"))
    found = history.latest()
    assert found["value"].to_list() == [1999 + i / 100 for i in range(30)]
    assert set(found["time"].to_physical().to_list()) == {T0 + 1999 * 10**9}


def grid_by_hand(frame: pl.DataFrame, times: np.ndarray, rule: str, gap: float) -> pl.DataFrame:
    out = []
    for (tag,), mine in frame.sort("time").partition_by("tag", as_dict=True).items():
        t, v = mine["time"].to_physical().to_numpy(), mine["value"].to_numpy()
        for at in times.tolist():
            before = int(np.searchsorted(t, at, side="right")) - 1
            value = None
            if before >= 0:
                if t[before] == at:
                    value = v[before]
                elif rule == "step":
                    value = v[before] if at - t[before] <= gap else None
                elif before + 1 < len(t) and t[before + 1] - t[before] <= gap:
                    value = v[before] + (v[before + 1] - v[before]) * ((at - t[before]) / (t[before + 1] - t[before]))
            out.append((tag, at, value))
    return pl.DataFrame(
        out, schema={"tag": pl.String, "time": pl.Int64, "value": pl.Float64}, orient="row"
    ).with_columns(pl.col("time").cast(TIME))


@pytest.mark.parametrize("rule", ["step", "linear"])
@pytest.mark.parametrize("gap", [None, "5m"])
@pytest.mark.parametrize(("start", "end"), [(T0 - HOUR, T0 + 26 * HOUR), (T0 + 4 * HOUR + 1, T0 + 7 * HOUR)])
def test_resample(shaped: History, rule: str, gap: str | None, start: int, end: int) -> None:
    every = 13 * 60 * 10**9
    times = np.arange(-(-start // every) * every, end, every)
    wanted = grid_by_hand(good(shaped), times, rule, np.inf if gap is None else 300e9)
    found = shaped.resample("13m", "*", start, end, rule=rule, gap=gap).collect()
    assert_frame_equal(found.sort("tag", "time"), wanted.sort("tag", "time"), rel_tol=1e-12)


def test_a_rule_a_tag(shaped: History) -> None:
    start, end = T0 + HOUR, T0 + 3 * HOUR
    both = shaped.resample("10m", "*", start, end, rule={"*tag0": "linear", "line*": "step"}).collect()
    line = shaped.resample("10m", "*tag0", start, end, rule="linear").collect()
    steps = shaped.resample("10m", "*tag1", start, end).collect()
    assert_frame_equal(both.filter(pl.col("tag").str.ends_with("tag0")), line)
    assert_frame_equal(both.filter(pl.col("tag").str.ends_with("tag1")), steps)
    wide = both.pivot("tag", index="time", values="value")
    assert wide.height == 12
    assert set(wide.columns) == {"time", *both["tag"].unique()}


def test_resample_without_limits_and_without_rows(shaped: History) -> None:
    found = shaped.resample("1h", "line0/tag0").collect()
    mine = good(shaped).filter(tag="line0/tag0")["time"].to_physical()
    assert found["time"].to_physical().max() <= mine.max()
    assert shaped.resample("1h", "nobody").collect().is_empty()
    assert shaped.resample("1h", "*", T0, T0).collect().is_empty()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"every": "0s"}, "is 0"), ({"rule": "spline"}, "rule 'spline'"), ({"rule": {"a": "x"}}, "rule 'x' for 'a'")],
)
def test_grids_that_are_none(shaped: History, change, message) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped.resample(**{"every": "1h", **change})


def test_a_slip_of_the_unit_is_said(shaped: History) -> None:
    with pytest.raises(ConfigError, match="at most 100,000,000"):
        shaped.resample("1ns", "*", T0, T0 + HOUR).collect()
