"""A real dask-gateway on loopback: capacity before the shift, scale-in that loses nothing, and whoever is killed, the policy goes on."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dask_gateway import BasicAuth, Gateway

sys.path.insert(0, str(Path(__file__).parent))
from controller import learnt, load
from gateways import PASSWORD, GatewayServer

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.errors import CapacityError
from iiot_dask.scaling import Guard, Observed
from iiot_dask.scaling.gateway import GatewayProvisioner

# Libraries of dask-gateway warn of what they themselves are to change.
pytestmark = pytest.mark.filterwarnings("default")
NEEDED = 3
TICK_S = 0.2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    one = GatewayServer(tmp_path_factory.mktemp("gateway"), boot_s=1.0, preload=True)
    one.start()
    yield one
    one.stop()
    assert one.family() == []


@pytest.fixture
def gateway(server):
    with Gateway(server.url, auth=BasicAuth("carlos", PASSWORD)) as one:
        yield one
        for cluster in one.list_clusters():
            one.stop_cluster(cluster.name)


def until(what, seconds=60):
    """Poll until `what()` is true; a hang is the only failure."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (answer := what()) is not None and answer is not False:
            return answer
        time.sleep(0.1)
    pytest.fail(f"not within {seconds} s")


def reach(provisioner, n):
    def there():
        provisioner.scale(n)
        return provisioner.observed().ready == n

    until(there)


def maker():
    """Workers can not import a test: a function made within one travels by value."""

    def step(state, batch):
        # What a shard has seen, and a checksum that depends on the order.
        count, total = state
        return count + 1, (total * 31 + batch) % 1_000_000_007

    return step


step = maker()


class Stream:
    """Two shards with chained states, as the engine has: a lost future or a lost message changes the result."""

    def __init__(self, client):
        self.client = client
        self.states = [client.submit(tuple, [0, 0], pure=False) for _ in range(2)]
        self.expected = [(0, 0), (0, 0)]
        self.sent = 0

    def feed(self):
        for shard in range(2):
            self.states[shard] = self.client.submit(step, self.states[shard], self.sent, pure=False)
            self.expected[shard] = step(self.expected[shard], self.sent)
            self.sent += 1

    def check(self):
        assert [tuple(s) for s in self.client.gather(self.states)] == self.expected
        assert self.sent > 0


def shifts(gateway, count, day_s, *, floor=False):
    """Live: `count` shift starts; returns how many found their workers ready, and what the stream did meanwhile."""
    provisioner = GatewayProvisioner(gateway, Guard(1, 4, 60.0, 5.0), clock=SystemClock(), floor=floor, floor_s=2.0)
    reach_s = time.monotonic()
    provisioner.observed()
    until(lambda: provisioner.scale(1) and provisioner.observed().ready >= 1)
    # The first boot tells how long one takes here; the policy is told that and half as much again.
    boot_s = max(2.0, 1.5 * (time.monotonic() - reach_s))
    boot_s = min(boot_s, day_s / 2 - 1.5)
    p = learnt(day_s, boot_s, time.time())
    cluster = gateway.connect(provisioner.name)
    client = cluster.get_client(set_as_default=False)
    stream = Stream(client)
    in_time, seen, before, least = 0, 0, CALM_HALF, 99
    downs = 0
    begun = time.time() // day_s
    while seen < count:
        now = time.time()
        half = int(now % day_s >= day_s / 2)
        there = provisioner.observed()
        if half != before and half == 1 and now // day_s > begun:
            seen += 1
            in_time += there.ready >= NEEDED
        if half == 0 and there.ready == 1:
            downs += least > 1
            least = 1
        elif there.ready >= NEEDED:
            least = there.ready
        before = half
        wanted = p.decide(round(now * 1e9), Observed(load(now, day_s), 0.0, there.ready, there.booting))
        provisioner.scale(wanted)
        stream.feed()
        time.sleep(TICK_S)
    # All but one worker go while the stream runs on.
    provisioner.scale(1)
    until(lambda: (stream.feed(), provisioner.observed().ready == 1)[1])
    stream.check()
    client.close()
    cluster.close(shutdown=False)
    provisioner.close()
    return in_time, seen, downs


CALM_HALF = 0


def test_capacity_is_ready_before_the_shift_and_scale_in_loses_nothing(gateway):
    in_time, seen, _ = shifts(gateway, 2, day_s=14.0)
    assert (in_time, seen) == (2, 2)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_forty_shifts(gateway, artifacts):
    in_time, seen, downs = shifts(gateway, 40, day_s=16.0)
    (artifacts / "gateway-shifts.json").write_text(json.dumps({"in_time": in_time, "shifts": seen, "scale_ins": downs}))
    assert in_time >= 0.95 * seen
    assert downs >= 30


