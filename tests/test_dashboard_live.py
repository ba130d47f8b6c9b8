"""The dashboard while a demo runs, in a real browser; and beside a finished one."""

import re
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.alone
IIOT = [sys.executable, "-m", "iiot_dask"]
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]  # fmt: skip
SOURCES = """() => Bokeh.documents.flatMap(d => [...d._all_models.values()])
  .filter(m => m.type === 'ColumnDataSource' && 'time_ms' in m.data).map(m => JSON.stringify([...m.data.time_ms].slice(-3)))"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(true, seconds=20):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def await_listening(process, port, timeout_s=90.0):
    deadline = time.monotonic() + timeout_s
    while True:
        assert process.poll() is None, process.stderr.read()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.1)


class Page:
    """One browser page that remembers what it complained about and whom it asked."""

    def __init__(self, play, url):
        self.browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        self.page = self.browser.new_page(viewport={"width": 1400, "height": 1200})
        self.problems, self.hosts = [], set()
        self.page.on("console", lambda m: self.problems.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda e: self.problems.append(str(e)))
        self.page.on("request", lambda r: self.hosts.add(urlsplit(r.url).hostname))
        self.page.goto(url, wait_until="domcontentloaded")
        self.page.get_by_text("Incidents", exact=True).wait_for(timeout=60_000)

    def text(self, pane):
        return self.page.locator(f"{pane} div").first.inner_text()


@pytest.mark.service("chromium")
def test_every_panel_moves_during_a_demo(tmp_path, artifacts):
    from playwright.sync_api import sync_playwright

    port = free_port()
    demo = subprocess.Popen(
        [*IIOT, "demo", "--duration", "35s", "--port", str(port), "--json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        await_listening(demo, port)
        with sync_playwright() as play:
            seen = Page(play, f"http://127.0.0.1:{port}/")
            page = seen.page
            # The outage is there once a third of the time is over; by then every stage has something to show.
            page.get_by_text("site1/utilities/compressor1", exact=True).wait_for(timeout=60_000)
            before = page.evaluate(SOURCES)
            tiles, adapters = seen.text(".iiot-tiles"), seen.text(".iiot-adapters")
            assert len(before) == 4
            assert re.search(r"running", adapters)
            page.wait_for_function(
                f"(before) => ({SOURCES})().every((s, i) => s !== before[i])", arg=before, timeout=20_000
            )
            # Each panel is drawn in its own time.
            until(lambda: seen.text(".iiot-tiles") != tiles)
            until(lambda: seen.text(".iiot-adapters") != adapters)
            assert re.search(r"\d+ now, \d+ wanted", seen.text(".iiot-workers"))
            page.screenshot(path=str(artifacts / "dashboard.png"), full_page=True)
            seen.browser.close()
        assert seen.problems == []
        assert seen.hosts <= {"127.0.0.1", None}
        out, err = demo.communicate(timeout=120)
        assert demo.returncode == 0, err
        assert out.startswith("{")
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.communicate()


@pytest.mark.service("chromium")
def test_the_dashboard_of_a_plant_that_ran_before(demo_run):
    from playwright.sync_api import sync_playwright

    _, home = demo_run
    port = free_port()
    served = subprocess.Popen(
        [*IIOT, "dashboard", "demo-data/plant.toml", "--port", str(port)],
        cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        await_listening(served, port)
        with sync_playwright() as play:
            seen = Page(play, f"http://127.0.0.1:{port}/")
            seen.page.get_by_text("stopped", exact=True).first.wait_for(timeout=20_000)
            assert "flatline" in seen.text(".iiot-incidents")
            seen.browser.close()
        assert seen.problems == []
        served.send_signal(signal.SIGINT)
        _, err = served.communicate(timeout=30)
        assert served.returncode == 0, err
    finally:
        if served.poll() is None:
            served.kill()
            served.communicate()
