import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.fault import Fault


def test_start_is_included_and_end_is_not():
    fault = Fault("outage", "a", 1.0, 2.0)
    assert [fault.active(t) for t in (0.9, 1.0, 1.9, 2.0)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("kind", "start_s", "end_s", "named"),
    [("explosion", 1, 2, "explosion"), ("outage", 2, 2, "2 s to 2 s"), ("corrupt", -1, 2, "-1 s")],
)
def test_wrong_faults_are_named(kind, start_s, end_s, named):
    with pytest.raises(ConfigError, match=named):
        Fault(kind, "a", start_s, end_s)