def test_a_floor_holds_without_its_client_and_then_expires(gateway):
    guard = Guard(1, 4, 60.0, 5.0)
    provisioner = GatewayProvisioner(gateway, guard, clock=SystemClock(), floor=True, floor_s=3.0)
    reach(provisioner, 3)
    # Nobody renews the floor now: Dask's own adaptive loop, with nothing to do, goes down to the minimum.
    until(lambda: provisioner.observed().ready == 1)
    provisioner.close()


def rows(home, after=0.0):
    path = home / "decisions.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [r for r in (json.loads(line) for line in lines if line.endswith("\n")) if r["time"] > after]


class Controller:
    def __init__(self, server, home, mode="scale"):
        here = Path(__file__).parent
        self.command = [sys.executable, str(here / "controller.py"), server.url, str(home), "14.0", "3.0", mode]
        self.home = home
        (home / "policy.bin").write_bytes(learnt(14.0, 3.0, time.time()).to_bytes())

    def start(self):
        self.log = (self.home / "controller.log").open("ab")
        self.process = subprocess.Popen(self.command, cwd=Path(__file__).parent, stdout=self.log, stderr=self.log)

    def resumed(self, after):
        """Seconds from `after` until a decision with a trusted forecast reached a cluster."""

        def good():
            assert self.process.poll() is None, (self.home / "controller.log").read_text()[-2000:]
            fine = [r for r in rows(self.home, after) if r["asked"] is not None and r["forecast"] is not None]
            return fine[0] if fine and "error" not in fine[0] else None

        row = until(good)
        return row["time"] - after, row

    def stop(self):
        self.process.kill()
        self.process.wait(10)
        self.log.close()


def test_client_gateway_and_scheduler_are_killed_and_the_policy_goes_on(server, gateway, tmp_path, artifacts):
    """In one run, for each kill costs seconds; the figures are kept, what is asserted is that it goes on at all."""
    one, took = Controller(server, tmp_path), {}
    one.start()
    try:
        one.resumed(0.0)
        until(lambda: any((r["ready"] or 0) >= 1 for r in rows(tmp_path)))
        first = rows(tmp_path)[-1]["cluster"]

        killed = time.time()
        one.process.send_signal(signal.SIGKILL)
        one.process.wait(10)
        one.start()
        took["client"], row = one.resumed(killed)
        assert row["cluster"] == first, "the same cluster is taken over"

        server.kill()
        until(lambda: any("error" in r for r in rows(tmp_path)))
        blind = rows(tmp_path)[-1]
        assert blind["wanted"] >= 1, "without metrics the policy still decides"
        server.start()
        back = time.time()
        took["gateway"], row = one.resumed(back)
        assert row["cluster"] == first

        (scheduler,) = server.schedulers()
        killed = time.time()
        scheduler.kill()
        until(lambda: any(r["cluster"] not in (first, None) for r in rows(tmp_path, killed)))
        took["scheduler"] = (
            next(r["time"] for r in rows(tmp_path, killed) if r["cluster"] not in (first, None)) - killed
        )
        until(lambda: (rows(tmp_path)[-1]["ready"] or 0) >= 1)
    finally:
        one.stop()
    (artifacts / "gateway-kills.json").write_text(json.dumps({k: round(v, 2) for k, v in took.items()}))
    assert set(took) == {"client", "gateway", "scheduler"}


def test_dry_run_changes_nothing(gateway):
    wet = GatewayProvisioner(gateway, Guard(1, 4, 60.0, 5.0), clock=SystemClock())
    reach(wet, 1)
    dry = GatewayProvisioner(gateway, Guard(1, 4, 60.0, 5.0), clock=SystemClock(), dry_run=True)
    assert dry.scale(3) == 3
    assert dry.observed().workers == 1
    for one in (wet, dry):
        one.close()


def test_an_unreachable_gateway_is_a_sentence():
    with Gateway("http://127.0.0.1:9", auth=BasicAuth("carlos", PASSWORD)) as nobody:
        provisioner = GatewayProvisioner(nobody, Guard(1, 4, 60.0, 5.0), clock=SystemClock())
        with pytest.raises(CapacityError, match="dask-gateway can not be reached"):
            provisioner.observed()
        provisioner.close()
