"""Tag names: what is a legal one, and which ones a glob selects."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError

TAG_BYTES_MAX = 512
"""Longest legal tag name, UTF-8 bytes."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_tag(tag: str) -> str:
    """Return `tag` if it is legal: 1-512 UTF-8 bytes, no control characters, no empty, `.` or `..` level.

    Tag names never become file names; the rule keeps them printable and their levels unambiguous.

    Raises
    ------
    ConfigError
        Naming the tag and the rule it breaks.

    Examples
    --------
    >>> check_tag("site1/press/1/temperature")
    'site1/press/1/temperature'
    >>> check_tag("a//b")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: tag 'a//b' has an empty level, '.' or '..'; levels between '/' have at least one other character
    """
    try:
        size = len(tag.encode())
    except UnicodeEncodeError:
        msg = f"tag {tag!r} is not valid Unicode (a lone surrogate)"
        raise ConfigError(msg) from None
    if not 1 <= size <= TAG_BYTES_MAX:
        msg = f"tag {tag[:80]!r} has {size} UTF-8 bytes; 1 to {TAG_BYTES_MAX} are allowed"
        raise ConfigError(msg)
    if _CONTROL.search(tag):
        msg = f"tag {tag!r} holds a control character; printable characters are allowed"
        raise ConfigError(msg)
    if any(level in ("", ".", "..") for level in tag.split("/")):
        msg = f"tag {tag!r} has an empty level, '.' or '..'; levels between '/' have at least one other character"
        raise ConfigError(msg)
    return tag


def matches(names: Sequence[str], glob: str | Sequence[str]) -> npt.NDArray[np.int64]:
    """Positions of the names a glob (or any of several) selects, ascending.

    `*` crosses `/`; `?` and `[...]` as in `fnmatch`; case matters.

    Examples
    --------
    >>> matches(["a/x", "a/y/z", "b"], "a/*").tolist()
    [0, 1]
    >>> matches(["a", "b", "c"], ["c", "a"]).tolist()
    [0, 2]
    """
    globs = [glob] if isinstance(glob, str) else list(glob)
    if "*" in globs:
        return np.arange(len(names), dtype=np.int64)
    exact = {g for g in globs if not any(c in g for c in "*?[")}
    patterns = [re.compile(fnmatch.translate(g)).match for g in globs if g not in exact]
    hits = [i for i, name in enumerate(names) if name in exact or any(match(name) for match in patterns)]
    return np.array(hits, dtype=np.int64)
