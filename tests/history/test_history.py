"""Writing and reading through the front door."""

from __future__ import annotations

import datetime as dt

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from history_frames import DAY, HOUR, T0, regular, samples
from polars.testing import assert_frame_equal

from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import ConfigError, SchemaError, VersionError
from iiot_dask.history import History, delta, layout
from iiot_dask.history.store import Store

UTC = dt.UTC


def test_an_empty_history_answers(history: History) -> None:
    assert history.scan().collect().is_empty()
    assert history.aggregate("1h").collect().is_empty()
    assert len(history.dask().compute()) == 0
    assert history.info().rows == 0
    assert history.verify().ok
    assert history.compact().merges == 0
    assert history.append(samples([])).rows == 0
    assert "0 samples" in history._repr_html_()


@pytest.mark.parametrize(
    "make",
    [
        lambda f: f,
        lambda f: f.lazy(),
        lambda f: f.to_pandas(),
        lambda f: f.to_arrow(),
        lambda f: f.with_columns(pl.col("tag").cast(pl.Categorical)),
        lambda f: f.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))),
        lambda f: f.with_columns(pl.col("time").dt.convert_time_zone("Europe/Berlin")),
        lambda f: f.with_columns(pl.col("value").cast(pl.Float32).cast(pl.Float64)),
        lambda f: f.with_columns(pl.lit(1).alias("seq"), pl.col("time").alias("received")),
    ],
    ids=["polars", "lazy", "pandas", "arrow", "categorical", "microseconds", "berlin", "float32", "more columns"],
)
def test_any_frame_goes_in(history: History, make) -> None:
    frame = regular(3, 20).with_columns(pl.col("value").round(0))
    assert history.append(make(frame)).stored == 60
    wanted = frame.sort("tag", "time", maintain_order=True)
    assert_frame_equal(history.scan().collect().drop("quality").sort("tag", "time"), wanted)


NOW = dt.datetime(2026, 1, 1, tzinfo=UTC)
GOOD = {"tag": ["a"], "time": [NOW], "value": [1.0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": None}, "no column 'tag'"),
        ({"value": None}, "no column 'value'"),
        ({"tag": [1]}, "'tag' is Int64"),
        ({"tag": [None]}, "'tag'"),
        ({"time": [NOW.replace(tzinfo=None)]}, "no time zone"),
        ({"time": ["2026"]}, "'time' is String"),
        ({"time": [1.0]}, "'time' is Float64"),
        ({"time": [None]}, "'time'"),
        ({"time": [dt.datetime(3000, 1, 1, tzinfo=UTC)]}, "2262-04-11"),
        ({"time": [dt.datetime(1000, 1, 1, tzinfo=UTC)]}, "1677-09-21"),
        ({"value": ["x"]}, "'value' is String"),
        ({"value": [[1.0]]}, "'value' is List"),
        ({"quality": [256]}, "quality"),
        ({"quality": [-1]}, "quality"),
        ({"quality": [0.5]}, "'quality' is Float64"),
    ],
)
def test_bad_columns_are_named_and_nothing_is_written(history: History, change, message: str) -> None:
    columns = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    with pytest.raises(SchemaError, match=message):
        history.append(pl.DataFrame(columns))
    assert history.log.refresh() == 0
    assert history.tags.names() == []


def test_something_else_is_no_frame(history: History) -> None:
    with pytest.raises(SchemaError, match="not dict"):
        history.append(GOOD)


@pytest.mark.parametrize("name", ["../x", "a\0b", "x" * 10_000, "a\x1bb", "", "/", "a//b"])
def test_a_hostile_tag_writes_nothing(history: History, name: str) -> None:
    with pytest.raises(ConfigError, match="tag"):
        history.append(samples([("fine", 1, 1.0), (name, 2, 2.0)]))
    assert history.scan().collect().is_empty()
    assert history.tags.names() == []


@pytest.mark.parametrize("name", ["*", "[a]", "day=1", "a/_b", "..a", "%2e%2e", "ü☃", "a\\b", "'; drop", "<b>"])
def test_a_strange_tag_is_only_a_name(history: History, tmp_path, name: str) -> None:
    import glob

    history.append(samples([(name, 1, 1.0), ("other", 1, 2.0)]))
    assert history.scan(glob.escape(name)).collect()["tag"].to_list() == [name]
    history.compact()
    assert history.scan(glob.escape(name)).collect()["tag"].to_list() == [name]
    assert all(name == "day=1" or name not in path.name for path in tmp_path.rglob("*"))


