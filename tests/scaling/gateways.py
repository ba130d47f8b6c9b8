"""A real dask-gateway on loopback for tests: no Docker, its own database, workers that boot late."""

import base64
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

import dask_gateway
import psutil

# dask-gateway 2026.3.0 closes a client once more when it is collected, and trips over its own stopped loop; tests close theirs.
dask_gateway.Gateway.__del__ = lambda _: None

BIN = Path(sys.executable).parent
PASSWORD = "loopback-test"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class GatewayServer:
    """Starts, kills and restarts `dask-gateway-server` on the same address and database."""

    def __init__(self, home, *, boot_s=0.0, workers_max=4, preload=False):
        self.home, self.port = Path(home), free_port()
        self.process = None
        (self.home / "clusters").mkdir(parents=True, exist_ok=True)
        worker = self.home / "worker.sh"
        worker.write_text(f'#!/bin/sh\nsleep {boot_s}\nexec "{BIN}/dask" worker "$@"\n')
        worker.chmod(0o755)
        scheduler = [str(BIN / "dask"), "scheduler"] + (["--preload", "iiot_dask.scaling.floor"] if preload else [])
        (self.home / "config.py").write_text(
            textwrap.dedent(f"""
            c = get_config()
            c.DaskGateway.address = "127.0.0.1:0"
            c.DaskGateway.backend_class = "dask_gateway_server.backends.local.UnsafeLocalBackend"
            c.DaskGateway.authenticator_class = "dask_gateway_server.auth.SimpleAuthenticator"
            c.SimpleAuthenticator.password = {PASSWORD!r}
            c.Proxy.address = "127.0.0.1:{self.port}"
            c.UnsafeLocalBackend.clusters_directory = {str(self.home / "clusters")!r}
            c.UnsafeLocalBackend.db_url = "sqlite:///{self.home}/gateway.sqlite"
            c.UnsafeLocalBackend.db_encrypt_keys = [{base64.urlsafe_b64encode(bytes(range(32)))!r}]
            c.UnsafeLocalBackend.cluster_heartbeat_period = 1
            c.UnsafeLocalBackend.check_timeouts_period = 1
            c.UnsafeLocalBackend.sigint_timeout = 2
            c.UnsafeLocalBackend.worker_start_timeout = 120
            c.UnsafeLocalBackend.inherited_environment = ["PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME"]
            c.ClusterConfig.scheduler_cmd = {scheduler!r}
            c.ClusterConfig.worker_cmd = [{str(worker)!r}]
            c.ClusterConfig.worker_cores = 1
            c.ClusterConfig.worker_threads = 1
            c.ClusterConfig.worker_memory = "512 M"
            c.ClusterConfig.adaptive_period = 0.5
            c.ClusterConfig.idle_timeout = 300
            c.ClusterConfig.cluster_max_workers = {workers_max}
            """)
        )

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        log = (self.home / "gateway.log").open("ab")
        self.process = subprocess.Popen(
            [str(BIN / "dask-gateway-server"), "-f", str(self.home / "config.py")],
            cwd=self.home,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.home / "gateway.log").read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{self.url}/api/health", timeout=2).read()
                return self
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
        raise AssertionError((self.home / "gateway.log").read_text()[-3000:])

    def family(self):
        """Processes of this gateway, found by its directory: schedulers, workers, proxy."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
            line, where = " ".join(process.info["cmdline"] or ()), process.info["cwd"] or ""
            if str(self.home) in line or where.startswith(str(self.home)) or f":{self.port}" in line:
                found.append(process)
        return found

    def kill(self):
        """End the server at once, as a crash would; its proxy too, clusters live on."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        for process in self.family():
            if "dask-gateway-proxy" in " ".join(process.info["cmdline"] or ()):
                process.kill()
                process.wait(10)

    def schedulers(self):
        return [p for p in self.family() if "scheduler" in (p.info["cmdline"] or ())]

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for process in self.family():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
