"""What is kept how long: windows say of samples that are gone what the samples said, and late rows repair them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from history_frames import DAY, HOUR, T0, regular, samples
from polars.testing import assert_frame_equal

from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import ChecksumError, ConfigError
from iiot_dask.history import History, Retention, retain, rollup
from iiot_dask.history.retention import Step, Tier

NOW = T0 + 20 * DAY
POLICY = Retention.of("3d", ["1m=10d", "1h"])


@pytest.fixture
def aged(tmp_path: Path) -> History:
    """12 days of three tags, and one tag that is slow; three days of them younger than the policy's limit."""
    history = History(tmp_path / "aged", clock=ManualClock(NOW))
    for day in range(0, 12, 3):
        history.append(regular(3, 3 * 86_400, step=600, start=T0 + (8 + day) * DAY, seed=day))
    history.append(samples([("slow", T0 + (8 + i) * DAY + 5, float(i), 64 if i % 2 else 0) for i in range(12)]))
    history.append(samples([("slow", T0 + 9 * DAY + 6, float("nan")), ("slow", T0 + 9 * DAY + 7, 5.0, 200)]))
    return history


def partials(history: History, every: int) -> pl.DataFrame:
    """Roll-up rows as windows of `every`, by name."""
    history.log.refresh()
    ids = np.arange(len(history.tags), dtype=np.int64)
    rows = history.rolled(ids, -(2**63), 2**63 - 1)
    found = rollup.partials(history.store, rows, ids, -(2**63), 2**63 - 1, every)
    names = history.tags.series(ids).gather(pl.Series(found["tag"].astype(np.uint32)))
    kept = ("window", "good", "min", "max", "sum", "first", "last")
    return pl.DataFrame({"tag": names, **{name: found[name] for name in kept}}).sort("tag", "window")


