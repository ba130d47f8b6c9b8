"""Assembles the views and serves them: one page a browser session, one store for all of them."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog

from iiot_dask.core.errors import CapacityError
from iiot_dask.dashboard.cluster_view import ClusterView
from iiot_dask.dashboard.health_view import HealthView
from iiot_dask.dashboard.overview_view import OverviewView
from iiot_dask.dashboard.port import free_port
from iiot_dask.dashboard.snapshot import Snapshot
from iiot_dask.dashboard.store import Store, TrendSource
from iiot_dask.dashboard.trend_view import TrendView

PERIOD_MS = 1000
LISTEN_S = 30.0
"""Longest wait for the server's thread to listen, seconds."""
TREND_EVERY = 2
"""The trend is read anew every so many periods: it costs a query, the rest is in memory."""

log = structlog.get_logger("iiot_dask.dashboard")


class Page:
    """The views of one browser session."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.overview = OverviewView(store)
        self.cluster = ClusterView(store)
        self.health = HealthView(store)
        self.trend = TrendView(store)
        self.seen = -1
        self.beats = 0

    def update(self) -> None:
        """Bring every view up to date; called once a period."""
        self.seen, rows = self.store.since(self.seen)
        self.overview.update(rows)
        self.cluster.update(rows)
        self.health.update()
        if self.beats % TREND_EVERY == 0:
            self.trend.update()
        self.beats += 1

    def template(self) -> Any:
        """The page."""
        import panel as pn

        # BootstrapTemplate is the one that asks no other host for fonts: plants are often cut off from the internet.
        page = pn.template.BootstrapTemplate(title="iiot-dask", header_background="#1f2933")
        page.main.append(
            pn.Column(
                self.overview.panel(),
                pn.Row(self.cluster.panel(), self.health.panel(), sizing_mode="stretch_width"),
                self.trend.panel(),
                sizing_mode="stretch_width",
            )
        )
        return page


class DashboardServer:
    """The dashboard on a port of its own, in threads of this process.

    Parameters
    ----------
    source
        Gives the newest snapshot.
    trends
        Where trends come from.
    address, port
        Where to listen; port 0 picks a free one.
    """

    def __init__(
        self,
        source: Callable[[], Snapshot | None],
        trends: TrendSource | None,
        address: str = "127.0.0.1",
        port: int = 5006,
    ) -> None:
        self.store = Store(source, trends)
        self.address = address
        self.port = port
        self._halt = threading.Event()
        self._server: Any = None
        self._poller = threading.Thread(target=self._poll, name="iiot-dashboard", daemon=True)

    @property
    def url(self) -> str:
        """Where to point a browser."""
        return f"http://{self.address}:{self.port}/"

    def start(self) -> str:
        """Listen and serve; the URL.

        Raises
        ------
        InUseError
            If the port is taken.
        CapacityError
            If the server does not answer within `LISTEN_S`.
        """
        self.port = free_port(self.address, self.port)
        os.environ.setdefault("BOKEH_RESOURCES", "server")
        import panel as pn

        pn.extension()
        self._server = pn.serve(
            {"/": self._session},
            address=self.address,
            port=self.port,
            show=False,
            threaded=True,
            verbose=False,
            websocket_origin=[f"{self.address}:{self.port}", f"localhost:{self.port}"],
            title="iiot-dask",
        )
        _await_listening(self.address, self.port)
        self._poller.start()
        return self.url

    def _session(self) -> Any:
        import panel as pn

        page = Page(self.store)
        page.update()
        pn.state.add_periodic_callback(page.update, period=PERIOD_MS)
        return page.template()

    def _poll(self) -> None:
        while not self._halt.wait(PERIOD_MS / 2000):
            self.store.poll()

    def stop(self) -> None:
        """Stop listening; sessions end."""
        self._halt.set()
        if self._server is not None:
            self._server.stop()
            self._server = None


def _await_listening(address: str, port: int) -> None:
    """The server listens in a thread of its own; until it does, its port looks free and its URL is dead."""
    deadline = time.monotonic() + LISTEN_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1.0):
            return
        time.sleep(0.01)
    msg = f"the dashboard does not listen on {address}:{port} after {LISTEN_S:g} s"
    raise CapacityError(msg)
