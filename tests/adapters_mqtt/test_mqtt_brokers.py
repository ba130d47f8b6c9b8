"""The adapter against real brokers: exact delivery, acknowledgement after the disk, restarts, refusals."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from iiot_dask_adapters.mqtt import MqttAdapter

from iiot_dask.adapter.testing import AdapterContract
from iiot_dask.core.quality import Quality
from tests.adapters_mqtt.conftest import DEADLINE_S, JSON_TOPIC, SAVED, Reader, context, wait_for

pytestmark = pytest.mark.service("mosquitto")


def payload(k):
    return b'{"v":%d,"ts":%d}' % (k, 1_700_000_000_000 + k)


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_every_message_comes_once_and_in_order(mosquitto, publisher, version, qos):
    async def run():
        reader = Reader(context(mosquitto.port, version=version, qos=qos))
        await reader.online()
        sender = publisher(mosquitto.port)
        for k in range(2000):
            sender.publish(f"f/press{k % 7}/temperature", payload(k), qos)
        await reader.read_until(lambda r: len(r) >= 2000)
        await asyncio.sleep(0.2)
        await reader.read()
        await reader.adapter.close()
        return reader

    reader = asyncio.run(run())
    assert sorted(reader.values()) == list(range(2000))
    for name in {row[0] for row in reader.rows}:
        mine = [row[2] for row in reader.rows if row[0] == name]
        assert mine == sorted(mine)
    assert sorted(set(reader.tags)) == [f"site/press{k}/temperature" for k in range(7)]
    assert all(row[3] == Quality.GOOD and row[1] == (1_700_000_000_000 + int(row[2])) * 10**6 for row in reader.rows)
    assert bool(reader.positions) == (qos > 0)


def run_reader(given, until, acknowledge=True, then=None):
    async def run():
        reader = Reader(given, acknowledge)
        await reader.online()
        try:
            if then is not None:
                then()
            await reader.read_until(until)
        finally:
            await reader.adapter.close()
        return reader

    return asyncio.run(run())


@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_not_acknowledged_comes_again_and_what_was_does_not(mosquitto, publisher, version, qos):
    given = context(mosquitto.port, version=version, qos=qos)
    sender = publisher(mosquitto.port)

    def send():
        for k in range(100):
            sender.publish("f/a/b", payload(k), qos)

    first = run_reader(given, lambda r: len(r) >= 100, acknowledge=False, then=send)
    assert len(first) == 100
    second = run_reader(given, lambda r: len(r) >= 100)
    assert sorted(second.values()) == list(range(100))
    sender.publish("f/a/b", payload(100), qos)
    third = run_reader(given, lambda r: len(r) >= 1)
    assert third.values() == [100]


@pytest.mark.parametrize("part", [200, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_broker_that_dies_and_comes_back_costs_nothing(make_mosquitto, publisher, how, qos, part):
    """The publisher keeps what the broker did not confirm, the broker what we did not: every message, once."""
    mosquitto = make_mosquitto(SAVED if how == signal.SIGKILL else "")
    given = context(mosquitto.port, qos=qos, options={"reconnect_max": "200ms"})

    async def run():
        reader = Reader(given)
        await reader.online()
        sender = publisher(mosquitto.port)
        for first in range(0, 3 * part, part):
            for k in range(first, first + part):
                sender.publish(f"f/press{k % 3}/t", payload(k), qos)
            await reader.read_until(lambda r, want=first + part // 5: len(r) >= want)
            if how == signal.SIGKILL:
                # Its store is written on every change (autosave_on_changes); messages sent after the last are the
                # publisher's to repeat.
                await asyncio.to_thread(sender.flush)
            await asyncio.to_thread(mosquitto.stop, how)
            await asyncio.to_thread(mosquitto.start)
        await reader.read_until(lambda r: len(set(r.values())) >= 3 * part)
        await asyncio.to_thread(sender.flush)
        await reader.adapter.close()
        return reader

    reader = asyncio.run(run())
    assert set(reader.values()) == set(range(3 * part))
    assert {row[1] // 10**6 - 1_700_000_000_000 for row in reader.rows} == set(range(3 * part))
    assert "disconnected" in reader.kinds()


def test_a_broker_without_a_store_gets_its_subscriptions_again(make_mosquitto, publisher):
    broker = make_mosquitto("persistence_file /dev/null")
    given = context(broker.port, options={"reconnect_max": "200ms"})

    async def run():
        reader = Reader(given)
        await reader.online()
        broker.stop()
        for file in (broker.directory / "store").iterdir():
            file.unlink()
        await asyncio.to_thread(broker.start)
        await reader.read_until(lambda r: r.kinds().count("connected") == 2 and r.adapter._session.answered)
        publisher(broker.port).publish("f/a/b", payload(1))
        await reader.read_until(lambda r: len(r) == 1)
        await reader.adapter.close()
        return reader

    assert "info" in asyncio.run(run()).kinds()


def rows_in(path):
    return [tuple(map(int, line.split())) for line in path.read_bytes().splitlines() if line.count(b" ") == 1]


def victim(port, out, every, die_after):
    command = [sys.executable, Path(__file__).with_name("victim.py"), port, out, every, die_after]
    return subprocess.Popen([str(part) for part in command], start_new_session=True)


@pytest.mark.parametrize("deaths", [(700,), pytest.param((700, 1, 1500), marks=pytest.mark.slow)])
def test_our_own_death_at_any_moment_loses_nothing(mosquitto, publisher, tmp_path, deaths):
    """kill -9 of the adapter's process between disk and acknowledgement: the union of what its lives wrote is complete."""
    out = tmp_path / "rows"
    out.touch()
    asyncio.run(subscribe_only(context(mosquitto.port, name="victim")))
    sender = publisher(mosquitto.port)
    for k in range(3000):
        sender.publish(f"f/press{k % 5}/t", payload(k))
    sender.flush()
    for die_after in deaths:
        process = victim(mosquitto.port, out, 300, die_after)
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
    process = victim(mosquitto.port, out, 1, 0)
    try:
        wait_for(lambda: len(set(rows_in(out))) == 3000, "all rows")
    finally:
        process.kill()
        process.wait()
    rows = rows_in(out)
    assert {v for _, v in rows} == set(range(3000))
    assert len(rows) > 3000, "something must have come twice, or nothing was at stake"


