"""`PolicyAdaptive`: Dask's own adaptive loop, told by a policy how many workers to have.

Dask's default asks the scheduler how long its tasks would take. For a stream that is a backlog controller: it settles at
a queue of `target_duration`, sees neither utilisation nor boot time, and is always a boot time late. Here the number comes
from outside; what Dask does well is kept: new workers at once, not yet arrived ones cancelled first, idle ones retired
before busy ones, their data moved before they go.

Imports `distributed`: import this module only where a cluster is at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distributed.deploy.adaptive import Adaptive


class PolicyAdaptive(Adaptive):  # type: ignore[misc] # distributed is untyped here
    """An `Adaptive` whose target is `wanted()`.

    Use it as ``cluster.adapt(Adaptive=PolicyAdaptive, wanted=callable, minimum=…, maximum=…, interval="1s")``.

    Parameters
    ----------
    cluster
        A `SpecCluster` (`LocalCluster`, …); given by `adapt`.
    wanted
        Number of workers wanted now; called on the cluster's event loop once an interval, so it must not block.
    wait_count
        Checks in a row that must want fewer before a worker is retired; the policy holds by itself, so 1.
    **options
        Of `distributed.deploy.Adaptive`: ``minimum``, ``maximum``, ``interval``, ``worker_key``.

    Notes
    -----
    Never call ``cluster.scale`` beside it: that does not switch `adapt` off on a `SpecCluster`, and the two fight.

    Examples
    --------
    >>> from distributed import LocalCluster
    >>> number = 2
    >>> with LocalCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
    ...     adaptive = cluster.adapt(Adaptive=PolicyAdaptive, wanted=lambda: number, minimum=1, maximum=3, interval="50ms")
    ...     cluster.wait_for_workers(2, timeout=30)
    ...     adaptive.wanted()
    2
    """

    def __init__(self, cluster: Any, *, wanted: Callable[[], int], wait_count: int = 1, **options: Any) -> None:
        # Before the base class: it may start to ask at once.
        self.wanted = wanted
        super().__init__(cluster, wait_count=wait_count, **options)

    async def target(self) -> int:
        """What the policy wants; `minimum` and `maximum` are applied by the caller."""
        return int(self.wanted())
