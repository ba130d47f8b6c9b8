"""The page in a real browser: every panel moves, the console stays quiet, no request leaves the host."""

import time
from urllib.parse import urlsplit

import numpy as np
import pytest

from iiot_dask.core.errors import InUseError
from iiot_dask.dashboard.app import DashboardServer
from iiot_dask.dashboard.snapshot import AdapterRow, IncidentRow, Workers
from iiot_dask.dashboard.testing import example_snapshot

CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip


class Engine:
    """Snapshots that change with every call, and a trend that does too."""

    def __init__(self):
        self.calls = 0

    def snapshot(self):
        self.calls += 1
        n = self.calls
        return example_snapshot(
            time_ns=time.time_ns(),
            samples=36 * n,
            samples_per_s=1000.0 + 100 * (n % 7),
            workers=Workers(now=1 + n % 3, wanted=1 + (n + 1) % 3, reactive=1, forecast=1 + n % 2, reason=f"tick {n}"),
            adapters=(AdapterRow("<img src=x onerror=alert(1)>", "mqtt", "running", 1, 0, n, 0, 0.1, ""),),
            incidents=(IncidentRow(n, "site1/<script>alert(1)</script>", "outage", 5, 7, None, 1.0, n),),
        )

    def names(self):
        return ["site1/press1/temperature", "site1/press1/<b>"]

    def trend(self, tag, start_ns, end_ns, points):
        rng = np.random.default_rng(self.calls)
        return np.linspace(start_ns, end_ns, 200).astype(np.int64), rng.normal(20, 1, 200)


@pytest.fixture
def served():
    engine = Engine()
    server = DashboardServer(engine.snapshot, engine, port=0)
    server.start()
    yield server, engine
    server.stop()


@pytest.mark.service("chromium")
def test_every_panel_moves_in_a_browser(served, artifacts):
    from playwright.sync_api import sync_playwright

    server, _ = served
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1400, "height": 1200})
        problems, hosts = [], set()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        page.on("request", lambda r: hosts.add(urlsplit(r.url).hostname))
        page.goto(server.url, wait_until="networkidle")
        page.get_by_text("Incidents", exact=True).wait_for()

        def text(pane):
            return page.locator(f"{pane} div").first.inner_text()

        tiles = text(".iiot-tiles")
        workers = text(".iiot-workers")
        health = text(".iiot-incidents")
        before = page.evaluate(SOURCES)
        assert len(before) == 4  # throughput, latency, workers, trend
        page.wait_for_function(
            f"(before) => ({SOURCES})().every((s, i) => s !== before[i])", arg=before, timeout=15_000
        )
        assert text(".iiot-tiles") != tiles
        assert text(".iiot-workers") != workers
        assert text(".iiot-incidents") != health
        assert "site1/<script>" in text(".iiot-incidents")
        page.screenshot(path=str(artifacts / "dashboard_example.png"), full_page=True)
        browser.close()
    assert problems == []
    assert hosts <= {"127.0.0.1", None}


SOURCES = """() => Bokeh.documents.flatMap(d => [...d._all_models.values()])
  .filter(m => m.type === 'ColumnDataSource' && 'time_ms' in m.data).map(m => JSON.stringify([...m.data.time_ms].slice(-3)))"""


def test_a_taken_port_is_one_sentence(served):
    server, _ = served
    other = DashboardServer(lambda: None, None, port=server.port)
    with pytest.raises(InUseError, match=f"dashboard port 127.0.0.1:{server.port} is not available"):
        other.start()
