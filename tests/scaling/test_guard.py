"""Limits, boots that fail, and patience that grows."""

import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.scaling.guard import Guard

S = 1_000_000_000


def guard(**more):
    return Guard(**({"minimum": 1, "maximum": 10, "boot_s_max": 60.0, "cool_down_s": 30.0} | more))


@pytest.mark.parametrize(("wanted", "asked"), [(-3, 1), (0, 1), (1, 1), (7, 7), (10, 10), (99, 10)])
def test_limits(wanted, asked):
    assert guard().allow(wanted, now_ns=0, ready=1, booting=0) == asked


def test_slow_workers_that_come_one_by_one_are_no_failure():
    g = guard()
    for i in range(5):
        assert g.allow(6, now_ns=i * 50 * S, ready=1 + i, booting=5 - i) == 6
    assert g.failures_total == 0


def test_patience_grows_with_failures_in_a_row():
    g = guard()
    now, pauses = 0, []
    g.allow(5, now_ns=0, ready=1, booting=0)
    for _ in range(6):
        while g.allow(5, now_ns=now * S, ready=1, booting=4) == 5:
            now += 1
        failed = now
        while g.allow(5, now_ns=now * S, ready=1, booting=0) == 1:
            now += 1
        pauses.append(now - failed)
    assert pauses == [30, 60, 120, 240, 480, 480]
    assert g.failures == g.failures_total == 6
    g.allow(5, now_ns=now * S, ready=2, booting=3)
    assert g.failures == 0


def test_the_minimum_is_asked_for_even_while_cooling_down():
    g = guard(minimum=2)
    g.allow(5, now_ns=0, ready=0, booting=5)
    assert g.allow(5, now_ns=61 * S, ready=0, booting=5) == 2


@pytest.mark.parametrize("wrong", [{"minimum": 11}, {"boot_s_max": 0}, {"cool_down_s": -1}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ConfigError):
        guard(**wrong)
