"""`query`: what the command line asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iiot_dask.core.errors import ConfigError, UnknownTagError
from iiot_dask.core.times import SpanLike, TimeLike, time_ns, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from iiot_dask.history import History


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
        ``start <= time < end``; None: no limit.
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
    if start is not None and end is not None and time_ns(end) <= time_ns(start):
        msg = f"end {time_text(time_ns(end))} is not after start {time_text(time_ns(start))}"
        raise ConfigError(msg)
    history.tags.refresh()
    for glob in [tags] if isinstance(tags, str) else tags:
        if glob != "*" and not len(history.tags.ids(glob)):
            names = history.tags.names()
            hint = f", such as {names[0]!r}" if names else ""
            msg = f"no tag matches {glob!r}; the history knows {len(names)}{hint}"
            raise UnknownTagError(msg)
    if every is None:
        return history.scan(tags, start, end)
    return history.aggregate(every, tags, start, end)
