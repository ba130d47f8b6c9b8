"""The kit: a new package passes its own conformance test once installed; a broken plug-in is a row; bad adapters are caught."""

import asyncio
import json
import shutil
import subprocess
import sys

import pytest
import tomli_w

from iiot_dask.adapter.ask import decode_adapter, discover_adapter
from iiot_dask.adapter.conformance import TRIALS, bench_of, run
from iiot_dask.adapter.contract import Kept, Poll
from iiot_dask.adapter.example import ExampleAdapter
from iiot_dask.adapter.example_bench import ExampleBench
from iiot_dask.adapter.roll import call
from iiot_dask.adapter.scaffold import new
from iiot_dask.core.errors import ConfigError, LocalAdapterError
from iiot_dask.core.plantfile import load


def cli(*args, cwd, **environ):
    return subprocess.run(
        [sys.executable, "-m", "iiot_dask", *args], cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
        env={**__import__("os").environ, **environ},
    )  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A package made by `new` and installed as any other is: (its folder, the folder it is installed in)."""
    home = tmp_path_factory.mktemp("kit")
    made = cli("adapters", "new", "furnace-line", "--out", "packages", "--json", cwd=home)
    assert made.returncode == 0, made.stderr
    folder = home / json.loads(made.stdout)["folder"]
    uv = shutil.which("uv")
    tool = [uv, "pip", "install", "--python", sys.executable] if uv else [sys.executable, "-m", "pip", "install"]
    done = subprocess.run(
        [*tool, "--no-deps", "--target", str(home / "site"), str(folder)],
        cwd=home, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, home / "site"


def test_a_new_package_passes_once_it_is_installed(package, tmp_path):
    folder, site = package
    done = cli("adapters", "test", "furnace-line", "--json", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert [(t["trial"], t["verdict"]) for t in document["trials"]] == [(name, "passed") for name in TRIALS]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"pyproject.toml", "README.md", "plant.toml", "tests/test_iiot_furnace_line.py"} <= files
    assert load(folder / "plant.toml").config.adapters[0].kind == "furnace-line"
    source = (folder / "src" / "iiot_furnace_line" / "adapter.py").read_text()
    assert "xample" not in source.replace("Examples", "")


def test_its_own_test_is_a_test(package, tmp_path):
    folder, site = package
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", "-k", "unicode or bad or clock"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**__import__("os").environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_what_an_adapter_can_read_is_discovered_and_what_it_could_not_is_decoded(package, tmp_path, monkeypatch):
    _, site = package
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", str(site))
    with ExampleBench(tmp_path) as bench:
        section = bench.section(["oven/t", "oven/p"])
        bench.send(3)
        adapters = [
            {"name": "line", "kind": "furnace-line", "endpoint": section["endpoint"]},
            {"name": "away", "kind": "furnace-line", "endpoint": "tcp://127.0.0.1:1"},
            {"name": "none", "kind": "modbus", "endpoint": "tcp://127.0.0.1:1"},
        ]
        (tmp_path / "plant.toml").write_text(tomli_w.dumps({"plant": {"name": "x"}, "adapters": adapters}))
        plant = load(tmp_path / "plant.toml")
        line, away, none = plant.config.adapters
        assert [t.tag for t in discover_adapter(plant, line, 60)] == ["line/oven/t", "line/oven/p"]
        with pytest.raises(LocalAdapterError, match=r"tcp://127.0.0.1:1: .*"):
            discover_adapter(plant, away, 60)
        with pytest.raises(LocalAdapterError, match="adapter 'none' can not discover: kind 'modbus' has no such verb"):
            discover_adapter(plant, none, 60)
    shown = cli("adapters", "discover", "plant.toml", "none", cwd=tmp_path)
    assert (shown.returncode, "has no such verb" in shown.stderr) == (1, True)
    kept = [Kept("line", "", raw, 1) for raw in (b"oven/t,1.5,100", b"still wrong", b"oven/p,2.5,200\n")]
    (poll,) = [p for p in decode_adapter(plant, line, kept) if p.batch is not None]
    assert (poll.batch.tag.tolist(), poll.batch.value.tolist(), poll.batch.time.tolist()) == (
        [0, 1],
        [1.5, 2.5],
        [100, 200],
    )
    assert [(e.kind, e.raw) for e in poll.events] == [("malformed", b"still wrong")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Press", "'Press'; small letters"), ("a b", "small letters"), ("../x", "small letters"), ("x" * 31, "at most 30"),
        ("modbus", "'modbus' is installed already"),
    ],
)  # fmt: skip
def test_names_that_are_none(tmp_path, name, said):
    with pytest.raises(ConfigError, match=said):
        new(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path):
    new("press", tmp_path)
    with pytest.raises(ConfigError, match="can not be made: File exists"):
        new("press", tmp_path)


# -- broken plug-ins -------------------------------------------------------------------------------------------------

BROKEN = {
    "raises": "1 / 0",
    "absent": "import nobody_has_this",
    "exits": "import os; os._exit(7)",
    "leaves": "raise SystemExit(3)",
    "hangs": "import time; time.sleep(3600)",
    "noisy": "print('{\"name\": \"x\"}')\nclass A:\n    kind = 'noisy'\n    summary = 'Prints at import'",
    "other": "class A:\n    kind = 'somebody'\n    summary = 'Is somebody else'",
}


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Distributions that should never have been released, beside the ones of ours."""
    for name, code in BROKEN.items():
        (tmp_path / f"broken_{name}.py").write_text(code)
        info = tmp_path / f"broken_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: broken-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[iiot_dask.adapters]\n{name} = broken_{name}:A\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_broken_plugin_is_a_row_and_nothing_else(broken):
    entries = {entry.name: entry for entry in call([*BROKEN, "replay"], patience_s=2.0)}
    said = {name: entry.error for name, entry in entries.items()}
    assert said["replay"] is None
    assert said["noisy"] is None
    assert entries["noisy"].summary == "Prints at import"
    assert "ZeroDivisionError: division by zero" in said["raises"]
    assert "No module named 'nobody_has_this'" in said["absent"]
    assert said["exits"].endswith("does not import: it ended the process with status 7")
    assert said["leaves"].endswith("does not import: it ended the process with status 3")
    assert "it was not done after 2 s" in said["hangs"]
    assert said["other"] == "adapter 'other' says that its kind is 'somebody'"
    assert {"spec", "check", "read"} <= set(entries["replay"].verbs)


