"""`GatewayProvisioner`: a dask-gateway cluster that is found, asked, and made anew when it is lost.

Two ways to scale. ``floor=False`` asks the gateway for `n` workers once a decision; they stay as they are when this process
dies. ``floor=True`` lets the gateway adapt and keeps an expiring floor on the scheduler (`floor.py`, preloaded there): it
outlives this process for `floor_s`, and then Dask's own reactive part is left.

Only names are kept, no open session: so a gateway, a scheduler or this process may die at any time, and whoever comes back goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import CapacityError
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling.guard import Guard
from iiot_dask.scaling.provision import AskedProvisioner, Workforce

FLOOR_S = 30.0
ANSWER_S = 3.0
"""Longest answer of a gateway or a scheduler, seconds."""
LOST_NS = 3_000_000_000
"""A scheduler that has not answered for so long, while its gateway does, is lost."""
log = structlog.get_logger("iiot_dask.scaling.gateway")


class GatewayProvisioner(AskedProvisioner):
    """Scales a cluster of a dask-gateway.

    Parameters
    ----------
    gateway
        A `dask_gateway.Gateway`; closed by whoever made it.
    guard, clock, metrics, dry_run
        As of `AskedProvisioner`.
    name
        Of a running cluster to take over; by default the newest of this user's that runs, else a new one.
    options
        Of a new cluster, as the gateway takes them.
    floor
        Scale by an expiring floor on the scheduler instead of by a number of workers.
    floor_s
        How long the floor outlives this process, seconds.
    on_cluster
        Called with the name of every cluster that is taken over or made, so that clients can follow.

    Raises
    ------
    CapacityError
        By `scale` and `observed`, when gateway or scheduler can not be reached; the next call tries again.
    """

    def __init__(
        self,
        gateway: Any,
        guard: Guard,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        dry_run: bool = False,
        name: str | None = None,
        options: dict[str, Any] | None = None,
        floor: bool = False,
        floor_s: float = FLOOR_S,
        on_cluster: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(guard, clock=clock, metrics=metrics, dry_run=dry_run)
        self._gateway = gateway
        self.name: str | None = name
        """Of the cluster; None before the first use, and after one was lost."""
        self._taken = self._pending = False
        self._options = options or {}
        self._floor, self._floor_s = floor, floor_s
        self._on_cluster = on_cluster
        self._silent_ns: int | None = None
        # The gateway's client has no time limits of its own; one thread is enough, its queue is ours alone.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway")

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        with reaching("dask-gateway"):
            return self._thread.submit(getattr(self._gateway, method), *arguments, **options).result(ANSWER_S)

    def _report(self) -> Any:
        """The gateway's word on our cluster: taken over, or submitted, if there was none."""
        if self.name is None or not self._taken:
            running = [c for c in self._ask("list_clusters") if c.status.name in {"RUNNING", "PENDING"}]
            mine = [c for c in running if self.name in (None, c.name)]
            if mine:
                self.name = max(mine, key=lambda c: c.start_time).name
                log.info("taking over a running cluster", name=self.name)
            else:
                self.name = self._ask("submit", **self._options)
                log.info("cluster submitted", name=self.name)
            self._taken, self._asked, self._silent_ns = True, None, None
            if self._on_cluster is not None:
                self._on_cluster(str(self.name))
        report = self._ask("get_cluster", self.name)
        if report.status.name in {"STOPPING", "STOPPED", "FAILED"}:
            what = f"cluster {self.name} is {report.status.name.lower()}"
            self._lose()
            msg = f"{what}; a new one will be made"
            raise CapacityError(msg)
        return report

    def _lose(self) -> None:
        log.warning("cluster lost", name=self.name)
        self.name, self._asked, self._silent_ns = None, None, None

    def observed(self) -> Workforce:
        """Workers that report to the scheduler; those asked for and missing count as booting."""
        report = self._report()
        self._pending = report.status.name == "PENDING"
        if self._pending:
            return Workforce(0, self._asked or 0)
        info = self._scheduler(report, _identity)
        ready = len(info["workers"])
        asked = ready if self._asked is None or self.dry_run else self._asked
        return Workforce(ready, max(0, asked - ready))

    def _scheduler(self, report: Any, what: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """Call the scheduler; one that is silent for long is given up."""
        loop = self._gateway.loop.asyncio_loop
        try:
            with reaching("dask scheduler"):
                answer = asyncio.run_coroutine_threadsafe(_call(report, what), loop).result(ANSWER_S + 1)
        except CapacityError:
            now_ns = self._clock.monotonic_ns()
            if self._silent_ns is None:
                self._silent_ns = now_ns
            elif now_ns - self._silent_ns > LOST_NS:
                self._ask("stop_cluster", self.name)
                self._lose()
            raise
        self._silent_ns = None
        return answer

    def scale(self, n: int) -> int:
        """As `AskedProvisioner.scale`; a floor is renewed each time."""
        allowed = super().scale(n)
        if self._floor and not self.dry_run:
            report = self._report()
            if report.status.name == "RUNNING" and not self._pending:
                self._scheduler(report, lambda scheduler: scheduler.iiot_floor(n=allowed, seconds=self._floor_s))
        return allowed

    def _apply(self, n: int, there: Workforce) -> bool:  # noqa: ARG002 -- the interface
        if self._pending:
            return False
        if not self._floor:
            self._ask("scale_cluster", self.name, n)
        elif self._asked is None:
            self._ask("adapt_cluster", self.name, minimum=self._guard.minimum, maximum=self._guard.maximum)
        return True

    def close(self) -> None:
        """Let go of the cluster; it goes on running."""
        self._thread.shutdown(wait=False, cancel_futures=True)


async def _call(report: Any, what: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
    from distributed.core import rpc

    connection = report.security.get_connection_args("client")
    async with rpc(report.scheduler_address, connection_args=connection, timeout=ANSWER_S) as scheduler:
        return await asyncio.wait_for(what(scheduler), ANSWER_S)


async def _identity(scheduler: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await scheduler.identity(n_workers=-1)
    return answer


@contextlib.contextmanager
def reaching(what: str) -> Iterator[None]:
    """What a client of `what` raises becomes CapacityError."""
    from dask_gateway import GatewayClusterError, GatewayServerError  # type: ignore[import-untyped]

    try:
        yield
    except (OSError, TimeoutError, ValueError, GatewayClusterError, GatewayServerError) as error:
        # A comm that broke is an OSError, an answer of 404 or 422 a ValueError.
        msg = f"{what} can not be reached: {type(error).__name__}: {error}"
        raise CapacityError(msg) from error
