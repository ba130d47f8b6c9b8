"""The one way a function of an adapter is compiled: cached on disk, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

PACKAGE = "iiot_dask_adapters."

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, for arrays and numbers only. The type stays the Python function's.

    The cache notices a change of the function's own file, not of what it calls elsewhere: after editing a function
    that another file calls, touch that file too. A module loaded by another name than its installed one (pytest does
    so for doctests) is not cached: what it left on disk could not be read by the next process.
    """
    cache = function.__module__.startswith(PACKAGE)
    return cast("Function", numba.njit(cache=cache, nogil=True)(function))
