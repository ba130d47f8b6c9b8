"""Which tags there are: name, number, device, owner. SQLite on disk, arrays in memory.

Rules. A tag's number never changes and is never dealt twice. What `register` returns is durable. Memory changes only
after the disk has: a failed write leaves both as they were. One adapter owns a tag for as long as this process runs; a
second one that announces it is refused (two publishers with one identity), and the refusal is the caller's to report.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from iiot_dask.adapter.contract import TagInfo
from iiot_dask.core.errors import ChecksumError, ConfigError, DataError, UnknownTagError
from iiot_dask.core.tags import check_tag
from iiot_dask.ingest.strings import Strings, StringTable
from iiot_dask.ingest.tagstore import CHUNK_ROWS, MASK, Row, TagStore, column, signed

if TYPE_CHECKING:
    import polars as pl

NO_TAG = np.uint32(0xFFFFFFFF)
"""The number of a refused tag; never dealt."""
FILE = "catalogue.sqlite"
TEXT_BYTES_MAX = 1024
"""Longest device, address or unit an adapter may announce, UTF-8 bytes."""
_NONE = np.uint32(0xFFFFFFFF)
_TEXTS = ("device", "adapter", "address", "unit", "kind")
_ROW = np.dtype(
    [("id", np.uint32), *[(name, np.uint32) for name in _TEXTS], ("period_ns", np.int64), ("mark", np.uint64)]
)

log = structlog.get_logger("iiot_dask.ingest")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Answer to `Catalogue.enrol`: a number for each tag in order, `NO_TAG` where refused, and (position, why) of those."""

    ids: npt.NDArray[np.uint32]
    refused: tuple[tuple[int, str], ...]


