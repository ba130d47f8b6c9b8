"""Faults a simulated plant shows on purpose: what, where, from when to when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from iiot_dask.core.errors import ConfigError

FaultKind = Literal["outage", "flatline", "corrupt"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault; times in seconds since the plant's start, `kind` is the incident kind it should be found as.

    `outage`: the device `node` is gone, its listener and connections are closed. `flatline`: the tag `node` repeats its
    last value. `corrupt`: the device `node` sends malformed payloads beside its good ones.

    Raises
    ------
    ConfigError
        If the kind is unknown or the interval is empty or starts before 0.

    Examples
    --------
    >>> Fault("flatline", "site1/line3/mixer1/temperature", 10.0, 20.0).active(10.0)
    True
    """

    kind: FaultKind
    node: str
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            msg = f"fault kind {self.kind!r} is unknown; {', '.join(get_args(FaultKind))} are allowed"
            raise ConfigError(msg)
        if not 0 <= self.start_s < self.end_s:
            msg = f"fault {self.kind!r} of {self.node!r} lasts from {self.start_s} s to {self.end_s} s; needs 0 <= start < end"
            raise ConfigError(msg)

    def active(self, t_s: float) -> bool:
        """Whether the fault is on at `t_s` (start included, end not)."""
        return self.start_s <= t_s < self.end_s
