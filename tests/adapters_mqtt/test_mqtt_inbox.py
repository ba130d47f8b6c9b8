"""Frames and the inbox, without a socket: chunked equals whole, damage is told, books are kept."""

import numpy as np
import pytest
from hypothesis import strategies as st
from iiot_dask_adapters.mqtt import frames
from iiot_dask_adapters.mqtt.inbox import Inbox
from iiot_dask_adapters.mqtt.warm import publish

from tests.adapters_mqtt.fuzz import fuzz

FRAME_MAX = 1 << 16


class Wire:
    """Bytes as a socket gives them, in pieces of a given size."""

    def __init__(self, raw=b"", piece=1 << 30):
        self.raw, self.piece = raw, piece

    def recv_into(self, room):
        size = min(len(room), self.piece, len(self.raw))
        room[:size] = self.raw[:size]
        self.raw = self.raw[size:]
        return size


def make(version=5, size=1 << 18, messages=10_000):
    return Inbox(version, FRAME_MAX, size, messages)


def drain(inbox, raw, piece=1 << 30):
    """Feed and take until all is read: [(topic, payload, qos, oversize)], packets handed back, faults."""
    wire, out, packets = Wire(raw, piece), [], []
    while True:
        got = inbox.receive(wire.recv_into) if not inbox.full else 0
        found = inbox.split(1)
        while found.what == "packet":
            packets.append(found.packet)
            found = inbox.split(1)
        if found.what == "broken":
            taken = inbox.take()
            return out + ([] if taken is None else rows_of(taken)), packets, found.reason
        taken = inbox.take() if inbox.full or not wire.raw else None
        if taken is not None:
            out += rows_of(taken)
        elif got == 0 and not wire.raw:
            return out, packets, ""


def rows_of(taken):
    out = []
    for row in taken.rows:
        topic = taken.data[row[frames.TOPIC_START] :][: row[frames.TOPIC_LEN]].tobytes()
        payload = taken.data[row[frames.PAYLOAD_START] :][: row[frames.PAYLOAD_LEN]].tobytes()
        out.append((topic, payload, int(row[frames.FLAGS] & 6) >> 1, bool(row[frames.FLAGS] & frames.OVERSIZE)))
    return out


def naive(raw, version):
    """What the bytes say, by the specification, one byte after another."""
    out, packets, at = [], [], 0
    while at < len(raw):
        size = shift = 0
        body = at + 1
        while True:
            if body - at > 4:
                return out, packets, True
            if body == len(raw):
                return out, packets, False
            size |= (raw[body] & 127) << shift
            shift += 7
            body += 1
            if raw[body - 1] < 128:
                break
        if size > FRAME_MAX:
            return out, packets, None
        if body + size > len(raw):
            return out, packets, False
        frame = raw[body : body + size]
        if raw[at] >> 4 != 3:
            packets.append((raw[at], frame))
        else:
            qos = raw[at] >> 1 & 3
            length = int.from_bytes(frame[:2], "big")
            rest = frame[2 + length :]
            if qos == 3 or len(frame) < 2 or length == 0 or len(frame) < 2 + length:
                return out, packets, True
            if qos:
                if len(rest) < 2 or rest[:2] == b"\0\0":
                    return out, packets, True
                rest = rest[2:]
            if version == 5:
                extra = shift = used = 0
                while True:
                    if used == 4 or used == len(rest):
                        return out, packets, True
                    extra |= (rest[used] & 127) << shift
                    shift += 7
                    used += 1
                    if rest[used - 1] < 128:
                        break
                if used + extra > len(rest):
                    return out, packets, True
                rest = rest[used + extra :]
            out.append((frame[2 : 2 + length], rest, qos, False))
        at = body + size
    return out, packets, False


@st.composite
def streams(draw, version):
    parts = []
    for mid in range(1, draw(st.integers(1, 12))):
        if draw(st.integers(0, 4)) == 0:
            parts.append(
                bytes([draw(st.sampled_from([0x20, 0x90, 0xD0, 0xE0])), 2]) + draw(st.binary(min_size=2, max_size=2))
            )
        else:
            size = draw(st.sampled_from([0, 1, 5, 120, 130, 20_000]))
            qos = draw(st.integers(0, 2))
            parts.append(publish(draw(st.binary(min_size=1, max_size=4)), b"p" * size, mid, version, qos << 1))
    return b"".join(parts)


@fuzz(50, st.data(), st.sampled_from([3, 5]), st.sampled_from([1, 2, 7, 1000, 1 << 30]))
def test_any_stream_in_any_pieces_reads_as_by_the_naive_twin(data, version, piece):
    raw = data.draw(streams(version))
    if len(raw) > 3_000 and piece < 7:
        piece = 611
    want = naive(raw, version)
    got = drain(make(version), raw, piece)
    assert got[0] == want[0]
    assert got[1] == want[1]
    assert bool(got[2]) == bool(want[2])


