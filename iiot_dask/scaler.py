"""The thin shell round the scaling policy: once a tick it looks at the load and the cluster, asks, and passes on the number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Cluster as ClusterConfig
from iiot_dask.core.errors import DataError
from iiot_dask.core.metrics import Metrics
from iiot_dask.dashboard.snapshot import Workers
from iiot_dask.scaling import AdaptiveProvisioner, Guard, Observed, policy

SAVE_EVERY_NS = 60_000_000_000
"""What the forecast has learned is saved this often, ns."""
BOOT_S_MAX = 60.0
COOL_DOWN_S = 30.0

log = structlog.get_logger("iiot_dask.scaler")


class Scaler:
    """Policy, guard and cluster of one engine.

    Parameters
    ----------
    config
        The plant file's ``[cluster]``.
    cluster
        A running `SpecCluster`.
    memory
        File that keeps what the forecast learned over restarts; damaged or of another plant's settings: learned anew.
    clock, metrics
        Time; counts of failed boots.
    """

    def __init__(self, config: ClusterConfig, cluster: Any, memory: Path, *, clock: Clock, metrics: Metrics) -> None:
        self.clock = clock
        self.memory = memory
        self.policy = policy(
            config.policy,
            capacity=config.capacity,
            boot_s=config.boot / 1e9,
            utilisation=config.utilisation,
            minimum=config.minimum,
            maximum=config.maximum,
            day_s=config.day / 1e9,
        )
        try:
            self.policy = self.policy.from_bytes(memory.read_bytes())
        except FileNotFoundError:
            log.info("no forecast yet: this is the plant's first cycle")
        except DataError as error:
            log.warning("forecast starts anew", error=str(error))
        guard = Guard(config.minimum, config.maximum, BOOT_S_MAX, COOL_DOWN_S)
        self.provisioner = AdaptiveProvisioner(cluster, guard, clock=clock, metrics=metrics)
        self.workers = Workers(now=config.minimum, wanted=config.minimum, reason="starting")
        self._saved_ns = clock.monotonic_ns()

    def tick(self, rate: float, backlog: float) -> None:
        """Decide for `rate` samples/s offered and `backlog` samples waiting, and pass the number on."""
        there = self.provisioner.observed()
        wanted = self.policy.decide(self.clock.now_ns(), Observed(max(0.0, rate), backlog, there.ready, there.booting))
        asked = self.provisioner.scale(wanted)
        why = self.policy.explain()
        self.workers = Workers(there.ready, asked, why.reactive, why.forecast, why.reason)
        if self.clock.monotonic_ns() - self._saved_ns > SAVE_EVERY_NS:
            self.save()

    def save(self) -> None:
        """Keep what was learned; a full disk costs only this."""
        self._saved_ns = self.clock.monotonic_ns()
        draft = self.memory.with_suffix(".tmp")
        try:
            draft.write_bytes(self.policy.to_bytes())
            draft.replace(self.memory)
        except OSError as error:
            log.warning("forecast not saved", error=str(error))

    def close(self) -> None:
        """Stop scaling and keep what was learned; the cluster stays as it is."""
        self.provisioner.close()
        self.save()
