"""Shared by every test: services that are not Python packages, and where screenshots go."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

IIOT = [sys.executable, "-m", "iiot_dask"]
# Debian keeps servers off a user's path.
PATHS = ":".join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
)
REQUIRED = os.environ.get("IIOT_REQUIRE_SERVICES") == "1"


def pytest_runtest_setup(item):
    """`@pytest.mark.service("mosquitto")`: missing = skip, or a failure where CI says that services must be there."""
    for mark in item.iter_markers("service"):
        for name in mark.args:
            if shutil.which(name, path=PATHS) is None:
                reason = f"{name} is not installed"
                if REQUIRED:
                    pytest.fail(f"{reason}, and IIOT_REQUIRE_SERVICES=1 says it must be")
                pytest.skip(reason)


@pytest.fixture
def artifacts() -> Path:
    """Where a test leaves what a person may want to look at; not in git."""
    path = Path(__file__).parents[1] / "artifacts"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory):
    """One whole demo as a user runs it, shared by every test that looks at what it left: (summary, working directory)."""
    home = tmp_path_factory.mktemp("demo")
    command = [*IIOT, "demo", "--duration", "40s", "--no-dashboard", "--json"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout, f"exit {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout), home
