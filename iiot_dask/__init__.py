"""iiot-dask: industrial sensor data from socket to Parquet on Dask.

The stages, in the order data flows through them; a stage imports `core` and earlier stages only:

    sim        a simulated factory on real protocol servers
    adapter    plug-ins that talk to devices, each in a process of its own
    ingest     catalogue of tags, durable journal, quarantine
    stream     micro-batches through streamz into Dask futures
    codec      numba codecs: numbers to bytes and back
    history    the Delta table of compressed chunks
    query      one question, Polars or Dask, one answer
    flow       pipelines: written once, run live or over history
    health     every tag's transmission watched; incidents
    scaling    how many workers, before they are needed
    dashboard  Panel shows it all

`engine.py` joins them. Names below load on first use, so importing this package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iiot_dask import codec, health, scaling, sim
    from iiot_dask.api import Plant, open, run  # noqa: A004 -- the contract's name
    from iiot_dask.codec import Precision
    from iiot_dask.core.batch import Batch
    from iiot_dask.core.quality import Quality
    from iiot_dask.flow import pipeline
    from iiot_dask.history import History

__version__ = "0.1.0"

__all__ = [
    "Batch", "History", "Plant", "Precision", "Quality", "codec", "health", "open", "pipeline", "run", "scaling", "sim",
]  # fmt: skip

_HOME = {
    "Batch": "iiot_dask.core.batch",
    "History": "iiot_dask.history",
    "Plant": "iiot_dask.api",
    "Precision": "iiot_dask.codec",
    "Quality": "iiot_dask.core.quality",
    "open": "iiot_dask.api",
    "pipeline": "iiot_dask.flow",
    "run": "iiot_dask.api",
}
_STAGES = ("codec", "health", "scaling", "sim")


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name in _STAGES:
        return importlib.import_module(f"iiot_dask.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    msg = f"module 'iiot_dask' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
