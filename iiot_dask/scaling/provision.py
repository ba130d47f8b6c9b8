"""Provisioners: one interface, `scale(n)` and `observed()`, over different clusters.

* `AdaptiveProvisioner` drives a `SpecCluster` (`LocalCluster`, …) through `PolicyAdaptive`: scale-down retires workers
  with their data moved first.
* `ScaleProvisioner` calls ``cluster.scale(n)`` once a decision: portable (dask-gateway, dask-kubernetes).
* `gateway.GatewayProvisioner`, `kubernetes.KubernetesProvisioner`, `aws.AutoScalingProvisioner` and
  `command.CommandProvisioner` speak to what starts machines.

All go through a `Guard`, all can run dry, and all say `CapacityError` when what they drive can not be reached: then the
policy goes on deciding, and the number is asked for again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from iiot_dask.core.clock import Clock
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling.guard import Guard

AGAIN_NS = 5_000_000_000
"""A number that reality does not follow is asked for again after so long."""


@dataclass(frozen=True, slots=True)
class Workforce:
    """Workers that are `ready`, and asked for but not there yet (`booting`)."""

    ready: int
    booting: int

    @property
    def workers(self) -> int:
        """Both."""
        return self.ready + self.booting


class Provisioner(Protocol):
    """What can change the number of workers."""

    def scale(self, n: int) -> int:
        """Ask for `n` workers; returns the number really asked for. Raises CapacityError if nobody can be asked."""
        ...

    def observed(self) -> Workforce:
        """The workers there are. Raises CapacityError if nobody can be asked."""
        ...

    def close(self) -> None:
        """Stop scaling; the cluster stays as it is."""
        ...


class AskedProvisioner:
    """What all provisioners share that are told a number: guard, dry run, asking again where reality does not follow.

    Parameters
    ----------
    guard
        Limits and patience.
    clock, metrics
        Times of the guard; ``scaling_boot_failures_total`` is counted, ``scaling_workers_asked`` shown.
    dry_run
        Only pretend; `observed` still tells the truth.
    """

    def __init__(self, guard: Guard, *, clock: Clock, metrics: Metrics | None = None, dry_run: bool = False) -> None:
        self._guard = guard
        self._clock = clock
        self._metrics = metrics
        self.dry_run = dry_run
        self._asked: int | None = None
        self._asked_ns = 0

    def scale(self, n: int) -> int:
        """Ask if the number changed, or if reality has not followed for a while; returns the number really asked for."""
        there = self.observed()
        allowed = guarded(self._guard, n, there, self._clock, self._metrics)
        now_ns = self._clock.monotonic_ns()
        astray = there.workers != allowed and now_ns - self._asked_ns > AGAIN_NS
        if (allowed != self._asked or astray) and not self.dry_run:
            if not self._apply(allowed, there):
                return allowed
            self._asked_ns = now_ns
        self._asked = allowed
        return allowed

    def observed(self) -> Workforce:
        """The workers there are."""
        raise NotImplementedError

    def _apply(self, n: int, there: Workforce) -> bool:
        """Ask for `n`; must not wait for the workers. False: nobody was there to be asked yet."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to stop."""


class AdaptiveProvisioner:
    """Drives a `SpecCluster` through its own adaptive loop.

    Parameters
    ----------
    cluster
        A running `SpecCluster`; not closed by this.
    guard
        Limits and patience.
    clock, metrics
        Times of the guard; ``scaling_boot_failures_total`` is counted.
    interval
        How often the cluster looks at the wanted number, as Dask takes it.
    """

    def __init__(
        self, cluster: Any, guard: Guard, *, clock: Clock, metrics: Metrics | None = None, interval: str = "500ms"
    ) -> None:
        from iiot_dask.scaling.adaptive import PolicyAdaptive

        self._cluster = cluster
        self._guard = guard
        self._clock = clock
        self._metrics = metrics
        self._asked = max(guard.minimum, min(len(cluster.plan), guard.maximum))
        self._adaptive = cluster.adapt(
            Adaptive=PolicyAdaptive,
            wanted=lambda: self._asked,
            minimum=guard.minimum,
            maximum=guard.maximum,
            interval=interval,
        )

    def scale(self, n: int) -> int:
        """Set the number the adaptive loop follows; returns it."""
        self._asked = guarded(self._guard, n, self.observed(), self._clock, self._metrics)
        return self._asked

    def observed(self) -> Workforce:
        """Workers that report to the scheduler, and planned ones that do not yet."""
        ready = len(_workers(self._cluster))
        return Workforce(ready, max(0, max(self._asked, len(self._cluster.worker_spec)) - ready))

    def close(self) -> None:
        """Stop the adaptive loop."""
        self._adaptive.stop(reason="provisioner closed")


class ScaleProvisioner(AskedProvisioner):
    """Calls ``cluster.scale(n)`` when the number changes: for clusters that bring their own way to add workers.

    Parameters
    ----------
    cluster
        Anything with ``scale(n)`` and ``scheduler_info``, such as a `KubeCluster`; not closed by this.
    guard, clock, metrics, dry_run
        As in `AskedProvisioner`.

    Examples
    --------
    >>> from iiot_dask.core.clock import ManualClock
    >>> class Cluster:
    ...     scheduler_info = {"workers": {"a": {}}}
    ...     def scale(self, n): print("scale", n)
    >>> p = ScaleProvisioner(Cluster(), Guard(1, 3, 60.0, 60.0), clock=ManualClock())
    >>> p.scale(5), p.scale(3), p.observed()
    scale 3
    (3, 3, Workforce(ready=1, booting=2))
    """

    def __init__(
        self, cluster: Any, guard: Guard, *, clock: Clock, metrics: Metrics | None = None, dry_run: bool = False
    ) -> None:
        super().__init__(guard, clock=clock, metrics=metrics, dry_run=dry_run)
        self._cluster = cluster

    def observed(self) -> Workforce:
        """Workers that report to the scheduler; those asked for and missing count as booting."""
        ready = len(_workers(self._cluster))
        asked = ready if self._asked is None or self.dry_run else self._asked
        return Workforce(ready, max(0, asked - ready))

    def _apply(self, n: int, there: Workforce) -> bool:  # noqa: ARG002 -- the interface
        self._cluster.scale(n)
        return True


def _workers(cluster: Any) -> Mapping[str, Any]:
    workers: Mapping[str, Any] = cluster.scheduler_info["workers"]
    return workers


def guarded(guard: Guard, n: int, there: Workforce, clock: Clock, metrics: Metrics | None) -> int:
    """The number after the guard; failed boots are counted."""
    before = guard.failures_total
    out = guard.allow(n, now_ns=clock.monotonic_ns(), ready=there.ready, booting=there.booting)
    if metrics is not None:
        metrics.gauge("scaling_workers_asked", out)
        if guard.failures_total > before:
            metrics.count("scaling_boot_failures_total")
    return out
