"""The listener as clients see it: influxdb-client, curl, and what InfluxDB's interface promises."""

import base64
import gzip
import json
import subprocess
import threading
import urllib.request
from pathlib import Path

import pytest
from iiot_dask_adapters.line import LineAdapter

from iiot_dask.adapter.contract import Kept
from iiot_dask.adapter.testing import SECRET, AdapterContract
from iiot_dask.core.config import Adapter
from iiot_dask.core.errors import ConfigError, InUseError
from tests.pushes import DEADLINE_S, Running, context, free_port, post, stubborn, wait_for

CORPUS = Path(__file__).with_name("corpus.txt").read_bytes()


def test_influxdb_client_writes_and_is_answered_after_the_disk(line):
    from influxdb_client import InfluxDBClient, Point, WritePrecision
    from influxdb_client.client.write_api import SYNCHRONOUS

    running = line(options={"token": "env:T"}, secrets={"env:T": "s3cret"})
    with InfluxDBClient(running.url, token="s3cret", org="plant", enable_gzip=True) as client:
        assert client.ping()
        api = client.write_api(write_options=SYNCHRONOUS)
        points = [
            Point("press").tag("host", "plc 7").field("torque", k / 7).time(k, WritePrecision.MS) for k in range(500)
        ]
        api.write("plant", "plant", points, write_precision=WritePrecision.MS)
    assert len(running.rows) == 500
    assert running.rows[499] == ("press/host=plc 7/torque", 499_000_000, 499 / 7, 0)


def test_influxdb_client_is_told_what_is_wrong(line):
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import SYNCHRONOUS
    from influxdb_client.rest import ApiException

    running = line(options={"token": "env:T"}, secrets={"env:T": "s3cret"})
    with InfluxDBClient(running.url, token="wrong", org="plant") as client:
        with pytest.raises(ApiException) as refused:
            client.write_api(write_options=SYNCHRONOUS).write("plant", "plant", "m f=1 1")
        assert refused.value.status == 401
    with InfluxDBClient(running.url, token="s3cret", org="plant") as client:
        with pytest.raises(ApiException) as partial:
            client.write_api(write_options=SYNCHRONOUS).write("plant", "plant", "m f=1 1\nm f= 2\nm f=3 3")
        assert partial.value.status == 400
        said = json.loads(partial.value.body)
        assert said["code"] == "invalid"
        assert said["message"] == "partial write: unable to parse 'm f= 2': missing field value dropped=1"
    assert [row[2] for row in running.rows] == [1.0, 3.0]
    assert [(e.kind, e.reason, e.raw) for e in running.events if e.kind == "malformed"] == [
        ("malformed", "missing field value", b"m f= 2")
    ]


