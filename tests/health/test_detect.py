"""Recorded data: incidents, their nodes and times, and agreement with the live path."""

import numpy as np
import polars as pl
import pytest

from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import SchemaError
from iiot_dask.health import Incidents, Knobs, Monitor, Topology, detect, incident_frame

S = 1_000_000_000
T0 = 1_700_000_000 * S


def tree(names):
    rows = {}
    for name in names:
        node = name
        while "/" in node:
            rows[node] = node.rsplit("/", 1)[0]
            node = rows[node]
    return pl.DataFrame({"node": list(rows), "parent": list(rows.values())})


def seconds(frame):
    return [
        (
            row["node"],
            row["kind"],
            round((row["start"].timestamp() * S - T0) / S),
            None if row["end"] is None else round((row["end"].timestamp() * S - T0) / S),
            len(row["tags"]),
        )
        for row in frame.to_dicts()
    ]


NAMES = [f"s1/{line}/{machine}/{tag}" for line in "ab" for machine in range(4) for tag in "xyzuv"]


def without(frame, names, t0, t1):
    quiet = pl.col("tag").is_in(names) & pl.col("received").is_between(T0 + t0 * S, T0 + t1 * S)
    return frame.filter(~quiet)


def test_columns_of_the_contract(plant):
    found = detect(plant(["a"], 100))
    assert found.columns[:8] == ["incident", "node", "kind", "start", "detected", "end", "score", "tags"]
    assert found.height == 0
    assert found.schema["tags"] == pl.List(pl.String)
    assert found.schema["start"] == pl.Datetime("ns", "UTC")


def test_one_silent_tag_is_one_silence(plant):
    rows = without(plant(NAMES, 300), ["s1/a/0/x"], 100, 160)
    assert seconds(detect(rows, tree(NAMES))) == [("s1/a/0/x", "silence", 100, 160, 1)]
    assert seconds(detect(rows)) == [("s1/a/0/x", "silence", 100, 160, 1)]


@pytest.mark.parametrize(("node", "members"), [("s1/a/0", 5), ("s1/a", 20), ("s1", 40)])
def test_what_fails_together_is_one_outage_of_the_node_that_explains_it(plant, node, members):
    gone = [n for n in NAMES if n.startswith(node + "/")]
    rows = without(plant(NAMES, 300), gone, 100, 160)
    found = detect(rows, tree(NAMES), until=(T0 + 300 * S))
    assert seconds(found) == [(node, "outage", 100, 160, members)]
    delay = (found["detected"][0] - found["start"][0]).total_seconds()
    assert delay < 20


def test_independent_faults_beside_an_outage_are_told_apart(plant):
    gone = [n for n in NAMES if n.startswith("s1/a/")]
    rows = without(without(plant(NAMES, 300), gone, 100, 160), ["s1/b/2/y"], 120, 150)
    found = seconds(detect(rows, tree(NAMES)))
    assert sorted(found) == [("s1/a", "outage", 100, 160, 20), ("s1/b/2/y", "silence", 120, 150, 1)]


def test_slow_siblings_are_waited_for(plant):
    fast, slow = NAMES[:2], NAMES[2:5]
    rows = pl.concat([plant(fast, 600), plant(slow, 600, period=4.0), plant(NAMES[5:], 600)]).sort("received")
    found = detect(without(rows, NAMES[:5], 300, 601), tree(NAMES), until=T0 + 600 * S)
    assert [row[:2] for row in seconds(found)] == [("s1/a/0", "outage")]


def test_the_last_known_instant_decides_about_silence_at_the_end(plant):
    rows = plant(["a"], 100)
    assert seconds(detect(rows)) == []
    assert [r[:2] for r in seconds(detect(rows, until=T0 + 130 * S))] == [("a", "silence")]


def test_flatline(plant):
    rows = plant(NAMES, 300)
    stuck = (pl.col("tag") == "s1/b/1/z") & pl.col("received").is_between(T0 + 100 * S, T0 + 200 * S)
    rows = rows.with_columns(pl.when(stuck).then(51.5).otherwise(pl.col("value")).alias("value"))
    ((node, kind, start, end, members),) = seconds(detect(rows, tree(NAMES)))
    assert (node, kind, members) == ("s1/b/1/z", "flatline", 1)
    assert (start, end) in {(100, 200), (100, 201)}


