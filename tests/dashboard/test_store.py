import math

import numpy as np

from iiot_dask.dashboard.store import CHOICES_MAX, POINTS_MAX, Store
from iiot_dask.dashboard.testing import example_snapshot


class Names:
    def __init__(self, names):
        self._names = names

    def names(self):
        return self._names

    def trend(self, tag, start_ns, end_ns, points):
        return np.empty(0, np.int64), np.empty(0)


def feed(store, snapshots, source):
    for snapshot in snapshots:
        source[0] = snapshot
        store.poll()


def test_the_ring_never_grows_and_readers_get_only_what_is_new():
    source = [None]
    store = Store(lambda: source[0], None)
    feed(store, (example_snapshot(time_ns=n + 1, samples_per_s=float(n)) for n in range(POINTS_MAX + 50)), source)
    seen, rows = store.since(-1)
    assert seen == POINTS_MAX + 50
    assert rows["rate"].tolist() == [float(n) for n in range(50, POINTS_MAX + 50)]
    feed(store, [example_snapshot(time_ns=10**9, samples_per_s=7.0)], source)
    seen, rows = store.since(seen)
    assert rows["rate"].tolist() == [7.0]
    assert store.since(seen)[1].size == 0


def test_an_old_or_missing_snapshot_is_not_taken_twice():
    snapshot = example_snapshot()
    store = Store(lambda: snapshot, None)
    assert store.poll()
    assert not store.poll()
    assert not Store(lambda: None, None).poll()


def test_no_forecast_is_a_gap_in_the_line():
    workers = example_snapshot().workers
    store = Store(lambda: example_snapshot(workers=type(workers)(now=1, wanted=1, forecast=None)), None)
    store.poll()
    assert math.isnan(store.since(0)[1]["forecast"][0])


def test_choices_by_text_and_by_glob_are_bounded():
    names = [f"site1/press{n}/temperature" for n in range(1000)]
    store = Store(lambda: None, Names([*names, "site1/pump/flow"]))
    assert store.choices("flow") == ["site1/pump/flow"]
    assert store.choices("site1/press99?/*") == names[990:1000]
    assert len(store.choices("")) == CHOICES_MAX
    assert Store(lambda: None, None).choices("") == []
