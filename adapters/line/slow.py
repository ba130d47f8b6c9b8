"""Line protocol, the complete parser: one line to points or to the sentence that says what is wrong with it.

What the compiled scanner leaves to it, and the scanner's naive twin. Source: see `scan`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from iiot_dask.core.errors import DataError

TIME_MAX_NS = 9_223_372_036_854_775_806
"""Times lie within plus and minus this, ns: the limits of InfluxDB."""
_BLANKS = b" \t\0"
_NUMBER = re.compile(rb"-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\Z")
_INTEGER = re.compile(rb"(-?\d+)([iu])\Z")
_TIME = re.compile(rb"-?\d+\Z")
_TRUE = frozenset({b"t", b"T", b"true", b"True", b"TRUE"})
_FALSE = frozenset({b"f", b"F", b"false", b"False", b"FALSE"})
_ESCAPE = re.compile(rb"\\([,= \\\"])")


@dataclass(frozen=True, slots=True)
class Point:
    """One line: raw bytes of its series, raw field keys with their numbers, time (ns, None = not given), texts left out."""

    series: bytes
    fields: tuple[tuple[bytes, float], ...]
    time_ns: int | None
    texts: int = 0


def parse(line: bytes, unit_ns: int) -> Point | None:
    r"""Read one line, without its newline; None when it is blank or a comment.

    Parameters
    ----------
    line
        UTF-8 as sent.
    unit_ns
        ns of one unit of the timestamp.

    Raises
    ------
    DataError
        Saying what is wrong, in InfluxDB's words where it has any.

    Examples
    --------
    >>> parse(b"cpu,host=a\\ b load=1.5,on=t,n=3i,s=\"x y\" 7", 1)
    Point(series=b'cpu,host=a\\ b', fields=((b'load', 1.5), (b'on', 1.0), (b'n', 3.0)), time_ns=7, texts=1)
    >>> parse(b"cpu", 1)
    Traceback (most recent call last):
    iiot_dask.core.errors.DataError: missing fields
    """
    line = line.removesuffix(b"\r").lstrip(_BLANKS)
    if not line.rstrip(_BLANKS) or line.startswith(b"#"):
        return None
    gap = _find(line, 0, b" \t\0")
    series = line[:gap]
    # Only the form: what a name says is looked at when it is named, once.
    _parts(series)
    at = _skip(line, gap)
    if at == len(line):
        msg = "missing fields"
        raise DataError(msg)
    fields: list[tuple[bytes, float]] = []
    texts = 0
    while True:
        end = _find(line, at, b"=, \t\0")
        if end == at:
            msg = "missing field key"
            raise DataError(msg)
        if line[end : end + 1] != b"=":
            msg = "invalid field format"
            raise DataError(msg)
        key = line[at:end]
        at, number = _value(line, end + 1)
        if number is None:
            texts += 1
        else:
            fields.append((key, number))
        if line[at : at + 1] != b",":
            break
        at += 1
    return Point(series, tuple(fields), _time(line[_skip(line, at) :], unit_ns), texts)


def _find(line: bytes, at: int, stops: bytes) -> int:
    while at < len(line) and line[at] not in stops:
        at += 2 if line[at] == 92 else 1
    return min(at, len(line))


def _skip(line: bytes, at: int) -> int:
    while at < len(line) and line[at] in _BLANKS:
        at += 1
    return at


def _value(line: bytes, at: int) -> tuple[int, float | None]:
    """The value at `at`: offset after it, and its number, None for a text."""
    if line[at : at + 1] == b'"':
        end = at + 1
        while end < len(line) and line[end] != 34:
            end += 2 if line[end] == 92 else 1
        if end >= len(line):
            msg = "unbalanced quotes"
            raise DataError(msg)
        if line[end + 1 : end + 2] not in (b"", b",", b" ", b"\t", b"\0"):
            msg = "invalid field format"
            raise DataError(msg)
        return end + 1, None
    end = at
    while end < len(line) and line[end] not in b", \t\0":
        end += 1
    word = line[at:end]
    if not word:
        msg = "missing field value"
        raise DataError(msg)
    return end, number(word)


def number(word: bytes) -> float:
    """A field value that is no text, as a float; an integer beyond 2**53 is rounded to the nearest.

    Raises
    ------
    DataError
        If it is none.

    Examples
    --------
    >>> number(b"-1.5e3"), number(b"42i"), number(b"T"), number(b".5")
    (-1500.0, 42.0, 1.0, 0.5)
    """
    if word in _TRUE or word in _FALSE:
        return 1.0 if word in _TRUE else 0.0
    whole = _INTEGER.match(word)
    if whole:
        value = int(whole[1]) if len(whole[1]) < 40 else 1 << 99
        low, high = (-(2**63), 2**63 - 1) if whole[2] == b"i" else (0, 2**64 - 1)
        if low <= value <= high and not (whole[2] == b"u" and whole[1].startswith(b"-")):
            return float(value)
        msg = f"unable to parse integer {word[:40].decode()}: value out of range"
        raise DataError(msg)
    if _NUMBER.match(word):
        real = float(word)
        if abs(real) != float("inf"):
            return real
        msg = f"unable to parse float {word[:40].decode()}: value out of range"
        raise DataError(msg)
    kind = "boolean" if word[:1] in (b"t", b"T", b"f", b"F") else "number"
    msg = f"invalid {kind}"
    raise DataError(msg)


def _time(text: bytes, unit_ns: int) -> int | None:
    text = text.rstrip(_BLANKS)
    if not text:
        return None
    if not _TIME.match(text):
        msg = "bad timestamp"
        raise DataError(msg)
    ns = int(text) * unit_ns if len(text) < 40 else 1 << 99
    if not -TIME_MAX_NS <= ns <= TIME_MAX_NS:
        msg = f"time outside range {-TIME_MAX_NS} - {TIME_MAX_NS}"
        raise DataError(msg)
    return ns


def _parts(series: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """A series as raw measurement and raw (key, value) pairs."""
    at = _find(series, 0, b",")
    if at == 0:
        msg = "missing measurement"
        raise DataError(msg)
    measurement, tags = series[:at], []
    while at < len(series):
        end = _find(series, at + 1, b",")
        part = series[at + 1 : end]
        split = _find(part, 0, b"=")
        key, value = part[:split], part[split + 1 :]
        if not key:
            msg = "missing tag key"
            raise DataError(msg)
        if not value:
            msg = "missing tag value"
            raise DataError(msg)
        if _find(value, 0, b"=") != len(value):
            msg = "invalid tag format"
            raise DataError(msg)
        tags.append((key, value))
        at = end
    return measurement, tags


def measure_and_tags(series: bytes) -> tuple[str, dict[str, str]]:
    r"""A series as measurement and tags, unescaped, the tags by key.

    Raises
    ------
    DataError
        If a part is missing or is no UTF-8, or a tag key comes twice.

    Examples
    --------
    >>> measure_and_tags(b"disk\\ io,path=/var,host=a")
    ('disk io', {'host': 'a', 'path': '/var'})
    """
    measurement, pairs = _parts(series)
    tags: dict[str, str] = {}
    for key, value in pairs:
        if plain(key) in tags:
            msg = "duplicate tags"
            raise DataError(msg)
        tags[plain(key)] = plain(value)
    return plain(measurement), dict(sorted(tags.items()))


def plain(text: bytes) -> str:
    """Text without its escapes.

    Raises
    ------
    DataError
        If it is no UTF-8.
    """
    try:
        return _ESCAPE.sub(rb"\1", text).decode()
    except UnicodeDecodeError as error:
        msg = f"no UTF-8 in {text[:60]!r}"
        raise DataError(msg) from error
