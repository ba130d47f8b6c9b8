"""`Precision`: what a tag's samples may lose on the way to disk, and nothing more."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from iiot_dask.codec.bits import Floats
from iiot_dask.core.errors import ConfigError

DIGITS_MAX = 14


@dataclass(frozen=True, slots=True)
class Precision:
    """Bounds on what compression may change; everything absent = lossless. At most one bound on values.

    Parameters
    ----------
    error_bound
        Largest absolute difference of a value, in the tag's unit.
    time_snap_ns
        Times are rounded to multiples of this, ns; distinct times stay distinct and in order.
    relative
        Largest difference as a share of the value itself: 0.001 = 0.1 %.
    span_share
        Largest difference as a share of the span (largest less smallest finite value) of what is encoded at once.
        With runs of many tags in one call such values stay exact: a tag's span is not known from a few rows.
    significant_digits
        Decimal digits kept, 1-14: the difference is at most half a unit of the last one.

    Raises
    ------
    ConfigError
        If a bound is out of range, or more than one is given.

    Examples
    --------
    >>> Precision(error_bound=0.05, time_snap_ns=1_000_000).lossless
    False
    >>> Precision(error_bound=-1)
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: error_bound -1 is not a positive finite number
    >>> Precision.of("0.1%", time_snap_ns=None)
    Precision(error_bound=None, time_snap_ns=None, relative=None, span_share=0.001, significant_digits=None)
    """

    error_bound: float | None = None
    time_snap_ns: int | None = None
    relative: float | None = None
    span_share: float | None = None
    significant_digits: int | None = None

    def __post_init__(self) -> None:
        if self.error_bound is not None and not 0 < self.error_bound < math.inf:
            msg = f"error_bound {self.error_bound!r} is not a positive finite number"
            raise ConfigError(msg)
        for name in ("relative", "span_share"):
            share = getattr(self, name)
            if share is not None and not 0 < share < 1:
                msg = f"{name} {share!r} is not between 0 and 1"
                raise ConfigError(msg)
        digits = self.significant_digits
        if digits is not None and not (isinstance(digits, int) and 1 <= digits <= DIGITS_MAX):
            msg = f"significant_digits {digits!r} is not a whole number from 1 to {DIGITS_MAX}"
            raise ConfigError(msg)
        if self.time_snap_ns is not None and not (isinstance(self.time_snap_ns, int) and self.time_snap_ns > 0):
            msg = f"time_snap_ns {self.time_snap_ns!r} is not a positive whole number of ns"
            raise ConfigError(msg)
        given = [f.name for f in fields(self) if f.name != "time_snap_ns" and getattr(self, f.name) is not None]
        if len(given) > 1:
            msg = f"{' and '.join(given)} are given; one bound on values is allowed"
            raise ConfigError(msg)

    @classmethod
    def of(cls, error_bound: float | str | None, time_snap_ns: int | None) -> Self:
        """From the keys of a `[[classes]]` section: a number, or ``"0.1%"`` of span, and the snap in ns.

        Raises
        ------
        ConfigError
            If the text is no percentage.
        """
        if not isinstance(error_bound, str):
            return cls(error_bound=error_bound, time_snap_ns=time_snap_ns)
        try:
            share = float(error_bound.removesuffix("%")) / 100.0
        except ValueError:
            share = -1.0
        if not error_bound.endswith("%") or not 0 < share < 1:
            msg = f"error_bound {error_bound!r} is neither a number nor a percentage of span such as '0.1%'"
            raise ConfigError(msg)
        return cls(span_share=share, time_snap_ns=time_snap_ns)

    @property
    def lossless(self) -> bool:
        """Whether nothing changes at all."""
        return self == Precision()

    def absolute(self, values: Floats) -> float | None:
        """The absolute bound for these values, in their unit; None = exact (or relative, see `share`).

        Examples
        --------
        >>> Precision(span_share=0.01).absolute(np.array([1.0, 3.0, np.nan]))
        0.02
        """
        if self.span_share is None:
            return self.error_bound
        finite = values[np.isfinite(values)]
        if len(finite) == 0:
            return None
        # Halved first, as the span of doubles can overflow.
        span = float(finite.max() / 2 - finite.min() / 2) * 2
        bound = span * self.span_share
        return bound if 0 < bound < math.inf else None

    @property
    def share(self) -> float | None:
        """The bound as a share of each value; None when the bound is of another kind.

        Examples
        --------
        >>> Precision(significant_digits=3).share
        0.005
        """
        if self.significant_digits is not None:
            return 0.5 * 10.0 ** (1 - self.significant_digits)
        return self.relative

    @property
    def digits(self) -> int | None:
        """Significant digits that keep `share`; None when the bound is of another kind."""
        if self.relative is None:
            return self.significant_digits
        return min(max(math.ceil(1.0 - math.log10(2.0 * self.relative)), 1), DIGITS_MAX)