def test_every_quality_code_comes_back(history: History) -> None:
    rows = [("a", i, float(i), i) for i in range(256)] + [("b", i, float("nan"), 0) for i in range(3)]
    history.append(samples(rows))
    for _ in range(2):
        found = history.scan().collect()
        assert found["quality"].to_list() == [r[3] for r in rows]
        windows = history.aggregate("1s").collect()
        assert windows["count"].to_list() == [128]
        assert windows["max"].to_list() == [127.0]
        history.compact()


@pytest.mark.parametrize("time", [0, -1, 1, 2**63 - 1, -(2**63) + 1, -DAY, DAY - 1, 1_234_567_890_123_456_789])
def test_every_nanosecond_comes_back(history: History, time: int) -> None:
    history.append(samples([("a", time, 1.0)]))
    for _ in range(2):
        assert history.scan().collect()["time"].to_physical().to_list() == [time]
        assert history.dask().compute()["time"].astype("int64").tolist() == [time]
        history.compact()


def test_values_come_back_to_the_bit(history: History) -> None:
    bits = np.array(
        [0x7FF8000000000001, 0xFFF8DEADBEEF0000, 1, 1 << 63, 0x7FF0000000000000, 0xFFF0000000000000], np.uint64
    )
    history.append(samples([("a", i, v) for i, v in enumerate(bits.view(np.float64).tolist())]))
    frame = pl.DataFrame({"tag": ["b"] * 6, "time": range(6), "value": bits.view(np.float64)})
    history.append(frame)
    for _ in range(2):
        assert history.scan("b").collect()["value"].to_numpy().view(np.uint64).tolist() == bits.tolist()
        history.compact()


def test_the_last_write_wins_by_tag_and_time(history: History) -> None:
    history.append(samples([("a", 1, 1.0), ("a", 2, 2.0), ("b", 1, 3.0), ("a", 1, 4.0)]))
    history.append(samples([("b", 1, float("nan"), 128), ("a", 0, 5.0)]))
    for _ in range(2):
        found = history.scan().collect()
        assert found["value"].fill_nan(None).to_list() == [5.0, 4.0, 2.0, None]
        assert found["quality"].to_list() == [0, 0, 0, 128]
        assert history.aggregate("1s").collect()["sum"].to_list() == [11.0]
        history.compact()


def test_a_clock_set_back_does_not_undo_a_write(tmp_path) -> None:
    clock = ManualClock(10**18)
    history = History(tmp_path, clock=clock)
    history.append(samples([("a", 1, 1.0)]))
    clock.jump(-1000)
    history.append(samples([("a", 1, 2.0)]))
    History(tmp_path, clock=ManualClock(5)).append(samples([("a", 1, 3.0)]))
    assert history.scan().collect()["value"].to_list() == [3.0]


def test_time_travel(history: History) -> None:
    first = history.append(samples([("a", 1, 1.0)])).version
    history.append(samples([("a", 1, 2.0), ("b", 1, 2.0)]))
    history.compact()
    old = History(history.url, version=first)
    assert old.scan().collect()["value"].to_list() == [1.0]
    with pytest.raises(ConfigError, match="opened at version"):
        old.append(samples([("a", 1, 3.0)]))


def test_limits_in_every_form(history: History) -> None:
    history.append(regular(2, 60))
    start, end = T0 + 10 * 10**9, T0 + 20 * 10**9
    forms = [
        (start, end),
        (dt.datetime.fromtimestamp(start / 1e9, UTC), dt.datetime.fromtimestamp(end / 1e9, UTC)),
        (
            dt.datetime.fromtimestamp(start / 1e9, UTC).isoformat(),
            dt.datetime.fromtimestamp(end / 1e9, UTC).isoformat(),
        ),
    ]
    for a, b in forms:
        assert history.scan("*", a, b).collect().height == 20
        assert len(history.dask("*", a, b).compute()) == 20
        assert history.aggregate("1h", "*", a, b).collect()["count"].sum() == 20
    assert history.scan(end=start).collect().height == 20
    assert history.scan(start=end, end=start).collect().is_empty()
    with pytest.raises(ConfigError, match="soon"):
        history.scan(start="soon")
    with pytest.raises(ConfigError, match="above 0"):
        history.aggregate("0s")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("compacted", [False, True])
