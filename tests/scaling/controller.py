"""A process that scales a gateway's cluster by a forecast, as a plant's engine does: started, killed and started again by tests.

``python controller.py URL HOME DAY_S BOOT_S FLOOR``: decides five times a second, keeps what it learnt in HOME/policy.bin, writes
a line a decision to HOME/decisions.jsonl. The load is a function of the clock: calm, and busy for the second half of each day.
"""

import json
import sys
import time
from pathlib import Path

from dask_gateway import BasicAuth, Gateway
from gateways import PASSWORD

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.errors import CapacityError
from iiot_dask.scaling import Guard, Observed, policy
from iiot_dask.scaling.gateway import GatewayProvisioner

CAPACITY, CALM, BUSY = 1000.0, 300.0, 1900.0
"""Calm needs one worker, busy three at 70 %."""
TICK_S = 0.2


def load(now_s, day_s):
    """Messages/s at a moment."""
    return BUSY if now_s % day_s >= day_s / 2 else CALM


def learnt(day_s, boot_s, until_s, days=4):
    """A policy that has seen some days before `until_s`; pure, so it costs no time."""
    p = policy("forecast", capacity=CAPACITY, boot_s=boot_s, minimum=1, maximum=4, day_s=day_s, hold_s=0.4)
    t = until_s - days * day_s
    while t < until_s:
        p.decide(round(t * 1e9), Observed(load(t, day_s), ready=3))
        t += TICK_S
    return p


def main(url, home, day_s, boot_s, floor):
    home, day_s, boot_s = Path(home), float(day_s), float(boot_s)
    clock, memory = SystemClock(), home / "policy.bin"
    p = learnt(day_s, boot_s, time.time(), days=0)
    if memory.exists():
        p.from_bytes(memory.read_bytes())
    with Gateway(url, auth=BasicAuth("carlos", PASSWORD)) as gateway, (home / "decisions.jsonl").open("a") as log:
        provisioner = GatewayProvisioner(
            gateway, Guard(1, 4, 60.0, 5.0), clock=clock, floor=floor == "floor", floor_s=4.0
        )
        while True:
            now = time.time()
            row = {"time": now, "ready": None, "asked": None}
            observed = None
            try:
                there = provisioner.observed()
                observed = Observed(load(now, day_s), 0.0, there.ready, there.booting)
                row["ready"] = there.ready
            except CapacityError as error:
                row["error"] = str(error)
            row["wanted"] = p.decide(clock.now_ns(), observed)
            row["forecast"] = p.explain().forecast
            try:
                row["asked"] = provisioner.scale(row["wanted"])
            except CapacityError as error:
                row["error"] = str(error)
            row["cluster"] = provisioner.name
            log.write(json.dumps(row) + "\n")
            log.flush()
            draft = memory.with_suffix(".tmp")
            draft.write_bytes(p.to_bytes())
            draft.replace(memory)
            time.sleep(TICK_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
