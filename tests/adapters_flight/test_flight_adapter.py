"""Flight over loopback: Arrow's own client, the edge client, restarts, refusals, TLS."""

import subprocess
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from iiot_dask_adapters.flight import FlightAdapter
from iiot_dask_adapters.flight.client import EdgeClient
from pyarrow import flight

from iiot_dask.adapter.testing import SECRET, AdapterContract
from iiot_dask.core.config import Adapter
from iiot_dask.core.errors import CapacityError, ConfigError, InUseError, RemoteAdapterError, SchemaError
from tests.pushes import DEADLINE_S, Running, context, free_port, stubborn, wait_for


def batch_of(start, rows, tags=("a/t", "a/p")):
    at = np.arange(start, start + rows)
    tag = pa.DictionaryArray.from_arrays(pa.array((at % len(tags)).astype(np.int32)), pa.array(tags))
    return pa.record_batch({"tag": tag, "time": pa.array(at, pa.timestamp("ns", "UTC")), "value": at.astype(float)})


@pytest.fixture
def serve():
    made = []

    def make(durable=True, secrets=None, **keys):
        made.append(Running(FlightAdapter(context("flight", secrets, **keys)), durable).__enter__())
        made[-1].location = f"grpc+tcp://127.0.0.1:{made[-1].adapter.port}"
        return made[-1]

    yield make
    for one in made:
        one.stop()


def put(location, batches, descriptor, options=None, positions=None):
    """What Arrow's own client hears back: the metadata of all acknowledgements."""
    with flight.connect(location) as client:
        writer, reader = client.do_put(descriptor, batches[0].schema, options)
        heard = []

        def hear():
            while (told := reader.read()) is not None:
                heard.append(told.to_pybytes())

        for k, batch in enumerate(batches):
            if positions is None:
                writer.write_batch(batch)
            else:
                writer.write_with_metadata(batch, positions[k])
        writer.done_writing()
        hear()
        writer.close()
        return heard


def test_arrows_own_client_puts_and_is_told(serve):
    running = serve()
    heard = put(running.location, [batch_of(0, 5), batch_of(5, 5)], flight.FlightDescriptor.for_path("samples"))
    assert heard[-1] == b'{"position":1,"puts":2}'
    assert [row[:3] for row in running.rows] == [(("a/t", "a/p")[k % 2], k, float(k)) for k in range(10)]
    with flight.connect(running.location) as client:
        assert [action.type for action in client.list_actions()] == ["position"]
        assert list(client.list_flights()) == []


def test_a_put_of_many_rows_comes_in_polls_of_bounded_size(serve):
    running = serve()
    heard = put(running.location, [batch_of(0, 250_001)], flight.FlightDescriptor.for_path("samples"))
    assert heard == [b'{"position":0,"puts":1}']
    assert len(running.rows) == 250_001


def test_nothing_is_acknowledged_before_the_disk(serve):
    running = serve(durable=False)
    with EdgeClient(running.location, "edge-7", timeout_s=20) as edge:
        edge.send(batch_of(0, 10), 1)
        edge.send(batch_of(10, 10), 2)
        wait_for(lambda: len(running.rows) == 20, "the rows")
        time.sleep(0.2)
        assert edge.durable is None
        running.durable.set()
        edge.flush()
        assert edge.durable == 2


def test_an_edge_resumes_where_the_disk_is_even_after_a_restart():
    port = free_port()
    first = Running(FlightAdapter(context("flight", listen=f"127.0.0.1:{port}")))
    with first, EdgeClient(f"grpc+tcp://127.0.0.1:{port}", "edge-7", timeout_s=20) as edge:
        for k in range(5):
            edge.send(batch_of(10 * k, 10), k)
        edge.flush()
    second = Running(FlightAdapter(context("flight", listen=f"127.0.0.1:{port}")), position=first.position)
    with second, EdgeClient(f"grpc+tcp://127.0.0.1:{port}", "edge-7", timeout_s=20) as edge:
        assert edge.durable == 4
        for k in range(8):
            edge.send(batch_of(10 * k, 10), k)
        edge.flush()
    assert [row[1] for row in second.rows] == list(range(50, 80))
    with pytest.raises(SchemaError, match="position 3 after 7"):
        edge.send(batch_of(0, 1), 3)


def test_an_edge_goes_on_when_the_server_comes_back():
    port = free_port()
    where = context("flight", listen=f"127.0.0.1:{port}")
    first = Running(FlightAdapter(where), durable=False).__enter__()
    edge = EdgeClient(f"grpc+tcp://127.0.0.1:{port}", "edge-7", timeout_s=30).__enter__()
    edge.send(batch_of(0, 10), 0)
    wait_for(lambda: len(first.rows) == 10, "the first rows")
    # Handed over but never durable: they must come again.
    first.stop()
    with Running(FlightAdapter(where)) as second:
        edge.send(batch_of(10, 10), 1)
        edge.flush()
        assert sorted({row[1] for row in second.rows}) == list(range(20))
        edge.close()
    assert edge.reconnects >= 1


def test_what_is_durable_already_is_skipped_but_acknowledged(serve):
    running = serve()
    command = flight.FlightDescriptor.for_command(b'{"version": 1, "stream": "edge-7"}')
    put(running.location, [batch_of(0, 10)], command, positions=[b"41"])
    wait_for(lambda: running.adapter._inbox.durable("edge-7") == 41, "the position")
    heard = put(running.location, [batch_of(0, 10), batch_of(10, 10)], command, positions=[b"41", b"42"])
    assert heard[-1] == b'{"position":42,"puts":2}'
    assert len(running.rows) == 20