def test_the_list_is_red_where_it_is_broken(tmp_path, monkeypatch):
    (tmp_path / "broken_one.py").write_text("1 / 0")
    info = tmp_path / "broken_one-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-one\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[iiot_dask.adapters]\none = broken_one:A\n")
    done = cli("adapters", cwd=tmp_path, PYTHONPATH=str(tmp_path), FORCE_COLOR="1", COLUMNS="200")
    assert done.returncode == 1
    (row,) = [line for line in done.stdout.splitlines() if "broken-one" in line]
    assert "\x1b[31m" in row
    assert "modbus" in done.stdout
    rows = json.loads(cli("adapters", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout)["adapters"]
    assert [r["name"] for r in rows if r["error"]] == ["one"]


def test_spec_is_the_schema_of_a_section(tmp_path):
    schema = json.loads(cli("adapters", "spec", "modbus", cwd=tmp_path).stdout)
    assert schema["properties"]["kind"] == {"const": "modbus", "type": "string"}
    assert {"gap", "words", "limits"} <= set(schema["properties"]["options"]["properties"])
    assert cli("adapters", "spec", "modbuss", cwd=tmp_path).returncode == 2


# -- bad adapters are caught -----------------------------------------------------------------------------------------


class Deaf(ExampleAdapter):
    """Does not come back."""

    async def _connect(self):
        if self._failures:
            await asyncio.sleep(0.1)
            return Poll()
        return await super()._connect()


class Fragile(ExampleAdapter):
    """One bad line ends it."""

    def _poll(self, data):
        poll = super()._poll(data)
        if poll.events:
            msg = "a line is wrong"
            raise ValueError(msg)
        return poll


class Silent(ExampleAdapter):
    """Tells nobody what it could not use."""

    def _poll(self, data):
        poll = super()._poll(data)
        return Poll(poll.tags, poll.batch)


class Ascii(ExampleAdapter):
    """Knows one alphabet."""

    def _poll(self, data):
        return super()._poll(data.decode("ascii", "replace").encode())


class Watch(ExampleAdapter):
    """Looks at the wall instead of its context's clock, and ends when time goes backwards."""

    def _poll(self, data):
        now = self._clock.now_ns()
        if now < getattr(self, "_before", 0):
            msg = "time went backwards"
            raise ValueError(msg)
        self._before = now
        return super()._poll(data)


class Inventive(ExampleAdapter):
    """Makes up good values for a tag that is not there."""

    def _poll(self, data):
        return super()._poll(data + b"absent,1.0,1\n")


@pytest.mark.parametrize(
    ("adapter", "trial", "said"),
    [
        (Deaf, "reconnect", "no rows come in 2 s after the source is back"),
        (Fragile, "poison", "ValueError: a line is wrong"),
        (Fragile, "fuzz", "ValueError"),
        (Silent, "poison", "no event says that there was anything"),
        (Ascii, "unicode", "are missing"),
        (Watch, "clock", "time went backwards"),
        (Inventive, "bad tag", "good rows of a tag that is not there"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_the_kit_catches(adapter, trial, said):
    (result,) = run(adapter, only=[trial], patience_s=2.0)
    assert result.verdict == "failed"
    assert said in result.sentences[0]


def test_the_example_stands_what_can_be_tried_without_installing_it():
    verdicts = {result.trial: result.verdict for result in run(ExampleAdapter)}
    assert verdicts == dict.fromkeys(TRIALS, "passed") | {"back-pressure": "n/a"}


def test_a_recording_stands_what_applies_to_it():
    from iiot_dask_adapters.replay import ReplayAdapter

    verdicts = {result.trial: result.verdict for result in run(ReplayAdapter)}
    assert [name for name, verdict in verdicts.items() if verdict == "n/a"] == [
        "bad tag",
        "reconnect",
        "poison",
        "fuzz",
    ]
    assert "failed" not in verdicts.values()


def test_what_is_wrong_with_a_bench_is_said():
    class Benchless(ExampleAdapter):
        bench = "nowhere:Bench"

    with pytest.raises(ConfigError, match="its bench 'nowhere:Bench' does not import"):
        bench_of(Benchless)
    Benchless.bench = None
    with pytest.raises(ConfigError, match="has bench = None; 'module:Class'"):
        bench_of(Benchless)
    with pytest.raises(ConfigError, match="trial 'luck'; allowed: life cycle"):
        run(ExampleAdapter, only=["luck"])