@fuzz(200, st.data(), st.sampled_from([3, 5]))
def test_any_damage_is_told_as_by_the_naive_twin(data, version):
    raw = bytearray(data.draw(streams(version)))
    for _ in range(data.draw(st.integers(1, 3))):
        if raw:
            at = data.draw(st.integers(0, min(len(raw) - 1, 40)))
            raw[at] = data.draw(st.integers(0, 255))
    want = naive(bytes(raw), version)
    if want[2] is None:
        return  # a frame above the limit: see below
    got = drain(make(version), bytes(raw))
    assert got[0] == want[0]
    assert got[1] == want[1]
    assert bool(got[2]) == want[2]


def test_a_full_inbox_takes_no_more_until_it_is_taken():
    inbox = make(messages=10)
    wire = Wire(b"".join(publish(b"t", b"%d" % k, k + 1) for k in range(25)))
    assert inbox.receive(wire.recv_into) > 0
    assert inbox.split(1).what == "full"
    assert inbox.split(1).what == "full"
    assert inbox.held == 10
    seen = []
    while (taken := inbox.take()) is not None:
        seen += [payload for _, payload, _, _ in rows_of(taken)]
        inbox.split(1)
    assert seen == [b"%d" % k for k in range(25)]
    assert inbox.stops == 2


def test_bytes_are_bounded_too():
    inbox = make(size=1)
    wire = Wire(publish(b"t", b"x" * 50_000, flags=0) * 40)
    read = 0
    while (got := inbox.receive(wire.recv_into)) > 0:
        read += got
        inbox.split(1)
    assert got == -1
    assert read <= FRAME_MAX + 2 * frames.HEADER_BYTES_MAX
    total = len(inbox.take().rows)
    while inbox.split(1).what == "more" and inbox.receive(wire.recv_into) != 0:
        inbox.split(1)
        taken = inbox.take()
        total += 0 if taken is None else len(taken.rows)
    assert total == 40


def test_receive_times_are_never_alike():
    inbox = make()
    raw = publish(b"t", b"1", flags=0) * 50
    inbox.receive(Wire(raw).recv_into)
    inbox.split(1000)
    first = inbox.take().rows[:, frames.RECEIVED].copy()
    inbox.receive(Wire(raw).recv_into)
    inbox.split(1000)
    both = np.concatenate((first, inbox.take().rows[:, frames.RECEIVED]))
    assert both[0] == 1000
    assert (np.diff(both) > 0).all()


@pytest.mark.parametrize("piece", [997, 1 << 30])
@pytest.mark.parametrize("version", [3, 5])
def test_a_message_too_large_is_skipped_told_and_acknowledged(version, piece):
    inbox = make(version)
    large = publish(b"big", b"x" * 3_000_000, 7, version)
    out, _, fault = drain(inbox, publish(b"a", b"1", 6, version) + large + publish(b"b", b"2", 8, version), piece)
    assert fault == ""
    assert out == [(b"a", b"1", 1, False), (b"big", b"x" * 1024, 1, True), (b"b", b"2", 1, False)]
    inbox.durable(3)
    assert inbox.acknowledgements().hex() == "400200064002000740020008"
    assert sum(len(arena.data) for arena in inbox._arenas) < 1_000_000


def test_a_packet_too_large_that_is_no_message_is_a_fault():
    assert "packet of" in drain(make(), b"\x90\xff\xff\x7f" + b"x" * 300_000)[2]


# --- the books


def go(inbox, *packets):
    """Feed packets; what is taken, as payloads."""
    inbox.receive(Wire(b"".join(packets)).recv_into)
    found = inbox.split(1)
    assert found.what == "more", found
    taken = inbox.take()
    return ([] if taken is None else [p for _, p, _, _ in rows_of(taken)]), (None if taken is None else taken.number)


DUP = 8


def test_nothing_is_acknowledged_before_it_is_durable():
    inbox = make()
    _, first = go(inbox, publish(b"t", b"1", 1), publish(b"t", b"2", 2))
    _, second = go(inbox, publish(b"t", b"3", 3, flags=4), publish(b"t", b"4", flags=0))
    assert inbox.acknowledgements() == b""
    inbox.durable(first)
    assert inbox.acknowledgements().hex() == "4002000140020002"
    inbox.durable(second)
    assert inbox.acknowledgements().hex() == "50020003"
    assert inbox.acknowledgements() == b""
    assert inbox.unconfirmed == 0


