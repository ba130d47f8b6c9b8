"""Payloads: a poll comes out as it went in; what breaks the contract is named before it is sent."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Event, Poll, TagInfo
from iiot_dask.adapter.message import (
    EVENTS_A_FRAME,
    ROWS_MAX,
    TAGS_A_FRAME,
    TEXT_MAX,
    Failure,
    check_poll,
    poll_frames,
    read_up,
)
from iiot_dask.adapter.wire import Frame, Kind, encode
from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import CapacityError, ConfigError, LocalAdapterError, RemoteAdapterError, SchemaError

EVENT = Event("info", "press-line", 5, "all is well")


def rows(n):
    return Batch.of(tag=np.zeros(n), time=np.arange(n), value=np.arange(n) / 4, received=np.arange(n))


def through(poll):
    frames = list(poll_frames(poll))
    said = [read_up(frame) for frame in frames]
    for frame in frames:
        encode(frame)  # within its kind's limit
    return frames, said


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
infos = st.builds(
    TagInfo,
    text,
    text,
    text,
    st.none() | text,
    st.none() | st.integers(1, 2**62),
    st.sampled_from([None, "analog", "state", "counter"]),
)
happenings = st.builds(
    Event,
    st.sampled_from(["connected", "malformed", "overflow"]),
    text.filter(bool),
    st.integers(-(2**62), 2**62),
    text,
    st.integers(1, 2**40),
    st.binary(max_size=40),
)


@given(st.lists(infos, max_size=5), st.lists(happenings, max_size=5), st.integers(0, 5), st.none() | text)
def test_a_poll_comes_out_as_it_went_in(tags, events, count, position):
    poll = Poll(tuple(tags), rows(count), tuple(events), position)
    frames, said = through(poll)
    assert sum((s.tags for s in said), ()) == poll.tags
    assert sum((s.events for s in said), ()) == poll.events
    found = Batch.concat([s.batch for s in said if s.batch is not None])
    assert found.data.equals(poll.batch.data)
    # The position comes last, so that it never covers what has not been taken.
    assert [s.position for s in said] == [None] * (len(said) - 1) + [position] * bool(said)
    assert frames or (not tags and not events and not count and position is None)


def test_many_tags_and_events_are_several_frames_within_limits():
    tags = tuple(TagInfo(f"{i}/" + "t" * 505, "d" * 512, "a" * 512) for i in range(3 * TAGS_A_FRAME))
    events = tuple(
        replace(EVENT, raw=bytes(RAW_BYTES_MAX), reason="r" * TEXT_MAX) for _ in range(2 * EVENTS_A_FRAME + 1)
    )
    frames, said = through(Poll(tags, rows(ROWS_MAX), events, "p" * 65536))
    assert [f.kind.name for f in frames] == ["SCHEMA"] * 3 + ["STATE"] * 2 + ["BATCH"]
    assert sum((s.events for s in said), ()) == events


def test_an_empty_poll_is_no_frame():
    assert list(poll_frames(Poll())) == []
    assert list(poll_frames(Poll(batch=Batch.empty()))) == []


def test_long_reasons_are_cut_and_broken_characters_replaced():
    (frame,) = poll_frames(Poll(events=(replace(EVENT, reason="x" * 5000 + "\ud800", node="a\ud800"),)))
    (event,) = read_up(frame).events
    assert len(event.reason) == TEXT_MAX
    assert event.node == "a?"


@pytest.mark.parametrize(
    ("poll", "said"),
    [
        (None, "read() returned NoneType"),
        (Poll(batch=rows(ROWS_MAX + 1)), "100001 rows; at most 100000"),
        (Poll(batch=rows(2).data), "batch is RecordBatch"),
        (Poll(position=7), "position '7' is no text"),
        (Poll(position="p" * 65537), "at most 65536 UTF-8 bytes"),
        (Poll(position="\ud800"), "is no text"),
        (Poll(tags=("a",)), "announces str"),
        (Poll(tags=(TagInfo("a", None, "b"),)), "has a field of a wrong type"),
        (Poll(tags=(TagInfo("a", "b", "c", period_ns=0),)), "period_ns an int above 0"),
        (Poll(tags=(TagInfo("a", "b", "c", kind="enum"),)), "wrong type"),
        (Poll(events=("x",)), "reports str"),
        (Poll(events=(replace(EVENT, kind="panic"),)), "event kind 'panic'; allowed: connected"),
        (Poll(events=(replace(EVENT, node=""),)), "has node ''"),
        (Poll(events=(replace(EVENT, count=0),)), "count 0"),
        (Poll(events=(replace(EVENT, time_ns=1.5),)), "time_ns 1.5"),
        (Poll(events=(replace(EVENT, raw=bytes(4097)),)), "4097 raw bytes; at most 4096"),
    ],
)
def test_what_breaks_the_contract_is_named(poll, said):
    with pytest.raises(LocalAdapterError) as caught:
        check_poll(poll)
    assert said in str(caught.value)


def test_tags_that_are_no_text_are_refused_when_written():
    with pytest.raises(LocalAdapterError, match="can not be announced"):
        list(poll_frames(Poll(tags=(TagInfo("a\ud800", "b", "c"),))))


@pytest.mark.parametrize(
    ("error", "family", "sentence"),
    [
        (ConfigError("x"), "config", "x"),
        (RemoteAdapterError("x"), "remote", "x"),
        (LocalAdapterError("x"), "local", "x"),
        (CapacityError("full"), "local", "CapacityError: full"),
        (MemoryError(), "local", "MemoryError"),
    ],
)
def test_an_error_names_who_is_to_blame(error, family, sentence):
    failure = Failure.of(error)
    assert failure == Failure(family, sentence)
    assert read_up(failure.frame()) == failure


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.BATCH, b""),
        (Kind.BATCH, b"\xff\xff\xff\xff"),
        (Kind.BATCH, b"\x02\0\0\0{}"),
        (Kind.BATCH, b'\x1d\0\0\0{"events":[],"position":null}ARROW?'),
        (Kind.SCHEMA, b'{"tag":["a"],"device":[],"address":[],"unit":[],"period_ns":[],"kind":[]}'),
        (Kind.STATE, b'{"events":[[1,2]],"position":null}'),
        (Kind.ERROR, b'{"family":"nobody","sentence":"x"}'),
        (Kind.ERROR, b"[]"),
    ],
)
def test_payloads_that_are_not_what_they_say_name_their_frame(kind, payload):
    with pytest.raises(SchemaError, match=f"{kind.name} frame of {len(payload)} bytes"):
        read_up(Frame(kind, payload))
