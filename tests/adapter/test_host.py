"""The host over real child processes: delivery, acknowledgement, faults, restarts, back-pressure, stop."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import psutil
import pytest

from iiot_dask.adapter.host import check_adapter
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.plantfile import load


def test_rows_arrive_in_order_are_acknowledged_and_a_stop_drains(rig):
    r = rig(rows=100)
    with r:
        r.until(lambda: len(r.values) > 2000)
        running = r.status
        r.until(lambda: r.status.rss_bytes > 0)
    assert r.values == list(range(len(r.values)))
    assert r.deliveries[0].poll.tags[0].tag == "count/n"
    assert {d.incarnation for d in r.deliveries} == {0}
    assert (running.state, running.restarts, running.reason) == ("running", 0, "")
    assert psutil.pid_exists(os.getpid())
    assert not psutil.pid_exists(running.pid)
    assert (r.status.state, r.status.pid, r.status.samples) == ("stopped", None, len(r.values))
    # The child read no more once told to stop, waited for the last acknowledgement, and closed.
    assert r.notes()[-2:] == [f"ack {len(r.values)}", "close"]
    assert r.events == []


def test_acknowledgements_coalesce_to_the_newest(rig):
    r = rig(rows=1, total=1)
    # The rig would acknowledge the one row on a thread of its own, before, between or after these.
    r.acknowledging = False
    with r:
        r.until(lambda: r.status.state == "running")
        for position in range(20_000):
            r.host.acknowledge("n", str(position))
        r.until(lambda: r.notes()[-1:] == ["ack 19999"])
    acks = [int(n.split()[1]) for n in r.notes() if n.startswith("ack")]
    assert len(acks) < 20_000
    assert acks == sorted(acks)


def test_a_position_of_the_run_before_never_reaches_its_successor(rig):
    """Rows of a dead child can become durable while the next one is starting, before it has sent anything."""
    r = rig(rows=10, total=10)
    r.acknowledging = False
    with r:
        r.until(lambda: len(r.values) == 10)
        r.host.acknowledge("n", "3", 0)
        os.kill(r.status.pid, signal.SIGKILL)
        r.until(lambda: r.status.incarnation == 1)
        r.host.acknowledge("n", "10", 0)
        r.until(lambda: r.values[10:])
        r.host.acknowledge("n", "5", 1)
        r.until(lambda: "ack 5" in r.notes())
    assert [n for n in r.notes() if n.startswith(("open", "ack"))][-2:] == ["open 3", "ack 5"]
    assert r.values == [*range(10), *range(3, 10)]
    assert r.metrics.value("adapter_stale_acks_total", adapter="n") == 1


def test_a_killed_child_goes_on_from_the_newest_acknowledged_position(rig):
    r = rig(rows=10)
    with r:
        r.until(lambda: len(r.values) > 100)
        os.kill(r.status.pid, signal.SIGKILL)
        r.until(lambda: any(d.incarnation == 1 and d.poll.batch is not None for d in r.deliveries))
        r.until(lambda: r.status.state == "running")
        status = r.status
    kinds = [(incarnation, kind) for incarnation, kind, _ in r.events]
    assert kinds == [(0, "disconnected"), (1, "connected")]
    assert "SIGKILL" in r.events[0][2]
    assert (status.restarts, status.incarnation, status.errors) == (1, 1, 1)
    # Nothing is missing, and what came twice came after the position the new child was given.
    position = int(r.notes()[[n.startswith("open") for n in r.notes()].index(True, 1)].split()[1])
    assert position > 0
    assert sorted(set(r.values)) == list(range(max(r.values) + 1))
    second = [
        int(v) for d in r.deliveries if d.incarnation == 1 and d.poll.batch is not None for v in d.poll.batch.value
    ]
    assert second == list(range(position, position + len(second)))
    # The old child's rows were all delivered before the host spoke of its end.
    order = [(d.incarnation, bool(d.poll.events)) for d in r.deliveries]
    assert order.index((0, True)) == max(i for i, (inc, _) in enumerate(order) if inc == 0)


def test_a_first_start_uses_the_position_of_the_run_before(rig):
    r = rig(positions={"n": "500"}, total=510)
    with r:
        r.until(lambda: len(r.values) == 10)
    assert r.values == list(range(500, 510))


def test_wrong_configuration_is_not_restarted(rig):
    r = rig(at=20, do="config")
    with r:
        r.until(lambda: r.status.state == "failed")
        time.sleep(0.5)
        assert r.status.restarts == 0
    assert r.status.state == "failed"
    assert r.status.reason == "register 70000 of 'count/n' is out of range 0..65535"
    assert r.values == list(range(20))
    assert [e[1:] for e in r.events] == [("disconnected", r.status.reason)]
    assert r.notes()[-1] == "close"


FAULTS = {
    "remote": "the device refuses the connection",
    "bug": "KeyError: 'absent'",
    "exit": "ended with status 3",
    "segv": "ended by SIGSEGV",
    "wrong": "position '7' is no text of at most 65536 UTF-8 bytes",
    "garbage": "sent a damaged frame: stream goes on with b'Tra'; a frame begins with b'IIF'",
    "term": "ended with status 0",
}


def test_every_fault_is_named_and_will_be_followed_by_a_restart(rig, patient):
    """Each in an adapter of its own, beside the others, before any restart."""
    sections = [{"name": do, "kind": "counting", "options": {"at": 20, "do": do, "password": "x"}} for do in FAULTS]
    r = rig(adapters=sections, policy=patient)
    with r:
        r.until(lambda: all(status.state == "waiting" for status in r.host.status()))
        r.until(lambda: len(r.events) == len(FAULTS))
    said = {d.adapter: event.reason for d in r.deliveries for event in d.poll.events}
    for do, reason in FAULTS.items():
        assert said[do].startswith(reason), said
        assert re.search(r"; restart in \d+\.\d s$", said[do]), said
        rows = [
            int(v) for d in r.deliveries if d.adapter == do and d.poll.batch is not None for v in d.poll.batch.value
        ]
        assert rows[:20] == list(range(20)), do
    # A traceback is for the log, not for the reason.
    assert '"level":"error"' in r.log("bug")
    assert "do_bug" in r.log("bug")


def test_too_many_restarts_are_degraded_and_slow(rig, quick):
    slow = replace(quick, budget=2, slow_ns=10**9 * 3600)
    r = rig(at=0, do="exit", policy=slow)
    with r:
        r.until(lambda: r.status.state == "degraded")
        r.until(lambda: r.status.pid is None)
        assert r.status.restarts == 2
        assert "restart in" not in r.status.reason
    assert r.status.state == "stopped"


@pytest.mark.parametrize("do", ["hang", "block"])
def test_a_read_that_hangs_is_killed_and_restarted(rig, do):
    r = rig(at=20, do=do, limits={"silence": "1s"})
    with r:
        r.until(lambda: r.status.restarts >= 1)
    assert re.match(r"sent nothing for \d+\.\d s; read\(\) hangs", r.events[0][2])
    assert r.values[:20] == list(range(20))


def test_an_open_that_hangs_is_killed(rig):
    r = rig(open_hangs=True, limits={"open": "1s"})
    with r:
        r.until(lambda: r.events)
    assert r.events[0][2].startswith("open() did not return within 1 s")


def test_a_delivery_that_blocks_stops_the_child_and_is_not_silence(rig):
    gate, delivered = threading.Event(), threading.Event()
    r = rig(rows=50_000, pause=0, limits={"silence": "2s"})

    def deliver(delivery):
        delivered.set()
        assert gate.wait(120)
        r.take(delivery)

    r.deliver = deliver
    with r:
        assert delivered.wait(120)
        child = psutil.Process(r.status.pid)
        time.sleep(3)  # longer than the watchdog's patience
        before = child.io_counters().write_chars
        time.sleep(0.5)
        assert child.io_counters().write_chars == before, "the child goes on writing"
        assert r.status.restarts == 0
        gate.set()
        r.until(lambda: len(r.values) > 400_000)
    assert r.values == list(range(len(r.values)))
    assert r.status.restarts == 0


def test_a_stop_drains_a_full_pipe(rig):
    gate, delivered = threading.Event(), threading.Event()
    r = rig(rows=50_000, pause=0)

    def deliver(delivery):
        delivered.set()
        assert gate.wait(120)
        r.take(delivery)

    r.deliver = deliver
    with r:
        assert delivered.wait(120)
        time.sleep(1)
        threading.Timer(0.5, gate.set).start()
    assert r.status.state == "stopped"
    assert r.values == list(range(len(r.values)))
    assert f"ack {len(r.values)}" in r.notes()


def test_a_stop_gives_up_on_a_delivery_that_never_returns(rig, wait_until):
    gate, delivered = threading.Event(), threading.Event()
    r = rig(rows=50_000, pause=0)

    def deliver(delivery):
        delivered.set()
        gate.wait(120)
        r.deliveries.append(delivery)

    r.deliver = deliver
    r.host.start()
    assert delivered.wait(120)
    pid = r.status.pid
    r.host.stop(timeout_s=1)
    assert not psutil.pid_exists(pid)
    assert r.status.state == "stopped"
    assert r.metrics.total("adapter_abandoned_deliveries_total") == 1
    gate.set()
    wait_until(lambda: not any(t.name == "iiot-adapter-n" for t in threading.enumerate()))
    assert len(r.deliveries) == 1, "delivered after stop() had returned"


def test_refused_rows_restart_the_adapter_from_its_last_position(rig):
    r = rig(rows=10, total=100)
    full = [True]

    def deliver(delivery):
        if delivery.poll.position == "50" and full.pop() if full else False:
            msg = "the disk is full"
            raise CapacityError(msg)
        r.take(delivery)

    r.deliver = deliver
    with r:
        r.until(lambda: r.values[-1:] == [99])
    assert r.events[0][2].startswith("its rows are refused: CapacityError: the disk is full")
    assert sorted(set(r.values)) == list(range(100))
    assert r.metrics.value("adapter_refused_deliveries_total", adapter="n") == 1


def test_an_acknowledgement_that_fails_is_a_fault(rig, patient):
    r = rig(ack_fails=True, policy=patient)
    with r:
        r.until(lambda: r.events)
    assert r.events[0][2].startswith("the source refuses the acknowledgement")


def test_what_an_adapter_prints_is_log_and_no_frame(rig):
    r = rig(at=20, do="print")
    with r:
        r.until(lambda: len(r.values) > 100)
    assert "hello from a library" in r.log()
    assert "and from C" in r.log()
    assert r.status.restarts == 0


def test_secrets_stay_in_the_process_that_needs_them(rig, patient, monkeypatch):
    monkeypatch.setenv("COUNTING_PASSWORD", "hunter2-very-secret")
    r = rig(at=20, do="local", password="env:COUNTING_PASSWORD", policy=patient)
    with r:
        r.until(lambda: r.status.pid)
        command = " ".join(psutil.Process(r.status.pid).cmdline())
        r.until(lambda: r.events)
    assert command.endswith("-m iiot_dask.adapter.child n")
    assert r.events[0][2].startswith("secret is ***")
    assert "***" in r.log()
    assert "hunter2" not in r.log()


def test_memory_is_limited(rig, patient):
    r = rig(at=20, do="eat", limits={"memory": 600 << 20}, policy=patient)
    with r:
        r.until(lambda: r.events)
    assert "emory" in r.events[0][2]
    assert not any(n.startswith("ate") for n in r.notes())


def test_open_files_are_limited(rig, patient):
    r = rig(at=20, do="files", limits={"open_files": 128}, policy=patient)
    with r:
        r.until(lambda: r.events)
    assert "Too many open files" in r.events[0][2]
    opened = [int(n.split()[1]) for n in r.notes() if n.startswith("files")]
    assert opened[0] < 128


def test_what_a_child_leaves_behind_is_killed_with_it(rig, patient):
    r = rig(at=20, do="fork", policy=patient)
    with r:
        r.until(lambda: "forked" in r.notes())
        r.until(lambda: r.events)
    assert r.events[0][2].startswith("ended with status 3")


def test_an_adapter_that_lost_its_device_is_waiting(rig):
    r = rig(at=20, do="disconnect")
    with r:
        r.until(lambda: r.status.state == "waiting")
        assert r.status.reason == "no route to host"
        assert r.status.pid is not None
        assert r.status.restarts == 0


def test_one_adapter_that_blocks_holds_up_no_other(rig):
    gate = threading.Event()
    sections = [{"name": name, "kind": "counting", "options": {"rows": 10}} for name in ("stuck", "free")]
    r = rig(adapters=sections)

    def deliver(delivery):
        if delivery.adapter == "stuck":
            gate.wait(120)
        else:
            r.take(delivery)

    r.deliver = deliver
    with r:
        r.until(lambda: len(r.values) > 500)
        gate.set()
    assert [s.name for s in r.host.status()] == ["stuck", "free"]


def test_stop_while_starting(rig):
    r = rig()
    r.host.start()
    r.until(lambda: r.status.pid)
    r.host.stop(30)
    assert (r.status.state, r.values) == ("stopped", [])
    r.host.stop(30)


def test_a_plugin_that_does_not_import_says_so(rig, patient):
    r = rig(adapters=[{"name": "n", "kind": "unimportable"}], policy=patient)
    with r:
        r.until(lambda: r.events)
    assert "'unimportable' (counting_absent:Nothing) does not import: ModuleNotFoundError" in r.events[0][2]


def test_an_unknown_kind_or_limit_is_told_before_anything_starts(rig):
    with pytest.raises(
        ConfigError, match="adapter 'n' has kind 'modbuss', which is not installed; installed: counting"
    ):
        rig(adapters=[{"name": "n", "kind": "modbuss"}])
    with pytest.raises(ConfigError, match=r"options\.limits\.memori = 1: .*allowed keys: memory"):
        rig(limits={"memori": 1})
    with pytest.raises(ConfigError, match=r"options\.limits\.silence = 1000000: Input should be greater"):
        rig(limits={"silence": "1ms"})


def test_children_die_with_a_host_that_is_killed(tmp_path, plugin, wait_until):
    (tmp_path / "plant.toml").write_text('[plant]\nname = "x"\n[[adapters]]\nname = "n"\nkind = "counting"\n')
    script = """
        import sys, time
        from pathlib import Path
        from iiot_dask.adapter.host import Host
        from iiot_dask.core.clock import SystemClock
        from iiot_dask.core.metrics import Metrics
        from iiot_dask.core.plantfile import load
        host = Host(load(sys.argv[1]), lambda d: None, {}, clock=SystemClock(), metrics=Metrics())
        host.start()
        while host.status()[0].state != "running":
            time.sleep(0.01)
        print(host.status()[0].pid, flush=True)
        time.sleep(3600)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "plant.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        pid = int(next(line for line in parent.stdout if line.strip().isdigit()))
        assert psutil.pid_exists(pid)
        parent.kill()
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_child_closes_when_its_stdin_ends(tmp_path, plugin):
    """The way out where the kernel does not kill with the parent: end of stdin is a stop."""
    from iiot_dask.adapter.environment import command
    from iiot_dask.adapter.limits import take_limits
    from iiot_dask.adapter.message import Opening
    from iiot_dask.adapter.wire import encode
    from iiot_dask.core.config import Adapter

    config, limits = take_limits(Adapter(name="n", kind="counting"))
    opening = Opening(config, tmp_path, None, (), limits.model_dump())
    done = subprocess.run(
        command(config, "n"), input=encode(opening.frame()), cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "n.notes").read_text().splitlines()[-1:] == ["close"]


