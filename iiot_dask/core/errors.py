"""The error tree, and the one way foreign exceptions enter it.

Four families say who has to act: the operator (`ConfigError`), the device or its adapter (`AdapterError`), whoever
wrote the bytes (`DataError`), or whoever sized the machine (`CapacityError`). Leaves also inherit the builtin a caller
would naturally catch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class IiotError(Exception):
    """Base of every error this package raises on purpose; its text is one sentence a person can act on."""


class ConfigError(IiotError, ValueError):
    """The plant file, an option or an argument is wrong; the text names the key, its value and what was allowed."""


class AdapterError(IiotError):
    """An adapter could not do its work."""


class LocalAdapterError(AdapterError):
    """We are to blame: the adapter's own code, its dependency or its use of the protocol is wrong."""


class RemoteAdapterError(AdapterError, ConnectionError):
    """The other side is to blame: unreachable, refused, or it broke the protocol."""


class DataError(IiotError, ValueError):
    """Bytes or rows are not what their format says."""


class SchemaError(DataError, TypeError):
    """Columns are missing, of the wrong type or of unequal length."""


class ChecksumError(DataError):
    """A checksum does not match: the bytes changed since they were written."""


class CodecError(DataError):
    """A compressed blob can not be decoded, or a value can not be encoded."""


class VersionError(DataError):
    """The bytes were written by a newer format than this program knows."""


class CapacityError(IiotError):
    """A declared limit was reached (queue, bytes, rows, time)."""


class InUseError(CapacityError, BlockingIOError):
    """Another process holds the resource (data directory, port)."""


class UnknownTagError(IiotError, KeyError):
    """A tag name or id is not in the catalogue."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, with quotes inside quotes.
        return str(self.args[0]) if self.args else ""


@contextmanager
def map_errors(mapping: Mapping[type[BaseException], type[IiotError]], doing: str) -> Iterator[None]:
    """Turn foreign exceptions into ours at one edge, always chained (`raise ... from`).

    Parameters
    ----------
    mapping
        Foreign exception type -> our type; the first entry that matches wins.
    doing
        What was being done, for the message: ``"reading register 100 of 'press-line'"``.

    Raises
    ------
    IiotError
        The mapped type, whenever the body raises one of the keys.

    Examples
    --------
    >>> with map_errors({ZeroDivisionError: DataError}, "scaling tag 'a'"):
    ...     1 / 0
    Traceback (most recent call last):
    iiot_dask.core.errors.DataError: scaling tag 'a': division by zero
    """
    try:
        yield
    except tuple(mapping) as error:
        for foreign, ours in mapping.items():
            if isinstance(error, foreign):
                msg = f"{doing}: {error}" if str(error) else f"{doing}: {type(error).__name__}"
                raise ours(msg) from error
        raise  # pragma: no cover -- the except clause only catches keys of the mapping