def test_pushed_down_filters_change_nothing_but_the_work(history: History, monkeypatch, compacted: bool) -> None:
    for part in range(6):
        history.append(regular(5, 20, start=T0 + part * HOUR, seed=part))
    if compacted:
        history.compact()
    whole = history.scan().collect()
    opened: list[str] = []
    from iiot_dask.history import place, read

    real = read.read_groups
    for module in (place, read):
        monkeypatch.setattr(
            module,
            "read_groups",
            lambda store, path, metadata, groups, columns: (
                opened.extend([path] * len(groups)) or real(store, path, metadata, groups, columns)
            ),
        )
    time, tag, value = pl.col("time"), pl.col("tag"), pl.col("value")
    hour = pl.lit(T0 + 3 * HOUR).cast(pl.Datetime("ns", "UTC"))
    cases = {
        "tag": (tag == "site/line1/tag1", False),
        "tags": (tag.is_in(["site/line1/tag1", "none"]), False),
        "prefix": (tag.str.starts_with("site/line1"), False),
        "not": (~(tag == "site/line1/tag1"), False),
        "after": (time >= hour, True),
        "strictly": (time > hour, True),
        "flipped": (hour <= time, True),
        "equal": (time == hour, True),
        "between": (time.is_between(hour, pl.lit(T0 + 4 * HOUR).cast(pl.Datetime("ns", "UTC"))), True),
        "both": ((time < hour) & (tag == "site/line1/tag1") & (value > 20), True),
        "or": ((time < hour) | (value > 21), False),
        "value": (value > 20.5, False),
        "python": (value.map_batches(lambda s: s.cos() > 0, return_dtype=pl.Boolean), False),
        "datetime": (time >= dt.datetime(2026, 9, 21, 12, tzinfo=UTC), False),
        "mixed": (pl.when(tag == "site/line1/tag1").then(value).otherwise(0) > 19, False),
    }
    for name, (predicate, prunes) in cases.items():
        opened.clear()
        assert_frame_equal(history.scan().filter(predicate).collect(), whole.filter(predicate))
        used = len(opened)
        opened.clear()
        history.scan().collect()
        assert used < len(opened) or not prunes, name
    assert_frame_equal(history.scan().select("value").collect(), whole.select("value"))
    assert_frame_equal(
        history.scan().select("quality", "tag").head(7).collect(), whole.select("quality", "tag").head(7)
    )
    assert_frame_equal(history.scan().filter(value > 20).head(3).collect(), whole.filter(value > 20).head(3))
    assert history.scan().select(pl.len()).collect().item() == whole.height
    grouped = history.scan().group_by("tag").agg(pl.len()).collect(engine="streaming").sort("tag")
    assert_frame_equal(grouped, whole.group_by("tag").agg(pl.len()).sort("tag"))
    windows = history.aggregate("10m")
    assert_frame_equal(
        windows.filter((tag == "site/line2/tag2") & (time >= hour)).collect(),
        windows.collect().filter((tag == "site/line2/tag2") & (time >= hour)),
    )


def test_a_scan_sees_what_is_committed_when_it_is_collected(history: History) -> None:
    lazy = history.scan("a*")
    assert lazy.collect().is_empty()
    History(history.url).append(samples([("a1", 1, 1.0)]))
    assert lazy.collect().height == 1


@pytest.mark.usefixtures("small")
def test_dask_has_known_divisions_by_time(history: History) -> None:
    history.append(regular(3, 100))
    history.append(regular(3, 50, start=T0 + 20 * 10**9, seed=2))
    wanted = history.scan().collect()
    plain = history.dask(partition_rows=40)
    assert plain.npartitions > 3
    found = plain.compute()
    assert list(found.columns) == ["tag", "time", "value", "quality"]
    assert str(found["time"].dtype) == "datetime64[ns, UTC]"
    assert_frame_equal(pl.DataFrame(found).sort("tag", "time").cast({"tag": pl.String}), wanted.sort("tag", "time"))
    indexed = history.dask(index="time", partition_rows=40)
    assert indexed.known_divisions
    assert indexed.compute().index.is_monotonic_increasing
    cut = indexed.loc[pd.Timestamp(T0 + 10 * 10**9, tz="UTC") : pd.Timestamp(T0 + 19 * 10**9, tz="UTC")]
    assert len(cut.compute()) == 30
    assert cut.npartitions < indexed.npartitions
    assert indexed["value"].sum().compute() == pytest.approx(wanted["value"].sum())
    with pytest.raises(ConfigError, match="index 'tag'"):
        history.dask(index="tag")


@pytest.mark.usefixtures("small")
def test_a_dask_frame_reads_one_version(history: History) -> None:
    history.append(regular(2, 30))
    frame = history.dask(partition_rows=10)
    history.append(regular(2, 30, start=T0 + HOUR))
    history.compact()
    assert len(frame.compute()) == 60


