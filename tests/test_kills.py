"""kill -9 of an adapter, of a Dask worker, of the whole program: nothing acknowledged is lost or doubled."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import orjson
import polars as pl
import psutil
import pytest
import tomli_w

import iiot_dask as iiot
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Journal as JournalConfig
from iiot_dask.core.metrics import Metrics
from iiot_dask.ingest.journal import Journal
from iiot_dask.reckoning import reckon
from iiot_dask.sim.factory import Factory
from iiot_dask.sim.process import FactoryProcess

LONG_S = 60.0


def until(condition, what, timeout_s=LONG_S):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)
    return found


class Engine:
    """`iiot-dask run` in a process of its own, and what it says of itself."""

    def __init__(self, folder):
        self.folder = folder
        self.status_file = folder / "data" / "status.json"
        self.process = None

    def start(self):
        self.status_file.unlink(missing_ok=True)
        log = (self.folder / "run.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "iiot_dask", "run", "plant.toml"], cwd=self.folder, stdout=log, stderr=log
        )
        log.close()

    def status(self):
        assert self.process.poll() is None, (self.folder / "run.log").read_text()[-3000:]
        try:
            return orjson.loads(self.status_file.read_bytes())
        except FileNotFoundError:
            return None

    def await_connected(self):
        """Until every adapter has its session: what devices send before that is nobody's."""
        until(
            lambda: (s := self.status()) and s["adapters"] and all(a["connected"] for a in s["adapters"]), "connected"
        )

    def await_samples(self, more=1):
        """Until every adapter has brought `more` samples than it has now."""

        def counts():
            status = self.status()
            return {a["name"]: a["samples"] for a in status["adapters"]} if status and status["adapters"] else None

        before = until(counts, "a status")
        until(lambda: all(counts()[n] >= before[n] + more for n in before), f"{more} more samples each; had {before}")

    def await_stored(self):
        until(lambda: (self.status() or {"stored_rows": 0})["stored_rows"], "rows in history")

    def adapter_pid(self, kind):
        row = next(a for a in self.status()["adapters"] if a["kind"] == kind)
        return row["name"], row["pid"]

    def worker_pids(self):
        children = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for child in children:
            # One may end between the list and the look.
            with contextlib.suppress(psutil.NoSuchProcess):
                # Dask's nanny spawns its workers; adapters are started by name.
                if "spawn_main" in " ".join(child.cmdline()):
                    found.append(child.pid)
        return found

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(90) == 0, (self.folder / "run.log").read_text()[-3000:]


def durable_rows(folder, tmp_path):
    """(tag, time) of what the journal holds, read from a copy: what was acknowledged and may not be in history yet."""
    copy = tmp_path / "journal-copy"
    shutil.copytree(folder / "data" / "journal", copy)
    journal = Journal(copy, JournalConfig(), clock=SystemClock(), metrics=Metrics())
    names = pl.DataFrame(iiot.open(folder / "plant.toml").tags).select(pl.col("id").cast(pl.UInt32), "tag")
    parts = [pl.DataFrame({"id": r.batch.tag, "time": r.batch.time}) for r in journal.read(0)]
    journal.close()
    rows = pl.concat(parts) if parts else pl.DataFrame(schema={"id": pl.UInt32, "time": pl.Int64})
    return rows.join(names, on="id").select("tag", pl.col("time").cast(pl.Datetime("ns", "UTC")))


@pytest.fixture
def plant(tmp_path):
    factory = Factory(tags=400, seed=11, day_s=30, duration_s=600, faults=[])
    with ExitStack() as stack:
        process = stack.enter_context(FactoryProcess(factory, tmp_path / "factory"))
        raw = process.plant_file(data="data", name="kills")
        raw["cluster"] = {"minimum": 2, "maximum": 2, "policy": "static", "processes": True}
        raw["stream"] = {"flush": "1s"}
        (tmp_path / "plant.toml").write_text(tomli_w.dumps(raw))
        engine = Engine(tmp_path)
        stack.callback(lambda: engine.process and engine.process.poll() is None and engine.process.kill())
        yield process, engine, tmp_path


def judged(process, engine, folder):
    """Let the devices go quiet, drain, stop; the reckoning and what is stored."""
    process.quiesce()

    def calm():
        before = engine.status()["samples"]
        time.sleep(2.5)
        return engine.status()["backlog_rows"] == 0 and all(
            b["age_s"] is None or b["age_s"] > 2 or b["kind"] == "modbus" for b in engine.status()["adapters"]
        ) and before >= 0  # fmt: skip

    until(calm, "quiet")
    engine.stop()
    truth = process.stop()
    with iiot.History(str(folder / "data" / "history")) as history:
        stored = history.scan("*").collect()
        assert not history.verify().damaged
    return reckon(truth.samples, stored), stored


def nothing_doubled_or_invented(counts):
    for name, row in counts.items():
        assert row["duplicates"] == 0, (name, row)
        assert row["unexpected"] == 0, (name, row)
        assert row["stored"] > 0, (name, row)


def test_an_adapter_killed_in_mid_run_comes_back_where_it_was(plant):
    process, engine, folder = plant
    engine.start()
    engine.await_connected()
    process.begin()
    engine.await_samples(20)
    name, pid = engine.adapter_pid("mqtt")
    os.kill(pid, signal.SIGKILL)
    until(
        lambda: next(a for a in engine.status()["adapters"] if a["name"] == name)["pid"] not in (pid, None),
        "a new process",
    )
    engine.await_samples(20)
    counts, _ = judged(process, engine, folder)
    nothing_doubled_or_invented(counts)
    # Persistent session, QoS 1, acknowledged after the fsync: the broker sends the rest again.
    assert counts["json"]["missing"] == 0
    # Its neighbours noticed nothing.
    assert counts["opcua"]["missing"] == 0
    assert counts["modbus"]["missing"] == 0


def test_a_worker_killed_in_mid_run_costs_nothing(plant):
    process, engine, folder = plant
    engine.start()
    engine.await_connected()
    process.begin()
    engine.await_stored()
    engine.await_samples(20)
    workers = engine.worker_pids()
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    until(lambda: set(engine.worker_pids()) - set(workers), "a new worker")
    engine.await_samples(40)
    assert engine.status()["counters"]["stream_recoveries_total"] >= 1
    counts, _ = judged(process, engine, folder)
    nothing_doubled_or_invented(counts)
    assert {name: row["missing"] for name, row in counts.items()} == dict.fromkeys(counts, 0)


def test_the_whole_program_killed_in_mid_run_goes_on_from_its_journal(plant, tmp_path):
    process, engine, folder = plant
    engine.start()
    engine.await_connected()
    process.begin()
    engine.await_stored()
    engine.await_samples(20)
    family = psutil.Process(engine.process.pid).children(recursive=True)
    engine.process.kill()
    engine.process.wait()
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in family), "children die with their parent")
    acknowledged = durable_rows(folder, tmp_path)
    engine.start()
    engine.await_samples(20)
    counts, stored = judged(process, engine, folder)
    nothing_doubled_or_invented(counts)
    assert acknowledged.join(stored, on=["tag", "time"], how="anti").height == 0
    assert counts["json"]["missing"] == 0
