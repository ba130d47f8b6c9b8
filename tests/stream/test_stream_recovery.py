"""The rules after a failed epoch, as a table of what comes in and what is decided."""

from concurrent.futures import CancelledError

import pytest

from iiot_dask.core.errors import CapacityError, ChecksumError
from iiot_dask.stream import recovery as module
from iiot_dask.stream.recovery import Recovery
from iiot_dask.stream.work import ChainError


@pytest.mark.parametrize(
    "error",
    [
        OSError("x"),
        TimeoutError(),
        ConnectionError(),
        CancelledError(),
        CapacityError("x"),
        ChainError("x"),
        MemoryError(),
    ],
)
def test_surroundings_never_give_up_and_never_blame_a_record(error):
    recovery = Recovery(quarantine=True)
    verdicts = [recovery.failed(error, 5, 9, alone=5) for _ in range(1000)]
    assert not any(v.give_up or v.poison is not None for v in verdicts)
    assert not recovery.careful(5)
    assert [v.delay_ns for v in verdicts[:3]] == [10**8, 2 * 10**8, 4 * 10**8]
    assert max(v.delay_ns for v in verdicts) == module.DELAY_MAX_NS


def test_progress_resets_the_delay():
    recovery = Recovery(quarantine=True)
    for _ in range(5):
        recovery.failed(OSError(), 0, 1)
    recovery.flushed(1)
    assert recovery.failed(OSError(), 1, 2).delay_ns == module.DELAY_MIN_NS


def test_step_failures_at_different_places_are_not_looked_into():
    recovery = Recovery(quarantine=True)
    for first in range(10):
        recovery.failed(ValueError(), first, first + 5)
    assert not any(recovery.careful(offset) for offset in range(20))


def test_a_data_error_counts_as_one_of_the_step():
    recovery = Recovery(quarantine=True)
    for _ in range(2):
        recovery.failed(ChecksumError("x"), 3, 8)
    assert [recovery.careful(offset) for offset in (3, 7, 8)] == [True, True, False]


def test_skipped_records_are_forgotten_once_they_are_behind():
    recovery = Recovery(quarantine=True)
    for _ in range(3):
        verdict = recovery.failed(ValueError(), 6, 7, alone=6)
    assert verdict.poison == 6
    assert recovery.skipped == {6}
    recovery.flushed(6)
    assert recovery.skipped == {6}
    recovery.flushed(7)
    assert recovery.skipped == set()


def test_tries_belong_to_one_record():
    recovery = Recovery(quarantine=True)
    verdicts = [recovery.failed(ValueError(), o, o + 1, alone=o) for o in (6, 6, 7, 6, 6)]
    assert all(v.poison is None for v in verdicts)


def test_too_many_poisoned_records_are_the_programs_fault():
    recovery = Recovery(quarantine=True)
    poison = []
    for offset in range(200):
        for _ in range(3):
            verdict = recovery.failed(ValueError(), offset, offset + 1, alone=offset)
        if verdict.give_up:
            break
        poison.append(verdict.poison)
    assert poison == list(range(module.POISON_MAX))
    assert verdict.give_up


def test_without_quarantine_it_gives_up_after_a_while():
    recovery = Recovery(quarantine=False)
    verdicts = [recovery.failed(ValueError(), 3, 9) for _ in range(module.FAILURES_MAX + 1)]
    assert [v.give_up for v in verdicts] == [False] * module.FAILURES_MAX + [True]