def test_live_micro_batches_find_what_the_record_shows(plant):
    gone = [n for n in NAMES if n.startswith("s1/a/1/")]
    rows = without(without(plant(NAMES, 300), gone, 100, 160), ["s1/b/2/y"], 120, 150)
    topology = tree(NAMES)
    want = detect(rows, topology)
    order = rows["tag"].unique(maintain_order=True).to_list()
    ids = rows["tag"].replace_strict(order, list(range(len(order))), return_dtype=pl.UInt32).to_numpy()
    whole = Batch.of(tag=ids, time=rows["time"], value=rows["value"], received=rows["received"])
    monitors = [Monitor(k, 2, Knobs.offline()) for k in range(2)]
    engine = Incidents(topology=Topology.from_frame(topology, order))
    latest = {}
    for now in range(T0, T0 + 301 * S, S // 4):
        part = whole.take((whole.received > now - S // 4) & (whole.received <= now))
        for k, monitor in enumerate(monitors):
            engine.take(monitor.update(part.take(part.tag % 2 == k), now), now)
        latest |= {i.incident: i for i in engine.tick(now)}
    got = incident_frame(list(latest.values()))
    assert seconds(got) == seconds(want)
    late = (got["detected"] - want["detected"]).dt.total_milliseconds()
    assert late.min() >= 0
    assert late.max() <= 500


def test_ten_thousand_healthy_tags_are_quiet(rng):
    tags, n = 10_000, 120
    period = rng.choice([0.5, 1.0, 2.0], tags)
    t = (rng.random(tags)[:, None] + np.arange(n)) * period[:, None] + rng.exponential(0.01, (tags, n))
    received = T0 + (t * S).astype(np.int64).ravel()
    at = np.argsort(received, kind="stable")
    at = at[received[at] < T0 + 60 * S]
    tag = np.repeat(np.arange(tags), n)[at]
    values = rng.normal(size=len(at)).round(2)
    frame = pl.DataFrame({"tag": tag, "time": received[at], "value": values, "received": received[at]})
    assert detect(frame).height == 0


def test_the_simulated_factory_shows_its_faults_and_nothing_else():
    from iiot_dask.sim.factory import Factory

    factory = Factory(tags=1000, seed=1003, duration_s=120.0, day_s=60.0)
    tag, t, value = factory.samples(0, 120 * S)
    (fault,) = [f for f in factory.faults if f.kind == "outage"]
    names = np.array(factory.names)
    gone = np.char.startswith(names, fault.node + "/")[tag] & (t >= fault.start_s * S) & (t < fault.end_s * S)
    tag, t, value = tag[~gone], t[~gone], value[~gone]
    received = T0 + (t // (50 * S // 1000) + 1) * (50 * S // 1000)
    order = np.argsort(received, kind="stable")
    frame = pl.DataFrame(
        {
            "tag": pl.Series(factory.names)[tag[order]],
            "time": T0 + t[order],
            "value": value[order],
            "received": received[order],
        }
    )
    found = detect(frame, tree(factory.names), until=T0 + 120 * S)
    want = {(f.node, f.kind) for f in factory.faults if f.kind in {"outage", "flatline"}}
    assert sorted(zip(found["node"], found["kind"], strict=True)) == sorted(want)


def test_bad_frames_are_refused(plant):
    rows = plant(["a"], 20)
    with pytest.raises(SchemaError, match="missing"):
        detect(rows.drop("value"))
    with pytest.raises(SchemaError, match="goes back"):
        detect(rows.reverse())
    with pytest.raises(SchemaError, match="two parents"):
        detect(rows, pl.DataFrame({"node": ["a", "a"], "parent": ["x", "y"]}))
    with pytest.raises(SchemaError, match="cycle"):
        detect(rows, pl.DataFrame({"node": ["a", "x"], "parent": ["x", "a"]}))
    with pytest.raises(SchemaError, match="'node' and 'parent'"):
        detect(rows, pl.DataFrame({"node": ["a"]}))
    assert detect(rows.head(0)).height == 0
