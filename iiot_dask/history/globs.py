"""Tag globs and the rules for tag names over whole columns: `core.tags` for ten million names at a time."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from iiot_dask.core.tags import TAG_BYTES_MAX

_META = re.compile(r"[*?\[]")


def matching(names: pl.Series, globs: Sequence[str]) -> npt.NDArray[np.int64]:
    """Positions of the names that any of the globs selects, ascending; rules as `core.tags.matches`.

    Examples
    --------
    >>> matching(pl.Series(["a/x", "a/y/z", "b"]), ["a/*z", "?"]).tolist()
    [1, 2]
    """
    if "*" in globs:
        return np.arange(len(names), dtype=np.int64)
    exact = [g for g in globs if not _META.search(g)]
    hits = np.zeros(len(names), np.bool_)
    if exact:
        hits |= names.is_in(exact).to_numpy()
    for glob in globs:
        if _META.search(glob):
            hits |= _one(names, glob)
    return np.flatnonzero(hits)


def _one(names: pl.Series, glob: str) -> npt.NDArray[np.bool_]:
    prefix = glob[: _META.search(glob).start()]  # type: ignore[union-attr]
    rest = glob[len(prefix) :]
    found = names.str.starts_with(prefix) if prefix else pl.repeat(True, len(names), dtype=pl.Boolean, eager=True)
    if rest == "*":
        return found.to_numpy()
    if "[" not in rest:
        parts = re.split(r"([*?])", rest)
        pattern = "".join({"*": ".*", "?": "."}.get(part) or pl.escape_regex(part) for part in parts if part)
        # Newlines are not legal in names; (?s) keeps the rule free of exceptions all the same.
        return (found & names.str.contains(f"(?s)^{pl.escape_regex(prefix)}{pattern}$")).to_numpy()
    out = found.to_numpy().copy()
    match = re.compile(fnmatch.translate(glob)).match
    at = np.flatnonzero(out)
    out[at] = [match(name) is not None for name in names.gather(at).to_list()]
    return out


def first_illegal(names: pl.Series) -> int | None:
    """Position of a name that `core.tags.check_tag` refuses, None when all are legal.

    Examples
    --------
    >>> first_illegal(pl.Series(["a/b", "..a", "a/../b", "x"])), first_illegal(pl.Series(["a", "b c"]))
    (2, None)
    """
    size = names.str.len_bytes()
    bad = (size < 1) | (size > TAG_BYTES_MAX)
    bad |= names.str.contains(r"[\x00-\x1f\x7f]")
    bad |= names.str.contains(r"(^|/)\.{0,2}(/|$)")
    at = bad.arg_max() if bad.any() else None
    return None if at is None else int(at)
