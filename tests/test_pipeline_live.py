"""A pipeline on a whole plant: simulated devices on real protocols, the engine, Dask; live results equal history's."""

import json
import subprocess
import sys

import tomli_w

from iiot_dask.sim.factory import Factory
from iiot_dask.sim.process import FactoryProcess

PROGRAM = """
import json, time
import polars as pl
import iiot_dask as iiot

described = (iiot.pipeline("*").event_time(lateness="3s").filter(pl.col("quality") < 128)
             .window("2s", ["count", "mean", "max"]))
got = []
with iiot.run("plant.toml") as live:
    run = live.pipeline(described)
    run.stream.sink(got.append)
    print("ready", flush=True)
    deadline = time.monotonic() + 90
    while run.latest(100).height < 100:
        assert time.monotonic() < deadline and run.failure is None, run.failure
        time.sleep(0.1)
    shown, why = run._repr_html_(), str(run.explain())
assert run.failure is None, run.failure
published = pl.concat(got).sort("version", maintain_order=True).unique(["tag", "time"], keep="last").drop("version")
with iiot.open("plant.toml") as plant:
    stored = described.over(plant.history)
a, b = (f.sort("tag", "time") for f in (published, stored))
doubled = pl.concat(got).filter(pl.col("version") == 0).select("tag", "time").is_duplicated().sum()
print(json.dumps({"published": a.height, "stored": b.height, "equal": a.equals(b), "doubled": int(doubled),
                  "shown": "running" in shown, "why": why}))
"""


def test_a_pipeline_on_a_running_plant_gives_what_history_gives(tmp_path):
    factory = Factory(tags=200, seed=3, duration_s=300, faults=[])
    with FactoryProcess(factory, tmp_path / "factory") as process:
        (tmp_path / "plant.toml").write_text(tomli_w.dumps(process.plant_file(data="data", name="flow")))
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            # Devices begin once the pipeline listens: then it has seen everything that history holds.
            assert program.stdout.readline().strip() == "ready", program.communicate()[1]
            process.begin()
            out, errors = program.communicate(timeout=240)
        finally:
            program.kill()
            program.wait()
    assert program.returncode == 0, errors
    found = json.loads(out.splitlines()[-1])
    assert found["published"] == found["stored"] > 100
    assert found["equal"]
    assert found["doubled"] == 0
    assert found["shown"]
    assert "of a core" in found["why"]
