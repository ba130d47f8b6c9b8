"""What a policy is told about the plant and its cluster."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan, nan

from iiot_dask.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Observed:
    """The load and the cluster at one instant.

    Parameters
    ----------
    rate
        Messages *offered* per second: what arrives, never what is served, or saturation hides the demand.
    backlog
        Messages that wait.
    ready, booting
        Workers that work, and workers asked for that do not yet.
    served
        Messages worked off per second; NaN where it is not measured.
    busy
        Share of the ready workers' time that was spent working, 0..1; NaN where it is not measured. `served` and `busy`
        together say what a worker can really do.
    active
        Tags that have sent lately; 0 where it is not counted.
    trusted
        False while an outage makes the load meaningless: it is served, but nothing is learnt from it.

    Raises
    ------
    ConfigError
        If a number is negative or not finite.

    Examples
    --------
    >>> Observed(rate=1200.0, backlog=0, ready=2, booting=1).workers
    3
    >>> Observed(rate=900.0, ready=3, served=900.0, busy=0.5).true_rate
    600.0
    >>> Observed(rate=float("nan"), backlog=0, ready=2, booting=1)
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: observed rate nan is not a number from 0 up
    """

    rate: float
    backlog: float = 0.0
    ready: int = 0
    booting: int = 0
    served: float = nan
    busy: float = nan
    active: int = 0
    trusted: bool = True

    def __post_init__(self) -> None:
        for name in ("rate", "backlog", "ready", "booting", "active"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                msg = f"observed {name} {value!r} is not a number from 0 up"
                raise ConfigError(msg)
        for name, most in (("served", float("inf")), ("busy", 1.0 + 1e-9)):
            value = getattr(self, name)
            if not isnan(value) and not 0 <= value <= most:
                msg = f"observed {name} {value!r} is not a number from 0 to {most:g}, nor NaN for not measured"
                raise ConfigError(msg)

    @property
    def workers(self) -> int:
        """Workers that work or will."""
        return self.ready + self.booting

    @property
    def true_rate(self) -> float:
        """Messages/s one worker would take at full use (served over busy time, as DS2 reckons); NaN while unknown."""
        used = self.busy * self.ready
        return self.served / used if used > 0 else nan
