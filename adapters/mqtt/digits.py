"""Decimal text to numbers: the kernels every text format shares (see `iiot_dask_adapters.common.digits`)."""

from __future__ import annotations

from ..common.digits import (
    DIGITS_MAX,
    DOT,
    EXPONENT_MAX,
    MINUS,
    NINE,
    PLUS,
    POWER_MAX,
    POWER_MIN,
    POWERS,
    SCALE,
    SMALL,
    ZERO,
    decimal,
    multiply,
    to_float,
    to_integer,
)

__all__ = [
    "DIGITS_MAX",
    "DOT",
    "EXPONENT_MAX",
    "MINUS",
    "NINE",
    "PLUS",
    "POWERS",
    "POWER_MAX",
    "POWER_MIN",
    "SCALE",
    "SMALL",
    "ZERO",
    "decimal",
    "multiply",
    "to_float",
    "to_integer",
]
