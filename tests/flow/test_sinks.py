"""Sinks against real servers: a broker, a VictoriaMetrics, a PostgreSQL, a history; and a target that is away or refuses."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import polars as pl
import pytest
from flow_rows import STAMP, S

from iiot_dask.core.errors import ConfigError
from iiot_dask.flow.sinks import AwayError, HistorySink, InfluxSink, MqttSink, PostgresSink, RefusedError, Sink
from iiot_dask.flow.sinks.influx import lines
from iiot_dask.history import History
from tests.conftest import PATHS


def results(n=50, first=1_750_000_000, value=0.0):
    return pl.DataFrame(
        {
            "tag": [f"a/{i % 5}" for i in range(n)],
            "time": (pl.Series([first + i for i in range(n)]) * S).cast(STAMP),
            "mean": [i / 4 + value for i in range(n)],
            "count": list(range(n)),
            "version": [0] * n,
        }
    )


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true, seconds=30):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def server(command, port, **options):
    """A server of somebody else's, until its port answers; killed at the end by its id."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:

        def up():
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
                return True
            return False

        until(up)
        yield process
    finally:
        process.kill()
        process.wait()


class Scripted(Sink):
    """Fails as told, then writes into a list."""

    def __init__(self, errors=(), **more):
        super().__init__(**{"linger_s": 0.0, "retry_s": 0.01, **more})
        self.errors, self.got = list(errors), []

    def write(self, rows):
        if self.errors:
            raise self.errors.pop(0)
        if (rows["mean"] < 0).any():
            msg = "negative"
            raise RefusedError(msg)
        self.got.append(rows)


def test_a_target_that_is_away_is_tried_again():
    sink = Scripted([AwayError("away"), OSError("reset"), AwayError("away")])
    sink.put(results())
    sink.close()
    assert (sink.retries, sink.written, sink.dead) == (3, 50, 0)
    assert pl.concat(sink.got).equals(results())


def test_only_the_refused_row_is_buried_and_comes_again_when_mended(tmp_path):
    sink = Scripted(dead_letters=tmp_path / "dead")
    bad = results().with_columns(mean=pl.when(pl.col("count") == 13).then(-1.0).otherwise(pl.col("mean")))
    sink.put(bad)
    sink.close()
    assert (sink.written, sink.dead) == (49, 1)
    (letter,) = (tmp_path / "dead").glob("*.parquet")
    assert pl.read_parquet(letter)["count"].to_list() == [13]
    mended = InfluxLike(dead_letters=tmp_path / "dead")
    assert mended.redeliver() == 1
    mended.close()
    assert mended.got[0]["count"].to_list() == [13]
    assert not list((tmp_path / "dead").iterdir())


class InfluxLike(Scripted):
    name = "scripted"

    def write(self, rows):
        self.got.append(rows)


def test_the_buffer_is_bounded_and_says_what_it_could_not_hold():
    gate = threading.Event()

    class Slow(Scripted):
        def write(self, rows):
            gate.wait(30)
            super().write(rows)

    sink = Slow(buffer_rows=100, batch_rows=50)
    for i in range(10):
        sink.put(results(first=i * 1000 + 1))
    gate.set()
    sink.close()
    assert sink.written + sink.dead == 500
    assert sink.dead >= 300
    with pytest.raises(ConfigError, match="batch_rows"):
        Scripted(batch_rows=0)


def test_history_sink_stores_once_whatever_is_repeated(tmp_path):
    with History(str(tmp_path / "h")) as history:
        sink = HistorySink(history, value="mean", linger_s=0.0)
        sink.put(results())
        sink.put(results())
        sink.put(results(value=1.0))
        sink.close()
        stored = history.scan("*").collect()
    assert stored.height == 50
    assert stored.sort("time")["value"].to_list() == results(value=1.0)["mean"].to_list()


@pytest.mark.service("mosquitto")
def test_mqtt_sink_and_a_broker_that_restarts(tmp_path):
    import paho.mqtt.client as paho

    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    command = [shutil.which("mosquitto", path=PATHS), "-c", str(config)]
    got = []
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "ears")
    client.on_connect = lambda c, *_: c.subscribe("iiot/#", qos=1)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _c, _u, m: got.append((m.topic, m.payload))
    sink = MqttSink(port=port, retain=True, retry_s=0.05, linger_s=0.0)
    ready = threading.Event()
    with server(command, port):
        client.connect("127.0.0.1", port)
        client.loop_start()
        assert ready.wait(10)
        sink.put(results(10))
        assert sink.flush()
        until(lambda: len(got) >= 10)
    ready.clear()
    sink.put(results(10, first=1_750_009_000))
    until(lambda: sink.retries > 0)
    with server(command, port):
        assert ready.wait(30)
        assert sink.flush()
        # Retained: whoever subscribes later than the sink came back still gets each topic's last one.
        last = {1_750_009_000_000 + i * 1000 for i in range(5, 10)}
        until(lambda: last <= {orjson.loads(p)["time"] for _, p in got})
        sink.close()
        client.disconnect()
        client.loop_stop()
    assert {t for t, _ in got} == {f"iiot/a/{i}" for i in range(5)}
    assert (sink.written, sink.dead) == (20, 0)
    assert sink.retries > 0


