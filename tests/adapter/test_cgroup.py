"""Control groups: found or named as absent, filled with the right numbers. The tree here is a folder with the same files."""

import os
import subprocess
import time

import pytest

from iiot_dask.adapter import cgroup


@pytest.fixture
def tree(tmp_path):
    """A process in ``/system/iiot/main`` of a delegated cgroup v2 tree, as its ``/proc`` folder would say."""
    proc, top = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "mountinfo").write_text(
        f"22 1 0:20 / /sys rw - sysfs sysfs rw\n30 22 0:26 / {top} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    (proc / "cgroup").write_text("4:memory:/other\n0::/system/iiot/main\n")
    own = top / "system" / "iiot" / "main"
    own.mkdir(parents=True)
    for path in (own, own.parent):
        (path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        (path / "cgroup.subtree_control").write_text("")
    return proc, own


def test_its_own_group_is_divided(tree):
    proc, own = tree
    found = cgroup.find(proc)
    assert found == cgroup.Parent(own, frozenset({"memory", "cpu", "pids"}))
    assert (own / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_the_group_above_where_its_own_can_not_be(tree):
    """The kernel refuses to divide a group that holds processes; a folder in place of the file refuses as well."""
    proc, own = tree
    (own / "cgroup.subtree_control").unlink()
    (own / "cgroup.subtree_control").mkdir()
    assert cgroup.find(proc) == cgroup.Parent(own.parent, frozenset({"memory", "cpu", "pids"}))


def test_why_there_is_none_is_said(tree):
    proc, own = tree
    for path in (own, own.parent):
        (path / "cgroup.controllers").write_text("cpuset io\n")
    assert cgroup.find(proc) == f"{own} has none of the controllers memory, cpu, pids"
    (proc / "mountinfo").write_text("22 1 0:20 / /sys rw - sysfs sysfs rw\n")
    assert cgroup.find(proc) == "no cgroup v2 is mounted here"
    (proc / "mountinfo").unlink()
    assert str(cgroup.find(proc)).startswith("no cgroup v2 here: ")


def test_a_group_gets_its_numbers_and_its_process(tree):
    proc, own = tree
    parent = cgroup.find(proc)
    group = cgroup.ControlGroup(parent, "iiot-press", memory=1 << 30, cpu=1.5, tasks=64)
    group.take(4711)
    files = {path.name: path.read_text() for path in (own / "iiot-press").iterdir()}
    assert files == {
        "memory.max": "1073741824",
        "memory.oom.group": "1",
        "cpu.max": "150000 100000",
        "pids.max": "64",
        "cgroup.procs": "4711",
    }
    assert "not empty" in group.close()
    for path in group.path.iterdir():
        path.unlink()
    assert group.close() == ""


def test_the_kernel_holds_a_group_where_this_machine_has_one():
    """On the real tree: throttled CPU where groups can be made; elsewhere `find` has said why not, and that is the test."""
    parent = cgroup.find()
    if isinstance(parent, str):
        assert len(parent.split()) > 4
        return
    group = cgroup.ControlGroup(parent, f"iiot-test-{os.getpid()}", memory=256 << 20, cpu=0.2, tasks=32)
    spinning = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        group.take(spinning.pid)
        time.sleep(1.0)
        assert "nr_throttled 0\n" not in (group.path / "cpu.stat").read_text()
    finally:
        spinning.kill()
        spinning.wait()
        deadline = time.monotonic() + 10
        while group.close() and time.monotonic() < deadline:
            time.sleep(0.05)
