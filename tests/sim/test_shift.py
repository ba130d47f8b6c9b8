import numpy as np
import pytest

from iiot_dask.core.errors import ConfigError
from iiot_dask.sim.shift import Shifts


@pytest.mark.parametrize("shifts", [Shifts(), Shifts(86400.0), Shifts(7.0, (0.2, 0.9)), Shifts(10.0, (0.5,), ramp=1.0)])
def test_work_is_the_integral_of_activity(shifts):
    t = np.linspace(0, 3.3 * shifts.day_s, 400_001)
    activity = shifts.activity(t)
    naive = np.concatenate([[0.0], np.cumsum(np.diff(t) * (activity[1:] + activity[:-1]) / 2)])
    assert np.abs(shifts.work(t) - naive).max() < 1e-6 * shifts.day_s


def test_activity_is_periodic_also_before_the_start():
    shifts = Shifts(60.0)
    t = np.arange(0.0, 60.0, 0.37)
    assert np.allclose(shifts.activity(t), shifts.activity(t + 600))
    assert np.allclose(shifts.activity(t), shifts.activity(t - 60))
    assert np.allclose(shifts.work(t) - shifts.work(t - 60), shifts.work(np.array([60.0])))


def test_levels_are_reached_after_the_ramp_and_held():
    shifts = Shifts(60.0, (0.4, 1.0, 0.7), ramp=0.1)
    inside = np.concatenate([np.linspace(s + 2, s + 20, 50) for s in (0, 20, 40)])
    assert shifts.activity(inside).round(12).tolist() == [0.4] * 50 + [1.0] * 50 + [0.7] * 50
    assert shifts.number(np.array([0.0, 19.9, 20.0, 60.0])).tolist() == [0, 0, 1, 3]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"day_s": 0.0}, "day_s 0.0"),
        ({"day_s": float("nan")}, "day_s nan"),
        ({"levels": ()}, "levels"),
        ({"levels": (0.5, 1.5)}, "1.5"),
        ({"ramp": 0.0}, "ramp 0.0"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    with pytest.raises(ConfigError, match=named):
        Shifts(**arguments)
