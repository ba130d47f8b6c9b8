"""`AutoScalingProvisioner`: an AWS EC2 Auto Scaling group, through boto3.

Scale-out sets the group's desired capacity. Scale-in never lets AWS choose: the youngest instances are drained first (`drain`
retires their Dask workers, which moves their data and hands over their shards), then ended by name, with the desired capacity
going down with them. So nothing that works is switched off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import CapacityError
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling.guard import Guard
from iiot_dask.scaling.provision import AskedProvisioner, Workforce

READY = "InService"
GOING = ("Terminating", "Terminated", "Detaching", "Detached", "Quarantined")


class AutoScalingProvisioner(AskedProvisioner):
    """Scales an Auto Scaling group.

    Parameters
    ----------
    group
        Its name.
    client
        A boto3 ``autoscaling`` client: region, credentials and endpoint are the caller's.
    guard, clock, metrics, dry_run
        As of `AskedProvisioner`.
    drain
        Called with an instance id before it is ended; returns when its workers have handed over. None: nothing to hand over.

    Raises
    ------
    CapacityError
        By `scale` and `observed`, if AWS can not be reached, refuses, or knows no such group.

    Notes
    -----
    The group's own scaling policies must be off, or two controllers fight. Tested against moto's server, not against AWS.
    """

    def __init__(
        self,
        group: str,
        client: Any,
        guard: Guard,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        dry_run: bool = False,
        drain: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(guard, clock=clock, metrics=metrics, dry_run=dry_run)
        self.group = group
        self._aws = client
        self._drain = drain

    def _ask(self, operation: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]

        try:
            return getattr(self._aws, operation)(**arguments)
        except (BotoCoreError, ClientError) as error:
            msg = f"auto scaling group {self.group!r}: {operation} failed: {error}"
            raise CapacityError(msg) from error

    def _describe(self) -> dict[str, Any]:
        groups = self._ask("describe_auto_scaling_groups", AutoScalingGroupNames=[self.group])["AutoScalingGroups"]
        if not groups:
            msg = f"auto scaling group {self.group!r} does not exist in this region and account"
            raise CapacityError(msg)
        found: dict[str, Any] = groups[0]
        return found

    def observed(self) -> Workforce:
        """Instances in service and healthy; what else the group desires counts as booting."""
        group = self._describe()
        ready = sum(i["LifecycleState"] == READY and i["HealthStatus"] == "Healthy" for i in group["Instances"])
        return Workforce(ready, max(0, group["DesiredCapacity"] - ready))

    def _apply(self, n: int, there: Workforce) -> bool:  # noqa: ARG002 -- the interface
        group = self._describe()
        desired = int(group["DesiredCapacity"])
        if n >= desired:
            # Beyond the group's own bounds AWS refuses; its quota is the last word.
            self._ask(
                "set_desired_capacity",
                AutoScalingGroupName=self.group,
                DesiredCapacity=min(max(n, int(group["MinSize"])), int(group["MaxSize"])),
                HonorCooldown=False,
            )
            return True
        staying = [i for i in group["Instances"] if not i["LifecycleState"].startswith(GOING)]
        # Those that do not work yet have nothing to hand over.
        order = sorted(staying, key=lambda i: i["LifecycleState"] == READY)
        for instance in order[: max(0, min(desired - n, desired - int(group["MinSize"])))]:
            name = str(instance["InstanceId"])
            if self._drain is not None and instance["LifecycleState"] == READY:
                self._drain(name)
            self._ask("terminate_instance_in_auto_scaling_group", InstanceId=name, ShouldDecrementDesiredCapacity=True)
        return True


def drain_workers(client: Any, host_of: Callable[[str], str], timeout_s: float = 60.0) -> Callable[[str], None]:
    """A `drain` for instances that run Dask workers: retires all of a host's, which moves their data to others.

    Parameters
    ----------
    client
        A `distributed.Client`.
    host_of
        Instance id -> host as its workers' addresses have it.
    timeout_s
        Longest hand-over, seconds.

    Raises
    ------
    CapacityError
        By what is returned, if a worker is still there after `timeout_s`: its instance must not be ended.
    """

    def drain(instance: str) -> None:
        host = host_of(instance)
        workers = [
            a for a in client.scheduler_info(n_workers=-1)["workers"] if a.split("://")[-1].rsplit(":", 1)[0] == host
        ]
        if not workers:
            return
        try:
            client.sync(_retire, client, workers, timeout_s)
        except (OSError, TimeoutError) as error:
            msg = f"workers of {instance} at {host} did not hand over within {timeout_s:.0f} s: {error}"
            raise CapacityError(msg) from error

    return drain


async def _retire(client: Any, workers: list[str], timeout_s: float) -> None:
    await asyncio.wait_for(client.scheduler.retire_workers(workers=workers, close_workers=True, remove=True), timeout_s)
