"""Windows against Polars over all the samples: fixed, by calendar, by time zone, time-weighted."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from query_shapes import HOUR, T0, good

from iiot_dask.core.errors import ConfigError
from iiot_dask.history import History, aggregate, windows
from iiot_dask.history.windows import Windows

MEASURES = ("count", "min", "max", "mean", "sum", "first", "last")


def plain(frame: pl.DataFrame, start: pl.Expr) -> pl.DataFrame:
    value = pl.col("value")
    return (
        frame.sort("tag", "time")
        .group_by("tag", start.alias("time"), maintain_order=True)
        .agg(
            count=pl.len().cast(pl.Int64), min=value.min(), max=value.max(), mean=value.mean(), sum=value.sum(),
            first=value.first(), last=value.last(),
        )
        .sort("tag", "time")
    )  # fmt: skip


@pytest.mark.parametrize("every", ["7ms", "90s", "1h", "5h", "1d", "9d"])
def test_fixed_windows(shaped: History, every: str) -> None:
    wanted = plain(good(shaped), pl.col("time").dt.truncate(every) if every != "9d" else _nine())
    assert_frame_equal(shaped.aggregate(every).collect().sort("tag", "time"), wanted, rel_tol=1e-12)


def _nine() -> pl.Expr:
    # Polars counts days from another origin; ours is 1970-01-01.
    length = 9 * 24 * HOUR
    return (pl.col("time").to_physical() // length * length).cast(pl.Datetime("ns", "UTC"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kolkata", "America/New_York", None])
@pytest.mark.parametrize("every", ["1d", "1w", "1mo", "1q", "1y"])
def test_calendars(shaped: History, every: str, zone: str | None) -> None:
    local = pl.col("time").dt.convert_time_zone(zone or "UTC").dt.truncate(every).dt.convert_time_zone("UTC")
    wanted = plain(good(shaped), local)
    assert_frame_equal(shaped.aggregate(every, zone=zone).collect().sort("tag", "time"), wanted, rel_tol=1e-12)


def test_a_day_of_23_and_one_of_25_hours(tmp_path) -> None:
    history = History(tmp_path)
    start = int(dt.datetime(2026, 3, 28, 12, tzinfo=dt.UTC).timestamp()) * 10**9
    autumn = int(dt.datetime(2026, 10, 24, 12, tzinfo=dt.UTC).timestamp()) * 10**9
    at = np.arange(0, 48 * 60) * 60 * 10**9
    times = np.concatenate([start + at, autumn + at])
    history.append(pl.DataFrame({"tag": ["a"] * len(times), "time": times, "value": np.ones(len(times))}))
    days = history.aggregate("1d", zone="Europe/Berlin").collect()["count"].to_list()
    assert 23 * 60 in days
    assert 25 * 60 in days
    quarters = history.aggregate("6h", zone="Europe/Berlin").collect()
    assert quarters["count"].sum() == len(times)
    local = quarters["time"].dt.convert_time_zone("Europe/Berlin")
    hours = dict(local.to_frame().group_by(day=pl.col("time").dt.date()).agg(pl.col("time").dt.hour()).rows())
    # Counted from local midnight: a short day ends early, a long one has a fifth window.
    assert hours[dt.date(2026, 3, 29)] == [0, 7, 13, 19]
    assert hours[dt.date(2026, 10, 25)] == [0, 5, 11, 17, 23]


@pytest.mark.parametrize(
    ("every", "zone", "message"),
    [
        ("0s", None, "is 0"),
        ("-1h", None, "span '-1h'"),
        (-5, None, "negative"),
        ("400000d", None, "too long"),
        ("9999999999999y", None, "1 to 3504 months"),
        ("0mo", None, "1 to 3504"),
        ("36h", "Europe/Berlin", "whole days"),
        ("1d", "Mars/Base", "time zone 'Mars/Base'"),
        ("soon", None, "soon"),
        (True, None, "True"),
    ],
)
def test_windows_that_are_none(shaped: History, every, zone, message) -> None:
    with pytest.raises(ConfigError, match=message):
        shaped.aggregate(every, zone=zone)


def test_the_longest_window_there_is(shaped: History) -> None:
    found = shaped.aggregate("106751d").collect()
    assert found["count"].sum() == good(shaped).height
    assert found.height == good(shaped)["tag"].n_unique()


@pytest.mark.parametrize("time", [-(2**63), -(2**63) + 5, -11, -1, 0, 9, 10, 2**63 - 11, 2**63 - 1])
@pytest.mark.parametrize("every", [1, 3, 10, 2**62, 2**63 - 1])
def test_every_nanosecond_is_in_its_window(time: int, every: int) -> None:
    cut = Windows(np.zeros(1, np.int64), every)
    start, end = (int(f(np.array([time]))[0]) for f in (cut.start_of, cut.end_of))
    exact = time // every * every
    assert start == max(exact, -(2**63))
    assert end == min(exact + every, 2**63 - 1)


def test_calendar_windows_do_not_overlap() -> None:
    year = 366 * 24 * HOUR
    for every in ("1d", "2w", "1mo", "1q", "1y"):
        cut = windows.windows(every, "America/Sao_Paulo", T0 - 20 * year, T0 + year)
        starts = cut.start_of(np.arange(T0 - 20 * year, T0 + year, 5 * HOUR))
        edges = np.unique(starts)
        assert (np.diff(starts) >= 0).all()
        assert (cut.end_of(edges[:-1]) <= edges[1:]).all()


def test_limits_cut_windows(shaped: History) -> None:
    start, end = T0 + 2 * HOUR + 17, T0 + 15 * HOUR + 3
    inside = good(shaped).filter(pl.col("time").to_physical().is_between(start, end - 1))
    found = shaped.aggregate("1h", "line0/*", start, end).collect().sort("tag", "time")
    assert_frame_equal(
        found,
        plain(inside.filter(pl.col("tag").str.starts_with("line0/")), pl.col("time").dt.truncate("1h")),
        rel_tol=1e-12,
    )


def test_late_rows_of_one_tag_cost_no_other_its_statistics(tmp_path, monkeypatch) -> None:
    history = History(tmp_path)
    at = np.tile(np.arange(2 * 3600), 20)
    tags = np.repeat([f"t{i:02}" for i in range(20)], 2 * 3600)
    history.append(pl.DataFrame({"tag": tags, "time": T0 + at * 10**9, "value": at / 10}))
    history.compact()
    # One block row whose range of tags and times covers everything, with samples of two tags only.
    history.append(pl.DataFrame({"tag": ["t00", "t19"], "time": [T0 + 5, T0 + 2 * HOUR - 5], "value": [1.0, 2.0]}))
    decoded: list[int] = []
    real = aggregate.join

    def counted(store, found, *more):
        decoded.append(int(found.alone.head["count"].sum()))
        return real(store, found, *more)

    monkeypatch.setattr(aggregate, "join", counted)
    found = history.aggregate("1h").collect()
    assert found["count"].sum() == len(at) + 2
    assert sum(decoded) == 0
    assert found.filter(tag="t19")["last"].to_list()[-1] == 2.0


def brute(frame: pl.DataFrame, every: int, start: int, end: int, rule: str) -> dict[tuple[str, int], float]:
    """Time-weighted means by walking in steps of the stretches between samples and window edges."""
    out: dict[tuple[str, int], float] = {}
    for (tag,), mine in frame.sort("time").partition_by("tag", as_dict=True).items():
        t = mine["time"].to_physical().to_numpy()
        v = mine["value"].to_numpy()
        for window in np.unique(t[(t >= start) & (t < end)] // every * every).tolist():
            low, high = max(window, start), min(window + every, end)
            edges = np.unique(np.concatenate([[low, high], t[(t > low) & (t < high)]]))
            area = weight = 0.0
            for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                before = np.searchsorted(t, a, side="right") - 1
                if before < 0 or (rule == "linear" and before + 1 >= len(t)):
                    continue
                level = v[before] if rule == "step" else float(np.interp((a + b) / 2 - t[0], t - t[0], v))
                area += level * (b - a)
                weight += b - a
            out[tag, window] = area / weight if weight else float("nan")
    return out


@pytest.mark.parametrize("rule", ["step", "linear"])
@pytest.mark.parametrize(("start", "end"), [(T0, T0 + 30 * HOUR), (T0 + 2 * HOUR + 12_345, T0 + 9 * HOUR + 777)])
def test_time_weighted_means(shaped: History, rule: str, start: int, end: int) -> None:
    samples = good(shaped)
    wanted = brute(samples, HOUR, start, end, rule)
    found = shaped.aggregate("1h", "*", start, end, time_weighted=rule).collect()
    assert found.height == len(wanted)
    for tag, time, mean in found.select("tag", pl.col("time").to_physical(), "time_mean").rows():
        exact = wanted[tag, time]
        if np.isnan(exact):  # no time passed: the mean of the samples themselves
            exact = found.filter((pl.col("tag") == tag) & (pl.col("time").to_physical() == time))["mean"].item()
        assert mean == pytest.approx(exact, rel=1e-9)


def test_a_rule_that_is_none(shaped: History) -> None:
    with pytest.raises(ConfigError, match="rule 'cubic'; 'step' or 'linear'"):
        shaped.aggregate("1h", time_weighted="cubic")
