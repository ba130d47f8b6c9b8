from collections import Counter

import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.plantfile import parse
from iiot_dask.sim.factory import Factory
from iiot_dask.sim.plant import ADAPTERS

ENDS = {
    "presses": "tcp://127.0.0.1:5020",
    "compressor": "tcp://127.0.0.1:5021",
    "robots": "opc.tcp://127.0.0.1:4840",
    "cells": "mqtt://127.0.0.1:1883",
}


@pytest.mark.parametrize("tags", [100, 2000, 5000])
def test_the_plant_file_is_valid_and_lists_every_polled_and_subscribed_tag(tags):
    factory = Factory(tags=tags)
    plant = parse(factory.plant_file(ENDS), "plant")
    assert tuple(a.name for a in plant.adapters) == ADAPTERS
    listed = {t.tag for a in plant.adapters for t in a.tags}
    wanted = {n for d in factory.devices if d.protocol in ("modbus", "opcua") for n in factory.names[d.start : d.stop]}
    assert listed == wanted
    assert plant.cluster.day == 60 * 10**9


def test_no_two_modbus_tags_share_a_register():
    plant = parse(Factory(tags=2000).plant_file(ENDS), "plant")
    width = {"float32": 2, "uint32": 2}
    for adapter in plant.adapters[:2]:
        used = Counter()
        for tag in adapter.tags:
            space, _, at = tag.address.partition(":")
            used.update((tag.unit_id, space, int(at) + k) for k in range(width.get(tag.type, 1)))
        assert used
        assert max(used.values()) == 1


def test_json_topics_and_tags_follow_from_each_other():
    factory = Factory(tags=400)
    plant = parse(factory.plant_file(ENDS), "plant")
    topic = plant.adapters[3].topics[0]
    for device in (factory.devices[d] for d in factory.of("json")):
        site, line, machine = device.path.split("/")
        assert topic.tag.replace("{1}", line).replace("{2}", machine) == f"{site}/{line}/{machine}/{{3}}"


def test_a_missing_endpoint_is_named():
    with pytest.raises(ConfigError, match="robots"):
        Factory(tags=100).plant_file({k: v for k, v in ENDS.items() if k != "robots"})
