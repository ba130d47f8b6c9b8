"""Rows from columns: what is kept, what is repeated, what is replaced."""

import numpy as np
from iiot_dask_adapters.opcua.kernels import INEXACT, NULL, NUMBER, OTHER
from iiot_dask_adapters.opcua.notification import Columns
from iiot_dask_adapters.opcua.rows import WAITING, Book, qualities

from iiot_dask.core.quality import Quality

NOW = 10**18


def columns(*items):
    """(handle, kind, value, status, source, server) each."""
    types = (np.uint32, np.uint8, np.float64, np.uint32, np.int64, np.int64)
    return Columns(*(np.array([item[i] for item in items], kind) for i, kind in enumerate(types)))


def book(tags=4):
    out = Book()
    out.grow(tags)
    return out


def test_order_is_kept_and_unknown_handles_are_left_out():
    got = book().rows(columns((1, NUMBER, 1.0, 0, 10, 0), (9, NUMBER, 2.0, 0, 11, 0), (0, NUMBER, 3.0, 0, 5, 0)), NOW)
    assert (got.tag.tolist(), got.time.tolist(), got.value.tolist()) == ([1, 0], [10, 5], [1.0, 3.0])


def test_qualities():
    kinds = [
        (0, NUMBER, 1.0, 0, 1, 0), (0, NULL, np.nan, 0, 1, 0), (0, NUMBER, np.nan, 0, 1, 0), (0, INEXACT, np.nan, 0, 1, 0),
        (0, NUMBER, np.inf, 0, 1, 0), (0, NULL, np.nan, 0x80340000, 1, 0), (0, NUMBER, 1.0, 0x40900480, 1, 0),
    ]  # fmt: skip
    assert qualities(columns(*kinds)).tolist() == [
        Quality.GOOD, Quality.BAD_NO_VALUE, Quality.BAD_NO_VALUE, Quality.BAD_RANGE, Quality.BAD_RANGE,
        Quality.BAD_NODE_UNKNOWN, Quality.UNCERTAIN_LAST_USABLE,
    ]  # fmt: skip
    assert qualities(columns()).tolist() == []


def test_missing_source_time():
    got = book().rows(
        columns((0, NUMBER, 1.0, 0, 0, 77), (1, NUMBER, 1.0, 0, 0, 0), (2, NULL, 0.0, WAITING, 0, 0)), NOW
    )
    assert got.time.tolist() == [77, NOW, NOW]
    assert got.quality.tolist() == [
        Quality.UNCERTAIN_TIME_REPLACED,
        Quality.UNCERTAIN_TIME_REPLACED,
        Quality.BAD_WAITING,
    ]


def test_the_first_value_again_is_no_row_but_a_changed_one_is():
    here = book()
    here.subscribe(np.arange(4), NOW)
    first = columns((0, NUMBER, 1.0, 0, 10, 0), (1, NUMBER, 2.0, 0, 20, 0), (0, NUMBER, 1.5, 0, 11, 0))
    assert here.rows(first, NOW).time.tolist() == [10, 20, 11]
    here.subscribe(np.arange(4), NOW)
    again = columns((0, NUMBER, 1.5, 0, 11, 0), (1, NUMBER, 3.0, 0, 25, 0), (0, NUMBER, 1.5, 0, 11, 0))
    # Only the first one of a tag is the server's current value; a later equal one is the server's own doing.
    assert here.rows(again, NOW).time.tolist() == [25, 11]
    here.subscribe(np.arange(4), NOW)
    worse = columns((0, NULL, np.nan, 0x808B0000, 11, 0), (1, NULL, np.nan, 0x808A0000, 0, 0))
    assert here.rows(worse, NOW).quality.tolist() == [Quality.BAD_DEVICE_FAILURE, Quality.BAD_NOT_CONNECTED]


def test_a_first_value_that_says_nothing_is_no_row():
    here = book()
    here.subscribe(np.arange(4), NOW)
    empty = columns(
        (0, NULL, np.nan, WAITING, NOW - 5, 0), (1, NULL, np.nan, 0, 0, 0), (2, NULL, np.nan, WAITING, 0, NOW + 5),
        (3, NUMBER, 4.0, 0, 0, 0),
    )  # fmt: skip
    assert here.rows(empty, NOW).tag.tolist() == [2]
    assert here.rows(columns((3, NUMBER, 4.0, 0, 0, 0)), NOW).tag.tolist() == [3]


def test_overflow_and_what_is_no_number():
    got = book().rows(
        columns((0, NUMBER, 1.0, 0x480, 1, 0), (1, OTHER, np.nan, 0, 1, 0), (2, NUMBER, 1.0, 0x80, 1, 0)), NOW
    )
    assert (got.tag.tolist(), got.overflow.tolist(), got.rejected.tolist()) == ([0, 2], [0], [1])


def test_a_bad_number_keeps_its_value():
    got = book().rows(columns((0, NUMBER, 7.0, 0x80000000, 1, 0)), NOW)
    assert (got.value.tolist(), got.quality.tolist()) == ([7.0], [Quality.BAD])
