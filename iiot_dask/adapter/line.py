"""`Line`: everything the host keeps of one adapter, and the budgets it is held to while its process runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import structlog

from iiot_dask.adapter import cgroup
from iiot_dask.adapter.channel import Channel
from iiot_dask.adapter.courier import Courier, Delivery
from iiot_dask.adapter.limits import Limits, demote, take_limits
from iiot_dask.adapter.logfile import BoundedLog
from iiot_dask.adapter.supervisor import Occurrence, Policy, State, Supervisor
from iiot_dask.core.clock import Clock
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.registry import Registry

GROUP = "iiot_dask.adapters"
HOT_MEASURES = 3
"""So many measures in a row over its CPU budget, and an adapter without a control group goes to the idle class."""

log = structlog.get_logger("iiot_dask.adapter.host")

PublicState = Literal["starting", "running", "waiting", "degraded", "stopped", "failed"]
PUBLIC: dict[State, PublicState] = {
    State.IDLE: "starting",
    State.STARTING: "starting",
    State.RUNNING: "running",
    State.ENDING: "waiting",
    State.WAITING: "waiting",
    State.STOPPING: "running",
    State.STOPPED: "stopped",
    State.FAILED: "failed",
}


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """One adapter now.

    `state`: *starting* until its `open` has returned; *running*; *waiting* for its device or for a restart; *degraded*
    when it failed too often and is restarted slowly; *stopped*; *failed* when only a person can help. `samples` and
    `errors` (faults and unusable messages) are totals over all incarnations, `last_ns` the wall time of the last rows
    (ns, None: never), `reason` the last fault in a sentence, `rss_bytes` and `cpu_share` (cores) of the process, 0 when
    there is none. `held_by` names what enforces its budgets.
    """

    name: str
    kind: str
    state: PublicState
    pid: int | None
    restarts: int
    samples: int
    errors: int
    last_ns: int | None
    reason: str
    incarnation: int
    rss_bytes: int
    cpu_share: float
    held_by: str = ""


@dataclass(slots=True)
class Line:
    """One adapter. `wanted` is what a person asked for; `draft` a section that takes effect once the process has ended."""

    config: AdapterConfig
    limits: Limits
    supervisor: Supervisor
    courier: Courier
    log: BoundedLog
    position: str | None
    unsent: str | None = None
    wanted: Literal["run", "stop", "gone"] = "run"
    draft: tuple[AdapterConfig, Limits] | None = None
    channel: Channel | None = None
    process: psutil.Process | None = None
    group: cgroup.ControlGroup | None = None
    rss_bytes: int = 0
    cpu_share: float = 0.0
    hot: int = 0
    notes: list[str] = field(default_factory=list)

    # -- budgets -----------------------------------------------------------------------------------------------------

    def hold(self, parent: cgroup.Parent | str) -> None:
        """Put a process that has just been started into a control group, where one can be made."""
        assert self.channel is not None
        self.hot = 0
        if isinstance(parent, str):
            return
        limits = self.limits
        try:
            self.group = cgroup.ControlGroup(
                parent, f"iiot-{self.config.name}", memory=limits.memory, cpu=limits.cpu, tasks=limits.tasks
            )
            self.group.take(self.channel.pid)
        except OSError as error:
            log.warning("no control group", name=self.config.name, error=str(error))
            self.group = None

    def release(self) -> None:
        """The process has ended: so do its group and what was measured of it."""
        if self.group is not None:
            left = self.group.close()
            if left:
                log.warning("control group stays", name=self.config.name, error=left)
        self.channel = self.process = self.group = None
        self.rss_bytes, self.cpu_share = 0, 0.0

    def measure(self) -> str | None:
        """Note what the process uses; a sentence when it may not go on like that."""
        if self.channel is None:
            return None
        try:
            if self.process is None:
                self.process = psutil.Process(self.channel.pid)
            self.rss_bytes = self.process.memory_info().rss
            self.cpu_share = self.process.cpu_percent() / 100
        except psutil.Error:
            # It is ending this moment; `has_ended` will say so.
            return None
        self._cool()
        if self.rss_bytes > self.limits.memory:
            return f"uses {self.rss_bytes} bytes of memory; options.limits.memory = {self.limits.memory}"
        return None

    def _cool(self) -> None:
        """An adapter over its share of CPU that no control group throttles runs in the idle class from now on."""
        assert self.channel is not None
        if self.group is not None and "cpu" in self.group.controllers:
            return
        over = self.cpu_share > 1.1 * self.limits.cpu
        if self.hot < HOT_MEASURES:
            self.hot = self.hot + 1 if over else 0
            if self.hot == HOT_MEASURES:
                done = demote(self.channel.pid)
                self.notes.append(f"uses {self.cpu_share:.2f} cores; options.limits.cpu = {self.limits.cpu:g}: {done}")

    @property
    def held_by(self) -> str:
        """What enforces the budgets, for people."""
        by = ["resource limits", "affinity"]
        if self.group is not None:
            by.append(f"control group ({', '.join(sorted(self.group.controllers))})")
        elif self.hot >= HOT_MEASURES:
            by.append("idle class")
        return ", ".join(by)


def section(config: AdapterConfig) -> tuple[AdapterConfig, Limits]:
    """An adapter's section as it sees it, and its limits.

    Raises
    ------
    ConfigError
        If its kind is not installed here and nothing else is to be started, or its limits are wrong.
    """
    installed = Registry[object](GROUP, "adapter").names()
    if not config.command and config.kind not in installed:
        msg = f"adapter {config.name!r} has kind {config.kind!r}, which is not installed; installed: {', '.join(installed)}"
        raise ConfigError(msg)
    return take_limits(config)


def timed(policy: Policy, limits: Limits) -> Policy:
    """The policy with the adapter's own times."""
    return Policy(
        **{name: getattr(policy, name) for name in Policy.__slots__}
        | {"open_ns": limits.open, "silence_ns": limits.silence}
    )


def line_of(
    config: AdapterConfig,
    *,
    deliver: Callable[[Delivery], None],
    notify: Callable[[int, Occurrence | None], None],
    position: str | None,
    log_dir: Path | None,
    policy: Policy,
    first: int,
    clock: Clock,
    metrics: Metrics,
    rng: np.random.Generator,
) -> Line:
    """A line that is not started yet; its first incarnation has the number `first`.

    Raises
    ------
    ConfigError
        As `section`.
    """
    shown, limits = section(config)
    name = config.name
    courier = Courier(name, deliver, notify, clock, metrics, limits.rate)
    path = None if log_dir is None else log_dir / f"adapter-{name}.jsonl"
    return Line(shown, limits, Supervisor(timed(policy, limits), rng, first), courier, BoundedLog(path), position)
