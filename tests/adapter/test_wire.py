"""Frames: in pieces equals at once, damage at every byte is found, nothing grows without bound, old frames stay readable."""

import json
import struct
import zlib
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iiot_dask.adapter.contract import Event, Poll, TagInfo
from iiot_dask.adapter.message import Failure, Opening, State, ack, poll_frames, read_up
from iiot_dask.adapter.wire import DOWN, HEADER_BYTES, PAYLOAD_BYTES_MAX, UP, Decoder, Frame, Kind, encode
from iiot_dask.core.batch import Batch
from iiot_dask.core.config import Adapter
from iiot_dask.core.errors import ChecksumError, DataError, VersionError

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"
EVERY = UP | DOWN

frames_strategy = st.lists(
    st.builds(Frame, st.sampled_from(sorted(EVERY - {Kind.STOP})), st.binary(max_size=300)), max_size=6
)


def decode(data, pieces=None, allowed=EVERY):
    decoder = Decoder(allowed)
    out = []
    for piece in [data] if pieces is None else pieces:
        decoder.feed(piece)
        while (frame := decoder.next_frame()) is not None:
            out.append(frame)
    return out, decoder


def cut(data, places):
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(frames_strategy, st.lists(st.integers(0, 10_000), max_size=8))
def test_in_pieces_equals_at_once_equals_byte_by_byte(frames, places):
    data = b"".join(map(encode, frames))
    assert decode(data)[0] == frames
    assert decode(data, cut(data, places))[0] == frames
    assert decode(data, [data[i : i + 1] for i in range(len(data))])[0] == frames


@given(frames_strategy, st.integers(0, 10_000))
def test_an_end_in_the_middle_yields_only_whole_frames(frames, at):
    data = b"".join(map(encode, frames))
    end = at % (len(data) + 1)
    out, _ = decode(data[:end])
    ends = list(accumulate(HEADER_BYTES + len(f.payload) for f in frames))
    assert out == frames[: sum(e <= end for e in ends)]


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_damage_of_any_byte_is_found_at_once(flip):
    frames = [Frame(Kind.STATE, b'{"state":"alive"}'), Frame(Kind.BATCH, bytes(range(64))), Frame(Kind.ACK, b"9")]
    data = b"".join(map(encode, frames))
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= flip
        decoder = Decoder(EVERY)
        decoder.feed(damaged)
        # Frames before the damaged one are whole; the damaged one is refused, not waited for, and so is all after it.
        before = sum(at >= end for end in accumulate(HEADER_BYTES + len(f.payload) for f in frames))
        assert [decoder.next_frame() for _ in range(before)] == frames[:before]
        for _ in range(2):
            with pytest.raises(DataError):
                decoder.next_frame()


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_noise_is_refused_or_waited_for_but_never_a_crash(noise):
    decoder = Decoder(UP)
    decoder.feed(noise)
    try:
        while (frame := decoder.next_frame()) is not None:
            assert frame.kind in UP
    except DataError:
        pass
    else:
        assert decoder.pending < HEADER_BYTES


@settings(max_examples=300)
@given(st.sampled_from(sorted(UP)), st.binary(max_size=200))
def test_a_payload_of_noise_with_a_right_checksum_is_a_data_error_or_a_message(kind, payload):
    try:
        said = read_up(Frame(kind, payload))
    except DataError:
        return
    assert isinstance(said, (Poll, State, Failure))


def header(version=1, kind=Kind.STATE, size=0, magic=b"IIF", zero=bytes(3)):
    prefix = struct.pack("<3sBB", magic, version, kind) + zero + struct.pack("<II", size, zlib.crc32(b""))
    return prefix + struct.pack("<I", zlib.crc32(prefix))


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (header(version=2), VersionError, "version 2; this program reads 1 to 1"),
        (header(version=0), VersionError, "version 0"),
        (header(kind=9), DataError, "kind 9"),
        (header(kind=Kind.ACK), DataError, "kind 17; this end takes SCHEMA 1"),
        (header(size=PAYLOAD_BYTES_MAX[Kind.STATE] + 1), DataError, "at most 8388608"),
        (header(magic=b"XXX"), ChecksumError, "begins with b'IIF'"),
        (header(zero=b"\0\1\0"), ChecksumError, "damaged"),
        (b"Traceback (most recent call last)", ChecksumError, "goes on with b'Tra'"),
    ],
)
def test_a_header_is_refused_before_its_payload_is_waited_for(data, error, text):
    decoder = Decoder(UP)
    decoder.feed(data)
    with pytest.raises(error, match=text):
        decoder.next_frame()


def test_too_long_a_payload_is_not_written():
    with pytest.raises(DataError, match="ERROR frame of 65537 bytes; at most 65536"):
        encode(Frame(Kind.ERROR, bytes(65537)))