def test_senders_wait_when_too_much_waits_for_the_disk():
    class Unread(Running):
        async def _read(self):
            await self.halted()

    adapter = FlightAdapter(context("flight", options={"queue_rows": 1000}))
    with Unread(adapter) as running:
        location = f"grpc+tcp://127.0.0.1:{running.adapter.port}"
        with EdgeClient(location, "edge-7", held_rows=3000, timeout_s=0.5) as edge:
            with pytest.raises(CapacityError, match="not acknowledged within"):  # noqa: PT012 -- which one fills it is not said
                for k in range(10):
                    edge.send(batch_of(1000 * k, 1000), k)
            assert adapter._inbox._held <= 1000
            edge._held.clear()


@pytest.mark.parametrize(
    ("descriptor", "positions", "said"),
    [
        (flight.FlightDescriptor.for_command(b"no json"), None, "is needed"),
        (flight.FlightDescriptor.for_command(b'{"version": 2, "stream": "x"}'), None, "version 1"),
        (flight.FlightDescriptor.for_command(b'{"version": 1, "stream": "' + b"x" * 70 + b'"}'), None, "1 to 63"),
        (flight.FlightDescriptor.for_path("x"), [b"5", b"5"], "positions of a stream grow"),
        (flight.FlightDescriptor.for_path("x"), [b"-1", b"0"], "decimal digits"),
    ],
)
def test_puts_that_are_refused_are_told_why(serve, descriptor, positions, said):
    running = serve()
    with pytest.raises(flight.FlightServerError, match=said):
        put(running.location, [batch_of(0, 1), batch_of(1, 1)], descriptor, positions=positions)
    wait_for(lambda: any(e.kind == "rejected" for e in running.events), "the event")


def test_a_schema_that_does_not_fit_ends_the_edge_with_a_sentence(serve):
    running = serve()
    wrong = pa.record_batch({"tag": ["a"], "when": [1], "value": [1.0]})
    edge = EdgeClient(running.location, "edge-7", timeout_s=20).__enter__()
    with pytest.raises(SchemaError, match="'time' is missing; 'when' is unknown"):  # noqa: PT012 -- either may tell
        edge.send(wrong, 1)
        edge.flush()
    edge.close()


def test_rows_that_are_refused_are_counted(serve):
    running = serve()
    put(running.location, [batch_of(0, 10, tags=("a/t", "a//x"))], flight.FlightDescriptor.for_path("x"))
    wait_for(lambda: any(e.kind == "rejected" and e.count == 5 for e in running.events), "the event")
    assert len(running.rows) == 5


def test_a_token_is_needed_where_one_is_set(serve):
    running = serve(options={"token": "env:T"}, secrets={"env:T": "right"})
    with EdgeClient(running.location, "edge-7", token="right", timeout_s=20) as edge:
        edge.send(batch_of(0, 1), 0)
    assert len(running.rows) == 1
    for token in ("wrong", None):
        with pytest.raises(RemoteAdapterError, match="authorization failed"):
            EdgeClient(running.location, "edge-7", token=token, timeout_s=20).__enter__()


def test_tls_with_client_certificates(serve, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    running = serve(certificate=str(certificate), private_key=str(key), ca=str(certificate))
    where = f"grpc+tls://localhost:{running.adapter.port}"
    pem, secret = certificate.read_bytes(), key.read_bytes()
    with EdgeClient(where, "edge-7", ca=pem, certificate=pem, private_key=secret, timeout_s=20) as edge:
        edge.send(batch_of(0, 3), 0)
    assert len(running.rows) == 3
    with pytest.raises(RemoteAdapterError, match="not reached"):
        EdgeClient(where, "edge-7", ca=pem, timeout_s=1).__enter__()


def test_what_can_not_work_is_said_before_it_runs(serve, tmp_path):
    for keys, said in (
        ({"listen": "8815"}, "'HOST:PORT' is needed"),
        ({"listen": "grpc+tls://127.0.0.1:0"}, "needs certificate"),
        ({"options": {"tokn": "env:X"}}, "allowed: token"),
    ):
        with pytest.raises(ConfigError, match=said):
            FlightAdapter(context("flight", **keys))
    for keys, said in (
        ({"listen": "0.0.0.0:0"}, "not loopback"),
        ({"certificate": str(tmp_path / "absent")}, "can not be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            serve(**keys)
    running = serve()
    with pytest.raises(InUseError):
        serve(listen=f"127.0.0.1:{running.adapter.port}")


def test_many_edges_at_once(serve):
    running = serve()
    problems = []

    def send(n):
        try:
            with EdgeClient(running.location, f"edge-{n}", timeout_s=30) as edge:
                for k in range(10):
                    edge.send(batch_of(100 * k, 100, tags=(f"e{n}/t",)), k)
        except Exception as error:  # noqa: BLE001 -- the test looks at it
            problems.append(error)

    edges = [threading.Thread(target=send, args=(n,)) for n in range(6)]
    for edge in edges:
        edge.start()
    for edge in edges:
        edge.join(DEADLINE_S)
    assert problems == []
    assert len(set(running.rows)) == 6000


def test_the_contract_is_kept(tmp_path):
    port = free_port()
    config = Adapter(name="edges", kind="flight", listen=f"127.0.0.1:{port}", options={"token": "env:T"})
    with stubborn("flight", port, SECRET):
        assert AdapterContract(FlightAdapter, config, tmp_path, rows=60).run() == []