def test_other_readers_see_the_statistics(history: History) -> None:
    frame = regular(4, 3 * 3600)
    history.append(frame)
    history.append(regular(4, 3 * 3600, start=T0 + 3 * HOUR, seed=3))
    for compacted in (False, True):
        if compacted:
            history.compact()
        scanned = history.scan().collect()
        table = DeltaTable(history.url)
        files = [uri.removeprefix("file://") for uri in table.file_uris()]
        count, good, low, high, total = duckdb.sql(
            "select sum(count), sum(good), min(min), max(max), sum(sum) from read_parquet($files)",
            params={"files": files},
        ).fetchall()[0]
        windows = history.aggregate("1h").collect()
        frame = history.dask().compute()
        assert count == good == scanned.height == windows["count"].sum() == len(frame)
        assert low == scanned["value"].min() == windows["min"].min() == frame["value"].min()
        assert high == scanned["value"].max() == windows["max"].max() == frame["value"].max()
        for other in (scanned["value"].sum(), windows["sum"].sum(), frame["value"].sum()):
            assert other == pytest.approx(total, rel=1e-12)
    kinds = duckdb.sql(
        "select kind, tag, count(*) from read_parquet($files) group by all", params={"files": files}
    ).fetchall()
    assert {k[0] for k in kinds} == {"chunk"}
    assert {k[1] for k in kinds} == set(scanned["tag"].unique())
    frame = pl.DataFrame(pa.table(table.get_add_actions(flatten=True)))
    assert frame["partition.day"].to_list() == [dt.datetime.fromtimestamp(T0 / 1e9, UTC).date()]


def test_a_newer_history_is_refused_in_one_sentence(tmp_path) -> None:
    delta.Log(Store(tmp_path), layout.TABLE_NAME, layout.FORMAT + 1, layout.TABLE, ("day", "shard"))
    with pytest.raises(VersionError, match=f"format {layout.FORMAT + 1}; this program reads up to {layout.FORMAT}"):
        History(tmp_path)


def test_a_newer_row_is_refused(history: History, monkeypatch) -> None:
    monkeypatch.setattr(layout, "ROW_FORMAT", 2)
    history.append(samples([("a", 1, 1.0)]))
    monkeypatch.setattr(layout, "ROW_FORMAT", 1)
    with pytest.raises(VersionError, match="format 2"):
        history.scan().collect()


def test_a_place_that_can_not_be_is_a_sentence(tmp_path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(ConfigError, match="file"):
        History(file / "history")


def test_info_counts(history: History) -> None:
    history.append(regular(5, 4000))
    hot = history.info()
    assert (hot.rows, hot.tags) == (20_000, 5)
    assert hot.kinds["block"].rows == 20_000
    assert hot.start == dt.datetime.fromtimestamp(T0 / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    history.compact()
    sealed = history.info()
    assert sealed.kinds["chunk"].rows == 20_000
    assert sealed.bytes == sum(f.size for f in history.store.list() if f.path in history.log.paths())
    assert sealed.ratio == pytest.approx(16 / sealed.bytes_per_sample)
    assert sealed.ratio > 4
    assert sealed.document()["kinds"]["chunk"]["files"] == sealed.files
    assert "20,000 samples of 5 tags" in sealed._repr_html_()


@pytest.mark.usefixtures("small")
def test_export_is_plain_parquet(history: History, tmp_path) -> None:
    history.append(regular(5, 50))
    seen: list[tuple[int, int]] = []
    done = history.export(tmp_path / "out", progress=lambda a, b: seen.append((a, b)))
    wanted = history.scan().collect()
    assert_frame_equal(pl.read_parquet(tmp_path / "out" / "*.parquet"), wanted)
    assert (done.rows, seen[-1]) == (250, (250, 250))
    assert duckdb.sql(f"select count(*), min(tag) from '{tmp_path}/out/*.parquet'").fetchall() == [
        (250, "site/line0/tag0")
    ]
    with pytest.raises(ConfigError, match="not empty"):
        history.export(tmp_path / "out")
    part = history.export(tmp_path / "part", "*tag1", start=T0, end=T0 + 10 * 10**9)
    assert part.rows == 10
    assert history.export(tmp_path / "none", "nothing").files == []


def test_a_wild_clock_does_not_make_a_file_a_day(history: History) -> None:
    rng = np.random.default_rng(0)
    times = rng.integers(-(2**62), 2**62, 1000)
    receipt = history.append(samples([("a", int(t), 1.0) for t in times]))
    assert receipt.files <= layout.DAYS_MAX + 1
    assert history.compact().files_after <= layout.DAYS_MAX + 1
    assert history.scan().collect()["time"].to_physical().to_list() == sorted(times.tolist())
