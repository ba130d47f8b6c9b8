"""A host with a stranger's plug-in, found as any installed package is: by its entry point on the path."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import hypothesis
import psutil
import pytest
import tomli_w

from iiot_dask.adapter.host import Host
from iiot_dask.adapter.supervisor import Policy
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.plantfile import load

# A loaded machine may stand still for a second; that is no finding.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

PLUGIN = Path(__file__).parent / "plugin"
QUICK = Policy(first_ns=50_000_000, cap_ns=200_000_000)


@pytest.fixture
def plugin(monkeypatch):
    """The plug-in's folder is on the path, of this process and of every child."""
    monkeypatch.syspath_prepend(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))


@pytest.fixture
def leaves_nothing():
    """No file descriptor, thread or child process more after a test than before it."""

    def held():
        children = [p.pid for p in psutil.Process().children(recursive=True)]
        return len(list(Path("/proc/self/fd").iterdir())), len(children), {t.name for t in threading.enumerate()}

    before = held()
    yield
    until(lambda: held()[:2] <= before[:2] and held()[2] <= before[2], lambda: f"{before} became {held()}", 20)


def until(condition, what="it", timeout_s=120.0):
    """Wait for a condition; `what` may be a callable that says how things stand."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.01)
    return found


@pytest.fixture
def wait_until():
    return until


@pytest.fixture
def quick():
    return QUICK


@pytest.fixture
def patient():
    """One fault is enough: the restart would only cost a process."""
    return replace(QUICK, first_ns=3_600_000_000_000, cap_ns=3_600_000_000_000)


class Rig:
    """A host over one or more counting adapters, and everything it delivered."""

    def __init__(self, folder, adapters, positions=None, policy=QUICK, deliver=None):
        self.folder = folder
        raw = {"plant": {"name": "rig"}, "adapters": adapters}
        (folder / "plant.toml").write_text(tomli_w.dumps(raw))
        self.plant = load(folder / "plant.toml")
        self.metrics = Metrics()
        self.deliveries = []
        self.deliver = deliver or self.take
        self.acknowledging = True
        self.host = Host(
            self.plant, self.dispatch, positions or {}, clock=SystemClock(), metrics=self.metrics,
            log_dir=folder, policy=policy,
        )  # fmt: skip

    def dispatch(self, delivery):
        self.deliver(delivery)

    def take(self, delivery):
        self.deliveries.append(delivery)
        if delivery.poll.position is not None and self.acknowledging:
            self.host.acknowledge(delivery.adapter, delivery.poll.position)

    def __enter__(self):
        self.host.start()
        return self

    def __exit__(self, *_):
        self.host.stop(30)

    @property
    def status(self):
        return self.host.status()[0]

    @property
    def values(self):
        return [int(v) for d in list(self.deliveries) if d.poll.batch is not None for v in d.poll.batch.value]

    @property
    def events(self):
        return [(d.incarnation, e.kind, e.reason) for d in list(self.deliveries) for e in d.poll.events]

    def notes(self, name="n"):
        path = self.folder / f"{name}.notes"
        return path.read_text().splitlines() if path.exists() else []

    def log(self, name="n"):
        path = self.folder / f"adapter-{name}.jsonl"
        return path.read_text() if path.exists() else ""

    def until(self, condition, timeout_s=120.0):
        return until(condition, lambda: f"{self.host.status()} {self.events} {self.log()[-3000:]}", timeout_s)


@pytest.fixture
def rig(tmp_path, plugin, leaves_nothing):
    """`rig(**options)`: a host over one counting adapter called n; stopped when the test ends."""
    made = []

    def make(*, adapters=None, positions=None, policy=QUICK, deliver=None, password=None, **options):
        section = {"name": "n", "kind": "counting", "options": options}
        if password is not None:
            section["password"] = password
        out = Rig(tmp_path, adapters or [section], positions, policy, deliver)
        made.append(out)
        return out

    yield make
    for one in made:
        one.host.stop(30)


@pytest.fixture
def bare_rig(tmp_path, leaves_nothing):
    """`bare_rig(sections)`: a host over adapters whose plug-in is not installed here."""
    made = []

    def make(adapters):
        made.append(Rig(tmp_path, adapters))
        return made[-1]

    yield make
    for one in made:
        one.host.stop(30)
