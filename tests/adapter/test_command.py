"""An adapter's command line is configuration: another interpreter with its own packages, or whatever passes the pipes on."""

import shutil
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tomli_w

from iiot_dask.adapter.ask import discover_adapter
from iiot_dask.adapter.host import check_adapter
from iiot_dask.core.errors import LocalAdapterError
from iiot_dask.core.plantfile import load

PLUGIN = Path(__file__).parent / "plugin"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Another virtual environment: it has the plug-in, this process does not."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    venv = tmp_path / "elsewhere"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=120)
    site = next((venv / "lib").glob("python*/site-packages"))
    # What a person would install there: iiot-dask and its dependencies (by path here), and the plug-in.
    own = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (site / "installed.pth").write_text("\n".join(f"import site; site.addsitedir({path!r})" for path in own) + "\n")
    for part in PLUGIN.iterdir():
        if part.name != "__pycache__":
            (shutil.copytree if part.is_dir() else shutil.copy)(part, site / part.name)
    return venv / "bin" / "python"


@pytest.fixture
def script(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


def section(command, **options):
    return {"name": "n", "kind": "counting", "command": [str(c) for c in command], "options": {"rows": 10, **options}}


def test_another_virtual_environment(elsewhere, bare_rig):
    r = bare_rig([section([elsewhere, "-m", "iiot_dask.adapter.child"])])
    with r:
        r.until(lambda: len(r.values) > 100)
        assert Path(f"/proc/{r.status.pid}/exe").readlink() == elsewhere.resolve()
        r.host.restart_adapter("n")
        r.until(lambda: any(d.incarnation == 1 and d.poll.batch is not None for d in r.deliveries))
    assert r.values == list(range(len(r.values)))
    assert check_adapter(r.plant, r.plant.config.adapters[0], 120) == []


def test_a_wrapper_as_ssh_would_be(elsewhere, script, bare_rig):
    """It gets the name as its last argument, starts the child with an environment of its own, and stays in between."""
    script(
        "remote", f'echo "remote $# $1" >&2\nenv -i PATH="$PATH" {elsewhere} -m iiot_dask.adapter.child "$@"\nexit $?'
    )
    r = bare_rig([section(["./remote"])])
    with r:
        r.until(lambda: len(r.values) > 100)
        assert "remote 1 n" in r.log()
    assert r.values == list(range(len(r.values)))
    assert r.status.state == "stopped"
    assert r.notes()[-1] == "close"


def test_a_command_that_does_not_speak_the_protocol_is_a_fault_like_any_other(script, bare_rig):
    chatty = script("chatty", "echo Welcome\nsleep 60")
    r = bare_rig([section([chatty]), section(["/nowhere/python"]) | {"name": "m"}])
    with r:
        r.until(lambda: all(status.restarts for status in r.host.status()))
        first, second = r.host.status()
    assert first.reason.startswith("sent a damaged frame: stream goes on with b'Wel'")
    assert second.reason.startswith("can not be started: [Errno 2] No such file or directory: '/nowhere/python'")
    plant = load(r.folder / "plant.toml")
    assert "can not be started" in check_adapter(plant, plant.config.adapters[1])[0]
    with pytest.raises(LocalAdapterError, match="can not be started"):
        discover_adapter(plant, plant.config.adapters[1])


def test_a_command_and_its_environment_are_in_the_plant_file(tmp_path):
    (tmp_path / "plant.toml").write_text(
        tomli_w.dumps({"plant": {"name": "x"}, "adapters": [section(["ssh", "edge-7", "iiot-child"])]})
    )
    assert load(tmp_path / "plant.toml").config.adapters[0].command == ("ssh", "edge-7", "iiot-child")