def test_line_protocol_escapes_and_leaves_out_what_it_can_not_say():
    frame = pl.DataFrame(
        {"tag": ["a,b =c", "d"], "time": [1, 2], "x y": [1.5, float("nan")], "on": [True, None], "text": ["no", "no"]}
    )
    out = lines(frame.with_columns(pl.col("time").cast(STAMP)), "m,1")
    assert out == b"m\\,1,tag=a\\,b\\ \\=c x\\ y=1.5,on=true 1\n"


class Refusing(BaseHTTPRequestHandler):
    statuses: list[int] = []  # noqa: RUF012 -- set by the test
    bodies: list[bytes] = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.statuses.pop(0) if self.statuses else 204
        if status == 204:
            self.bodies.append(body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_influx_answers_are_told_apart():
    http = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        Refusing.statuses, Refusing.bodies = [503, 429, 400], []
        sink = InfluxSink(f"http://127.0.0.1:{http.server_port}/write", retry_s=0.01, linger_s=0.0)
        sink.put(results(4))
        sink.close()
        assert sink.retries == 2
        assert sum(b.count(b"\n") for b in Refusing.bodies) == 4
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.mark.service("victoria-metrics")
def test_influx_sink_into_victoria_metrics(tmp_path):
    import requests

    port = free_port()
    command = [
        shutil.which("victoria-metrics"),
        f"-storageDataPath={tmp_path}/vm",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=100y",
    ]
    with server(command, port):
        sink = InfluxSink(f"http://127.0.0.1:{port}/write", measurement="flow")
        sink.put(results(20))
        sink.close()
        assert sink.written == 20

        def stored():
            requests.get(f"http://127.0.0.1:{port}/internal/force_flush", timeout=10)
            found = requests.get(
                f"http://127.0.0.1:{port}/api/v1/export", params={"match[]": '{__name__="flow_mean"}'}, timeout=10
            ).text
            return sum(len(line.split('"timestamps":[')[1].split("]")[0].split(",")) for line in found.splitlines())

        until(lambda: stored() == 20)


@pytest.fixture
def postgres(tmp_path):
    """A PostgreSQL of our own in a temporary directory, on a free port."""
    home = Path(shutil.which("initdb", path=PATHS)).parent
    data, port, user = tmp_path / "pg", free_port(), None
    if os.getuid() == 0:
        # The server refuses to run as root; the package's own user, or nobody, may.
        import pwd

        user = next(u for u in ("postgres", "nobody") if u in {p.pw_name for p in pwd.getpwall()})
        data.mkdir()
        shutil.chown(data, user)
        for parent in data.parents:
            if parent.is_relative_to(tempfile.gettempdir()) and str(parent) != tempfile.gettempdir():
                parent.chmod(parent.stat().st_mode | 0o011)
    made = subprocess.run(
        [f"{home}/initdb", "-D", str(data), "-U", "iiot", "--auth=trust", "-N"],
        user=user,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert made.returncode == 0, made.stderr
    command = [
        f"{home}/postgres",
        "-D",
        str(data),
        "-p",
        str(port),
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={data}",
    ]
    with server(command, port, user=user, cwd="/"):
        yield f"postgresql://iiot@127.0.0.1:{port}/postgres"


@pytest.mark.service("initdb")
def test_postgres_sink_upserts(postgres):
    sink = PostgresSink(postgres, "flow", linger_s=0.0, retry_s=0.2)
    sink.put(results())
    sink.put(results(value=1.0).with_columns(version=pl.lit(1, pl.Int64), active=pl.lit(value=True)))
    sink.close()
    assert (sink.written, sink.dead) == (100, 0), sink.last_error
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(postgres) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(mean), bool_and(active) FROM flow")
        assert cursor.fetchone() == (50, sum(results(value=1.0)["mean"]), True)
    with pytest.raises(ConfigError, match="table"):
        PostgresSink(postgres, 'x"; drop')