def truth(frame: pl.DataFrame, every: int) -> pl.DataFrame:
    good = frame.filter((pl.col("quality") < 128) & pl.col("value").is_not_nan()).sort("tag", "time")
    window = (pl.col("time").to_physical() // every * every).alias("window")
    value = pl.col("value")
    grouped = good.group_by("tag", window, maintain_order=True).agg(
        good=pl.len().cast(pl.Int64),
        min=value.min(),
        max=value.max(),
        sum=value.sum(),
        first=value.first(),
        last=value.last(),
    )
    return grouped.sort("tag", "window")


def before(frame: pl.DataFrame, limit: int, first: int = -(2**62)) -> pl.DataFrame:
    return frame.filter(pl.col("time").to_physical().is_between(first, limit, "left"))


@pytest.mark.parametrize("compacted", [False, True])
def test_old_samples_become_windows(aged: History, compacted: bool) -> None:
    whole = aged.scan().collect()
    if compacted:
        aged.compact()
    version = aged.log.refresh()
    planned = aged.retain(POLICY)
    assert planned.dry_run
    assert aged.log.refresh() == version
    assert [s["target_ns"] for s in planned.steps] == [60 * 10**9]
    done = aged.retain(POLICY, dry_run=False)
    assert done.samples == before(whole, NOW - 3 * DAY).height
    # What is young is untouched, to the bit.
    assert_frame_equal(aged.scan().collect(), whole.filter(pl.col("time").to_physical() >= NOW - 3 * DAY))
    for every in (HOUR, DAY):
        assert_frame_equal(partials(aged, every), truth(before(whole, NOW - 3 * DAY), every), rel_tol=1e-12)
    fine = pl.col("window") >= NOW - 10 * DAY  # what is older is in hours already
    minutes = truth(before(whole, NOW - 3 * DAY), 60 * 10**9).filter(fine)
    assert_frame_equal(partials(aged, 60 * 10**9).filter(fine), minutes, rel_tol=1e-12)
    assert aged.verify().ok
    info = aged.info()
    assert info.rows == whole.height - done.samples
    assert info.kinds["rollup"].rows > 0
    assert aged.compact().rows_after == info.rows
    again = aged.retain(POLICY, dry_run=False)
    assert (again.samples, again.windows, again.commits) == (0, 0, 0)


def test_windows_become_coarser_then_go(aged: History) -> None:
    whole = aged.scan().collect()
    aged.retain(POLICY, dry_run=False)
    clock = ManualClock(NOW + 6 * DAY)
    later = History(aged.url, clock=clock)
    done = later.retain(POLICY, dry_run=False)
    assert (done.samples > 0, done.windows > 0) == (True, True)
    assert {rollup.every_of(p) for p in later.log.paths() if rollup.is_rollup(p)} == {60 * 10**9, HOUR}
    assert_frame_equal(partials(later, HOUR), truth(before(whole, NOW + 3 * DAY), HOUR), rel_tol=1e-12)
    clock.advance(400 * 86_400)
    later.retain(POLICY, dry_run=False)
    assert later.scan().collect().is_empty()
    assert_frame_equal(partials(later, HOUR), truth(whole, HOUR), rel_tol=1e-12)
    assert later.info().kinds["rollup"].rows == truth(whole, HOUR).height
    gone = later.retain(Retention.of("1d", ["1m=2d", "1h=100d"]), dry_run=False)
    assert gone.windows > 0
    assert later.info().files == 0
    assert later.verify().ok


def test_late_rows_repair_windows(aged: History) -> None:
    whole = aged.scan().collect()
    aged.retain(POLICY, dry_run=False)
    late = samples([("site/line1/tag1", T0 + 9 * DAY + i * 7 * 10**9 + 1, 1000.0 + i) for i in range(500)])
    late = pl.concat([late, samples([("new", T0 + 10 * DAY, 1.0), ("slow", T0 + 9 * DAY + 1, -1.0)])])
    aged.append(late)
    # Seen at once as samples, folded into the windows by the next round.
    assert aged.scan(end=NOW - 3 * DAY).collect().height == 502
    aged.retain(POLICY, dry_run=False)
    assert aged.scan(end=NOW - 3 * DAY).collect().is_empty()
    everything = pl.concat([whole, late.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")))])
    old = before(everything, NOW - 3 * DAY)
    assert_frame_equal(partials(aged, HOUR), truth(old, HOUR), rel_tol=1e-12)
    rows = aged.rolled(np.arange(len(aged.tags)), -(2**63), 2**63 - 1)
    keys = pl.DataFrame({"tag": rows.head["tag_id"], "start": rows.head["start_ns"] // DAY})
    assert keys.is_unique().all()  # repaired, not piled up


def test_without_tiers_old_samples_go(aged: History) -> None:
    whole = aged.scan().collect()
    aged.compact()
    done = aged.retain(Retention.of("3d"), dry_run=False)
    assert_frame_equal(aged.scan().collect(), whole.filter(pl.col("time").to_physical() >= NOW - 3 * DAY))
    assert (done.windows_made, aged.info().kinds["rollup"].files) == (0, 0)
    assert done.files_after < done.files_before
    assert aged.retain(Retention(), dry_run=False).steps == []


def test_late_rows_that_come_in_between_are_taken_along(aged: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that repeats an old (tag, time) is committed while the old one is being rolled up: it counts once."""
    other = History(aged.url)
    real, done = retain._Rolling.prove, []

    def prove(job, entries):
        real(job, entries)
        if not done:
            done.append(1)
            other.append(samples([("site/line0/tag0", T0 + 8 * DAY, 500.0)]))

    monkeypatch.setattr(retain._Rolling, "prove", prove)
    whole = aged.scan().collect()
    result = aged.retain(POLICY, dry_run=False)
    assert result.conflicts >= 1
    repeat = (pl.col("tag") == "site/line0/tag0") & (pl.col("time").to_physical() == T0 + 8 * DAY)
    changed = whole.with_columns(value=pl.when(repeat).then(500.0).otherwise(pl.col("value")))
    assert_frame_equal(partials(aged, HOUR), truth(before(changed, NOW - 3 * DAY), HOUR), rel_tol=1e-12)


def test_a_step_that_does_not_add_up_is_not_committed(aged: History, monkeypatch: pytest.MonkeyPatch) -> None:
    version = aged.log.refresh()
    monkeypatch.setattr(retain, "read_back_windows", lambda *_: 7)
    with pytest.raises(ChecksumError, match="does not add up and was not committed"):
        aged.retain(POLICY, dry_run=False)
    assert aged.log.refresh() == version


def test_a_damaged_window_is_found(aged: History) -> None:
    aged.retain(POLICY, dry_run=False)
    path = Path(aged.url) / next(p for p in aged.log.paths() if rollup.is_rollup(p))
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), max(1, len(content) // 40)):
        content[at] ^= 4
        path.write_bytes(bytes(content))
        [problem] = History(aged.url).verify().damaged
        assert path.name in problem
        content[at] ^= 4


def test_infinite_values_and_the_ends_of_time(tmp_path: Path) -> None:
    history = History(tmp_path, clock=ManualClock(NOW))
    rows = [
        ("a", t, v) for t, v in [(-(2**63) + 1, 1.0), (-5, float("inf")), (-4, float("-inf")), (-3, 2.0), (0, -0.0)]
    ]
    history.append(samples(rows))
    done = history.retain(POLICY, dry_run=False)
    assert done.samples == 5
    assert history.verify().ok
    found = partials(history, HOUR)
    assert found["good"].to_list() == [1, 3, 1]
    assert found["window"].to_list() == [-(2**63), -HOUR, 0]


@pytest.mark.parametrize(
    ("raw", "tiers", "message"),
    [
        (None, ["1m"], "how long samples are kept"),
        ("0s", [], "more than 0"),
        ("1d", ["7m"], "divides a day"),
        ("1d", ["1h", "1m"], "1m: a window divides a day and is a multiple"),
        ("1d", ["1m=1d"], "kept longer"),
        ("1d", ["1m", "1h"], "kept longer"),
        ("1d", ["1m=2d", "1h=2d"], "kept longer"),
        ("soon", [], "span 'soon'"),
        ("1d", ["1m=soon"], "span 'soon'"),
    ],
)
def test_a_wrong_policy_is_named(raw, tiers, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Retention.of(raw, tiers)


def test_steps_of_a_policy() -> None:
    minute = 60 * 10**9
    assert list(Retention.of("90m", ["1m"]).steps(100 * minute + 7)) == [Step(0, minute, 10 * minute)]
    assert list(Retention(DAY * 5).steps(9 * DAY + 1)) == [Step(0, 0, 4 * DAY)]
    assert Tier.of("1h=2d").keep == 2 * DAY
