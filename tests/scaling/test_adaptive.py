"""A real LocalCluster follows a policy's number up and down, under work, and loses nothing."""

import threading

import pytest
from distributed import Client, LocalCluster

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling import AdaptiveProvisioner, Guard, Observed, ScaleProvisioner, policy
from iiot_dask.scaling.adaptive import PolicyAdaptive

S = 1_000_000_000


def reach(n, cluster, seconds=60):
    """Wait until the scheduler has exactly `n` workers; fail after a time that only a hang needs."""
    came = threading.Event()
    for _ in range(seconds * 50):
        if len(cluster.scheduler_info["workers"]) == n:
            return
        came.wait(0.02)
    pytest.fail(f"{len(cluster.scheduler_info['workers'])} workers after {seconds} s; {n} were wanted")


@pytest.fixture
def cluster():
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as one:
        yield one


def test_a_floor_is_followed_up_and_down(cluster):
    number = [1]
    adaptive = cluster.adapt(Adaptive=PolicyAdaptive, wanted=lambda: number[0], minimum=1, maximum=3, interval="50ms")
    for n, there in ((3, 3), (1, 1), (2, 2), (9, 3), (0, 1)):
        number[0] = n
        reach(there, cluster)
    adaptive.stop(reason="test over")


def test_scale_down_under_work_keeps_results_and_tasks(cluster):
    number = [3]
    with Client(cluster, set_as_default=False) as client:
        adaptive = cluster.adapt(
            Adaptive=PolicyAdaptive, wanted=lambda: number[0], minimum=1, maximum=3, interval="50ms"
        )
        reach(3, cluster)
        held = client.map(lambda i: (i, bytes(1000)), range(60), pure=False)
        running = client.map(lambda i: sum(range(200_000)) + i, range(60), pure=False)
        number[0] = 1
        reach(1, cluster)
        assert [i for i, _ in client.gather(held)] == list(range(60))
        assert client.gather(running) == [sum(range(200_000)) + i for i in range(60)]
        adaptive.stop(reason="test over")


def test_provisioner_and_policy_bring_workers_before_the_shift(cluster):
    """The whole loop in simulated time: three cycles are learnt, in the fourth the workers are there first."""
    p = policy("forecast", capacity=1000.0, boot_s=3.0, maximum=3, day_s=60.0)
    load = lambda t: 2000.0 if t % 60 >= 30 else 100.0  # noqa: E731
    for t in range(180):
        p.decide(t * S, Observed(load(t), ready=1))
    metrics = Metrics()
    provisioner = AdaptiveProvisioner(
        cluster, Guard(1, 3, boot_s_max=60.0, cool_down_s=60.0), clock=SystemClock(), metrics=metrics, interval="50ms"
    )
    try:
        for t in (180, 195, 206):
            there = provisioner.observed()
            asked = provisioner.scale(p.decide(t * S, Observed(load(t), 0.0, there.ready, there.booting)))
        assert load(206) == 100.0
        assert asked == 3
        reach(3, cluster)
        assert provisioner.observed().ready == 3
        assert metrics.value("scaling_workers_asked") == 3
        for t in (235, 241, 243):
            asked = provisioner.scale(p.decide(t * S, Observed(load(t), ready=3)))
        assert asked == 1
        reach(1, cluster)
    finally:
        provisioner.close()


def test_scale_provisioner_drives_a_cluster_directly(cluster):
    provisioner = ScaleProvisioner(cluster, Guard(1, 2, 60.0, 60.0), clock=SystemClock())
    assert provisioner.scale(5) == 2
    reach(2, cluster)
    assert provisioner.observed().booting == 0
    provisioner.scale(1)
    reach(1, cluster)
    dry = ScaleProvisioner(cluster, Guard(1, 2, 60.0, 60.0), clock=SystemClock(), dry_run=True)
    assert dry.scale(2) == 2
    assert dry.observed().booting == 0
