"""The operator's worker group against a stand-in API server: what kr8s sends is kept, and pods come with the replicas."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kr8s
import pytest

from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import CapacityError
from iiot_dask.scaling import Guard
from iiot_dask.scaling.kubernetes import KubernetesProvisioner
from iiot_dask.scaling.provision import Workforce

pytestmark = pytest.mark.filterwarnings("default")
LABELS = {
    "dask.org/cluster-name": "plant",
    "dask.org/workergroup-name": "plant-default",
    "dask.org/component": "worker",
}
GROUP = "/apis/kubernetes.dask.org/v1/namespaces/factory/daskworkergroups"


class Api(BaseHTTPRequestHandler):
    """Answers as an API server does for the few paths that are asked for."""

    def do_GET(self):
        path, _, query = self.path.partition("?")
        path, state = path.rstrip("/"), self.server.state
        if path == "/version":
            self.answer({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        elif path == GROUP + "/plant-default":
            self.answer(state["group"])
        elif path == GROUP:
            listed = [] if "nobody" in query else [state["group"]]
            self.answer({"kind": "DaskWorkerGroupList", "apiVersion": "kubernetes.dask.org/v1", "items": listed})
        elif path == "/api/v1/namespaces/factory/pods":
            state["queries"].append(query)
            self.answer({"kind": "PodList", "apiVersion": "v1", "items": state["pods"]})
        elif path in {"/api", "/apis"} or path.startswith(("/api/", "/apis/")):
            self.answer(discovery(path))
        else:
            self.answer({"kind": "Status", "code": 404, "message": path}, 404)

    def do_PATCH(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server.state
        state["patches"].append((self.path.partition("?")[0], body))
        state["group"]["spec"]["worker"]["replicas"] = body["spec"]["worker"]["replicas"]
        self.answer(state["group"])

    def answer(self, body, status=200):
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        """Quiet."""


def discovery(path):
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        version = {"groupVersion": "kubernetes.dask.org/v1", "version": "v1"}
        return {
            "kind": "APIGroupList",
            "groups": [{"name": "kubernetes.dask.org", "versions": [version], "preferredVersion": version}],
        }
    kinds = {
        "/api/v1": [("pods", "Pod", "pod")],
        "/apis/kubernetes.dask.org/v1": [("daskworkergroups", "DaskWorkerGroup", "daskworkergroup")],
    }
    return {
        "kind": "APIResourceList",
        "groupVersion": path.removeprefix("/apis/").removeprefix("/api/"),
        "resources": [
            {"name": n, "kind": k, "singularName": s, "namespaced": True, "verbs": ["get", "list", "patch"]}
            for n, k, s in kinds[path]
        ],
    }


def pod(name, ready, *, going=False):
    meta = {"name": name, "namespace": "factory", "labels": LABELS}
    if going:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"kind": "Pod", "apiVersion": "v1", "metadata": meta, "status": {"conditions": conditions}}


@pytest.fixture
def server():
    one = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    one.state = {
        "group": {
            "apiVersion": "kubernetes.dask.org/v1",
            "kind": "DaskWorkerGroup",
            "metadata": {"name": "plant-default", "namespace": "factory"},
            "spec": {"cluster": "plant", "worker": {"replicas": 1}},
        },
        "pods": [pod("a", True)],
        "patches": [],
        "queries": [],
    }
    thread = threading.Thread(target=one.serve_forever)
    thread.start()
    yield one
    one.shutdown()
    thread.join()
    one.server_close()


def provisioner(server, tmp_path, **more):
    config = tmp_path / "kubeconfig"
    config.write_text(
        json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "factory"}}],
            "users": [{"name": "test", "user": {"token": "none"}}],
        })
    )  # fmt: skip
    api = kr8s.api(kubeconfig=str(config), namespace="factory")
    more = {"cluster": "plant", "guard": Guard(1, 5, 60.0, 30.0), "clock": ManualClock(), "namespace": "factory"} | more
    return KubernetesProvisioner(api=api, **more)


def test_replicas_are_patched_and_ready_pods_counted(server, tmp_path):
    p = provisioner(server, tmp_path)
    assert p.observed() == Workforce(1, 0)
    assert p.scale(9) == 5
    assert server.state["patches"] == [(GROUP + "/plant-default", {"spec": {"worker": {"replicas": 5}}})]
    server.state["pods"] += [pod("b", True), pod("c", False), pod("d", True, going=True)]
    assert p.observed() == Workforce(2, 3)
    assert all("dask.org%2Fcluster-name%3Dplant" in q for q in server.state["queries"])


def test_dry_runs_patch_nothing(server, tmp_path):
    assert provisioner(server, tmp_path, dry_run=True).scale(3) == 3
    assert server.state["patches"] == []


def test_no_group_is_a_sentence(server, tmp_path):
    with pytest.raises(CapacityError, match="factory/nobody"):
        provisioner(server, tmp_path, group="nobody").observed()
