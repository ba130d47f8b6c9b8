"""``iiot-dask adapters new NAME``: a package of your own with an adapter that works, a source to try it on, and a test.

The adapter is `example`, the source `example_bench`, both under the new name: what is copied is what is tested here.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.registry import Registry

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
NAME_MAX = 30

PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "iiot-{name}"
version = "0.1.0"
description = "An iiot-dask adapter: {name}"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["iiot-dask"]

[project.entry-points."iiot_dask.adapters"]
{name} = "{module}:{title}Adapter"

[dependency-groups]
dev = ["pytest"]

[tool.setuptools.packages.find]
where = ["src"]

[tool.setuptools.package-data]
{module} = ["py.typed"]
"""

INIT = '''\
"""An iiot-dask adapter: {name}."""

from .adapter import {title}Adapter

__all__ = ["{title}Adapter"]
'''

TEST = '''\
"""The conformance kit of iiot-dask, over this adapter; what `iiot-dask adapters test {name}` runs."""

import pytest
from {module} import {title}Adapter
from iiot_dask.adapter.conformance import TRIALS, run


@pytest.mark.parametrize("trial", TRIALS)
def test_conformance(trial):
    (result,) = run({title}Adapter, only=[trial])
    assert result.verdict != "failed", result.sentences
'''

README = """\
# iiot-{name}

An adapter for [iiot-dask](https://pypi.org/project/iiot-dask/). As it was made it reads lines `name,value,time` from a TCP
socket; change `src/{module}/adapter.py` into what your device speaks, and `bench.py` into a source that speaks like it.

```console
pip install -e .                      # entry points are written at install time
iiot-dask adapters list               # "{name}" is there now
iiot-dask adapters test {name}        # the conformance kit; `pytest` runs the same
iiot-dask check plant.toml
iiot-dask run plant.toml
```

The rules of an adapter are the docstring of `iiot_dask.adapter.contract.Adapter`; six decisions are marked in the code.
"""

PLANT = """\
[plant]
name = "{name}-sample"
data = "plant-data"

[[adapters]]
name = "device-1"
kind = "{name}"
endpoint = "tcp://127.0.0.1:4001"

[adapters.options]                       # all optional
backoff_max = 10.0                       # longest wait between two tries to connect, seconds
"""


def new(name: str, out: Path) -> Path:
    """Write the package into a new folder below `out`.

    Parameters
    ----------
    name
        Kind of the adapter: small letters, digits, single hyphens.
    out
        Folder in which ``iiot-NAME`` is made.

    Returns
    -------
    Path
        The package's folder.

    Raises
    ------
    ConfigError
        If the name is none, is installed already, or the folder is there.
    """
    if not NAME.fullmatch(name) or len(name) > NAME_MAX:
        msg = (
            f"adapter name {name!r}; small letters and digits with single '-' between, at most {NAME_MAX}, are allowed"
        )
        raise ConfigError(msg)
    if name in Registry[object]("iiot_dask.adapters", "adapter").names():
        msg = f"adapter {name!r} is installed already; another name is needed"
        raise ConfigError(msg)
    folder = out / f"iiot-{name}"
    words = {"name": name, "module": f"iiot_{name.replace('-', '_')}", "title": _title(name)}
    source = folder / "src" / words["module"]
    texts = {
        folder / "pyproject.toml": PYPROJECT.format(**words),
        folder / "README.md": README.format(**words),
        folder / "plant.toml": PLANT.format(**words),
        folder / "tests" / f"test_{words['module']}.py": TEST.format(**words),
        source / "__init__.py": INIT.format(**words),
        source / "py.typed": "",
        source / "adapter.py": _copied("example.py", words),
        source / "bench.py": _copied("example_bench.py", words),
    }
    try:
        folder.mkdir(parents=True)
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{folder} can not be made: {error.strerror}"
        raise ConfigError(msg) from error
    return folder


def _title(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-"))


def _copied(file: str, words: dict[str, str]) -> str:
    text = (resources.files("iiot_dask.adapter") / file).read_text("utf-8")
    first, rest = text.split("\n", 1)
    # The first line speaks of this package; everything else is as good there as here.
    first = first.replace(": the adapter that ``iiot-dask adapters new`` copies. A device", ". A device")
    text = f"{first}\n{rest}"
    for old, new_ in (
        ("iiot_dask.adapter.example_bench", f"{words['module']}.bench"),
        ("iiot_dask.adapter.example", f"{words['module']}.adapter"),
        ("ExampleAdapter", f"{words['title']}Adapter"),
        ("ExampleBench", f"{words['title']}Bench"),
        ('"example"', f'"{words["name"]}"'),
    ):
        text = text.replace(old, new_)
    return text
