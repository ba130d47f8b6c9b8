"""Write environment.yml from the pins of pyproject.toml: `uv run python .ci/mirror.py`.

With `--pin`, first add what is installed here and not pinned yet (pins that exist stay as they are).
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = {"iiot-dask", "pip", "setuptools", "uv", "wheel"}
project = ROOT / "pyproject.toml"
text = project.read_text()
pins = tomllib.loads(text)["tool"]["uv"]["constraint-dependencies"]
if "--pin" in sys.argv:
    have = dict(pin.split("==") for pin in pins)
    found = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version for d in distributions()}
    new = sorted(name for name in found if name not in have and name not in OURS)
    pins = sorted([*pins, *(f"{name}=={found[name]}" for name in new)])
    head, rest = text.split("constraint-dependencies = [\n", 1)
    tail = rest.split("]\n", 1)[1]
    project.write_text(
        head + "constraint-dependencies = [\n" + "".join(f'    "{pin}",\n' for pin in pins) + "]\n" + tail
    )
    sys.stdout.write(f"pinned: {', '.join(new) or 'nothing new'}\n")
lines = ["# The pins of pyproject.toml for conda users; written by .ci/mirror.py, compared by tests/test_repository.py.",
         "name: iiot-dask", "channels:", "  - conda-forge", "dependencies:", "  - python>=3.11", "  - pip", "  - pip:",
         *(f"      - {pin}" for pin in pins), "      - -e ."]  # fmt: skip
(ROOT / "environment.yml").write_text("\n".join(lines) + "\n")
