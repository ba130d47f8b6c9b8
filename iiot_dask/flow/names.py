"""Tag names as dense numbers for the life of one pipeline run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

UNKNOWN = np.uint32(0xFFFFFFFF)


class Names:
    """Numbers tags 0, 1, 2 … in order of appearance; operators keep their state in arrays of these numbers.

    Examples
    --------
    >>> names = Names()
    >>> names.ids(pl.Series(["a", "b", "a"])).tolist()
    [0, 1, 0]
    >>> names.texts(np.array([1, 0], np.uint32)).to_list()
    ['b', 'a']
    """

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.known: list[str] = list(known)
        self._index = {name: i for i, name in enumerate(self.known)}
        self._by_code = np.empty(0, np.uint32)
        """Polars' code of a category (the same while `_alive` lives) -> our number."""
        self._series: pl.Series | None = None
        self._alive = pl.Series(["iiot"], dtype=pl.Categorical)
        """Polars forgets its codes of categories when no column of that type is left; this one stays."""

    def __len__(self) -> int:
        return len(self.known)

    def number(self, name: str) -> int:
        """The number of one tag, new if need be."""
        found = self._index.get(name)
        if found is None:
            found = self._index[name] = len(self.known)
            self.known.append(name)
        return found

    def ids(self, tags: pl.Series) -> npt.NDArray[np.uint32]:
        """uint32 numbers of a column of names (String or Categorical); only names never seen cost a Python step."""
        category = tags if tags.dtype == pl.Categorical else tags.cast(pl.Categorical)
        codes = category.to_physical().to_numpy()
        if not len(codes):
            return np.empty(0, np.uint32)
        top = int(codes.max()) + 1
        if top > len(self._by_code):
            grown = np.full(max(top, 2 * len(self._by_code)), UNKNOWN, np.uint32)
            grown[: len(self._by_code)] = self._by_code
            self._by_code = grown
        out: npt.NDArray[np.uint32] = self._by_code[codes]
        missing = np.flatnonzero(out == UNKNOWN)
        if len(missing):
            new, at = np.unique(codes[missing], return_index=True)
            texts = category.gather(missing[at]).cast(pl.String).to_list()
            self._by_code[new] = [self.number(text) for text in texts]
            out = self._by_code[codes]
        return out

    def texts(self, ids: npt.NDArray[np.uint32]) -> pl.Series:
        """The names of numbers, a String column called ``tag``."""
        if self._series is None or len(self._series) != len(self.known):
            self._series = pl.Series("tag", self.known, dtype=pl.String)
        return self._series.gather(ids)
