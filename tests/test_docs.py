"""What the documents show is run: every Python block and every command (notebooks: test_notebooks.py)."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from iiot_dask.core.plantfile import load
from iiot_dask.sim.factory import Factory
from iiot_dask.sim.process import FactoryProcess

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"(<!-- needs a running plant -->\n)?```(\w+)\n(.*?)```", re.DOTALL)
BLOCKS = [(bool(live), language, text) for live, language, text in FENCE.findall(README)]
PYTHON = [text for live, language, text in BLOCKS if language == "python" and not live]
LIVE = [text for live, language, text in BLOCKS if language == "python" and live]
COMMANDS = [
    line.removeprefix("uv run ")
    for _, language, text in BLOCKS
    if language == "console"
    for line in text.splitlines()
    if line.strip()
]


def execute(code, cwd):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_there_is_something_to_run():
    assert len(PYTHON) >= 1
    assert len(LIVE) >= 1
    assert len(COMMANDS) >= 9


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run(tmp_path, code):
    done = execute(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "600 10 600"


def test_live_blocks_and_plant_commands_run_on_a_real_plant(tmp_path):
    factory = Factory(tags=200, seed=3, duration_s=60, faults=[])
    with FactoryProcess(factory, tmp_path / "factory") as process:
        (tmp_path / "plant.toml").write_text(tomli_w.dumps(process.plant_file(data="data", name="docs")))
        process.begin()
        for code in LIVE:
            # The block ends at once, as it would in a notebook cell; what it shows needs a moment of data.
            waiting = code.rstrip().replace("sink(print)", "sink(lambda table: (print(table.num_rows), seen.set()))")
            done = execute(
                f"import threading\nimport iiot_dask as iiot\nseen = threading.Event()\n{waiting}\n    assert seen.wait(30)\n",
                tmp_path,
            )
            assert done.returncode == 0, done.stderr
            assert int(done.stdout.split()[0]) > 0
        for line in COMMANDS:
            if line.split()[:2] in (["iiot-dask", "check"], ["iiot-dask", "run"]):
                extra = ["--duration", "3s"] if "run" in line.split() else []
                done = subprocess.run(
                    [sys.executable, "-m", "iiot_dask", *shlex.split(line)[1:], *extra],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=120,
                    check=False,
                )
                assert done.returncode == 0, done.stdout + done.stderr


def test_the_plant_file_shown_is_a_plant_file(tmp_path):
    (shown,) = [text for _, language, text in BLOCKS if language == "toml"]
    (tmp_path / "plant.toml").write_text(shown)
    assert [a.kind for a in load(tmp_path / "plant.toml").config.adapters] == ["modbus", "mqtt"]


@pytest.mark.parametrize("line", [c for c in COMMANDS if "demo-data" in c])
def test_commands_on_the_demos_data_run(demo_run, line):
    _, home = demo_run
    done = subprocess.run(
        [sys.executable, "-m", "iiot_dask", *shlex.split(line)[1:]],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_command_shown_is_run_by_a_test_or_is_one():
    elsewhere = {
        "iiot-dask demo",
        "pytest",
        "iiot-dask dashboard plant.toml",
    }  # test_demo.py, this run, test_dashboard_live.py
    here = {c for c in COMMANDS if "demo-data" in c or c.split()[1:2] in (["check"], ["run"])}
    assert set(COMMANDS) == elsewhere | here
