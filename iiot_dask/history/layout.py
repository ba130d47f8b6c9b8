"""The shape of the table: columns of a row, names of files, limits. Pure; no I/O.

Rules. A row is a *block* (samples of many tags, sorted by tag then time) or a *chunk* (samples of one tag). Statistics
are over rows that are not bad (quality < 128) and not NaN. Partition values (`day` = UTC date of a file's first sample,
`shard` = who wrote it) are for other readers and for retention: pruning uses the tag and time ranges in the Delta log, so
a row may reach past its day. A file's name says all that is needed to check it: its number of samples, a hash of its
footer and a hash of all its bytes.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from iiot_dask.core.errors import ConfigError, DataError

FORMAT = 2
"""Version of the table this program writes; a table of a newer one is refused, one of an older one is raised at the first
write. 1: the beginning. 2: commits carry a note (`logcheck`), the write order is given by the commit, roll-up rows."""
ROW_FORMAT = 1
"""Version of the rows of blocks and chunks."""

TABLE_NAME = "iiot_dask.history"
DAY_NS = 86_400 * 10**9
HOUR_NS = 3_600 * 10**9
BLOCK_ROWS_MAX = 65_536
"""Most samples of a block row."""
CHUNK_ROWS_MAX, CHUNK_ROWS_MIN = 16_384, 1_024
"""Most samples of a chunk, and the fewest worth a row of their own (below that a tag stays in blocks)."""
FILE_ROWS_MAX = 16_000_000
"""Most samples of a sealed file: what one late row can cause to be rewritten."""
DAYS_MAX = 8
"""Most files one write is split into by day; rows of further days share the file of the oldest."""

BLOCK, CHUNK, ROLLUP = "block", "chunk", "rollup"
"""Kinds of rows: samples of many tags, samples of one tag, windows of one tag that stand for samples no longer kept."""

_STATS = ["min", "max", "sum", "first", "last"]
COLUMNS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=True),
        pa.field("tag", pa.string(), nullable=True),
        pa.field("tag_id", pa.int64(), nullable=True),
        pa.field("tag_min", pa.int64(), nullable=True),
        pa.field("tag_max", pa.int64(), nullable=True),
        pa.field("start_ns", pa.int64(), nullable=True),
        pa.field("end_ns", pa.int64(), nullable=True),
        pa.field("start", pa.timestamp("us", tz="UTC"), nullable=True),
        pa.field("end", pa.timestamp("us", tz="UTC"), nullable=True),
        pa.field("count", pa.int64(), nullable=True),
        pa.field("good", pa.int64(), nullable=True),
        *[pa.field(name, pa.float64(), nullable=True) for name in _STATS],
        pa.field("first_ns", pa.int64(), nullable=True),
        pa.field("last_ns", pa.int64(), nullable=True),
        pa.field("order", pa.int64(), nullable=True),
        pa.field("error_bound", pa.float64(), nullable=True),
        pa.field("error_max", pa.float64(), nullable=True),
        pa.field("format", pa.int32(), nullable=True),
        pa.field("check", pa.int64(), nullable=True),
        pa.field("tags", pa.binary(), nullable=True),
        pa.field("time", pa.binary(), nullable=True),
        pa.field("value", pa.binary(), nullable=True),
        pa.field("quality", pa.binary(), nullable=True),
    ]
)
"""Columns of a file. `start`/`end` (both inclusive) repeat the ns columns for readers that want timestamps; `quality`
null = every sample has code 0; `tags` null in chunks; `check` guards the fixed-width columns of the row."""

BLOBS = ("tags", "time", "value", "quality")
HEAD = tuple(name for name in COLUMNS.names if name not in BLOBS)
"""Every column but the blobs: the index of a file."""

TABLE = pa.schema([*COLUMNS, pa.field("day", pa.date32()), pa.field("shard", pa.int32())])
"""Columns of the Delta table: those of a file, and the partition columns."""

_CHECKED = (
    "tag_id",
    "tag_min",
    "tag_max",
    "start_ns",
    "end_ns",
    "count",
    "good",
    *_STATS,
    "first_ns",
    "last_ns",
    "order",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,119}")
_FILE = re.compile(
    r"^(?:day=[^/]+/shard=\d+/)?(?P<kind>block|chunk|rollup)-(?P<name>[A-Za-z0-9_.-]+)-(?P<part>\d+)-(?P<rows>\d+)"
    r"-(?P<footer>[0-9a-f]{16})-(?P<hash>[0-9a-f]{32})\.parquet$"
)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A written file that a commit can add: everything the Delta log needs, nothing to look up. Picklable.

    `path` is relative to the table; `size` in bytes; `rows` in samples; `stats` are the bounds for the log.
    """

    path: str
    size: int
    rows: int
    day: str
    shard: int
    stats: Mapping[str, Any] = field(default_factory=dict)

    def stats_json(self) -> str:
        """Statistics in the form of the Delta protocol ("Per-file Statistics")."""
        return json.dumps(dict(self.stats))


