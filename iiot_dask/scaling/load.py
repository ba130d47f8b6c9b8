"""What a policy is told about the plant and its cluster."""

from __future__ import annotations

from dataclasses import dataclass

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

    Raises
    ------
    ConfigError
        If a number is negative or not finite.

    Examples
    --------
    >>> Observed(rate=1200.0, backlog=0, ready=2, booting=1).workers
    3
    >>> Observed(rate=float("nan"), backlog=0, ready=2, booting=1)
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: observed rate nan is not a number from 0 up
    """

    rate: float
    backlog: float = 0.0
    ready: int = 0
    booting: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "backlog", "ready", "booting"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                msg = f"observed {name} {value!r} is not a number from 0 up"
                raise ConfigError(msg)

    @property
    def workers(self) -> int:
        """Workers that work or will."""
        return self.ready + self.booting
