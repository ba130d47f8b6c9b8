"""The command line's manners: wrong input is one clear sentence and exit status 2 or 1, never a traceback."""

import json
import socket
import subprocess
import sys

import pytest

IIOT = [sys.executable, "-m", "iiot_dask"]
GOOD = '[plant]\nname = "mill"\ndata = "data"\n'
ADAPTER = '[[adapters]]\nname = "cells"\nkind = "mqtt"\nendpoint = "mqtt://127.0.0.1:{port}"\n'
TOPIC = '[[adapters.topics]]\nfilter = "a/+"\ntag = "a/{1}"\n'


def run(*args, cwd):
    return subprocess.run([*IIOT, *args], cwd=cwd, capture_output=True, text=True, timeout=90, check=False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("name", "nmae"), ["plant.toml", "nmae", "name"]),
        (GOOD + '[cluster]\nminimum = "many"\n', ["plant.toml", "cluster.minimum", "'many'"]),
        (GOOD + '[cluster]\nkind = "cloud"\n', ["cluster.kind", "'cloud'", "local", "gateway"]),
        (GOOD + ADAPTER.format(port=1) + 'password = "hunter2"\n', ["adapters[0] 'cells'", "password", "env:NAME"]),
        (GOOD + "[[adapters]]\n", ["adapters[0]", "required"]),
        ("[plant\n", ["plant.toml", "not TOML", "line 1"]),
        (
            GOOD + '[[adapters]]\nname = "m"\nkind = "modbus"\nendpoint = "tcp://127.0.0.1:1"\n'
            '[[adapters.tags]]\ntag = "x"\naddress = "holding:1"\n[[adapters.tags]]\ntag = "x"\naddress = "holding:2"\n',
            ["'x'", "twice", "'m'"],
        ),
    ],
)
def test_a_wrong_plant_file_is_refused_by_key_and_value(tmp_path, text, said):
    (tmp_path / "plant.toml").write_text(text)
    done = run("check", "plant.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr
    for part in said:
        assert part in done.stderr


def test_a_missing_secret_is_named(tmp_path):
    text = GOOD + ADAPTER.format(port=free_port()) + 'username = "u"\npassword = "env:NOT_SET_ANYWHERE"\n' + TOPIC
    (tmp_path / "plant.toml").write_text(text)
    done = run("check", "plant.toml", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "NOT_SET_ANYWHERE" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_bad_address_names_the_tag(tmp_path):
    text = GOOD + '[[adapters]]\nname = "m"\nkind = "modbus"\nendpoint = "tcp://127.0.0.1:1"\n'
    (tmp_path / "plant.toml").write_text(
        text + '[[adapters.tags]]\ntag = "site1/x"\naddress = "holding:99999"\ntype = "int16"\n'
    )
    done = run("check", "plant.toml", cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert "99999" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_an_absent_broker_is_one_sentence(tmp_path):
    port = free_port()
    (tmp_path / "plant.toml").write_text(GOOD + ADAPTER.format(port=port) + TOPIC)
    done = run("check", "plant.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert str(port) in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    listed = json.loads(run("check", "plant.toml", "--json", cwd=tmp_path).stdout)
    assert listed["adapters"][0]["problems"]


def test_a_newer_data_directory_is_refused(tmp_path):
    (tmp_path / "plant.toml").write_text(GOOD)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "FORMAT").write_text("999\n")
    done = run("run", "plant.toml", "--duration", "1s", cwd=tmp_path)
    assert done.returncode == 2
    assert "999" in done.stderr
    assert "newer" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_data_directory_in_use_is_refused(tmp_path):
    from iiot_dask.core.directory import DataDirectory

    (tmp_path / "plant.toml").write_text(GOOD)
    with DataDirectory(tmp_path / "data"):
        done = run("run", "plant.toml", "--duration", "1s", cwd=tmp_path)
    assert done.returncode == 1
    assert "in use by another run" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_dashboard_port_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "plant.toml").write_text(f"{GOOD}[dashboard]\nport = {port}\n")
        done = run("run", "plant.toml", "--duration", "1s", "--dashboard", cwd=tmp_path)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_plant_runs_and_ends(tmp_path):
    (tmp_path / "plant.toml").write_text(GOOD)
    done = run("run", "plant.toml", "--duration", "2s", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 0


@pytest.mark.parametrize(
    "args",
    [
        ["history", ".", "shrink"],
        ["query", "."],
        ["query", "nowhere"],
        ["adapters", "lsit"],
        ["frobnicate"],
        ["query", ".", "--format", "xls"],
    ],
)
def test_wrong_usage_is_status_2(tmp_path, args):
    done = run(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_adapters_lists_the_four_of_ours(tmp_path):
    rows = json.loads(run("adapters", "list", "--json", cwd=tmp_path).stdout)["adapters"]
    assert {r["name"] for r in rows} >= {"modbus", "mqtt", "opcua", "replay"}
    assert all(r["error"] is None for r in rows)


def test_help_stays_light(tmp_path):
    """What makes `--help` quick: none of the heavy libraries is imported for it."""
    code = "import sys; sys.argv = ['x', '--help']\nfrom iiot_dask.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    heavy = "{'numba', 'polars', 'dask', 'distributed', 'pyarrow', 'numpy', 'panel', 'deltalake', 'streamz', 'pandas'}"
    check = f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code + check], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.strip() == "[]"
    for command in ("demo", "run", "check", "adapters", "query", "history", "incidents", "dashboard"):
        assert "Example" in run(command, "--help", cwd=tmp_path).stdout


def test_bench_lists_what_there_is(tmp_path):
    done = run("bench", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"codec", "history", "ingest"} <= set(done.stdout.split("benchmarks: ")[1].replace(",", " ").split())
    assert run("bench", "cdoec", cwd=tmp_path).returncode == 2
