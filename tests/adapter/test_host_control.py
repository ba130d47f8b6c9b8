"""One adapter is started, stopped, changed, added, removed while the others run on untouched."""

import pytest
import tomli_w

from iiot_dask.core.config import Adapter
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.plantfile import load


def sections(*names, **options):
    return [{"name": name, "kind": "counting", "options": {"rows": 1, **options}} for name in names]


def by_name(r):
    return {status.name: status for status in r.host.status()}


def values(r, name):
    return [
        int(v) for d in list(r.deliveries) if d.adapter == name and d.poll.batch is not None for v in d.poll.batch.value
    ]


def incarnations(r, name):
    return sorted({d.incarnation for d in list(r.deliveries) if d.adapter == name})


def test_an_adapter_is_stopped_and_started_beside_another(rig):
    r = rig(adapters=sections("a", "b"))
    with r:
        r.until(lambda: len(values(r, "a")) > 5 and len(values(r, "b")) > 5)
        r.host.stop_adapter("a")
        r.until(lambda: by_name(r)["a"].state == "stopped")
        assert r.notes("a")[-1] == "close"
        seen, others = len(values(r, "a")), len(values(r, "b"))
        r.until(lambda: len(values(r, "b")) > others + 10)
        assert len(values(r, "a")) == seen
        r.host.start_adapter("a")
        r.until(lambda: len(values(r, "a")) > seen + 5)
        r.host.restart_adapter("a")
        r.until(lambda: 2 in incarnations(r, "a"))
        status = by_name(r)
    # Each run went on where the one before had been acknowledged, and nobody calls what was asked for a fault.
    assert values(r, "a") == list(range(len(values(r, "a"))))
    assert (status["a"].restarts, status["a"].errors, r.events) == (0, 0, [])
    assert incarnations(r, "b") == [0]


def test_a_changed_plant_file_touches_only_what_changed(rig, tmp_path):
    r = rig(adapters=sections("same", "changed", "dropped"))
    with r:
        r.until(lambda: all(len(values(r, n)) > 5 for n in ("same", "changed", "dropped")))
        raw = {"plant": {"name": "rig"}, "adapters": [*sections("same", "fresh"), *sections("changed", rows=7)]}
        (tmp_path / "plant.toml").write_text(tomli_w.dumps(raw))
        done = r.host.apply(load(tmp_path / "plant.toml"))
        assert done == {"dropped": "removed", "changed": "changed", "fresh": "added"}
        r.until(lambda: len(values(r, "fresh")) > 5 and 1 in incarnations(r, "changed"))
        r.until(lambda: sorted(by_name(r)) == ["changed", "fresh", "same"])
        r.until(lambda: by_name(r)["changed"].state == "running")
        assert r.host.apply(load(tmp_path / "plant.toml")) == {}
        # One that comes back does so with a number its rows can be told by, and where it was.
        (again,) = sections("dropped")
        r.host.configure(Adapter.model_validate(again))
        r.until(lambda: 1 in incarnations(r, "dropped"))
        r.until(lambda: by_name(r)["dropped"].state == "running")
    assert r.notes("dropped").count("close") == 2
    assert values(r, "dropped") == list(range(len(values(r, "dropped"))))
    assert values(r, "changed") == list(range(len(values(r, "changed"))))
    batches = [d.poll.batch for d in r.deliveries if (d.adapter, d.incarnation) == ("changed", 1)]
    assert {len(batch) for batch in batches if batch is not None} == {7}
    assert incarnations(r, "same") == [0]


def test_a_failed_adapter_is_helped_by_another_section(rig):
    r = rig(adapters=sections("n", at=5, do="config"))
    with r:
        r.until(lambda: by_name(r)["n"].state == "failed")
        (fixed,) = sections("n")
        r.host.configure(Adapter.model_validate(fixed))
        r.until(lambda: len(values(r, "n")) > 10)
        r.until(lambda: r.events[-1][1] == "connected")
    assert [kind for _, kind, _ in r.events] == ["disconnected", "connected"]
    assert values(r, "n") == list(range(len(values(r, "n"))))


def test_a_wrong_change_changes_nothing(rig, tmp_path):
    r = rig(adapters=sections("a"))
    with r:
        r.until(lambda: values(r, "a"))
        for name in ("stop_adapter", "start_adapter", "restart_adapter", "remove"):
            with pytest.raises(ConfigError, match="no adapter 'b'; there are a"):
                getattr(r.host, name)("b")
        with pytest.raises(ConfigError, match="has kind 'modbuss', which is not installed"):
            r.host.configure(Adapter(name="a", kind="modbuss"))
        raw = {"plant": {"name": "rig"}, "adapters": [*sections("b"), {"name": "c", "kind": "modbuss"}]}
        (tmp_path / "plant.toml").write_text(tomli_w.dumps(raw))
        with pytest.raises(ConfigError, match="has kind 'modbuss'"):
            r.host.apply(load(tmp_path / "plant.toml"))
        seen = len(values(r, "a"))
        r.until(lambda: len(values(r, "a")) > seen + 3)
        assert list(by_name(r)) == ["a"]
