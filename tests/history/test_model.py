"""Any sequence of writes, crashes and maintenance: every way of reading gives what a dict gives."""

from __future__ import annotations

import glob
import shutil
import tempfile

import numpy as np
import polars as pl
import pytest
from history_oracle import Oracle
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from polars.testing import assert_frame_equal

from iiot_dask.core.batch import Batch
from iiot_dask.core.clock import ManualClock
from iiot_dask.history import History, write_block

NAMES = ["a", "b/c", "b/d", "../x", "*[?]", "ünï/☃"]
LEGAL = [name for name in NAMES if name != "../x"]
DAY = 86_400 * 10**9
SPECIAL = [0, -1, 1, DAY - 1, DAY, -DAY, 3 * DAY, 2**62, -(2**62), 2**63 - 1, 1_700_000_000 * 10**9]

times = st.one_of(
    st.sampled_from(SPECIAL),
    st.integers(0, 40).map(lambda i: i * 10**9),
    st.integers(-5, 5).map(lambda i: i * 3_600 * 10**9),
    st.integers(-(2**63) + 1, 2**63 - 1),
)
values = st.one_of(st.floats(), st.integers(-5, 5).map(float), st.just(-0.0))
rows = st.lists(
    st.tuples(st.sampled_from(LEGAL), times, values, st.sampled_from([0, 0, 0, 0, 64, 127, 128, 255])), max_size=60
)
dense = st.tuples(
    st.sampled_from(LEGAL),
    st.integers(-30, 60),
    st.integers(1, 40),
    st.sampled_from([10**9, 60 * 10**9, 3_600 * 10**9]),
).map(lambda a: [(a[0], (a[1] + i) * a[3], float(i % 7), 0) for i in range(a[2])])


def frame_of(given_rows) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "tag": [r[0] for r in given_rows],
            "time": pl.Series([r[1] for r in given_rows], dtype=pl.Int64),
            "value": pl.Series([r[2] for r in given_rows], dtype=pl.Float64),
            "quality": pl.Series([r[3] for r in given_rows], dtype=pl.UInt8),
        },
        schema={"tag": pl.String, "time": pl.Int64, "value": pl.Float64, "quality": pl.UInt8},
    )


def bits(frame: pl.DataFrame) -> pl.DataFrame:
    """Values by their bits: NaN payloads and the sign of zero count."""
    value = pl.Series("value", frame["value"].to_numpy().copy().view(np.uint64))
    return frame.with_columns(value)


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.clock = ManualClock(1_800_000_000 * 10**9)
        self.oracle = Oracle()
        self.written = 0
        self.open()

    def open(self) -> None:
        self.history = History(self.folder, clock=self.clock)

    @rule(given_rows=st.one_of(rows, dense))
    def append(self, given_rows) -> None:
        receipt = self.history.append(frame_of(given_rows))
        self.oracle.append(given_rows)
        assert receipt.rows == len(given_rows)
        assert receipt.stored == len({r[:2] for r in given_rows})

    @rule(given_rows=dense)
    def stream(self, given_rows) -> None:
        """A worker writes, the same work is done twice, one commit names it."""
        ids = self.history.tags.ensure([r[0] for r in given_rows])
        order = self.history.next_order()
        batch = Batch.of(
            tag=ids, time=[r[1] for r in given_rows], value=[r[2] for r in given_rows],
            quality=[r[3] for r in given_rows], received=[order] * len(given_rows),
        )  # fmt: skip
        self.written += 1
        first = write_block(self.folder, batch, f"s-{self.written}")
        again = write_block(self.folder, batch, f"s-{self.written}")
        assert first == again
        self.history.add(again)
        self.oracle.append(given_rows)

    @rule(given_rows=dense)
    def crash(self, given_rows) -> None:
        """Files are written and never committed."""
        ids = self.history.tags.ensure([r[0] for r in given_rows])
        self.oracle.order += [n for n in dict.fromkeys(r[0] for r in given_rows) if n not in self.oracle.order]
        n = len(given_rows)
        batch = Batch.of(tag=ids, time=[r[1] for r in given_rows], value=[9e9] * n, received=[2**62] * n)
        self.written += 1
        write_block(self.folder, batch, f"lost-{self.written}")

    @rule()
    def compact(self) -> None:
        self.clock.advance(10)
        before = self.history.info().rows
        done = self.history.compact()
        assert done.rows_after == before - done.duplicates == self.history.info().rows

    @rule()
    def vacuum(self) -> None:
        self.history.vacuum("0s", dry_run=False)

    @rule()
    def reopen(self) -> None:
        self.open()

    @rule(tags=st.sets(st.sampled_from(LEGAL)), limits=st.tuples(times, times))
    def part(self, tags, limits) -> None:
        start, end = sorted(limits)
        globs = [glob.escape(name) for name in tags]
        wanted = self.oracle.scan(tags, start, end)
        assert_frame_equal(bits(self.history.scan(globs, start, end).collect()), bits(wanted))
        time = pl.col("time").is_between(
            pl.lit(start).cast(pl.Datetime("ns", "UTC")), pl.lit(end).cast(pl.Datetime("ns", "UTC")), "left"
        )
        filtered = self.history.scan().filter(time & pl.col("tag").is_in(list(tags))).collect()
        assert_frame_equal(bits(filtered), bits(wanted))

    @rule(every=st.sampled_from([10**9, 60 * 10**9, 3_600 * 10**9, DAY, 7]), limits=st.tuples(times, times))
    def windows(self, every, limits) -> None:
        start, end = sorted(limits)
        found = self.history.aggregate(f"{every}ns", start=start, end=end).collect()
        compare_windows(found, self.oracle.aggregate(every, None, start, end))

    @rule()
    def dask(self) -> None:
        found = self.history.dask(partition_rows=50).compute(scheduler="synchronous")
        wanted = self.oracle.scan().sort("tag", "time")
        found = found.sort_values(["tag", "time"])
        assert found["tag"].tolist() == wanted["tag"].to_list()
        assert found["time"].astype("int64").tolist() == wanted["time"].to_physical().to_list()
        assert found["value"].to_numpy().view(np.uint64).tolist() == wanted["value"].to_numpy().view(np.uint64).tolist()
        assert found["quality"].tolist() == wanted["quality"].to_list()

    @invariant()
    def whole(self) -> None:
        assert_frame_equal(bits(self.history.scan().collect()), bits(self.oracle.scan()))

    def teardown(self) -> None:
        assert self.history.verify().ok
        shutil.rmtree(self.folder)


def compare_windows(found: pl.DataFrame, wanted: pl.DataFrame) -> None:
    exact = ["tag", "time", "count", "min", "max", "first", "last"]
    assert_frame_equal(found.select(exact), wanted.select(exact))
    # Sums depend on the order of additions; with magnitudes 1e300 apart they may differ by all of the smaller ones.
    scale = np.abs(
        np.nan_to_num(np.concatenate([wanted["min"].to_numpy(), wanted["max"].to_numpy()]), posinf=0, neginf=0)
    )
    limit = max(1e-9, float(scale.max(initial=0)) * 1e-9)
    for name in ("sum", "mean"):
        a, b = found[name].to_numpy(), wanted[name].to_numpy()
        finite = np.isfinite(b) & (scale.max(initial=0) < 1e300)
        assert np.allclose(a[finite], b[finite], rtol=1e-9, atol=limit)


@pytest.mark.usefixtures("small")
def test_any_sequence_of_events_reads_as_a_dict() -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=25,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_any_long_sequence_of_events_reads_as_a_dict() -> None:
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
