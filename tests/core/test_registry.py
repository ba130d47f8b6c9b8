"""Plug-ins by entry point: found without importing, named when missing, never able to break the list."""

from importlib.metadata import EntryPoint

import pytest

from iiot_dask.core import registry as module
from iiot_dask.core.errors import ConfigError, LocalAdapterError
from iiot_dask.core.registry import Registry

GROUP = "iiot_dask.adapters"


@pytest.fixture
def strangers(monkeypatch):
    """A group with a sound plug-in, one that can not be imported, and one whose module raises."""
    points = [
        EntryPoint("sound", "collections:OrderedDict", GROUP),
        EntryPoint("gone", "no_such_module_anywhere:Thing", GROUP),
        EntryPoint("empty", "collections:NoSuchName", GROUP),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == GROUP else [])


def test_names_are_sorted_and_nothing_is_imported(strangers):
    assert Registry(GROUP, "adapter").names() == ["empty", "gone", "sound"]


def test_load_gives_the_class(strangers):
    from collections import OrderedDict

    assert Registry(GROUP, "adapter").load("sound") is OrderedDict


def test_a_missing_name_is_a_sentence_with_what_is_there(strangers):
    with pytest.raises(ConfigError, match=r"^adapter 'modbus' is not installed; installed: empty, gone, sound$"):
        Registry(GROUP, "adapter").load("modbus")
    with pytest.raises(ConfigError, match="codec 'x' is not installed; installed: none"):
        Registry("nothing.here", "codec").load("x")


def test_a_plug_in_that_does_not_import_is_named_with_its_error(strangers):
    with pytest.raises(
        LocalAdapterError,
        match=r"adapter 'gone' \(no_such_module_anywhere:Thing\) does not import: ModuleNotFoundError",
    ) as caught:
        Registry(GROUP, "adapter").load("gone")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_broken_plug_ins_are_rows_with_an_error(strangers):
    rows = Registry(GROUP, "adapter").plugins()
    assert [(row.name, row.error is None) for row in rows] == [("empty", False), ("gone", False), ("sound", True)]
    assert "AttributeError" in rows[0].error


def test_first_party_adapters_come_through_the_same_door():
    rows = {row.name: row for row in Registry(GROUP, "adapter").plugins()}
    assert {"modbus", "mqtt", "opcua"} <= set(rows)
    assert rows["modbus"].distribution == "iiot-dask"
    assert rows["modbus"].target.startswith("iiot_dask_adapters.modbus:")
