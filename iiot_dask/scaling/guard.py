"""`Guard`: the last word before a number reaches a cluster: limits, and patience with workers that do not boot."""

from __future__ import annotations

from dataclasses import dataclass

from iiot_dask.core.errors import ConfigError


@dataclass(slots=True)
class Guard:
    """Between a policy and a cluster; pure, times are passed in.

    Parameters
    ----------
    minimum, maximum
        Fewest and most workers ever asked for.
    boot_s_max
        A worker that has not come after so many seconds has failed to boot.
    cool_down_s
        After a failed boot nothing more is asked for during so many seconds; twice as long after each further failure in a
        row, up to 16 times.

    Raises
    ------
    ConfigError
        If the limits cross or a span is not positive.

    Examples
    --------
    >>> guard = Guard(minimum=1, maximum=8, boot_s_max=60.0, cool_down_s=30.0)
    >>> s = 1_000_000_000
    >>> guard.allow(20, now_ns=0, ready=2, booting=0)
    8
    >>> guard.allow(8, now_ns=61 * s, ready=2, booting=6), guard.failures  # they never came: stop asking for a while
    (2, 1)
    >>> guard.allow(8, now_ns=95 * s, ready=2, booting=0)
    8
    """

    minimum: int
    maximum: int
    boot_s_max: float
    cool_down_s: float
    failures: int = 0
    """Boots that failed since the last that succeeded."""
    failures_total: int = 0
    _waiting_ns: int | None = None
    _until_ns: int = 0
    _ready: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum or self.boot_s_max <= 0 or self.cool_down_s <= 0:
            msg = (
                f"guard with minimum {self.minimum}, maximum {self.maximum}, boot_s_max {self.boot_s_max}, cool_down_s "
                f"{self.cool_down_s}; allowed: 0 <= minimum <= maximum, spans above 0"
            )
            raise ConfigError(msg)

    def allow(self, wanted: int, *, now_ns: int, ready: int, booting: int) -> int:
        """The number to ask the cluster for."""
        if ready > self._ready:
            # Somebody came: the clock of those still booting begins anew.
            self._waiting_ns = None
            self.failures = 0 if self._ready >= 0 else self.failures
        self._ready = ready
        asked = min(max(wanted, self.minimum), self.maximum)
        if now_ns < self._until_ns:
            return min(asked, max(ready, self.minimum))
        if booting and self._waiting_ns is not None and now_ns - self._waiting_ns > self.boot_s_max * 1e9:
            self.failures += 1
            self.failures_total += 1
            self._waiting_ns = None
            self._until_ns = now_ns + round(self.cool_down_s * 1e9 * 2 ** min(self.failures - 1, 4))
            return min(asked, max(ready, self.minimum))
        if asked <= ready:
            self._waiting_ns = None
        elif self._waiting_ns is None:
            self._waiting_ns = now_ns
        return asked
