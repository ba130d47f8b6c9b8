"""Windows against a naive twin: every sample is in exactly one entry, whole or late."""

import math
import pickle

import numpy as np
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import SchemaError
from iiot_dask.stream.window import OUT_DTYPE, WINDOW_DTYPE, Windows


class NaiveWindows:
    """The same with dicts: one open window a tag."""

    def __init__(self, every, lateness, ahead):
        self.every, self.lateness, self.ahead = every, lateness, ahead
        self.open, self.swept = {}, 0

    @staticmethod
    def entry(tag, late, window, rows):
        times, values = [t for t, _ in rows], [v for _, v in rows]
        first, last = min(times), max(times)
        return {
            "tag": tag, "late": late, "window_ns": window, "first_ns": first, "last_ns": last, "count": len(rows),
            "min": min(values), "max": max(values), "sum": sum(values),
            # Of equal times the first counts as first, the last as last.
            "first": next(v for t, v in rows if t == first), "last": [v for t, v in rows if t == last][-1],
        }  # fmt: skip

    def update(self, rows, now):
        out, previous = [], None
        for tag, time, value, quality in rows:
            if quality >= 128 or math.isnan(value):
                continue
            window = time // self.every * self.every
            have = self.open.get(tag)
            if have and have[0] == window:
                have[1].append((time, value))
            elif (have is None or have[0] < window) and time < now + self.ahead:
                if have:
                    out.append((tag, False, *have))
                    previous = None
                self.open[tag] = (window, [(time, value)])
            elif previous == (tag, window):
                out[-1][3].append((time, value))
            else:
                out.append((tag, True, window, [(time, value)]))
                previous = (tag, window)
        if now - self.swept >= self.every:
            self.swept = now
            over = [tag for tag in sorted(self.open) if self.open[tag][0] + self.every + self.lateness <= now]
            out.extend((tag, False, *self.open.pop(tag)) for tag in over)
        return [self.entry(*item) for item in out]


def rows_of(rng, count, shard, shards, now, every):
    tag = rng.integers(0, 6, count) * shards + shard
    kind = rng.random(count)
    time = now - rng.integers(0, every, count)
    time = np.where(kind < 0.15, now - rng.integers(0, 6 * every, count), time)
    time = np.where(kind > 0.97, now + rng.integers(0, 40 * every, count), time)
    # Whole numbers, so that sums do not depend on the order of addition.
    value = np.where(rng.random(count) < 0.05, np.nan, rng.integers(-50, 50, count).astype(float))
    return tag, time, value, rng.choice([0, 64, 127, 128, 255], count, p=[0.8, 0.05, 0.05, 0.05, 0.05])


@pytest.mark.parametrize("seed", range(40))
def test_same_as_the_naive_twin(seed):
    rng = np.random.default_rng(seed)
    shards = int(rng.integers(1, 4))
    shard = int(rng.integers(0, shards))
    every, lateness, ahead = int(rng.integers(5, 40)), int(rng.integers(0, 30)), int(rng.integers(1, 100))
    windows = Windows(shard, shards, every, lateness, ahead)
    twin = NaiveWindows(every, lateness, ahead)
    now, put, counted, total = 1000, 0, 0, 0.0
    for step in range(30):
        now += int(rng.integers(0, 2 * every))
        count = int(rng.integers(0, 60))
        tag, time, value, quality = rows_of(rng, count, shard, shards, now, every)
        batch = Batch.of(tag=tag, time=time, value=value, quality=quality, received=[now] * count)
        got = windows.update(batch, now)
        want = twin.update(zip(tag.tolist(), time.tolist(), value.tolist(), quality.tolist(), strict=True), now)
        assert [dict(zip(OUT_DTYPE.names, row, strict=True)) for row in got.tolist()] == want
        used = (quality < 128) & ~np.isnan(value)
        put += int(used.sum())
        counted += int(got["count"].sum())
        total += float(value[used].sum()) - float(got["sum"].sum())
        if step == 15:
            windows = pickle.loads(pickle.dumps(windows))
    left = windows.update(Batch.empty(), now + 10**6 * every)
    twin.update([], now + 10**6 * every)
    assert counted + left["count"].sum() == put
    assert total == pytest.approx(left["sum"].sum())
    assert not twin.open


def test_a_row_of_the_far_future_does_not_spoil_the_tag():
    windows = Windows(0, 1, every_ns=10, lateness_ns=0, ahead_ns=20)
    times = [100, 101, 9_999_999, 102, 111]
    batch = Batch.of(tag=[0] * 5, time=times, value=[1.0, 2.0, 50.0, 3.0, 4.0], received=[0] * 5)
    out = windows.update(batch, 105)
    assert out[["window_ns", "late", "count", "sum"]].tolist() == [(9_999_990, True, 1, 50.0), (100, False, 3, 6.0)]


def test_a_dump_of_late_rows_is_one_entry_a_window():
    windows = Windows(0, 1, every_ns=100, lateness_ns=0)
    windows.update(Batch.of(tag=[0], time=[1000], value=[1.0], received=[0]), 1000)
    times = list(range(500, 700))
    out = windows.update(Batch.of(tag=[0] * 200, time=times, value=[1.0] * 200, received=[0] * 200), 1001)
    assert out[["window_ns", "late", "count"]].tolist() == [(500, True, 100), (600, True, 100)]


def test_negative_times_fall_into_the_window_below():
    windows = Windows(0, 1, every_ns=10, lateness_ns=0)
    out = windows.update(Batch.of(tag=[0, 0], time=[-1, -10], value=[1.0, 2.0], received=[0, 0]), 1000)
    assert out[["window_ns", "count"]].tolist() == [(-10, 2)]


def test_quiet_tags_close_after_their_lateness_and_only_then():
    windows = Windows(1, 2, every_ns=10, lateness_ns=5)
    windows.update(Batch.of(tag=[3], time=[12], value=[1.0], received=[0]), 12)
    assert len(windows.update(Batch.empty(), 24)) == 0
    out = windows.update(Batch.empty(), 36)
    assert out[["tag", "window_ns", "late"]].tolist() == [(3, 10, False)]
    assert len(windows.update(Batch.empty(), 60)) == 0


def test_nothing_before_the_first_row():
    windows = Windows(0, 1, 10, 0)
    assert windows.update(Batch.empty(), 100).dtype == OUT_DTYPE
    assert len(windows.to_array()) == 0


def test_state_goes_through_an_array():
    windows = Windows(0, 1, 10, 0)
    windows.update(Batch.of(tag=[0, 200], time=[1, 2], value=[1.0, 2.0], received=[0, 0]), 3)
    again = Windows(0, 1, 10, 0)
    again.from_array(windows.to_array())
    again.swept_ns = windows.swept_ns
    # A copy: what one does the other does not see.
    row = Batch.of(tag=[200], time=[15], value=[9.0], received=[0])
    assert again.update(row, 15).tolist() == windows.update(row, 15).tolist()
    with pytest.raises(SchemaError, match="window state has dtype float64"):
        again.from_array(np.zeros(3))
    again.from_array(np.empty(0, WINDOW_DTYPE))
    assert again.state is None
