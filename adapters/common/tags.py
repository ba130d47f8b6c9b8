"""Local tag numbers, dealt once each and announced once, for adapters that learn their tags from what they are sent."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.tags import check_tag

ADDRESS_MAX = 250
"""Characters kept of an address: four UTF-8 bytes each still fit the catalogue's 1,024."""
CROWDED = "more different tags than tags_max; further ones are not taken"


def device(tag: str, fallback: str) -> str:
    """The topology node of a tag: its name without the last level, `fallback` if it has one level only.

    Examples
    --------
    >>> device("site1/press/1/temperature", "x"), device("load1", "edge")
    ('site1/press/1', 'edge')
    """
    return tag.rpartition("/")[0] or fallback


class Tags:
    """Names to local numbers.

    Parameters
    ----------
    classes
        (glob, period in ns); the first that matches a tag gives its expected period.
    limit
        Most tags: the guard against a source that invents names.
    adapter
        Node of tags whose name has one level only.

    Examples
    --------
    >>> tags = Tags([("*/t", 10)], limit=2, adapter="x")
    >>> tags.add("a/t", "1"), tags.add("a/p", "2"), tags.add("a/t", "1")
    (0, 1, 0)
    >>> [(info.tag, info.device, info.period_ns) for info in tags.fresh()], tags.fresh()
    ([('a/t', 'a', 10), ('a/p', 'a', None)], ())
    >>> tags.add("a/q", "3")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: tag 'a/q': more different tags than tags_max; further ones are not taken
    """

    def __init__(self, classes: Sequence[tuple[str, int]], limit: int, adapter: str) -> None:
        self._classes = [(re.compile(fnmatch.translate(glob)).match, period) for glob, period in classes]
        self._limit = limit
        self._adapter = adapter
        self._number: dict[str, int] = {}
        self._fresh: list[TagInfo] = []

    def __len__(self) -> int:
        return len(self._number)

    def add(self, tag: str, address: str, unit: str | None = None) -> int:
        """The number of a tag; at first sight it is dealt and will be announced.

        Raises
        ------
        ConfigError
            If the name is not legal, or there are too many.
        """
        number = self._number.get(tag)
        if number is not None:
            return number
        check_tag(tag)
        if len(self._number) >= self._limit:
            msg = f"tag {tag!r}: {CROWDED}"
            raise ConfigError(msg)
        number = self._number[tag] = len(self._number)
        period = next((p for match, p in self._classes if match(tag)), None)
        self._fresh.append(TagInfo(tag, device(tag, self._adapter), address[:ADDRESS_MAX], unit, period))
        return number

    def fresh(self) -> tuple[TagInfo, ...]:
        """Tags dealt since the last call."""
        out = tuple(self._fresh)
        self._fresh.clear()
        return out