def test_what_comes_again_on_the_next_connection_is_not_handed_over_twice():
    inbox = make()
    _, number = go(inbox, publish(b"t", b"1", 1), publish(b"t", b"2", 2))
    inbox.restart()
    inbox.connected(2, resumed=True)
    # One is redelivered before its row is durable, the other after.
    assert go(inbox, publish(b"t", b"1", 1, flags=2 | DUP))[0] == []
    inbox.durable(number)
    assert inbox.acknowledgements().hex() == "40020001"
    assert go(inbox, publish(b"t", b"2", 2, flags=2 | DUP))[0] == []
    assert inbox.acknowledgements().hex() == "40020002"
    assert inbox.duplicates == 2
    # The packet ids are free for other messages now.
    assert go(inbox, publish(b"t", b"9", 1), publish(b"t", b"2", 2, flags=2 | DUP))[0] == [b"9", b"2"]


def test_another_message_under_a_known_packet_id_is_no_redelivery():
    inbox = make()
    _, number = go(inbox, publish(b"t", b"1", 1))
    inbox.restart()
    inbox.connected(2, resumed=True)
    assert go(inbox, publish(b"t", b"X", 1, flags=2 | DUP))[0] == [b"X"]
    inbox.durable(number)
    assert inbox.acknowledgements() == b"", "the first message's row must not acknowledge the second message"


def test_a_session_the_broker_forgot_owes_nothing():
    inbox = make()
    _, number = go(inbox, publish(b"t", b"1", 1))
    inbox.restart()
    inbox.connected(2, resumed=False)
    inbox.durable(number)
    assert inbox.acknowledgements() == b""
    assert go(inbox, publish(b"t", b"1", 1, flags=2 | DUP))[0] == [b"1"]


def test_qos_2_is_handed_over_once_until_the_broker_releases_it():
    inbox = make()
    _, number = go(inbox, publish(b"t", b"1", 5, flags=4))
    inbox.durable(number)
    assert inbox.acknowledgements().hex() == "50020005"
    inbox.restart()
    inbox.connected(2, resumed=True)
    assert go(inbox, publish(b"t", b"1", 5, flags=4 | DUP))[0] == []
    assert inbox.acknowledgements().hex() == "50020005"
    inbox.released(5)
    assert go(inbox, publish(b"t", b"1", 5, flags=4))[0] == [b"1"]


def test_a_frame_cut_off_by_the_end_of_a_connection_is_forgotten():
    inbox = make()
    inbox.receive(Wire(publish(b"t", b"1", 1)[:-1]).recv_into)
    assert inbox.split(1).what == "more"
    inbox.restart()
    inbox.connected(2, resumed=True)
    assert go(inbox, publish(b"t", b"1", 1, flags=2 | DUP))[0] == [b"1"]


def test_all_packet_ids_at_once():
    inbox = make(size=1 << 22, messages=70_000)
    wire = Wire(b"".join(publish(b"t", b"%d" % mid, mid) for mid in range(1, 65_536)))
    while wire.raw:
        inbox.receive(wire.recv_into)
        assert inbox.split(1).what == "more"
    taken = inbox.take()
    assert len(taken.rows) == 65_535
    inbox.durable(taken.number)
    raw = inbox.acknowledgements()
    assert len(raw) == 4 * 65_535
    assert raw[-4:].hex() == "4002ffff"


@fuzz(20, st.data())
def test_random_lives_of_a_session_lose_nothing_and_double_nothing(data):
    """A model broker with QoS 1, and connections that end at any moment: every message is handed over exactly once."""
    inbox = make(messages=8)
    queue = [b"%d" % k for k in range(30)]
    inflight = {}  # mid -> payload, in the order of sending
    handed, positions, connection = [], [], 1
    wire = Wire()
    for _ in range(400):
        action = data.draw(st.sampled_from(["send", "read", "take", "durable", "drop"]))
        if action == "send" and queue and len(inflight) < 6:
            mid = next(m for m in range(1, 8) if m not in inflight)
            inflight[mid] = queue.pop(0)
            wire.raw += publish(b"t", inflight[mid], mid)
        elif action == "read":
            wire.piece = data.draw(st.integers(1, 40))
            if not inbox.full:
                inbox.receive(wire.recv_into)
            inbox.split(1)
        elif action == "take":
            taken = inbox.take()
            if taken is not None:
                handed += [p for _, p, _, _ in rows_of(taken)]
                positions.append(taken.number)
        elif action == "durable" and positions:
            inbox.durable(positions.pop(0))
        elif action == "drop":
            connection += 1
            inbox.restart()
            inbox.connected(connection, resumed=True)
            wire.raw = b"".join(publish(b"t", p, m, flags=2 | DUP) for m, p in inflight.items())
        raw = inbox.acknowledgements()
        for k in range(0, len(raw), 4):
            mid = int.from_bytes(raw[k + 2 : k + 4], "big")
            assert mid in inflight, "an acknowledgement of nothing"
            assert inflight[mid] in handed
            del inflight[mid]
    assert len(handed) == len(set(handed))
    sent = [b"%d" % k for k in range(30)][: 30 - len(queue)]
    assert set(sent) - set(handed) <= set(inflight.values())