@dataclass(frozen=True, slots=True)
class FileName:
    """What a file's name says: `kind` of rows, number of samples, hashes of footer and file (hex)."""

    kind: str
    rows: int
    footer: str
    hash: str


def parse_name(path: str) -> FileName:
    """Read a file's name.

    Raises
    ------
    DataError
        If it is not one of ours.

    Examples
    --------
    >>> parse_name("day=2026-11-24/shard=0/block-a.1-0-500-" + "0" * 16 + "-" + "1" * 32 + ".parquet").rows
    500
    """
    found = _FILE.match(path)
    if found is None:
        msg = f"file {path!r} in the table's log is not named as this format names files; was it added by another program?"
        raise DataError(msg)
    return FileName(found["kind"], int(found["rows"]), found["footer"], found["hash"])


def file_name(kind: str, name: str, part: int, rows: int, content: memoryview) -> str:
    """The name for a Parquet file of these bytes.

    Raises
    ------
    ConfigError
        If `name` has characters that do not belong in a file name.
    """
    if not _NAME.fullmatch(name):
        msg = f"file name part {name!r} is not made of 1-120 letters, digits, '_', '.', '-'"
        raise ConfigError(msg)
    return f"{kind}-{name}-{part}-{rows}-{footer_hash(content)}-{file_hash(content)}.parquet"


def file_hash(content: memoryview) -> str:
    """SHA-256 of a file, its first 128 bits as hex."""
    return hashlib.sha256(content).hexdigest()[:32]


def footer_length(tail: memoryview) -> int:
    """Bytes of a Parquet footer, tail (length word and magic) included, given at least the file's last 8 bytes.

    Raises
    ------
    DataError
        If the bytes do not end as a Parquet file does.
    """
    if len(tail) < 8 or bytes(tail[-4:]) != b"PAR1":
        msg = "it does not end as a Parquet file does (cut short?)"
        raise DataError(msg)
    return int.from_bytes(tail[-8:-4], "little") + 8


def footer_hash(content: memoryview) -> str:
    """BLAKE2b-64 of a Parquet file's footer, hex: page checksums do not cover it."""
    length = footer_length(content)
    return hashlib.blake2b(content[-length:], digest_size=8).hexdigest()


def folder(day: str, shard: int) -> str:
    """Hive-style folder of a partition."""
    return f"day={day}/shard={shard}"


def day_text(time_ns: int) -> str:
    """UTC date of a time, ISO.

    Examples
    --------
    >>> day_text(-1), day_text(0)
    ('1969-12-31', '1970-01-01')
    """
    return (dt.date(1970, 1, 1) + dt.timedelta(days=time_ns // DAY_NS)).isoformat()


def log_stats(head: Mapping[str, npt.NDArray[Any]], kind: str) -> dict[str, Any]:
    """Bounds of a file for the Delta log, from its rows' columns (arrays of equal length, at least 1)."""
    low = {"kind": kind, "tag_min": int(head["tag_min"].min()), "tag_max": int(head["tag_max"].min())}
    high = {"kind": kind, "tag_min": int(head["tag_min"].max()), "tag_max": int(head["tag_max"].max())}
    for name in ("start_ns", "end_ns", "order", "count"):
        low[name] = int(head[name].min())
        high[name] = int(head[name].max())
    nulls = dict.fromkeys(low, 0)
    return {"numRecords": len(head["count"]), "minValues": low, "maxValues": high, "nullCount": nulls}


def row_check(head: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    """A 64-bit check of each row's fixed-width columns (floats by their bits, missing = 0), int64.

    Page checksums cover a page's data but not its header; this covers what the header could make us misread. Mixing is
    the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    h = np.full(len(head["count"]), 0x9E3779B97F4A7C15, np.uint64)
    for name in _CHECKED:
        h ^= np.ascontiguousarray(head[name]).view(np.uint64)
        h ^= h >> np.uint64(30)
        h *= np.uint64(0xBF58476D1CE4E5B9)
        h ^= h >> np.uint64(27)
        h *= np.uint64(0x94D049BB133111EB)
        h ^= h >> np.uint64(31)
    return h.view(np.int64)
