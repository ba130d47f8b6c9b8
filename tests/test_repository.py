"""The repository's own promises: pins, mirrors, packages and published files say the same thing."""

import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

from iiot_dask.core.plantfile import json_schema

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = PROJECT["tool"]["uv"]["constraint-dependencies"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_pin_is_exact_and_sorted():
    names = [re.fullmatch(r"([a-z0-9.-]+)==(\S+)", pin).group(1) for pin in PINS]
    assert len(set(names)) == len(names)
    assert {canonical(name) for name in names} == set(names)


def test_what_is_installed_is_what_is_pinned():
    pinned = dict(pin.split("==") for pin in PINS)
    installed = {canonical(d.name): d.version for d in distributions()}
    ours = {"iiot-dask", "pip", "setuptools", "uv", "wheel"}
    assert {n: v for n, v in installed.items() if n not in ours and pinned.get(n) != v} == {}


def test_environment_yml_mirrors_the_pins():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    listed = [line.strip().removeprefix("- ") for line in lines if "==" in line]
    assert listed == PINS


def test_packages_listed_are_the_packages_there_are():
    found = {"iiot_dask"} | {
        ".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "iiot_dask").rglob("__init__.py")
    }
    for folder, installed in (("adapters", "iiot_dask_adapters"), ("benchmarks", "iiot_dask_benchmarks")):
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join((installed, *init.parent.relative_to(ROOT / folder).parts)))
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(found)


def test_the_published_schema_is_the_one_in_use():
    assert (ROOT / "iiot_dask" / "plant.schema.json").read_text() == json_schema()


def test_no_lock_file_registry_or_machine_path_in_git():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.fail(f"git ls-files: {tracked.stderr}")
    files = tracked.stdout.split("\n")
    assert "uv.lock" not in files
    bad = re.compile(rb"/simple/|/work/|\bindex-url\b")
    suffixes = {".py", ".md", ".toml", ".yml", ".ipynb", ".json"}
    hits = [
        f
        for f in files
        if Path(f).suffix in suffixes and f != "tests/test_repository.py" and bad.search((ROOT / f).read_bytes())
    ]
    assert hits == []
