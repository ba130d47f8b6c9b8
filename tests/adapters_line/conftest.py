"""Line adapters, read and acknowledged by a pretended host."""

import pytest
from iiot_dask_adapters.line import LineAdapter

from tests.pushes import Running, context


@pytest.fixture
def line():
    """Starts adapters: ``line(durable=…, options={…}, …)``."""
    made = []

    def make(durable=True, secrets=None, **keys):
        made.append(Running(LineAdapter(context("line", secrets, **keys)), durable).__enter__())
        return made[-1]

    yield make
    for one in made:
        one.stop()
