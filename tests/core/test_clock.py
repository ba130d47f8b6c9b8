import time

import pytest

from iiot_dask.core.clock import ManualClock, SystemClock


def test_system_clock_is_the_machines():
    clock = SystemClock()
    before = time.time_ns()
    assert before <= clock.now_ns() <= time.time_ns()
    first = clock.monotonic_ns()
    assert clock.monotonic_ns() >= first


def test_manual_clock_moves_when_told():
    clock = ManualClock(100)
    assert (clock.now_ns(), clock.monotonic_ns()) == (100, 0)
    clock.advance(1.5)
    assert (clock.now_ns(), clock.monotonic_ns()) == (1_500_000_100, 1_500_000_000)


def test_a_jump_moves_the_wall_only():
    clock = ManualClock()
    clock.jump(-3600)
    assert (clock.now_ns(), clock.monotonic_ns()) == (-3_600_000_000_000, 0)


def test_steady_time_does_not_go_back():
    with pytest.raises(ValueError, match="0 s or more, not -1"):
        ManualClock().advance(-1)
