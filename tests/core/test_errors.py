"""The tree: four families, leaves that are also the builtin a caller would catch, and one way in for foreign errors."""

import pytest

from iiot_dask.core import errors
from iiot_dask.core.errors import (
    CapacityError,
    ConfigError,
    DataError,
    IiotError,
    InUseError,
    RemoteAdapterError,
    SchemaError,
    UnknownTagError,
    map_errors,
)

MAPPING = {KeyError: CapacityError, ValueError: DataError}
ALL = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]


@pytest.mark.parametrize("error", ALL)
def test_every_error_is_ours_and_documented(error):
    assert issubclass(error, IiotError)
    assert error.__doc__


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (ConfigError, ValueError),
        (RemoteAdapterError, ConnectionError),
        (DataError, ValueError),
        (SchemaError, TypeError),
        (InUseError, BlockingIOError),
        (UnknownTagError, KeyError),
    ],
)
def test_leaves_are_the_builtin_a_caller_would_catch(ours, builtin):
    assert issubclass(ours, builtin)
    assert "why" in str(ours("why"))


def test_an_unknown_tag_reads_as_a_sentence():
    assert str(UnknownTagError("tag 'x' is not there")) == "tag 'x' is not there"
    assert str(UnknownTagError()) == ""


def test_in_use_keeps_its_text():
    assert "is held" in str(InUseError("port 1 is held"))


def test_foreign_errors_are_mapped_once_and_chained():
    with pytest.raises(DataError, match="reading a: invalid literal") as caught, map_errors(MAPPING, "reading a"):
        int("x")
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_first_entry_that_matches_wins():
    with pytest.raises(CapacityError), map_errors({OSError: CapacityError, ConnectionError: DataError}, "x"):
        raise ConnectionError


def test_an_error_without_text_shows_its_name():
    with pytest.raises(DataError, match=r"^x: TimeoutError$"), map_errors({TimeoutError: DataError}, "x"):
        raise TimeoutError


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), map_errors({KeyError: DataError}, "x"):
        1 / 0  # noqa: B018
