"""Plant files: every error names the file, the key, its value and what is allowed; secrets never show."""

import json
from pathlib import Path

import pytest

import iiot_dask
from iiot_dask.core.config import Adapter, Cluster, Journal, PlantFile, Streaming, Tag
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.plantfile import json_schema, load, override, parse, secret

MINIMAL = '[plant]\nname = "p"\n'
FULL = """
[plant]
name = "demo"
data = "here"

[[adapters]]
name = "press-line"
kind = "modbus"
endpoint = "tcp://127.0.0.1:5020"
password = "env:PLC"
timeout = "500ms"
[[adapters.tags]]
tag = "site1/press/1/temperature"
address = "holding:100"
type = "float32"
scan = "250ms"
[[adapters]]
name = "cells"
kind = "mqtt"
[[adapters.topics]]
filter = "factory/+/+/+"
tag = "site1/{1}/{2}/{3}"

[[classes]]
match = "*/temperature"
error_bound = "0.1%"
time_snap = "1ms"

[cluster]
minimum = 2
boot = 90
"""


def write(tmp_path, text):
    path = tmp_path / "plant.toml"
    path.write_text(text)
    return path


def error_of(tmp_path, text, environ=None):
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), environ or {})
    return str(caught.value)


def test_a_full_file_is_read(tmp_path):
    loaded = load(write(tmp_path, FULL), {})
    press, cells = loaded.config.adapters
    assert (press.name, press.timeout, press.tags[0].scan, press.tags[0].order) == (
        "press-line",
        500_000_000,
        250_000_000,
        "abcd",
    )
    assert cells.topics[0].payload == "json"
    assert loaded.config.classes[0].time_snap == 1_000_000
    assert (loaded.config.cluster.minimum, loaded.config.cluster.boot) == (2, 90 * 10**9)
    assert loaded.data == (tmp_path / "here").resolve()


def test_defaults_are_in_the_units_of_the_program():
    """A span given as a default is nanoseconds; it is not read as seconds once more."""
    assert (Journal().commit, Streaming().batch, Streaming().flush) == (10**7, 10**8, 2 * 10**9)
    assert (Cluster().boot, Cluster().day) == (2 * 10**9, 86400 * 10**9)
    assert (Adapter(name="a", kind="b").timeout, Adapter(name="a", kind="b").sampling) == (3 * 10**9, 0)
    assert Tag(tag="a").scan == Tag(tag="a", scan="1s").scan == Tag(tag="a", scan=1).scan == 10**9


def test_every_default_passes_its_own_rules():
    """Defaults are not validated when a section is made; here they are, as text where they are spans."""
    for model in (Journal, Streaming, Cluster):
        properties = model.model_json_schema()["properties"]
        told = {name: rules["default"] for name, rules in properties.items() if rules.get("default") is not None}
        assert model(**told) == model()


def test_sections_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Journal().commit = 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "plant: is required"),
        ("[plant]\n", "plant.name: is required"),
        ('[plant]\nname = ""', "plant.name = '': String should have at least 1 character"),
        (MINIMAL + "colour = 1", "plant.colour: unknown key 'colour'; allowed: data, name"),
        ("x = 1\n" + MINIMAL, "unknown key 'x'; allowed: adapters, classes, cluster, dashboard"),
        (MINIMAL + "[jurnal]\n", "unknown key 'jurnal'; allowed: adapters, classes, cluster, dashboard, history, journal, plant, stream; did you mean 'journal'?"),
        (MINIMAL + "[journal]\ncommit = 'soon'", "journal.commit = 'soon': span 'soon' is not a number with a unit"),
        (MINIMAL + "[journal]\ncommit = [1]", "journal.commit: span [1] is neither text"),
        (MINIMAL + "[journal]\ncommit = inf", "journal.commit = inf: span inf is neither text"),
        (MINIMAL + "[journal]\ncommit = true", "journal.commit = True: span True is neither text"),
        (MINIMAL + "[journal]\ncommit = -1", "journal.commit = -1: span -1 is negative"),
        (MINIMAL + "[journal]\nsegment_bytes = 5", "journal.segment_bytes = 5: Input should be greater than or equal to 65536"),
        (MINIMAL + "[stream]\nbatch = '0s'", "stream.batch = '0s': Input should be greater than 0"),
        (MINIMAL + "[stream]\nshards = 5000", "stream.shards = 5000: Input should be less than or equal to 1024"),
        (MINIMAL + "[cluster]\nminimum = 5\nmaximum = 2", "cluster: minimum 5 is above maximum 2"),
        (MINIMAL + "[cluster]\nkind = 'cloud'", "cluster.kind = 'cloud': Input should be 'local', 'gateway', 'kubernetes' or 'address'"),
        (MINIMAL + "[[classes]]\nmatch = '*'\nerror_bound = '5'", "error_bound '5' is neither a number nor a percentage"),
        (MINIMAL + "[[classes]]\nmatch = '*'\nerror_bound = '0%'", "error_bound '0%' is neither a number nor a percentage"),
        (MINIMAL + "[[classes]]\nmatch = '*'\nerror_bound = -1.0", "error_bound -1.0 is not a positive finite number"),
        (MINIMAL + "[[classes]]\nmatch = '*'\nerror_bound = inf", "error_bound inf is not a positive finite number"),
        (MINIMAL + "[[adapters]]\nname = 'a b'\nkind = 'modbus'", "adapters[0] 'a b' .name = 'a b': String should match pattern"),
        (MINIMAL + "[[adapters]]\nname = 'a'", "adapters[0] 'a' .kind: is required"),
        (MINIMAL + "[[adapters]]\nname = 'a'\nkind = 'm'\n[[adapters.tags]]\ntag = 'x//y'", "adapters[0] 'a' .tags[0] 'x//y' .tag = 'x//y': tag 'x//y' has an empty level"),
        (MINIMAL + "[[adapters]]\nname = 'a'\nkind = 'm'\n[[adapters.tags]]\ntag = 'x'\nscna = '1s'", "unknown key 'scna'; allowed: address, node"),
        (MINIMAL + "[[adapters]]\nname = 'a'\nkind = 'm'\nqos = 3", "adapters[0] 'a' .qos = 3: Input should be 0, 1 or 2"),
        (MINIMAL + "[[adapters]]\nname = 'a'\nkind = 'm'\n" * 2, "adapter name 'a' is used twice"),
        ("[plant", "not TOML"),
    ],
)  # fmt: skip
def test_errors_name_file_key_value_and_what_is_allowed(tmp_path, text, said):
    message = error_of(tmp_path, text)
    assert said in message
    assert all(line.startswith(str(tmp_path / "plant.toml")) for line in message.splitlines())


