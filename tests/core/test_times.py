"""Times and spans as people write them, in int64 ns."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import span_ns, span_text, time_ns, time_text


@pytest.mark.parametrize(
    ("span", "ns"),
    [
        ("5ns", 5), ("5us", 5_000), ("250ms", 250_000_000), ("1s", 10**9), ("1.5s", 1_500_000_000), ("2m", 120 * 10**9),
        ("1h30m", 5400 * 10**9), ("1d", 86400 * 10**9), (" 1 h 30 m ", 5400 * 10**9), ("0s", 0),
        (timedelta(days=1, seconds=2, microseconds=3), (86402 * 10**9) + 3000), (0.5, 500_000_000), (3, 3 * 10**9),
        (timedelta(days=100_000), 100_000 * 86400 * 10**9),
    ],
)  # fmt: skip
def test_spans(span, ns):
    assert span_ns(span) == ns


@pytest.mark.parametrize("span", ["", "5", "s", "5 parsecs", "1s-", "-1s", "1e3s", "1,5s", "x"])
def test_text_that_is_no_span_is_named(span):
    with pytest.raises(ConfigError, match="is not a number with a unit") as caught:
        span_ns(span)
    assert repr(span) in str(caught.value)


@pytest.mark.parametrize("span", [-1, -0.5, timedelta(seconds=-1)])
def test_negative_spans_are_refused(span):
    with pytest.raises(ConfigError, match="is negative; a span is 0 or more and at most 292 years"):
        span_ns(span)


@pytest.mark.parametrize("span", ["999999d", 1e10, timedelta(days=200_000)])
def test_spans_beyond_int64_are_refused(span):
    with pytest.raises(ConfigError, match="is too long; a span is 0 or more and at most 292 years"):
        span_ns(span)


@pytest.mark.parametrize("span", [True, None, [1], float("nan"), float("inf"), b"1s"])
def test_other_types_are_no_span(span):
    with pytest.raises(
        ConfigError, match="is neither text such as '250ms', a timedelta nor a finite number of seconds"
    ):
        span_ns(span)


@given(st.integers(0, 2**62))
@settings(derandomize=True)
def test_span_text_reads_back(ns):
    text = span_text(ns)
    # Floats carry 15 digits; the text of a whole number is exact below that.
    assert span_ns(text) == ns or ns > 10**15


@pytest.mark.parametrize(
    ("time", "ns"),
    [
        ("1970-01-01T00:00:01Z", 10**9), ("1970-01-01T01:00:01+01:00", 10**9), ("1970-01-01 00:00:01", 10**9),
        ("1970-01-02", 86400 * 10**9), (datetime(1970, 1, 1, 0, 0, 1), 10**9),  # noqa: DTZ001
        (datetime(1970, 1, 1, 0, 0, 1, 7, tzinfo=UTC), 10**9 + 7000),
        (datetime(1970, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))), 0), (123, 123), (-5, -5),
        ("1969-12-31T23:59:59Z", -(10**9)), ("2262-01-01T00:00:00Z", 9214646400 * 10**9),
    ],
)  # fmt: skip
def test_times(time, ns):
    assert time_ns(time) == ns


@pytest.mark.parametrize("time", ["", "yesterday", "2026-13-01", "1700000000"])
def test_text_that_is_no_time_is_named(time):
    with pytest.raises(ConfigError, match="is not ISO 8601"):
        time_ns(time)


@pytest.mark.parametrize(
    "time", ["2262-04-12", "1677-09-21", "9999-12-31T23:59:59Z", datetime.max.replace(tzinfo=UTC), 2**63, -(2**63) - 1]
)
def test_times_beyond_int64_are_refused(time):
    with pytest.raises(ConfigError, match="does not fit int64 nanoseconds; 1677-09-21"):
        time_ns(time)


@pytest.mark.parametrize("time", [True, None, 1.5, b"x"])
def test_other_types_are_refused(time):
    with pytest.raises(ConfigError, match="neither ISO 8601 text, a datetime nor int"):
        time_ns(time)


@given(st.integers(-(10**18), 9 * 10**18))
@settings(derandomize=True)
def test_time_text_reads_back_to_the_millisecond(ns):
    assert time_ns(time_text(ns)) == ns // 10**6 * 10**6
