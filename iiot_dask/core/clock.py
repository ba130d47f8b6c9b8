"""Time as an argument: nothing in the package asks the machine what time it is except through a `Clock`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time and a steady time, both integer nanoseconds."""

    def now_ns(self) -> int:
        """Wall time, ns since 1970-01-01 UTC; may jump."""
        ...

    def monotonic_ns(self) -> int:
        """Steady time in ns with an arbitrary origin; never jumps back. Use it for every timer."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ns(self) -> int:
        """Wall time, ns since 1970-01-01 UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Steady time, ns."""
        return time.monotonic_ns()


class ManualClock:
    """A clock that moves only when told to, for tests and for replay.

    Examples
    --------
    >>> clock = ManualClock(1_000)
    >>> clock.advance(0.5)
    >>> clock.now_ns(), clock.monotonic_ns()
    (500001000, 500000000)
    """

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._steady_ns = 0

    def now_ns(self) -> int:
        """Wall time, ns since 1970-01-01 UTC."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Steady time, ns, from 0."""
        return self._steady_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward.

        Raises
        ------
        ValueError
            If `seconds` is negative: a steady clock can not go back.
        """
        if seconds < 0:
            msg = f"a clock advances by 0 s or more, not {seconds}"
            raise ValueError(msg)
        step = round(seconds * 1e9)
        self._now_ns += step
        self._steady_ns += step

    def jump(self, seconds: float) -> None:
        """Step the wall clock only (either way), as NTP or an operator would."""
        self._now_ns += round(seconds * 1e9)
