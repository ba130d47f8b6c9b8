"""Properties in two lengths: a short one that every run affords, and one of twenty times as many examples, marked slow."""

import pytest
from hypothesis import given, settings

LONGER = 20


def fuzz(examples, *drawn):
    """Decorate a property; beside `test_x` the module gets the slow `test_x_at_length`."""

    def make(test):
        at_length = settings(max_examples=LONGER * examples, deadline=None)(given(*drawn)(test))
        name = f"{test.__name__}_at_length"
        at_length.__name__ = at_length.__qualname__ = name
        test.__globals__[name] = pytest.mark.slow(at_length)
        return settings(max_examples=examples, deadline=None)(given(*drawn)(test))

    return make