class Columns:
    """The catalogue in memory: tag names interned, the rest as codes into interned texts; 44 bytes a tag and its texts."""

    def __init__(self) -> None:
        self.names = StringTable()
        self.texts = {name: StringTable() for name in _TEXTS}
        self.rows: npt.NDArray[np.void] = np.zeros(64, _ROW)
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def table(self) -> npt.NDArray[np.void]:
        """The rows in use, a view."""
        return self.rows[: len(self.names)]

    def encode(self, ids: npt.NDArray[np.uint32], names: Strings, values: dict[str, list[Any]]) -> npt.NDArray[np.void]:
        """Rows for tags with these values, fingerprints included; enters texts, not names."""
        out = np.zeros(len(ids), _ROW)
        out["id"] = ids
        for name, table in self.texts.items():
            out[name] = _codes(table, values[name])
        out["period_ns"] = [-1 if period is None else period for period in values["period_ns"]]
        scratch = StringTable()
        rows = scratch.add(names)
        out["mark"] = self._marks(out, scratch.hashes()[rows])
        return out

    def _marks(self, rows: npt.NDArray[np.void], names: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        mark = names ^ _mixed(rows["id"].astype(np.uint64) + np.uint64(1))
        for name, table in self.texts.items():
            # The last entry stands for None: code _NONE is index -1.
            hashes = np.append(table.hashes(), np.uint64(0x9E3779B97F4A7C15))
            codes = rows[name].astype(np.int64)
            mark = _mixed(mark) + hashes[np.where(rows[name] == _NONE, -1, codes)]
        return _mixed(_mixed(mark) + rows["period_ns"].astype(np.uint64))

    def append(self, names: Strings, rows: npt.NDArray[np.void]) -> None:
        """Add new tags."""
        have = len(self.names)
        self.names.add(names)
        if len(self.names) != have + len(rows):
            msg = f"{have + len(rows) - len(self.names)} tag names occur twice in the catalogue; each may once"
            raise ChecksumError(msg)
        if len(self.names) > len(self.rows):
            grown = np.zeros(max(len(self.names), 2 * len(self.rows)), _ROW)
            grown[:have] = self.rows[:have]
            self.rows = grown
        self.rows[have : len(self.names)] = rows

    def order(self) -> npt.NDArray[np.int64]:
        """Rows by ascending id."""
        if self._order is None or self._order[0] != len(self):
            self._order = (len(self), np.argsort(self.table["id"], kind="stable"))
        return self._order[1]

    def total(self) -> int:
        """Sum of fingerprints modulo 2**64."""
        return int(self.table["mark"].sum(dtype=np.uint64))

    def frame(self) -> pl.DataFrame:
        """One row a tag by ascending id."""
        import polars as pl

        order = self.order()
        table = self.table[order]
        columns: dict[str, Any] = {"id": table["id"], "tag": self.names.arrow().take(pa.array(order))}
        for name, texts in self.texts.items():
            codes = pa.array(table[name].astype(np.int64), mask=table[name] == _NONE)
            columns[name] = texts.arrow().take(codes)
        columns["period_ns"] = pa.array(table["period_ns"], mask=table["period_ns"] < 0)
        frame = pl.DataFrame(pl.from_arrow(pa.table(columns)))
        return frame.select("id", "tag", *_TEXTS, "period_ns")


class Catalogue:
    """All tags of a plant.

    Parameters
    ----------
    directory
        Holds ``catalogue.sqlite``; made when missing.
    allot
        Who numbers new tags, durably: tag names -> uint32, the same number for the same name for ever (history's
        dictionary). Default: the next dense number.

    Raises
    ------
    ChecksumError
        If the file is damaged and there is no `allot`. With one, the damaged file is put aside (`damaged`) and the
        catalogue starts empty: adapters announce their tags at every start, and `allot` knows their numbers.
    DataError
        If `allot` numbers a known tag differently: history and catalogue do not belong together.

    Examples
    --------
    >>> import tempfile
    >>> with Catalogue(Path(tempfile.mkdtemp())) as catalogue:
    ...     ids = catalogue.register("press-line", [TagInfo("a/t", "a", "holding:1"), TagInfo("a/p", "a", "holding:2")])
    ...     ids.tolist(), catalogue.ids(["a/p"]).tolist(), catalogue.name(0), catalogue.version
    ([0, 1], [1], 'a/t', 1)
    """

    def __init__(self, directory: Path, allot: Callable[[list[str]], npt.NDArray[np.uint32]] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / FILE
        self.damaged: Path | None = None
        self._allot = allot
        self._lock = threading.RLock()
        try:
            self._store, self._columns, self.version = _load(self.path, create=True)
        except ChecksumError as error:
            if allot is None:
                raise
            self.damaged = _aside(self.path)
            log.exception(
                "damaged catalogue put aside; adapters announce their tags anew",
                path=str(self.damaged),
                error=str(error),
            )
            self._store, self._columns, self.version = _load(self.path, create=True)
        self._owners: npt.NDArray[np.uint32] = np.full(max(64, len(self)), _NONE, np.uint32)
        try:
            self._agree()
        except BaseException:
            self._store.close()
            raise

    def _agree(self) -> None:
        """`allot` must number every known tag as the catalogue does."""
        if self._allot is None:
            return
        order = self._columns.order()
        names, ids = self._columns.names.arrow(), self._columns.table["id"]
        for begin in range(0, len(order), CHUNK_ROWS):
            rows = order[begin : begin + CHUNK_ROWS]
            chunk = names.take(pa.array(rows)).to_pylist()
            told = np.asarray(self._allot(chunk), np.uint32)
            wrong = np.flatnonzero(told != ids[rows])
            if len(wrong):
                first = wrong[0]
                msg = (
                    f"tag {chunk[first]!r} is number {ids[rows[first]]} in {self.path} and {told[first]} in history; "
                    "they do not belong together: restore both from one backup"
                )
                raise DataError(msg)

    def register(self, adapter: str, infos: Sequence[TagInfo]) -> npt.NDArray[np.uint32]:
        """Numbers of the tags, uint32, durable on return; known tags get their metadata updated.

        Raises
        ------
        ConfigError
            If any is refused: a name that is not allowed, or a tag another adapter owns. The rest is registered.
        CapacityError
            If the disk refuses; nothing changed.
        """
        enrolment = self.enrol(adapter, infos)
        if enrolment.refused:
            raise ConfigError("; ".join(why for _, why in enrolment.refused[:10]))
        return enrolment.ids

    def enrol(self, adapter: str, infos: Sequence[TagInfo]) -> Enrolment:
        """As `register`, but what is refused gets `NO_TAG` and a sentence instead of an exception."""
        with self._lock:
            return self._enrol(adapter, infos)

    def _enrol(self, adapter: str, infos: Sequence[TagInfo]) -> Enrolment:
        refused = [(i, why) for i, info in enumerate(infos) if (why := _fault(info))]
        bad = {i for i, _ in refused}
        good = np.array([i for i in range(len(infos)) if i not in bad], np.int64)
        ids = np.full(len(infos), NO_TAG, np.uint32)
        names = [infos[i].tag for i in good]
        found = self._columns.names.find(names)
        me = int(self._columns.texts["adapter"].add([adapter])[0])
        owner = np.where(found >= 0, self._owners[np.maximum(found, 0)], _NONE)
        foreign = (owner != _NONE) & (owner != me)
        for k in np.flatnonzero(foreign):
            theirs = self._columns.texts["adapter"].get(int(owner[k]))
            why = f"identity: tag {names[k]!r} of adapter {adapter!r} is already owned by adapter {theirs!r}"
            refused.append((int(good[k]), why))
        mine = np.flatnonzero(~foreign)
        ids[good[mine]] = self._settle(adapter, [infos[i] for i in good[mine]], found[mine])
        return Enrolment(ids, tuple(sorted(refused)))

    def _settle(self, adapter: str, infos: list[TagInfo], found: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        """Number, write and remember tags that are neither illegal nor another adapter's."""
        # A tag announced twice in one go counts once, the last description holds.
        last = {info.tag: i for i, info in enumerate(infos)}
        picked = np.fromiter(last.values(), np.int64, len(last))
        names, where = list(last), found[picked]
        new = where < 0
        ids = np.empty(len(names), np.uint32)
        ids[~new] = self._columns.table["id"][where[~new]]
        ids[new] = self._numbers([name for name, fresh in zip(names, new, strict=True) if fresh])
        rows = self._columns.encode(ids, names, _values(adapter, [infos[i] for i in picked]))
        changed = new.copy()
        changed[~new] = rows["mark"][~new] != self._columns.table["mark"][where[~new]]
        if changed.any():
            self._write(names, [infos[i] for i in picked], adapter, rows, where, changed)
        place = self._columns.names.find(names)
        self._claim(place, adapter)
        return self._columns.table["id"][self._columns.names.find([info.tag for info in infos])]

    def _numbers(self, names: list[str]) -> npt.NDArray[np.uint32]:
        if not names:
            return np.empty(0, np.uint32)
        taken = self._columns.table["id"]
        if self._allot is None:
            first = int(taken.max()) + 1 if len(taken) else 0
            return np.arange(first, first + len(names), dtype=np.uint32)
        ids = np.asarray(self._allot(names), np.uint32)
        if (
            len(ids) != len(names)
            or len(np.unique(ids)) != len(ids)
            or (ids == NO_TAG).any()
            or np.isin(ids, taken).any()
        ):
            msg = f"history's dictionary numbered {len(names)} new tags with {len(ids)} numbers that are not all new and different"
            raise DataError(msg)
        return ids

    def _write(
        self, names: list[str], infos: list[TagInfo], adapter: str, rows: npt.NDArray[np.void], where: npt.NDArray[np.int64],
        changed: npt.NDArray[np.bool_],
    ) -> None:  # fmt: skip
        new = where < 0
        old = self._columns.table["mark"][where[changed & ~new]]
        total = self._columns.total() - int(old.sum(dtype=np.uint64)) + int(rows["mark"][changed].sum(dtype=np.uint64))
        put: list[Row] = [
            (int(row["id"]), i.tag, i.device, adapter, i.address, i.unit, i.kind, i.period_ns, signed(int(row["mark"])))
            for i, row, dirty in zip(infos, rows, changed, strict=True)
            if dirty
        ]
        count = len(self._columns) + int(new.sum())
        self._store.put(put, version=self.version + 1, count=count, total=total & MASK)
        self._columns.table[where[changed & ~new]] = rows[changed & ~new]
        self._columns.append([name for name, fresh in zip(names, new, strict=True) if fresh], rows[new])
        self.version += 1

    def _claim(self, place: npt.NDArray[np.int64], adapter: str) -> None:
        if len(self._columns) > len(self._owners):
            grown = np.full(max(len(self._columns), 2 * len(self._owners)), _NONE, np.uint32)
            grown[: len(self._owners)] = self._owners
            self._owners = grown
        self._owners[place] = np.uint32(self._columns.texts["adapter"].add([adapter])[0])

    def ids(self, names: Strings) -> npt.NDArray[np.uint32]:
        """Numbers of tags by name (Python sequence or Arrow strings), uint32.

        Raises
        ------
        UnknownTagError
            Naming the first that is unknown.
        """
        with self._lock:
            found = self._columns.names.find(names)
            if len(found) and found.min() < 0:
                first = names[int(np.flatnonzero(found < 0)[0])]
                msg = f"tag {str(first)!r} is not in the catalogue of {len(self._columns)} tags"
                raise UnknownTagError(msg)
            return self._columns.table["id"][found]

    def name(self, tag: int) -> str:
        """Name of a tag by number.

        Raises
        ------
        UnknownTagError
            If no tag has it.
        """
        with self._lock:
            order = self._columns.order()
            at = int(np.searchsorted(self._columns.table["id"], tag, sorter=order))
            if at == len(order) or self._columns.table["id"][order[at]] != tag:
                msg = f"tag number {tag} is not in the catalogue of {len(order)} tags"
                raise UnknownTagError(msg)
            return self._columns.names.get(int(order[at]))

    def names(self) -> list[str]:
        """All names by ascending number; where numbers are dense the position is the number."""
        with self._lock:
            out: list[str] = self._columns.names.arrow().take(pa.array(self._columns.order())).to_pylist()
            return out

    def frame(self) -> pl.DataFrame:
        """One row a tag by ascending id: id, tag, device, adapter, address, unit, kind, period_ns (ns)."""
        with self._lock:
            return self._columns.frame()

    def __len__(self) -> int:
        return len(self._columns)

    def close(self) -> None:
        """Let go of the file; look-ups go on working."""
        with self._lock:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_catalogue(directory: Path) -> pl.DataFrame:
    """The catalogue of a data directory as `Catalogue.frame`, from any process; no rows if there is none yet.

    Raises
    ------
    ChecksumError
        If the file is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return Columns().frame()
    store, columns, _ = _load(path, create=False)
    store.close()
    return columns.frame()


def _load(path: Path, *, create: bool) -> tuple[TagStore, Columns, int]:
    store = TagStore(path, create=create)
    try:
        with store.snapshot():
            meta = store.meta()
            columns = _read(store)
        if len(columns) != meta["rows"] or signed(columns.total()) != meta["sum"]:
            msg = f"catalogue {path}: {len(columns)} tags found, {meta['rows']} were written"
            raise ChecksumError(msg)  # noqa: TRY301 -- the store is closed for every reason alike
    except BaseException:
        store.close()
        raise
    return store, columns, meta["version"]


def _read(store: TagStore) -> Columns:
    """All rows of a store, each checked against its fingerprint."""
    columns = Columns()
    for rows in store.read():
        try:
            names = column(rows, 1)
            values = {name: column(rows, i) for i, name in enumerate(_TEXTS, 2)} | {"period_ns": column(rows, 7)}
            coded = columns.encode(np.array(column(rows, 0), np.uint32), names, values)
            marks = np.array(column(rows, 8), np.int64).view(np.uint64)
        except (TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            msg = f"catalogue {store.path}: a row between ids {rows[0][0]} and {rows[-1][0]} is damaged: {error}"
            raise ChecksumError(msg) from error
        wrong = np.flatnonzero(marks != coded["mark"])
        if len(wrong):
            msg = f"catalogue {store.path}: tag number {rows[wrong[0]][0]} does not match its fingerprint"
            raise ChecksumError(msg)
        columns.append(names, coded)
    return columns


def _aside(path: Path) -> Path:
    """Rename a damaged file and its rollback journal; the newest damage is kept."""
    target = path.with_suffix(".damaged")
    path.replace(target)
    path.with_name(path.name + "-journal").unlink(missing_ok=True)
    return target


def _fault(info: TagInfo) -> str:
    """Why a tag can not be registered; empty when it can."""
    try:
        check_tag(info.tag)
        for name in ("device", "address", "unit"):
            text = getattr(info, name) or ""
            if len(text.encode()) > TEXT_BYTES_MAX:
                return f"tag {info.tag!r}: {name} has {len(text.encode())} UTF-8 bytes; at most {TEXT_BYTES_MAX} are allowed"
    except (ConfigError, UnicodeEncodeError) as error:
        return str(error)
    return ""


def _values(adapter: str, infos: Sequence[TagInfo]) -> dict[str, list[Any]]:
    return {
        "device": [i.device for i in infos],
        "adapter": [adapter] * len(infos),
        "address": [i.address for i in infos],
        "unit": [i.unit for i in infos],
        "kind": [i.kind for i in infos],
        "period_ns": [i.period_ns for i in infos],
    }


def _codes(table: StringTable, values: list[Any]) -> npt.NDArray[np.uint32]:
    """Codes of texts in their table; None is `_NONE`."""
    array = pa.array(values, pa.large_string())
    out = np.full(len(array), _NONE, np.uint32)
    known = array.is_valid().to_numpy(zero_copy_only=False)
    out[known] = table.add(array.drop_null())
    return out


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finaliser of MurmurHash3, 64 bit."""
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    x = (x ^ (x >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    out: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(33))
    return out
