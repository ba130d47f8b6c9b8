"""The operators against slow, obvious twins over one tag's rows, in plain Python."""

import itertools
import math
import random
from statistics import stdev

import polars as pl
import pytest
from flow_rows import STAMP, S

from iiot_dask.flow import pipeline

RANDOM = random.Random(5)
ROWS = [
    (t, float(RANDOM.randrange(20)))
    for t in sorted({round(RANDOM.uniform(0, 200), 1) for _ in range(150)} | {300.0, 300.5, 420.0})
]


def run(described, rows=ROWS):
    frame = pl.DataFrame(
        {
            "tag": ["x"] * len(rows),
            "time": (pl.Series([t for t, _ in rows]) * S).round().cast(pl.Int64).cast(STAMP),
            "value": [v for _, v in rows],
        }
    )
    out = described.runner().feed(frame, 2**63 - 1)
    return out.with_columns(time=pl.col("time").to_physical() / S)


def held(rows, a, b):
    """Integral and length of the step function over [a, b), from the first sample on."""
    area = covered = 0.0
    for (t, v), (u, _) in zip(rows, [*rows[1:], (math.inf, 0.0)], strict=True):
        low, high = max(t, a), min(u, b)
        if low < high:
            area += v * (high - low)
            covered += high - low
    return area, covered


@pytest.mark.parametrize(("size", "every"), [(10, 10), (10, 5), (12, 2)])
def test_windows(size, every):
    names = ["count", "min", "max", "mean", "sum", "first", "last", "std", "twm"]
    out = run(pipeline().window(f"{size}s", names, every=f"{every}s"))
    expected = []
    start = -size
    while start <= ROWS[-1][0]:
        inside = [v for t, v in ROWS if start <= t < start + size]
        if inside:
            area, covered = held(ROWS, start, start + size)
            expected.append(
                (start, len(inside), min(inside), max(inside), sum(inside) / len(inside), sum(inside), inside[0],
                 inside[-1], stdev(inside) if len(inside) > 1 else 0.0, area / covered)
            )  # fmt: skip
        start += every
    assert out.height == len(expected)
    for row, wanted in zip(out.select("time", *names).iter_rows(), expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_percentiles_are_within_the_promised_error():
    out = run(pipeline().window("50s", ["p50", "p99"]))
    for start, p50, p99 in out.select("time", "p50", "p99").iter_rows():
        inside = sorted(v for t, v in ROWS if start <= t < start + 50)
        for q, got in ((0.5, p50), (0.99, p99)):
            assert got == pytest.approx(inside[max(math.ceil(q * len(inside)), 1) - 1], rel=0.005)


def test_sessions():
    out = run(pipeline().session("3s", ["count", "sum", "duration"]))
    sessions = [[ROWS[0]]]
    for row in ROWS[1:]:
        if row[0] - sessions[-1][-1][0] > 3:
            sessions.append([])
        sessions[-1].append(row)
    wanted = [(s[0][0], len(s), sum(v for _, v in s), s[-1][0] - s[0][0]) for s in sessions]
    assert [pytest.approx(w) for w in wanted] == list(out.select("time", "count", "sum", "duration").iter_rows())


@pytest.mark.parametrize("rule", ["step", "linear"])
def test_resample(rule):
    out = run(pipeline().resample("2s", rule, gap="60s"))
    wanted = []
    for (t, v), (u, w) in itertools.pairwise(ROWS):
        point = math.ceil(round(t / 2, 9)) * 2
        while point < u and u - t <= 60:
            wanted.append((point, v if rule == "step" else v + (w - v) * (point - t) / (u - t)))
            point += 2
    assert [pytest.approx(w) for w in wanted] == list(out.select("time", "value").iter_rows())


def test_rates_counters_and_durations():
    out = run(pipeline().rate("1m"))
    wanted = [(u, (w - v) / (u - t) * 60) for (t, v), (u, w) in itertools.pairwise(ROWS)]
    assert [pytest.approx(w) for w in wanted] == list(out.select("time", "value").iter_rows())
    counted = run(pipeline().counter(100), [(0, 90), (1, 95), (2, 3), (3, 10), (4, 5), (5, 6)])
    assert counted["value"].to_list() == [0, 5, 13, 20, 25, 26]  # 95 -> 3 rolls over, 10 -> 5 is a restart at 5
    states = run(pipeline().durations(), [(0, 1), (2, 1), (5, 2), (6, 2), (9, 1)])
    assert states.select("time", "value", "duration").rows() == [(0.0, 1.0, 5.0), (5.0, 2.0, 4.0)]


def test_thresholds_and_conditions_that_last():
    rows = [(0, 1), (1, 9), (2, 6), (3, 9), (4, 3), (5, 6), (6, 8), (7, 8), (8, 8), (9, 2)]
    assert run(pipeline().threshold(8, 5), rows)["active"].to_list() == [
        False,
        True,
        True,
        True,
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    lasting = run(pipeline().lasting("2s", above=5), rows)
    assert lasting.select("time", "top").rows() == [(3.0, 9.0), (7.0, 8.0)]


def test_patterns():
    rows = [(0, 1), (1, 5), (2, 9), (3, 4), (4, 8), (5, 2), (6, 7)]
    both = run(pipeline().peaks(3, "both"), rows)
    assert both.select("time", "value", "kind").rows() == [
        (2.0, 9.0, "peak"), (3.0, 4.0, "valley"), (4.0, 8.0, "peak"), (5.0, 2.0, "valley"),
    ]  # fmt: skip
    assert run(pipeline().rise(6, "2s"), rows)["time"].to_list() == [2.0]
    assert run(pipeline().fall(5, "1s"), rows)["time"].to_list() == [3.0, 5.0]
    low, high = pl.col("value") < 3, pl.col("value") > 6
    assert run(pipeline().sequence(low, high, low, within="10s"), rows).select("time").rows() == [(5.0,)]
    assert run(pipeline().absence(high, low, "2s"), rows)["time"].to_list() == [2.0, 6.0]


def test_groups_the_largest_and_what_stands_beside():
    frame = pl.DataFrame(
        {
            "tag": ["a/1", "a/2", "b/1"] * 3,
            "time": (pl.Series([0, 0, 0, 1, 1, 1, 2, 2, 2]) * S).cast(STAMP),
            "value": [1.0, 3.0, 7.0, 2.0, 2.0, 8.0, 5.0, 1.0, 9.0],
        }
    )
    groups = pipeline().group(1, ["count", "sum", "spread"]).runner().feed(frame, 2**63 - 1)
    assert groups.sort("tag", "time").select("tag", "count", "sum", "spread").rows() == [
        ("a", 2, 4.0, 2.0), ("a", 2, 4.0, 0.0), ("a", 2, 6.0, 4.0), ("b", 1, 7.0, 0.0), ("b", 1, 8.0, 0.0), ("b", 1, 9.0, 0.0),
    ]  # fmt: skip
    top = pipeline().top_k(1).runner().feed(frame.filter(pl.col("tag") != "b/1"), 2**63 - 1)
    assert top.sort("time")["tag"].to_list() == ["a/2", "a/1", "a/1"]
    beside = pipeline().beside(b="b/1").runner().feed(frame, 2**63 - 1)
    assert beside.filter(pl.col("tag") == "a/1").select("value", "b").rows() == [(1.0, 7.0), (2.0, 8.0), (5.0, 9.0)]
