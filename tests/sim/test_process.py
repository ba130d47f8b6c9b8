"""The whole factory as a process: what strangers hear is what its truth says."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import polars as pl
import psutil
import pytest
from pymodbus.client import AsyncModbusTcpClient

from iiot_dask.core import sparkplug_b as spb
from iiot_dask.core.errors import CapacityError, DataError, LocalAdapterError
from iiot_dask.core.plantfile import parse
from iiot_dask.sim.factory import OWN_ENDPOINT, Factory
from iiot_dask.sim.fault import Fault
from iiot_dask.sim.json_publisher import MALFORMED
from iiot_dask.sim.process import FactoryProcess

NCMD = "spBv1.0/plant/NCMD/edge1"


def port_of(endpoint):
    return urlsplit(endpoint).port


def triples(frame):
    """(tag, time in ms, value) of a truth frame."""
    rows = frame.select("tag", pl.col("time").dt.epoch("ms"), "value").rows()
    assert len(rows) == len(set(rows))
    return set(rows)


def heard_json(messages):
    good, bad = set(), []
    for topic, payload in messages:
        if not topic.startswith("factory/"):
            continue
        try:
            body = json.loads(payload)
            good.add((f"site1/{topic.removeprefix('factory/')}", body["ts"], float(body["v"])))
        except ValueError:
            bad.append((topic, payload))
    return good, bad


class Host:
    """A minimal Sparkplug host: aliases from births, sequence checked."""

    def __init__(self):
        self.kinds = []
        self.samples = set()
        self.alias = {}
        self.seq = None

    def take(self, topic, payload):
        space, group, kind, node, *rest = topic.split("/")
        assert (space, group, node) == ("spBv1.0", "plant", "edge1")
        if kind == "NCMD":
            return
        self.kinds.append(kind)
        message = spb.parse(payload)
        if kind == "NDEATH":
            assert [m.name for m in message.metrics] == ["bdSeq"]
            return
        if kind == "NBIRTH":
            assert message.seq == 0
        else:
            assert message.seq == (self.seq + 1) % 256
        self.seq = message.seq
        for metric in message.metrics:
            if metric.name in ("bdSeq", spb.NODE_REBIRTH):
                assert kind == "NBIRTH"
                continue
            if kind.endswith("BIRTH"):
                self.alias[metric.alias] = ("/".join(["spb", node, *rest, metric.name]), metric.datatype)
            name, datatype = self.alias[metric.alias]
            self.samples.add((name, metric.timestamp, spb.number(metric, datatype)))


def sparkplug_host(messages):
    host = Host()
    for topic, payload in messages:
        if topic.startswith("spBv1.0/"):
            host.take(topic, payload)
    return host


async def poll_modbus(port, unit, times):
    async with AsyncModbusTcpClient("127.0.0.1", port=port) as client:
        for _ in range(times):
            assert not (await client.read_holding_registers(0, count=13, device_id=unit)).isError()
            assert not (await client.read_coils(0, count=1, device_id=unit)).isError()


@pytest.mark.parametrize(
    "broker", [pytest.param("mosquitto", marks=pytest.mark.service("mosquitto")), pytest.param("amqtt")]
)
def test_what_strangers_hear_is_what_the_truth_says(tmp_path, listen, until, broker):
    mixer = next(d for d in Factory(tags=200, seed=4).devices if d.protocol == "json" and d.stop - d.start == 10)
    corrupt = Fault("corrupt", mixer.path, 0.5, 600.0)
    factory = Factory(tags=200, seed=4, day_s=9.0, duration_s=60.0, faults=[corrupt])
    with FactoryProcess(factory, tmp_path, broker) as process:
        assert process.broker == broker
        ends = process.endpoints
        parse(factory.plant_file(ends), "plant")
        listener = listen(port_of(ends["cells"]))
        asyncio.run(poll_modbus(port_of(ends["presses"]), 2, 3))
        assert listener.messages == []
        start_ns = process.begin()
        until(lambda: len(heard_json(listener.messages)[1]) >= 20, "malformed payloads")
        until(lambda: len(heard_json(listener.messages)[0]) >= 500, "samples")
        births = [kind for kind in sparkplug_host(listener.messages).kinds if kind.endswith("BIRTH")]
        command = spb.Payload(timestamp=1)
        spb.set_value(command.metrics.add(name=spb.NODE_REBIRTH), spb.DataType.BOOLEAN, 1.0)
        listener.client.publish(NCMD, command.SerializeToString(), 1)
        until(
            lambda: (
                sparkplug_host(listener.messages).kinds.count("NBIRTH") == 2
                and sparkplug_host(listener.messages).kinds[-1] == "DDATA"
            ),
            "rebirth",
        )
        asyncio.run(poll_modbus(port_of(ends["compressor"]), 1, 2))
        stop_ns = process.quiesce()
        assert (process.begin(), process.quiesce()) == (start_ns, stop_ns)
        listener.catch_up()
        quiet = len(listener.messages)
        asyncio.run(poll_modbus(port_of(ends["presses"]), 2, 1))
        listener.catch_up()
        assert len(listener.messages) == quiet
        truth = process.stop()
    assert start_ns < stop_ns
    assert (truth.info["start_ns"], truth.info["broker"], truth.info["failed"]) == (start_ns, broker, "")
    assert truth.samples["acknowledged"].all()
    assert truth.info["refused"] == truth.info["truncated_rows"] == 0

    good, bad = heard_json(listener.messages)
    sent = truth.samples.filter(pl.col("protocol") == "json")
    assert good == triples(sent)
    assert truth.info["malformed"] == {mixer.path: len(bad)}
    assert {payload for _, payload in bad} <= set(MALFORMED)
    assert {topic.rsplit("/", 1)[0] for topic, _ in bad} == {mixer.path.replace("site1", "factory")}

    host = sparkplug_host(listener.messages)
    assert host.samples == triples(truth.samples.filter(pl.col("protocol") == "sparkplug"))
    assert births == host.kinds[: len(births)] == ["NBIRTH"] + ["DBIRTH"] * (len(births) - 1)
    assert truth.info["rebirths"] == 1
    assert {"NDATA", "DDATA"} <= set(host.kinds)

    polled = truth.samples.filter(pl.col("protocol") == "modbus").group_by("tag").len()
    device = next(d for d in factory.devices if d.unit_id == 2)
    wanted = dict.fromkeys(factory.names[device.start : device.stop], 4)
    own = next(d for d in factory.devices if d.path == OWN_ENDPOINT)
    wanted |= dict.fromkeys(factory.names[own.start : own.stop], 2)
    assert dict(polled.iter_rows()) == wanted


def test_what_is_sent_is_what_the_pure_factory_says(tmp_path, listen, until):
    factory = Factory(tags=200, seed=4, day_s=9.0, faults=[])
    with FactoryProcess(factory, tmp_path, "amqtt") as process:
        listener = listen(port_of(process.endpoints["cells"]))
        start_ns = process.begin()
        until(lambda: len(heard_json(listener.messages)[0]) >= 500, "samples")
        process.quiesce()
        truth = process.stop()
    made = truth.samples.filter(pl.col("protocol").is_in(["json", "opcua"]))
    # Up to the last report: the tick that ends the run cuts the plan somewhere between two reports.
    last_ns = int(made["time"].max().timestamp() * 1000) * 10**6 - start_ns
    tag, t, value = factory.samples(0, last_ns)
    pushed = np.isin(factory.protocol[factory.device_of[tag]], [1, 2])
    expected = {
        (factory.names[k], (start_ns + int(ns)) // 10**6, v)
        for k, ns, v in zip(tag[pushed], t[pushed], value[pushed], strict=True)
    }
    assert len(expected) > 500
    assert expected <= triples(made)
    assert len(made) - len(expected) <= factory.size.sum()


def test_faults_happen_and_are_written_down(tmp_path, until):
    base = Factory(tags=200, seed=4)
    mixer = next(d for d in base.devices if d.protocol == "json" and d.stop - d.start == 10)
    plan = [
        Fault("outage", OWN_ENDPOINT, 0.3, 1.3),
        Fault("flatline", f"{mixer.path}/temperature", 0.7, 2.5),
        Fault("corrupt", mixer.path, 1.0, 500.0),
    ]
    factory = Factory(tags=200, seed=4, levels=(1.0,), faults=plan)

    def state(process, event, kind):
        return any(e["event"] == event and e["kind"] == kind for e in list(process.events) if "kind" in e)

    with FactoryProcess(factory, tmp_path, "amqtt") as process:
        port = port_of(process.endpoints["compressor"])
        asyncio.run(poll_modbus(port, 1, 1))
        process.begin()
        until(lambda: state(process, "fault_start", "outage"), "outage")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        until(lambda: state(process, "fault_end", "outage"), "end of the outage")
        asyncio.run(poll_modbus(port, 1, 1))
        until(lambda: state(process, "fault_end", "flatline"), "end of the flatline")
        until(lambda: state(process, "fault_start", "corrupt"), "corrupt payloads")
        process.quiesce()
        truth = process.stop()
    faults = {row["kind"]: row for row in truth.faults.iter_rows(named=True)}
    assert set(faults) == {"outage", "flatline", "corrupt"}
    assert faults["corrupt"]["end"] is None
    assert faults["outage"]["end"] > faults["outage"]["start"]
    mine = truth.samples.filter(pl.col("tag") == f"{mixer.path}/temperature")
    stuck = mine.filter(
        pl.col("time").is_between(faults["flatline"]["start"], faults["flatline"]["end"], closed="left")
    )
    assert len(stuck) >= 3
    assert stuck["value"].n_unique() == 1
    assert not stuck["changed"].any()


def test_the_factory_ends_with_whoever_started_it_and_leaves_its_truth(tmp_path, until):
    code = (
        "import sys, time\n"
        "from iiot_dask.sim.factory import Factory\n"
        "from iiot_dask.sim.process import FactoryProcess\n"
        f"process = FactoryProcess(Factory(tags=100, faults=[]), {str(tmp_path)!r})\n"
        "process.start()\nprocess.begin()\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent.stdout:
        pid = int(parent.stdout.readline())
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    assert len(gone) == len(family)
    assert (tmp_path / "truth.json").exists()


def test_started_twice_is_one_process_and_a_second_factory_is_refused_its_directory(tmp_path):
    with FactoryProcess(Factory(tags=100, faults=[]), tmp_path, "amqtt") as process:
        pid, endpoints = process.pid, dict(process.endpoints)
        assert process.start() == endpoints
        assert process.pid == pid
        assert len(psutil.Process().children()) == 1
        other = FactoryProcess(Factory(tags=100, faults=[]), tmp_path, "amqtt")
        with pytest.raises(LocalAdapterError, match="another simulated factory is running there"):
            other.start()
        process.begin()
        process.quiesce()
        assert process.stop().info["start_ns"] > 0


def test_sigterm_ends_it_with_its_truth(tmp_path):
    process = FactoryProcess(Factory(tags=100, faults=[]), tmp_path, "amqtt")
    process.start()
    os.kill(process.pid, signal.SIGTERM)
    truth = process.stop()
    assert truth.info["start_ns"] == 0
    assert truth.samples.height == 0


def test_a_factory_that_can_not_start_says_why(tmp_path):
    process = FactoryProcess(Factory(tags=100), tmp_path, "rabbit")
    with pytest.raises(LocalAdapterError, match="broker 'rabbit' is unknown"):
        process.start()
    assert not process.alive
    with pytest.raises(DataError):
        process.stop()


def test_commands_before_the_start_are_refused(tmp_path):
    with pytest.raises(LocalAdapterError, match="before start"):
        FactoryProcess(Factory(tags=100), tmp_path).begin()


def test_a_silent_factory_is_given_up_and_killed(tmp_path):
    process = FactoryProcess(Factory(tags=100), tmp_path, "amqtt")
    with pytest.raises(CapacityError, match=r"no 'ready' within 0\.01 s"):
        process.start(timeout_s=0.01)
    assert not process.alive


def test_an_unknown_command_is_an_event(tmp_path, until):
    with FactoryProcess(Factory(tags=100, faults=[]), tmp_path, "amqtt") as process:
        process._tell("dance")
        until(lambda: process.events[-1]["event"] == "error", "error event")
        assert "'dance' is unknown" in process.events[-1]["reason"]


def test_a_configuration_with_strange_keys_is_refused(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"factory": Factory(tags=100).to_dict(), "colour": "red"}))
    command = [sys.executable, "-m", "iiot_dask.sim.serve", "--config", str(config), "--status", str(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "colour" in done.stderr