def test_the_buffer_holds_one_incomplete_frame_at_most():
    decoder = Decoder(UP)
    data = encode(Frame(Kind.BATCH, bytes(1000)))
    most = 0
    for i in range(0, 200 * len(data), 700):
        decoder.feed((data * 201)[i : i + 700])
        while decoder.next_frame() is not None:
            pass
        most = max(most, len(decoder._buffer))
    assert most <= len(data) + 700


# -- golden ----------------------------------------------------------------------------------------------------------


def golden_polls():
    batch = Batch.of(
        tag=[0, 1, 1],
        time=[1_700_000_000_000_000_000, 1_700_000_000_250_000_000, -1],
        value=[20.5, float("nan"), -0.0],
        received=[1_700_000_000_500_000_000] * 3,
        quality=[0, 141, 64],
        seq=[1, 2, 3],
    )
    tags = (
        TagInfo("site1/press/1/temperature", "site1/press/1", "holding:100", "°C", 1_000_000_000, "analog"),
        TagInfo("site1/press/1/door", "site1/press/1", "coil:3", None, None, None),
    )
    events = (
        Event("malformed", "site1/press/1", 1_700_000_000_000_000_001, "no JSON", 3, b"\x00{\xff"),
        Event("connected", "press-line", 1_700_000_000_000_000_002),
    )
    return [Poll(tags=tags), Poll(batch=batch, events=events, position="17@42"), Poll(events=events[1:])]


def golden_up():
    frames = [State("opened").frame()]
    for poll in golden_polls():
        frames += poll_frames(poll)
    return [*frames, State("checked", ("tag 'a' is unknown",)).frame(), Failure("remote", "plc-7 refuses").frame()]


def golden_down():
    config = Adapter.model_validate(
        {
            "name": "press-line",
            "kind": "modbus",
            "endpoint": "tcp://127.0.0.1:5020",
            "password": "env:PRESS",
            "tags": [{"tag": "site1/press/1/temperature", "address": "holding:100", "scan": "250ms"}],
            "options": {"gap": 4, "limit": float("inf")},
        }
    )
    opening = Opening(config, Path("/plant"), "17@42", (("*/temperature", 10**9),), {"memory": 1 << 30})
    return [opening, ack("17@42"), Frame(Kind.STOP)]


def same_poll(left, right):
    assert (left.tags, left.events, left.position) == (right.tags, right.events, right.position)
    assert (left.batch is None) == (right.batch is None)
    if left.batch is not None:
        assert left.batch.data.equals(right.batch.data, check_metadata=True) or np.isnan(left.batch.value).any()
        for name in ("tag", "time", "value", "quality", "received", "seq"):
            np.testing.assert_array_equal(getattr(left.batch, name), getattr(right.batch, name))


def test_golden_frames_up_are_still_read():
    frames, decoder = decode((GOLDEN / "v1-up.bin").read_bytes(), allowed=UP)
    assert decoder.pending == 0
    said = [read_up(frame) for frame in frames]
    assert said[0] == State("opened")
    assert said[-2:] == [State("checked", ("tag 'a' is unknown",)), Failure("remote", "plc-7 refuses")]
    assert len(said) == 6
    for found, wanted in zip(said[1:4], golden_polls(), strict=True):
        same_poll(found, wanted)


def test_golden_frames_down_are_still_read():
    frames, decoder = decode((GOLDEN / "v1-down.bin").read_bytes(), allowed=DOWN)
    assert decoder.pending == 0
    opening, *rest = golden_down()
    found = Opening.of(frames[0])
    assert found.config.model_dump() == opening.config.model_dump()
    assert found.config.tags[0].scan == 250_000_000
    assert (found.base, found.position, found.classes, found.limits) == (
        opening.base,
        opening.position,
        opening.classes,
        opening.limits,
    )
    assert frames[1:] == rest


def test_what_is_written_today_is_what_was_written():
    """All but Arrow's own bytes, which its next release may lay out otherwise."""
    frames, _ = decode((GOLDEN / "v1-up.bin").read_bytes(), allowed=UP)
    for old, new in zip(frames, golden_up(), strict=True):
        assert old.kind == new.kind
        if old.kind is Kind.BATCH:
            (size,) = struct.unpack_from("<I", old.payload)
            assert old.payload[: 4 + size] == new.payload[: 4 + size]
        else:
            assert old.payload == new.payload
    frames, _ = decode((GOLDEN / "v1-down.bin").read_bytes(), allowed=DOWN)
    old, new = json.loads(frames[0].payload), json.loads(golden_down()[0].frame().payload)
    # A newer program may know more keys of a plant file; none may go or change its form.
    assert {key: new["config"].get(key) for key in old["config"]} == old["config"]
    assert {key: value for key, value in new.items() if key != "config"} == {
        key: value for key, value in old.items() if key != "config"
    }


@pytest.mark.parametrize("size", [1, 2, 3, 19])
def test_what_is_no_frame_is_refused_at_its_first_byte(size):
    decoder = Decoder(UP)
    decoder.feed(b"Welcome to edge-7 and all that"[:size])
    with pytest.raises(ChecksumError, match="stream goes on with b'W"):
        decoder.next_frame()
