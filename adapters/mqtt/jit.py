"""The one way a function of this adapter is compiled (see `iiot_dask_adapters.common.jit`)."""

from __future__ import annotations

from ..common.jit import compiled

__all__ = ["compiled"]
