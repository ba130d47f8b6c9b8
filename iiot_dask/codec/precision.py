"""`Precision`: what a tag's samples may lose on the way to disk, and nothing more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from iiot_dask.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Precision:
    """Bounds on what compression may change; everything absent = lossless.

    Parameters
    ----------
    error_bound
        Largest absolute difference of a value, in the tag's unit.
    time_snap_ns
        Times are rounded to multiples of this, ns; distinct times stay distinct and in order.

    Raises
    ------
    ConfigError
        If a bound is not a positive finite number, or the snap is no positive integer.

    Examples
    --------
    >>> Precision(error_bound=0.05, time_snap_ns=1_000_000).lossless
    False
    >>> Precision(error_bound=-1)
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: error_bound -1 is not a positive finite number
    """

    error_bound: float | None = None
    time_snap_ns: int | None = None

    def __post_init__(self) -> None:
        if self.error_bound is not None and not 0 < self.error_bound < math.inf:
            msg = f"error_bound {self.error_bound!r} is not a positive finite number"
            raise ConfigError(msg)
        if self.time_snap_ns is not None and not (isinstance(self.time_snap_ns, int) and self.time_snap_ns > 0):
            msg = f"time_snap_ns {self.time_snap_ns!r} is not a positive whole number of ns"
            raise ConfigError(msg)

    @property
    def lossless(self) -> bool:
        """Whether nothing changes at all."""
        return self.error_bound is None and self.time_snap_ns is None
