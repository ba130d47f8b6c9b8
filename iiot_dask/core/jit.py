"""The one way kernels are compiled: typed, cached on disk, without the GIL, without fast-math.

fastmath would drop NaN checks and reorder sums; both change what a historian stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

FLAGS: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": False}
"""The flags of every kernel; `tests/test_architecture.py` checks that no other way is used."""

F = TypeVar("F", bound=Callable[..., Any])


def njit(function: F) -> F:
    """Compile a free function over arrays and scalars on first use; its type for callers stays what it says."""
    return cast("F", numba.njit(**FLAGS)(function))


def inline(function: F) -> F:
    """The same for a small helper that is always inlined into the kernels that call it."""
    return cast("F", numba.njit(**FLAGS, inline="always")(function))
