"""`query`: what the command line asks."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.errors import ConfigError, UnknownTagError
from iiot_dask.core.times import SpanLike, TimeLike, span_ns, time_ns, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from iiot_dask.history import History


_RELATIVE = re.compile(r"(?:now)?\s*([+-])\s*(\d.*)|now", re.IGNORECASE)
NAMES_MAX = 20_000
"""Names looked through for a likeness."""


def moment(text: TimeLike, now_ns: int | None = None) -> int:
    """A time, which may be relative to now: ``"now"``, ``"-1h"``, ``"now-30m"``; ns.

    Parameters
    ----------
    text
        Relative text, or what `core.times.time_ns` takes.
    now_ns
        What now is, ns; None: the clock.

    Raises
    ------
    ConfigError
        If it is none of these.

    Examples
    --------
    >>> moment("-1m", now_ns=100 * 10**9), moment("now", now_ns=5), moment("1970-01-01T00:00:01Z")
    (40000000000, 5, 1000000000)
    """
    found = _RELATIVE.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        return time_ns(text)
    now = SystemClock().now_ns() if now_ns is None else now_ns
    return now if found[1] is None else now + (-1 if found[1] == "-" else 1) * span_ns(found[2])


def near(glob: str, names: Sequence[str]) -> list[str]:
    """Up to three names close to a glob that selects none.

    Examples
    --------
    >>> near("site1/pres/1/temperatur", ["site1/press/1/temperature", "x"])
    ['site1/press/1/temperature']
    """
    some = list(names[:NAMES_MAX])
    close = difflib.get_close_matches(glob, some, n=3, cutoff=0.5)
    if close:
        return close
    # A piece of the glob that is in some name: the case was wrong, or the levels before it.
    words = sorted((w.lower() for w in re.split(r"[*?\[\]/]+", glob) if len(w) > 2), key=len, reverse=True)
    return next((hits for w in words if (hits := [n for n in some if w in n.lower()][:3])), [])


def query(
    history: History,
    tags: str | Sequence[str] = "*",
    start: TimeLike | None = None,
    end: TimeLike | None = None,
    every: SpanLike | None = None,
) -> pl.LazyFrame:
    """Samples of the tags, or with `every` their windows.

    Parameters
    ----------
    history
        Where to look.
    tags
        Glob or globs; each must select something (`"*"` may not, in an empty history).
    start, end
        ``start <= time < end``; None: no limit; also relative to now, such as ``"-1h"``.
    every
        Window length; None: the samples themselves.

    Returns
    -------
    polars.LazyFrame
        ``tag, time, value, quality`` or ``tag, time, count, min, max, mean, sum, first, last``.

    Raises
    ------
    UnknownTagError
        If a glob selects no tag.
    ConfigError
        If a time or span is none, or `end` is not after `start`.

    Examples
    --------
    >>> import tempfile, polars as pl
    >>> from iiot_dask.history import History
    >>> h = History(tempfile.mkdtemp())
    >>> _ = h.append(pl.DataFrame({"tag": ["a", "a"], "time": [0, 1], "value": [1.0, 2.0]}))
    >>> query(h, "a", every="1s").select("count", "sum").collect().rows()
    [(2, 3.0)]
    >>> query(h, "b*")
    Traceback (most recent call last):
    iiot_dask.core.errors.UnknownTagError: no tag matches 'b*'; the history knows 1, such as 'a'
    """
    start, end = (None if t is None else moment(t) for t in (start, end))
    if start is not None and end is not None and time_ns(end) <= time_ns(start):
        msg = f"end {time_text(time_ns(end))} is not after start {time_text(time_ns(start))}"
        raise ConfigError(msg)
    history.tags.refresh()
    for glob in [tags] if isinstance(tags, str) else tags:
        if glob != "*" and not len(history.tags.ids(glob)):
            names = history.tags.names()
            close = near(glob, names)
            hint = (
                f"; did you mean {' or '.join(map(repr, close))}?"
                if close
                else f", such as {names[0]!r}"
                if names
                else ""
            )
            msg = f"no tag matches {glob!r}; the history knows {len(names)}{hint}"
            raise UnknownTagError(msg)
    if every is None:
        return history.scan(tags, start, end)
    return history.aggregate(every, tags, start, end)
