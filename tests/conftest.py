"""Shared by every test: services that are not Python packages, and where screenshots go."""

import os
import shutil
from pathlib import Path

import pytest

REQUIRED = os.environ.get("IIOT_REQUIRE_SERVICES") == "1"


def pytest_runtest_setup(item):
    """`@pytest.mark.service("mosquitto")`: missing = skip, or a failure where CI says that services must be there."""
    for mark in item.iter_markers("service"):
        for name in mark.args:
            if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin") is None:
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
