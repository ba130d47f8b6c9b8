"""An adapter that is written to, read and acknowledged by a pretended host, on a loop of its own."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import tomli_w

from iiot_dask.adapter.contract import Context
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Adapter

DEADLINE_S = 30.0


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.005)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def context(kind, secrets=None, **keys):
    raw = {"name": kind, "kind": kind, "listen": "127.0.0.1:0"}
    given = secrets or {}
    return Context(Adapter.model_validate(raw | keys), lambda ref: given[ref], SystemClock())


class Running:
    """The adapter in a thread; `rows` are (tag, time, value, quality) that came, acknowledged while `durable` is set."""

    def __init__(self, adapter, durable=True, position=None):
        self.adapter = adapter
        self.position = position
        self.durable = threading.Event()
        if durable:
            self.durable.set()
        self.tags, self.rows, self.events, self.infos = [], [], [], []
        self.loop = asyncio.new_event_loop()
        self._halt = threading.Event()
        self._ready = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=lambda: self.loop.run_until_complete(self._run()))

    def __enter__(self):
        self.thread.start()
        assert self._ready.wait(DEADLINE_S)
        if self.failure is not None:
            self.stop()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End it; twice is fine."""
        self._halt.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        self.loop.close()
        if self.failure is not None:
            raise self.failure

    @property
    def url(self):
        return f"http://127.0.0.1:{self.adapter.port}"

    async def _run(self):
        try:
            await self.adapter.open(self.position)
            self._ready.set()
            await self._read()
        except Exception as error:  # noqa: BLE001 -- raised by `stop`
            self.failure = error
        finally:
            self._ready.set()
            await self.adapter.close()

    async def halted(self):
        """Until `stop`."""
        await asyncio.to_thread(self._halt.wait)

    async def _read(self):
        owed = None
        while not self._halt.is_set():
            poll = await self.adapter.read()
            self.infos += poll.tags
            self.tags += [info.tag for info in poll.tags]
            self.events += poll.events
            if poll.batch is not None:
                b = poll.batch
                assert len(b) <= 100_000
                names = [self.tags[t] for t in b.tag.tolist()]
                self.rows += zip(names, b.time.tolist(), b.value.tolist(), b.quality.tolist(), strict=True)
            owed = poll.position or owed
            if owed is not None and self.durable.is_set():
                await self.adapter.acknowledge(owed)
                self.position, owed = owed, None


@contextlib.contextmanager
def stubborn(kind, port, token):
    """`stubborn.py` while the body runs."""
    program = Path(__file__).with_name("stubborn.py")
    sender = subprocess.Popen([sys.executable, program, kind, str(port), token])
    try:
        yield
        assert sender.poll() is None, "the sender has ended"
    finally:
        sender.kill()
        sender.wait()


def post(url, body, headers=None, method="POST", timeout=DEADLINE_S):
    """(status, headers, body) of a request."""
    request = urllib.request.Request(url, data=body, headers=headers or {}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def run_plant(folder, adapter, feed, rows, *, seconds=60):
    """`iiot-dask run` on a plant file of one adapter, `feed()` while it runs; what `query` then gives of all tags.

    The run is ended by SIGTERM once its status says that `rows` are in.
    """
    plant = folder / "plant.toml"
    document = {"plant": {"name": "e2e", "data": "data"}, "adapters": [adapter], "stream": {"flush": "500ms"}}
    plant.write_text(tomli_w.dumps(document))
    iiot = [sys.executable, "-m", "iiot_dask"]
    log = (folder / "run.log").open("wb")
    run = subprocess.Popen([*iiot, "run", plant, "--duration", f"{seconds}s"], stdout=log, stderr=log, cwd=folder)
    try:
        status = folder / "data" / "status.json"

        def now():
            assert run.poll() is None, (folder / "run.log").read_text()[-3000:]
            return json.loads(status.read_bytes()) if status.exists() else {}

        def states():
            return [a["state"] for a in now().get("adapters", [])]

        deadline = time.monotonic() + 100
        while states() != ["running"]:
            assert time.monotonic() < deadline, (states(), (folder / "run.log").read_text()[-3000:])
            time.sleep(0.05)
        feed()
        while now().get("samples", 0) < rows:
            assert time.monotonic() < deadline, (now(), (folder / "run.log").read_text()[-3000:])
            time.sleep(0.05)
        run.terminate()
        assert run.wait(60) == 0, (folder / "run.log").read_text()[-3000:]
    finally:
        if run.poll() is None:
            run.kill()
        run.wait()
        log.close()
    asked = [*iiot, "query", folder / "data", "--tags", "*", "--format", "json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
