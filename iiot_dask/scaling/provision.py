"""Provisioners: one interface, `scale(n)` and `observed()`, over different clusters.

* `AdaptiveProvisioner` drives a `SpecCluster` (`LocalCluster`, …) through `PolicyAdaptive`: scale-down retires workers
  with their data moved first.
* `ScaleProvisioner` calls ``cluster.scale(n)`` once a decision: portable (dask-gateway, dask-kubernetes).

Both go through a `Guard`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from iiot_dask.core.clock import Clock
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling.guard import Guard


@dataclass(frozen=True, slots=True)
class Workforce:
    """Workers that are `ready`, and asked for but not there yet (`booting`)."""

    ready: int
    booting: int


class Provisioner(Protocol):
    """What can change the number of workers."""

    def scale(self, n: int) -> int:
        """Ask for `n` workers; returns the number really asked for. Does not wait."""
        ...

    def observed(self) -> Workforce:
        """The workers there are."""
        ...

    def close(self) -> None:
        """Stop scaling; the cluster stays as it is."""
        ...


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
        self._asked = _guarded(self._guard, n, self.observed(), self._clock, self._metrics)
        return self._asked

    def observed(self) -> Workforce:
        """Workers that report to the scheduler, and planned ones that do not yet."""
        ready = len(_workers(self._cluster))
        return Workforce(ready, max(0, max(self._asked, len(self._cluster.worker_spec)) - ready))

    def close(self) -> None:
        """Stop the adaptive loop."""
        self._adaptive.stop(reason="provisioner closed")


class ScaleProvisioner:
    """Calls ``cluster.scale(n)`` when the number changes: for clusters that bring their own way to add workers.

    Parameters
    ----------
    cluster
        Anything with ``scale(n)`` and ``scheduler_info``, such as a `GatewayCluster`; not closed by this.
    guard, clock, metrics
        As in `AdaptiveProvisioner`.
    dry_run
        Only pretend; `observed` still tells the truth.

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
        self._cluster = cluster
        self._guard = guard
        self._clock = clock
        self._metrics = metrics
        self._dry_run = dry_run
        self._asked: int | None = None

    def scale(self, n: int) -> int:
        """Ask the cluster if the number changed; returns the number really asked for."""
        allowed = _guarded(self._guard, n, self.observed(), self._clock, self._metrics)
        if allowed != self._asked and not self._dry_run:
            self._cluster.scale(allowed)
        self._asked = allowed
        return allowed

    def observed(self) -> Workforce:
        """Workers that report to the scheduler; those asked for and missing count as booting."""
        ready = len(_workers(self._cluster))
        asked = ready if self._asked is None or self._dry_run else self._asked
        return Workforce(ready, max(0, asked - ready))

    def close(self) -> None:
        """Nothing to stop."""


def _workers(cluster: Any) -> Mapping[str, Any]:
    workers: Mapping[str, Any] = cluster.scheduler_info["workers"]
    return workers


def _guarded(guard: Guard, n: int, there: Workforce, clock: Clock, metrics: Metrics | None) -> int:
    before = guard.failures_total
    out = guard.allow(n, now_ns=clock.monotonic_ns(), ready=there.ready, booting=there.booting)
    if metrics is not None:
        metrics.gauge("scaling_workers_asked", out)
        if guard.failures_total > before:
            metrics.count("scaling_boot_failures_total")
    return out
