"""Write environment.yml from the pins of pyproject.toml: `uv run python .ci/mirror.py`."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
lines = ["# The pins of pyproject.toml for conda users; written by .ci/mirror.py, compared by tests/test_repository.py.",
         "name: iiot-dask", "channels:", "  - conda-forge", "dependencies:", "  - python>=3.11", "  - pip", "  - pip:",
         *(f"      - {pin}" for pin in pins), "      - -e ."]  # fmt: skip
(ROOT / "environment.yml").write_text("\n".join(lines) + "\n")
