"""Counters, gauges and histograms: right under threads, bounded in number, quantiles within their promise."""

import threading

import numpy as np
import pytest

from iiot_dask.core import metrics as module
from iiot_dask.core.metrics import Histogram, Metrics


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_6_percent(seed, q):
    values = np.random.default_rng(seed).lognormal(-6, 2, 5000)
    h = Histogram()
    h.observe(values)
    exact = np.sort(values)[max(1, int(np.ceil(q * len(values)))) - 1]
    assert h.quantile(q) == pytest.approx(exact, rel=0.06)
    assert h.count == 5000
    assert h.max_s == values.max()
    assert h.sum_s == pytest.approx(values.sum())


def test_values_out_of_range_go_to_the_ends():
    h = Histogram()
    h.observe(np.array([-5.0, 0.0, 1e-12, 1e9]))
    assert h.count == 4
    assert h.counts[0] == 3
    assert h.counts[-1] == 1
    h.observe(np.array([]))
    h.observe(2.0)
    assert h.count == 5


def test_empty_histogram_has_no_quantile():
    assert np.isnan(Histogram().quantile(0.5))


def test_counters_add_up_under_threads():
    m = Metrics()

    def work():
        for _ in range(2000):
            m.count("n_total", adapter="a")
            m.histogram("t").observe(np.array([0.1, 0.2]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert m.value("n_total", adapter="a") == 8000
    assert m.histogram("t").count == 16_000


def test_labels_tell_series_apart_in_any_order():
    m = Metrics()
    m.count("x_total", 2, a="1", b="2")
    m.count("x_total", 3, b="2", a="1")
    m.count("x_total", 5, a="9", b="2")
    assert m.value("x_total", a="1", b="2") == 5
    assert m.total("x_total") == 10
    assert m.value("x_total") == 0


def test_gauges_are_set_not_added():
    m = Metrics()
    m.gauge("g", 5)
    m.gauge("g", 3)
    assert m.value("g") == 3


def test_the_number_of_series_is_bounded_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(module, "SERIES_MAX", 3)
    m = Metrics()
    for i in range(10):
        m.count("x_total", tag=str(i))
        m.histogram("h", tag=str(i)).observe(1.0)
    assert m.value("metrics_series_dropped_total") == 7
    assert m.total("x_total") == 3
    rows = m.snapshot()
    assert len([r for r in rows if r["name"] == "h"]) == 3
    m.count("x_total", tag="0")
    assert m.value("x_total", tag="0") == 2


def test_snapshot_is_plain_data():
    m = Metrics()
    m.count("b_total", 2, k="v")
    m.gauge("a", 1.5)
    m.histogram("h", k="v").observe(np.full(10, 0.01))
    rows = m.snapshot()
    assert rows[:2] == [
        {"name": "a", "labels": {}, "value": 1.5},
        {"name": "b_total", "labels": {"k": "v"}, "value": 2.0},
    ]
    assert rows[2]["count"] == 10
    assert rows[2]["p50"] == pytest.approx(0.01, rel=0.06)
    assert rows[2]["max"] == 0.01
