"""The plant's day: three shifts of different activity with ramps between them, repeated for ever."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shifts:
    """Activity over time: a piecewise linear, periodic curve between 0 and 1.

    Parameters
    ----------
    day_s
        Length of the cycle, seconds; shifts start at equal parts of it.
    levels
        Activity of each shift, 0..1: the share of devices that work.
    ramp
        Part of a shift (0..1) in which activity moves from the level before to its own.

    Raises
    ------
    ConfigError
        If the day is not positive, a level is outside 0..1 or the ramp outside (0, 1].

    Examples
    --------
    >>> shifts = Shifts(day_s=60.0)
    >>> shifts.activity(np.array([19.9, 21.0, 30.0, 50.0, 61.0])).round(2).tolist()
    [0.4, 0.7, 1.0, 0.7, 0.55]
    """

    day_s: float = 60.0
    levels: tuple[float, ...] = (0.4, 1.0, 0.7)
    ramp: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.day_s < float("inf"):
            msg = f"day_s {self.day_s!r} is not a positive number of seconds"
            raise ConfigError(msg)
        if not self.levels or not all(0 <= level <= 1 for level in self.levels):
            msg = f"levels {self.levels!r} must be at least one number between 0 and 1"
            raise ConfigError(msg)
        if not 0 < self.ramp <= 1:
            msg = f"ramp {self.ramp!r} is not in (0, 1]: the part of a shift it takes"
            raise ConfigError(msg)

    @property
    def shift_s(self) -> float:
        """Length of one shift, seconds."""
        return self.day_s / len(self.levels)

    def number(self, t_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Which shift it is, counted from the first (which is 0), for times in seconds of any shape."""
        return np.floor(t_s / self.shift_s).astype(np.int64)

    def activity(self, t_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Activity 0..1 at times in seconds; any shape, same shape out."""
        x, y, _ = _knots(self)
        return np.interp(np.mod(t_s, self.day_s), x, y)

    def work(self, t_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Integral of the activity from 0 to each time, in seconds of full activity; exact, negative before 0.

        Examples
        --------
        >>> Shifts(day_s=60.0, levels=(0.5,)).work(np.array([0.0, 1.0, 90.0])).tolist()
        [0.0, 0.5, 45.0]
        """
        x, y, area = _knots(self)
        days, rest = np.divmod(t_s, self.day_s)
        at = np.clip(np.searchsorted(x, rest, side="right") - 1, 0, len(x) - 2)
        dx = rest - x[at]
        width = x[at + 1] - x[at]
        slope = np.divide(y[at + 1] - y[at], width, out=np.zeros_like(width), where=width > 0)
        out: npt.NDArray[np.float64] = days * area[-1] + area[at] + y[at] * dx + slope * dx * dx / 2
        return out


Knots = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]


@lru_cache(maxsize=64)
def _knots(shifts: Shifts) -> Knots:
    """Times in seconds, activity there, integral up to there."""
    starts = np.arange(len(shifts.levels)) * shifts.shift_s
    levels = np.array(shifts.levels)
    x = np.append(np.column_stack([starts, starts + shifts.ramp * shifts.shift_s]).ravel(), shifts.day_s)
    y = np.append(np.column_stack([np.roll(levels, 1), levels]).ravel(), levels[-1])
    return x, y, np.concatenate([[0.0], np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2)])
