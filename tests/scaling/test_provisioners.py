"""Programs and AWS's Auto Scaling behind the one interface: asked once, asked again where nothing follows, dry, and unreachable."""

import sys

import boto3
import pytest
from moto.server import ThreadedMotoServer

from iiot_dask.core.clock import ManualClock
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.scaling import Guard
from iiot_dask.scaling.aws import AutoScalingProvisioner
from iiot_dask.scaling.command import CommandProvisioner
from iiot_dask.scaling.provision import Workforce

pytestmark = pytest.mark.filterwarnings("default")


def guard():
    return Guard(1, 5, 60.0, 30.0)


PROGRAM = """
import json, pathlib, sys
state = pathlib.Path(sys.argv[1])
if sys.argv[2] == "scale":
    state.write_text(json.dumps({"ready": 1, "booting": int(sys.argv[3]) - 1}))
    with (state.parent / "calls").open("a") as calls:
        calls.write(sys.argv[3] + "\\n")
else:
    print(state.read_text())
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "state").write_text('{"ready": 1, "booting": 0}')
    return [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "state")]


def test_a_command_scales(program, tmp_path):
    clock = ManualClock()
    p = CommandProvisioner(program, guard(), clock=clock)
    assert p.scale(3) == 3
    assert p.observed() == Workforce(1, 2)
    assert [p.scale(3), p.scale(9)] == [3, 5]
    assert (tmp_path / "calls").read_text().split() == ["3", "5"], "asked once a number"
    assert CommandProvisioner(program, guard(), clock=clock, dry_run=True).scale(2) == 2
    assert (tmp_path / "calls").read_text().split() == ["3", "5"], "dry"


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("raise SystemExit('no quota')", "status 1: no quota"),
        ("print('three')", "answered 'three'"),
        ('print(\'{"ready": -1, "booting": 0}\')', "from 0"),
    ],
)
def test_commands_that_fail_are_sentences(code, named):
    p = CommandProvisioner([sys.executable, "-c", code], guard(), clock=ManualClock())
    with pytest.raises(CapacityError, match=named):
        p.observed()


def test_no_command_is_refused():
    with pytest.raises(ConfigError, match="names no program"):
        CommandProvisioner([], guard(), clock=ManualClock())
    with pytest.raises(CapacityError, match="did not answer"):
        CommandProvisioner(["/no/such/program"], guard(), clock=ManualClock()).observed()


@pytest.fixture(scope="module")
def aws():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "autoscaling",
        endpoint_url=f"http://{host}:{port}",
        region_name="eu-central-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_launch_configuration(
        LaunchConfigurationName="worker", ImageId="ami-12345678", InstanceType="t3.small"
    )
    yield client
    client.close()
    server.stop()


@pytest.fixture
def group(aws, request):
    name = f"group-{abs(hash(request.node.name))}"
    aws.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName="worker",
        MinSize=1,
        MaxSize=4,
        DesiredCapacity=1,
        AvailabilityZones=["eu-central-1a"],
    )
    return name


def test_a_group_grows_to_its_own_limit_and_shrinks_by_name_after_a_drain(aws, group):
    drained = []
    p = AutoScalingProvisioner(group, aws, guard(), clock=ManualClock(), drain=drained.append)
    assert p.observed() == Workforce(1, 0)
    p.scale(5)
    assert p.observed() == Workforce(4, 0), "the group's MaxSize is the last word"
    before = {i["InstanceId"] for i in p._describe()["Instances"]}
    p.scale(2)
    after = {i["InstanceId"] for i in p._describe()["Instances"] if i["LifecycleState"] == "InService"}
    assert p.observed().ready == 2
    assert set(drained) == before - after, "exactly those that were drained are gone"


def test_a_dry_run_leaves_the_group_alone(aws, group):
    assert AutoScalingProvisioner(group, aws, guard(), clock=ManualClock(), dry_run=True).scale(3) == 3
    assert AutoScalingProvisioner(group, aws, guard(), clock=ManualClock()).observed() == Workforce(1, 0)


def test_a_drain_that_fails_keeps_the_instance(aws, group):
    def stuck(instance):
        msg = f"{instance} did not hand over"
        raise CapacityError(msg)

    p = AutoScalingProvisioner(group, aws, guard(), clock=ManualClock(), drain=stuck)
    p.scale(3)
    with pytest.raises(CapacityError, match="hand over"):
        p.scale(1)
    assert p.observed().ready == 3


def test_no_group_is_a_sentence(aws):
    with pytest.raises(CapacityError, match="'nobody' does not exist"):
        AutoScalingProvisioner("nobody", aws, guard(), clock=ManualClock()).observed()