@pytest.mark.parametrize("messages", [8_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_a_flood_waits_in_the_broker_not_in_us(mosquitto, publisher, messages):
    """A small inbox and a reader that does not read: the adapter stops, nothing is lost, memory stays put."""
    given = context(mosquitto.port, options={"inbox_messages": 1000, "inbox_bytes": 1 << 16, "payload_bytes_max": 1024})

    async def run():
        reader = Reader(given)
        await reader.online()
        sender = publisher(mosquitto.port)
        for k in range(messages):
            sender.publish(f"f/press{k % 3}/t", payload(k))
        inbox = reader.adapter._session.inbox
        await asyncio.to_thread(wait_for, lambda: inbox.full, "the inbox to fill")
        await asyncio.to_thread(sender.flush)
        assert inbox.held <= 1000
        await reader.read_until(lambda r: len(r) >= messages)
        await reader.adapter.close()
        return reader, inbox

    reader, inbox = asyncio.run(run())
    assert sorted(reader.values()) == list(range(messages))
    assert inbox.stops > 5
    assert sum(len(arena.data) for arena in inbox._arenas) < 1 << 20
    assert reader.kinds() == ["connected"]


def test_a_storm_of_damaged_payloads_is_told_on_its_device_and_stops_nothing(mosquitto, publisher):
    def send():
        sender = publisher(mosquitto.port)
        for k in range(5000):
            sender.publish("f/press1/t", b'{"v": 12.')
            if k % 10 == 0:
                sender.publish("f/press2/t", payload(k))

    reader = run_reader(context(mosquitto.port), lambda r: len(r) >= 500 and bad(r) >= 5000, then=send)
    events = [e for e in reader.events if e.kind == "malformed"]
    assert {e.node for e in events} == {"site/press1"}
    assert bad(reader) == 5000
    assert len(events) < 500, "alike events of one read are one event"
    assert all(e.raw == b'{"v": 12.' and e.reason == "payload does not parse" for e in events)


def bad(reader):
    return sum(e.count for e in reader.events if e.kind == "malformed")


def test_unicode_in_topics_and_payloads(mosquitto, publisher):
    topic = JSON_TOPIC | {"value": "größe.°C", "time": "zeit"}
    message = '{"größe": {"°C": -1.5}, "zeit": 7, "text": "漢字 😀 \\ud83d\\ude00"}'

    def send():
        publisher(mosquitto.port).publish("f/Prüfstand 漢/Öltemperatur", message.encode())

    reader = run_reader(context(mosquitto.port, [topic]), lambda r: len(r) >= 1, then=send)
    assert reader.rows == [("site/Prüfstand 漢/Öltemperatur", 7_000_000, -1.5, 0)]


def test_a_huge_payload_is_refused_acknowledged_and_forgotten(mosquitto, publisher):
    given = context(mosquitto.port, options={"payload_bytes_max": 65_536, "inbox_bytes": 65_536})

    def send():
        sender = publisher(mosquitto.port)
        sender.publish("f/a/b", payload(1))
        sender.publish("f/a/b", b"x" * 20_000_000)
        sender.publish("f/a/b", payload(2))

    reader = run_reader(given, lambda r: len(r) >= 2 and bad(r), then=send)
    assert reader.values() == [1, 2]
    (event,) = [e for e in reader.events if e.kind == "malformed"]
    assert (event.node, event.reason, event.raw) == ("site/a", "payload is larger than payload_bytes_max", b"x" * 1024)

    def send_again():
        publisher(mosquitto.port, "again").publish("f/a/b", payload(3))

    again = run_reader(given, lambda r: len(r) >= 1, then=send_again)
    assert again.values() == [3]
    assert bad(again) == 0


def test_several_values_of_one_message_and_topics_nobody_wants(mosquitto, publisher):
    topics = [
        {"filter": "m/+/#", "tag": "site/{1}/temp", "value": "d.0.t", "time": "at", "time_unit": "iso"},
        {"filter": "m/+/#", "tag": "site/{1}/press", "value": "d.1.p", "time": "at", "time_unit": "iso"},
        {"filter": "#", "tag": "bad/{1}", "payload": "raw"},
    ]

    def send():
        sender = publisher(mosquitto.port)
        sender.publish("m/k1/x/y", b'{"at":"2026-11-24T06:00:00Z","d":[{"t":1.5},{"p":2.5}]}')
        sender.publish("m/k1/x/y", b'{"at":"2026-11-24T06:00:01Z","d":[{"t":1.5}]}')
        sender.publish("elsewhere/..", b"5")

    def done(r):
        return len(r) >= 3 and any("no filter" in e.reason for e in r.events)

    reader = run_reader(context(mosquitto.port, topics), done, then=send)
    assert sorted((row[0], row[2]) for row in reader.rows) == [
        ("site/k1/press", 2.5),
        ("site/k1/temp", 1.5),
        ("site/k1/temp", 1.5),
    ]
    rejected = {e.reason: (e.node, e.count, e.raw[:20]) for e in reader.events if e.kind == "rejected"}
    assert rejected["payload holds no value at the configured path"][:2] == ("site/k1", 1)
    assert rejected["topic matches no filter, or makes no legal tag name"] == ("cells", 1, b"elsewhere/..")


def test_raw_numbers_have_receive_times_that_tell_them_apart(mosquitto, publisher):
    topic = {"filter": "f/+/+", "tag": "site/{1}/{2}", "payload": "raw"}

    def send():
        sender = publisher(mosquitto.port)
        for k in range(1000):
            sender.publish("f/a/b", b"%d.5" % k)

    reader = run_reader(context(mosquitto.port, [topic]), lambda r: len(r) >= 1000, then=send)
    assert reader.values() == [k + 0.5 for k in range(1000)]
    assert len({row[1] for row in reader.rows}) == 1000
    assert {row[3] for row in reader.rows} == {Quality.UNCERTAIN_TIME_REPLACED}


def test_retained_messages_come_at_the_first_start(mosquitto, publisher):
    sender = publisher(mosquitto.port)
    sender.publish("f/a/b", payload(5), retain=True)
    sender.flush()
    assert run_reader(context(mosquitto.port), lambda r: len(r) >= 1).values() == [5]


def test_shared_subscriptions_part_the_messages(mosquitto, publisher):
    topic = JSON_TOPIC | {"filter": "$share/g/f/+/+"}

    async def run():
        readers = [Reader(context(mosquitto.port, [topic], name=name)) for name in ("one", "two")]
        for reader in readers:
            await reader.online()
        sender = publisher(mosquitto.port)
        for k in range(1000):
            sender.publish("f/a/b", payload(k))
        while sum(map(len, readers)) < 1000:
            for reader in readers:
                await reader.read()
        for reader in readers:
            await reader.adapter.close()
        return readers

    one, two = asyncio.run(run())
    assert sorted(one.values() + two.values()) == list(range(1000))
    assert len(one) > 0
    assert len(two) > 0


@pytest.mark.parametrize("version", [3, 5])
def test_two_clients_with_one_id_are_told(mosquitto, version):
    given = context(mosquitto.port, version=version, options={"reconnect_max": "100ms"})

    def told(reader):
        return any("another client use" in e.reason for e in reader.events)

    async def run():
        readers = [Reader(given), Reader(given)]
        for reader in readers:
            await reader.adapter.open(None)
        deadline = asyncio.get_running_loop().time() + DEADLINE_S
        while not any(map(told, readers)):
            assert asyncio.get_running_loop().time() < deadline
            for reader in readers:
                await reader.read()
        for reader in readers:
            await reader.adapter.close()
        return readers

    events = [e for reader in asyncio.run(run()) for e in reader.events if "another client use" in e.reason]
    assert "'iiot-dask-cells'" in events[0].reason


def test_names_and_passwords(make_mosquitto, publisher, tmp_path):
    file = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", file, "historian", "s3cret"], check=True)
    file.chmod(0o644)
    broker = make_mosquitto(f"allow_anonymous false\npassword_file {file}\nlistener {{port}} 127.0.0.1")
    good = context(broker.port, username="historian", password="env:s3cret")
    assert asyncio.run(MqttAdapter.check(good)) == []
    wrong = context(broker.port, username="historian", password="env:wrong")
    (sentence,) = asyncio.run(MqttAdapter.check(wrong))
    assert sentence.endswith("the broker refused client 'iiot-dask-cells-check': Not authorized")
    assert "wrong" not in sentence
    (sentence,) = asyncio.run(MqttAdapter.check(context(broker.port)))
    assert "Not authorized" in sentence


def certificates(directory):
    """A certification authority, a server and a client certificate, as files."""

    def run(*words):
        subprocess.run(["openssl", *words], check=True, cwd=directory, capture_output=True)

    run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca",
        "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    (directory / "ext").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        run(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem",
            "-days", "2", "-extfile", "ext")  # fmt: skip
    for file in directory.iterdir():
        file.chmod(0o644)


def test_tls_with_certificates_on_both_sides(make_mosquitto, tmp_path):
    keys = tmp_path / "keys"
    keys.mkdir()
    certificates(keys)
    broker = make_mosquitto(
        f"listener {{port}} 127.0.0.1\ncafile {keys}/ca.pem\ncertfile {keys}/server.pem\nkeyfile {keys}/server.key\n"
        "require_certificate true"
    )
    files = {"ca": f"{keys}/ca.pem", "certificate": f"{keys}/client.pem", "private_key": f"{keys}/client.key"}
    given = context(broker.port, scheme="mqtts", **files)
    assert asyncio.run(MqttAdapter.check(given)) == []

    async def run():
        reader = Reader(given)
        await reader.online()
        # Over TLS too every byte that was decrypted must be read without waiting for another one.
        for k in range(2000):
            reader.adapter._session.publish("f/a/b", payload(k), 1)
            if k % 500 == 499:
                await reader.read_until(lambda r, want=k + 1: len(r) >= want)
        await reader.adapter.close()
        return reader

    assert asyncio.run(run()).values() == list(range(2000))
    (sentence,) = asyncio.run(MqttAdapter.check(context(broker.port, scheme="mqtts")))
    assert "certificate verify failed" in sentence
    (sentence,) = asyncio.run(MqttAdapter.check(context(broker.port, scheme="mqtts", ca=files["ca"])))
    assert "can not be reached" in sentence or "connection lost" in sentence
    (sentence,) = asyncio.run(MqttAdapter.check(context(broker.port, scheme="mqtts", ca=f"{keys}/absent.pem")))
    assert "absent.pem" in sentence


def test_amqtt_delivers_too(amqtt, publisher):
    def send():
        sender = publisher(amqtt.port)
        for k in range(500):
            sender.publish(f"f/press{k % 3}/t", payload(k))

    reader = run_reader(context(amqtt.port, version=3), lambda r: len(r) >= 500, then=send)
    assert sorted(reader.values()) == list(range(500))
    assert asyncio.run(MqttAdapter.check(context(amqtt.port, version=3))) == []


def test_the_contract_is_kept(mosquitto, publisher, tmp_path):
    """The source sends as long as the contract is tried out, as a plant does."""
    given = context(mosquitto.port)
    asyncio.run(subscribe_only(given))
    sender, stop = publisher(mosquitto.port), threading.Event()

    def send():
        k = 0
        while not stop.wait(0.002):
            sender.publish("f/a/b", b'{"v":%d,"ts":%d}' % (k, time.time_ns() // 10**6))
            k += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        found = AdapterContract(MqttAdapter, given.config, tmp_path, rows=50).run()
    finally:
        stop.set()
        thread.join()
    assert found == []


async def subscribe_only(given):
    reader = Reader(given)
    await reader.online()
    await reader.adapter.close()


def test_sparkplug_over_a_broker_asks_for_the_birth_and_hears_of_the_death(mosquitto, publisher):
    """The node was born before we came; its rebirth, data and death (the broker's will) arrive."""
    from tests.adapters_mqtt.test_mqtt_sparkplug import METRICS, T, birth, data, death

    topic = {"filter": "spBv1.0/plant/+/+/#", "tag": "spb/{2}/{3}", "payload": "sparkplug"}
    node = publisher(mosquitto.port, "node", topic="spBv1.0/plant/NDEATH/e1", payload=death(3), qos=1)
    asked = []

    def on_message(_client, _data, message):
        asked.append(message.payload)
        node.publish("spBv1.0/plant/NBIRTH/e1", birth(0, bd=3), 0)
        node.publish("spBv1.0/plant/NDATA/e1", data(1, {100: (T.FLOAT, 50.5)}), 0)

    node.client.on_message = on_message
    node.client.subscribe("spBv1.0/plant/NCMD/e1", 1)
    node.client.publish("spBv1.0/plant/NBIRTH/e1", birth(0, bd=3), 0)

    def send():
        node.publish("spBv1.0/plant/NDATA/e1", data(1, {100: (T.FLOAT, 40.5)}), 0)

    def kill_the_node():
        node.client.socket().shutdown(socket.SHUT_RDWR)

    async def run():
        reader = Reader(context(mosquitto.port, [topic]))
        await reader.online()
        send()
        await reader.read_until(lambda r: 50.5 in r.values())
        node.client.loop_stop()
        kill_the_node()
        await reader.read_until(lambda r: "device_down" in r.kinds())
        await reader.adapter.close()
        return reader

    reader = asyncio.run(run())
    assert len(asked) == 1
    assert sorted(reader.tags) == sorted(f"spb/e1/{name}" for name in METRICS)
    assert [e.node for e in reader.events if e.kind in ("device_up", "device_down")] == ["spb/e1", "spb/e1"]
    assert 40.5 not in reader.values()
