import numpy as np

from iiot_dask.core.jit import FLAGS, inline, njit


@inline
def twice(x: float) -> float:
    return 2 * x


@njit
def total(values: np.ndarray) -> float:
    out = 0.0
    for i in range(len(values)):
        out += twice(values[i])
    return out


def test_a_kernel_is_compiled_once_and_keeps_its_python_twin():
    values = np.arange(5.0)
    assert total(values) == total.py_func(values) == 20.0
    assert len(total.signatures) == 1
    assert total.targetoptions["nogil"] is True


def test_kernels_keep_nan():
    assert not FLAGS["fastmath"]
    assert np.isnan(total(np.array([1.0, np.nan])))