def test_a_child_started_by_hand_says_what_it_is(tmp_path):
    command = [sys.executable, "-m", "iiot_dask.adapter.child"]
    done = subprocess.run(command, input=b"", cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 70
    assert b"started by iiot-dask, not by hand" in done.stderr


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("fine", []),
        ("tag 'a' is unknown", ["n in {folder}: tag 'a' is unknown"]),
        ("raise", ["login with *** is refused"]),
        ("exit", ["adapter 'n' ended with status 3 before it answered: last words"]),
    ],
)
def test_a_check_answers_in_sentences(tmp_path, plugin, leaves_nothing, monkeypatch, check, said):
    monkeypatch.setenv("COUNTING_PASSWORD", "hunter2-very-secret")
    (tmp_path / "plant.toml").write_text(
        '[plant]\nname = "x"\n[[adapters]]\nname = "n"\nkind = "counting"\npassword = "env:COUNTING_PASSWORD"\n'
        f'options = {{ check = "{check}" }}\n'
    )
    plant = load(tmp_path / "plant.toml")
    assert check_adapter(plant, plant.config.adapters[0], 120) == [s.format(folder=tmp_path.name) for s in said]


def test_a_check_that_hangs_or_can_not_begin_is_an_answer_too(tmp_path, plugin, leaves_nothing):
    (tmp_path / "plant.toml").write_text(
        '[plant]\nname = "x"\n'
        '[[adapters]]\nname = "n"\nkind = "counting"\noptions = { check = "hang" }\n'
        '[[adapters]]\nname = "m"\nkind = "modbuss"\n'
        '[[adapters]]\nname = "o"\nkind = "counting"\noptions = { limits = { memori = 1 } }\n'
    )
    plant = load(tmp_path / "plant.toml")
    hanging, unknown, limited = plant.config.adapters
    assert check_adapter(plant, hanging, 1) == ["adapter 'n' did not finish its check within 1 s"]
    assert check_adapter(plant, unknown)[0].startswith("adapter 'modbuss' is not installed; installed: counting")
    assert "options.limits.memori" in check_adapter(plant, limited)[0]
