"""`KubernetesProvisioner`: the worker group of a Dask cluster run by the dask-kubernetes operator, through kr8s.

It patches ``spec.worker.replicas`` of the `DaskWorkerGroup` (``kubernetes.dask.org/v1``), as ``KubeCluster.scale`` does. On
scale-in the operator retires workers through the scheduler before it deletes their pods. Only this resource and the pods of the
cluster are read; a role with ``get, patch daskworkergroups`` and ``list pods`` is enough.
"""

from __future__ import annotations

from typing import Any

from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import CapacityError
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling.guard import Guard
from iiot_dask.scaling.provision import AskedProvisioner, Workforce


class KubernetesProvisioner(AskedProvisioner):
    """Scales a `DaskWorkerGroup`.

    Parameters
    ----------
    cluster
        Name of the `DaskCluster`.
    guard, clock, metrics, dry_run
        As of `AskedProvisioner`.
    group
        Name of the worker group; the operator's default one by default.
    namespace
        Of both.
    api
        A `kr8s` API object; by default what kr8s finds (kubeconfig, or the pod's service account).

    Raises
    ------
    CapacityError
        By `scale` and `observed`, if the API server can not be reached, refuses, or knows no such group.

    Notes
    -----
    Tested against a stand-in API server that keeps the operator's resources, not against a cluster.
    """

    def __init__(
        self,
        cluster: str,
        guard: Guard,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        dry_run: bool = False,
        group: str | None = None,
        namespace: str = "default",
        api: Any = None,
    ) -> None:
        super().__init__(guard, clock=clock, metrics=metrics, dry_run=dry_run)
        import kr8s
        from kr8s.objects import new_class

        self.cluster, self.group, self.namespace = cluster, group or f"{cluster}-default", namespace
        self._api = api if api is not None else kr8s.api(namespace=namespace)
        self._kind = new_class(
            kind="DaskWorkerGroup",
            version="kubernetes.dask.org/v1",
            namespaced=True,
            plural="daskworkergroups",
            asyncio=False,
        )

    def _group(self) -> Any:
        with self._reaching():
            return self._kind.get(self.group, namespace=self.namespace, api=self._api)

    def _reaching(self) -> Any:
        import contextlib

        import httpx
        import kr8s

        @contextlib.contextmanager
        def mapped() -> Any:
            try:
                yield
            except (
                OSError,
                TimeoutError,
                httpx.HTTPError,
                kr8s.NotFoundError,
                kr8s.ServerError,
                kr8s.APITimeoutError,
            ) as error:
                msg = f"DaskWorkerGroup {self.namespace}/{self.group}: {type(error).__name__}: {error}"
                raise CapacityError(msg) from error

        return mapped()

    def observed(self) -> Workforce:
        """Worker pods that are ready; replicas asked for beyond them count as booting."""
        asked = int(self._group().spec["worker"].get("replicas", 0))
        selector = {
            "dask.org/cluster-name": self.cluster,
            "dask.org/workergroup-name": self.group,
            "dask.org/component": "worker",
        }
        with self._reaching():
            pods = list(self._api.get("pods", namespace=self.namespace, label_selector=selector))
        ready = sum(_ready(pod.raw) for pod in pods)
        return Workforce(ready, max(0, asked - ready))

    def _apply(self, n: int, there: Workforce) -> bool:  # noqa: ARG002 -- the interface
        group = self._group()
        with self._reaching():
            group.patch({"spec": {"worker": {"replicas": n}}})
        return True


def _ready(pod: Any) -> bool:
    going = "deletionTimestamp" in pod["metadata"]
    conditions = pod.get("status", {}).get("conditions", [])
    return not going and any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