@pytest.mark.service("curl")
def test_curl_as_the_documentation_of_influxdb_shows_it(line):
    running = line(username="me", password="file:p", secrets={"file:p": "pw"})

    def curl(*arguments):
        done = subprocess.run(
            ["curl", "-sS", "-i", "--max-time", "20", *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "204 No Content" in curl("-I", "-X", "GET", f"{running.url}/ping")
    body = "cpu_load_short,host=server01,region=us-west value=0.64 1434055562000000000"
    assert "401" in curl("-XPOST", f"{running.url}/write?db=mydb", "--data-binary", body)
    assert "204 No Content" in curl("-XPOST", "-u", "me:pw", f"{running.url}/write?db=mydb", "--data-binary", body)
    assert "204" in curl("-XPOST", f"{running.url}/write?db=mydb&u=me&p=pw&precision=s", "--data-binary", "a b=1 5")
    assert '"statement_id": 0' in curl(
        "-u", "me:pw", "-XPOST", f"{running.url}/query", "--data-urlencode", "q=CREATE DATABASE mydb"
    )
    refused = curl("-u", "me:pw", "-G", f"{running.url}/query", "--data-urlencode", "q=SELECT * FROM cpu")
    assert "400 Bad Request" in refused
    assert "iiot-dask query" in refused
    assert running.rows == [
        ("cpu_load_short/host=server01/region=us-west/value", 1434055562000000000, 0.64, 0),
        ("a/b", 5_000_000_000, 1.0, 0),
    ]


def test_a_telegraf_body_gzipped_and_chunked(line):
    running = line()
    status, headers, _ = post(
        f"{running.url}/write?db=telegraf", gzip.compress(CORPUS, mtime=0), {"Content-Encoding": "gzip"}
    )
    assert status == 204
    assert headers["X-Influxdb-Version"]
    first = len(running.rows)
    assert first > 40
    # An iterable without a length is sent in chunks.
    status, _, _ = post(f"{running.url}/api/v2/write?bucket=b", iter([CORPUS[:700], CORPUS[700:701], CORPUS[701:]]))
    assert status == 204
    assert len(running.rows) == 2 * first
    assert running.infos[0].device == "cpu/cpu=cpu0/host=edge-1"


def test_a_write_is_answered_only_once_it_is_durable(line):
    running = line(durable=False)
    answers = []
    sender = threading.Thread(target=lambda: answers.append(post(f"{running.url}/write?db=x", b"m f=1 1")))
    sender.start()
    wait_for(lambda: running.rows, "the row to be handed over")
    sender.join(0.3)
    assert answers == []
    running.durable.set()
    sender.join(DEADLINE_S)
    assert answers[0][0] == 204


def test_a_disk_that_does_not_take_it_is_503_with_retry_after(line):
    running = line(durable=False, options={"durable": "200ms"})
    status, headers, body = post(f"{running.url}/write?db=x", b"m f=1 1")
    assert status == 503
    assert int(headers["Retry-After"]) >= 1
    assert "send them again" in json.loads(body)["error"]


def test_too_much_that_waits_is_429_with_retry_after(tmp_path):
    del tmp_path

    class Unread(Running):
        async def _read(self):
            await self.halted()

    body = b"\n".join(b"m f=%d %d" % (k, k) for k in range(1500))
    adapter = LineAdapter(context("line", options={"queue_rows": 1000, "durable": "100ms"}))
    with Unread(adapter) as running:
        assert post(f"{running.url}/write?db=x", body)[0] == 503
        status, headers, told = post(f"{running.url}/api/v2/write?bucket=x", body)
        assert status == 429
        assert headers["Retry-After"] == "1"
        assert json.loads(told)["code"] == "too many requests"
        assert post(f"{running.url}/health", None, method="GET")[0] == 503


def test_writers_that_wait_at_a_stop_get_503(line):
    running = line(durable=False)
    answers = []
    sender = threading.Thread(target=lambda: answers.append(post(f"{running.url}/write?db=x", b"m f=1 1")))
    sender.start()
    wait_for(lambda: running.rows, "the row to be handed over")
    running.stop()
    sender.join(DEADLINE_S)
    assert answers[0][0] == 503
    assert answers[0][1]["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("query", "body", "headers", "status", "said"),
    [
        ("db=x&precision=fortnight", b"m f=1", {}, 400, "precision 'fortnight'"),
        ("db=x", b"m f=1" * 400, {}, 413, "body_bytes_max"),
        ("db=x", gzip.compress(b"m f=1 1\n" * 4000, mtime=0), {"Content-Encoding": "gzip"}, 413, "unpacks to more"),
        ("db=x", b"no gzip", {"Content-Encoding": "gzip"}, 400, "no gzip"),
        ("db=x", gzip.compress(b"m f=1", mtime=0)[:-4], {"Content-Encoding": "gzip"}, 400, "cut off"),
        ("db=x", b"m f=1", {"Content-Encoding": "br"}, 415, "'br'"),
        ("db=x", b"\n".join(b"m f" for _ in range(150)), {}, 400, "and 130 more"),
    ],
)
def test_what_is_wrong_is_named(line, query, body, headers, status, said):
    running = line(options={"body_bytes_max": 1024})
    for path, where in (("write", "error"), ("api/v2/write", "message")):
        got, answered, text = post(f"{running.url}/{path}?{query}", body, headers)
        assert got == status
        assert said in json.loads(text)[where]
        if where == "error":
            assert answered["X-Influxdb-Error"]
    assert running.rows == []


def test_small_answers(line):
    running = line()
    assert post(f"{running.url}/write?db=x", b"")[0] == 204
    assert post(f"{running.url}/write?db=x", b"# nothing\n\n")[0] == 204
    assert post(f"{running.url}/ready", None, method="GET")[0] == 200
    assert json.loads(post(f"{running.url}/ping?verbose=true", None, method="GET")[2])["version"]
    assert post(f"{running.url}/elsewhere", b"")[0] == 404
    status, _, _ = post(f"{running.url}/write?db=x", b'm s="text" 1')
    assert status == 204
    wait_for(lambda: any("text values" in e.reason for e in running.events), "the event on texts")


@pytest.mark.parametrize(
    "header",
    ["Token right", "Bearer right", "token right", "Basic " + base64.b64encode(b"me:pw").decode(), "Token me:pw"],
)
def test_ways_to_be_let_in(line, header):
    running = line(
        username="me", password="env:P", options={"token": "env:T"}, secrets={"env:T": "right", "env:P": "pw"}
    )
    assert post(f"{running.url}/write?db=x", b"m f=1 1", {"Authorization": header})[0] == 204
    for wrong in (header[:-1], header + "x", "", "Basic %%%", "Digest right"):
        assert post(f"{running.url}/write?db=x", b"m f=1 1", {"Authorization": wrong} if wrong else {})[0] == 401


def test_a_write_of_many_rows_comes_in_polls_of_bounded_size(line):
    running = line()
    body = b"\n".join(b"m,n=%d f=%d %d" % (k % 50, k, k) for k in range(250_000))
    assert post(f"{running.url}/write?db=x", body)[0] == 204
    assert [row[1] for row in running.rows] == list(range(250_000))


def test_many_writers_at_once(line):
    running = line()
    statuses = []

    def write(n):
        statuses.extend(post(f"{running.url}/write?db=x", b"m,n=%d f=%d %d" % (n, k, k))[0] for k in range(20))

    writers = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(DEADLINE_S)
    assert statuses == [204] * 160
    assert len(set(running.rows)) == 160


def test_what_can_not_work_is_said_before_it_runs(line, tmp_path):
    with pytest.raises(ConfigError, match="'HOST:PORT' is needed"):
        LineAdapter(context("line", listen="8186"))
    for keys, said in (
        ({"listen": "0.0.0.0:0"}, "not loopback"),
        ({"certificate": str(tmp_path / "absent.pem")}, "can not be used"),
    ):
        with pytest.raises(ConfigError, match=said):
            line(**keys)
    running = line()
    taken = f"127.0.0.1:{running.adapter.port}"
    with pytest.raises(InUseError):
        line(listen=taken)


def test_tls(line, tmp_path):
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    running = line(certificate=str(certificate), private_key=str(key))
    trusting = ssl.create_default_context(cafile=certificate)
    request = urllib.request.Request(f"https://127.0.0.1:{running.adapter.port}/write?db=x", data=b"m f=1 1")
    with urllib.request.urlopen(request, timeout=DEADLINE_S, context=trusting) as response:
        assert response.status == 204


def test_kept_lines_are_read_again():
    import asyncio

    kept = [Kept("telegraf", "x", b"m f=1 5", 9), Kept("telegraf", "x", b"m f=", 9)]
    poll = asyncio.run(LineAdapter.decode(context("line"), kept))
    assert [info.tag for info in poll.tags] == ["m/f"]
    assert poll.batch.time.tolist() == [5]
    assert [event.kind for event in poll.events] == ["malformed"]


def test_the_contract_is_kept(tmp_path):
    port = free_port()
    config = Adapter(
        name="telegraf", kind="line", listen=f"127.0.0.1:{port}", options={"token": "env:T", "durable": "300ms"}
    )
    with stubborn("line", port, SECRET):
        assert AdapterContract(LineAdapter, config, tmp_path, rows=40).run() == []