def test_one_tag_in_two_adapters_is_named_with_both(tmp_path):
    text = MINIMAL + "".join(
        f"[[adapters]]\nname = '{name}'\nkind = 'm'\n[[adapters.tags]]\ntag = 'x/y'\n" for name in ("a", "b")
    )
    assert "tag 'x/y' is defined twice, in adapters 'a' and 'b'" in error_of(tmp_path, text)


def test_all_errors_are_told_at_once(tmp_path):
    message = error_of(tmp_path, MINIMAL + "[journal]\ncommit = 'x'\nqueue_rows = 1\n[stream]\nshards = 0\n")
    assert len(message.splitlines()) == 3


def test_files_that_can_not_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"[plant]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match=r"latin.toml: not TOML"):
        load(tmp_path / "latin.toml")


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("iiot_dask.core.plantfile.FILE_BYTES_MAX", 10)
    with pytest.raises(ConfigError, match="19 bytes; a plant file has at most 10"):
        load(write(tmp_path, MINIMAL), {})


def test_the_environment_lies_over_the_file(tmp_path):
    environ = {
        "IIOT__PLANT__DATA": "elsewhere", "IIOT__JOURNAL__COMMIT": "5ms", "IIOT__CLUSTER__MINIMUM": "3",
        "IIOT__ADAPTERS__0__ENDPOINT": "tcp://10.0.0.1:502", "IIOT__CLUSTER__PROCESSES": "true", "OTHER": "x",
    }  # fmt: skip
    config = load(write(tmp_path, FULL), environ).config
    assert (config.plant.data, config.journal.commit, config.cluster.minimum) == ("elsewhere", 5_000_000, 3)
    assert config.adapters[0].endpoint == "tcp://10.0.0.1:502"
    assert config.cluster.processes


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("IIOT__ADAPTERS__7__KIND", "environment IIOT__ADAPTERS__7__KIND: '7' is no index of a list of 2"),
        ("IIOT__ADAPTERS__NAME", "'name' is no index of a list of 2"),
        ("IIOT__PLANT__NAME__FIRST", "environment IIOT__PLANT__NAME__FIRST: plant.name is a value, not a table"),
        ("IIOT__PLANT__COLOUR", "unknown key 'colour'"),
    ],
)
def test_variables_that_point_nowhere_are_named(tmp_path, name, said):
    assert said in error_of(tmp_path, FULL, {name: "x"})


def test_override_makes_missing_tables():
    raw = {}
    override(raw, {"IIOT__STREAM__SHARDS": "4", "IIOT__STREAM__FLUSH": "1s"})
    assert raw == {"stream": {"shards": 4, "flush": "1s"}}


def test_secrets_are_resolved_by_reference(tmp_path):
    (tmp_path / "plc").write_text("hidden\r\n")
    assert secret("env:PLC", tmp_path, {"PLC": "hidden "}) == "hidden "
    assert secret("file:plc", tmp_path) == "hidden"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("env:NOPE", "environment variable NOPE is not set"),
        ("file:nope", "can not be read"),
        ("hunter2-canary", "'env:NAME' or 'file:PATH' are allowed"),
    ],
)
def test_unresolved_secrets_are_named_never_shown(tmp_path, reference, said):
    with pytest.raises(ConfigError) as caught:
        secret(reference, tmp_path, {})
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_secret_written_into_the_file_is_refused_and_not_repeated(tmp_path):
    text = MINIMAL + "[[adapters]]\nname = 'a'\nkind = 'm'\npassword = 'canary'\n"
    message = error_of(tmp_path, text)
    assert "adapters[0] 'a' .password" in message
    assert "a secret is given as 'env:NAME' or 'file:PATH'" in message
    assert "canary" not in message


def test_a_secret_of_the_wrong_type_is_not_repeated_either(tmp_path):
    for written in ("['canary']", "{ canary = 1 }", "5150"):
        message = error_of(tmp_path, MINIMAL + f"[[adapters]]\nname = 'a'\nkind = 'm'\npassword = {written}\n")
        assert "canary" not in message
        assert "5150" not in message


def test_parse_names_its_source():
    with pytest.raises(ConfigError, match=r"^upload: plant: is required$"):
        parse({}, "upload")


def test_the_published_schema_is_the_generated_one():
    path = Path(iiot_dask.__file__).parent / "plant.schema.json"
    assert path.read_text() == json_schema(), "run: python -m iiot_dask.core.plantfile > iiot_dask/plant.schema.json"


def test_the_schema_describes_what_the_models_accept():
    schema = json.loads(json_schema())
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(PlantFile.model_fields)
    assert schema["$defs"]["Journal"]["properties"]["commit"]["default"] == "10ms"
    assert {option["type"] for option in schema["$defs"]["Journal"]["properties"]["commit"]["anyOf"]} == {
        "string",
        "number",
    }
