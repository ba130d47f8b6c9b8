"""A floor under a scheduler's adaptive loop, with an expiry: what a forecast asks for outlives the one who made it, for a while.

Start the scheduler with ``--preload iiot_dask.scaling.floor`` (on dask-gateway: in ``ClusterConfig.scheduler_cmd``) and let the
cluster adapt. Then ``set_floor(client, 8, seconds=30)`` keeps at least eight workers for thirty seconds, whatever the scheduler's
own estimate says; renewed with each decision. When the client dies the floor expires and Dask's own logic is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SECONDS_MAX = 3600.0


class Floor:
    """Wraps `Scheduler.adaptive_target`; lives on the scheduler.

    Parameters
    ----------
    scheduler
        The scheduler.
    clock
        Seconds, monotonic.

    Examples
    --------
    >>> class Scheduler:
    ...     handlers = {}
    ...     def adaptive_target(self, target_duration=None): return 2
    >>> now = [0.0]
    >>> scheduler = Scheduler()
    >>> floor = Floor(scheduler, clock=lambda: now[0])
    >>> scheduler.handlers["iiot_floor"](n=5, seconds=30.0)
    {'floor': 5, 'seconds': 30.0}
    >>> scheduler.adaptive_target(); now[0] = 31.0; scheduler.adaptive_target()
    5
    2
    """

    def __init__(self, scheduler: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._own = scheduler.adaptive_target
        self._floor, self._until = 0, 0.0
        scheduler.adaptive_target = self.target
        scheduler.handlers["iiot_floor"] = self.set

    def set(self, n: int, seconds: float) -> dict[str, float]:
        """Keep at least `n` workers for `seconds` (up to an hour) from now; returns what holds."""
        self._floor = max(0, int(n))
        seconds = min(max(0.0, float(seconds)), SECONDS_MAX)
        self._until = self._clock() + seconds
        return {"floor": self._floor, "seconds": seconds}

    def target(self, target_duration: Any = None) -> int:
        """What the scheduler thinks, or the floor while it holds."""
        own = int(self._own(target_duration) if target_duration is not None else self._own())
        return max(own, self._floor) if self._clock() < self._until else own


def set_floor(client: Any, n: int, seconds: float) -> None:
    """Set the floor on a client's scheduler; one round trip. Needs the preload there."""
    client.sync(client.scheduler.iiot_floor, n=n, seconds=seconds)


def dask_setup(scheduler: Any) -> None:
    """Called by Dask on the scheduler."""
    Floor(scheduler)
