"""`ExampleAdapter`: the adapter that ``iiot-dask adapters new`` copies. A device that sends lines ``name,value,time`` by TCP.

Six decisions every adapter makes are marked (1) to (6).
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from pydantic import Field, ValidationError

from iiot_dask.adapter.contract import RAW_BYTES_MAX, Context, Event, EventKind, Kept, Poll, TagInfo
from iiot_dask.core.batch import Batch, numpy_of
from iiot_dask.core.config import Model
from iiot_dask.core.errors import ConfigError, RemoteAdapterError
from iiot_dask.core.tags import check_tag

WAIT_S = 0.1
PIECE_BYTES = 1 << 20
LINE_BYTES_MAX = 1 << 16
COLUMNS = pa.schema({"name": pa.string(), "value": pa.float64(), "time": pa.int64()})
TIME = r"^-?[0-9]{1,18}$|^[0-8][0-9]{18}$"  # what an int64 can hold
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"


class Options(Model):
    """`[adapters.options]` of this adapter. (1) What can be set, with defaults, limits and a sentence each."""

    backoff_max: float = Field(10.0, gt=0, description="longest wait between two tries to connect, seconds")
    tags_max: int = Field(10_000, ge=1, description="most different names taken from one device")


def parse(data: bytes) -> tuple[pa.Table, list[bytes]]:
    r"""Whole lines -> a table (name: text, value: float64, time: int64 ns), and the lines that are none.

    (2) Bytes become columns in one call for all of them, never in a Python loop over samples.

    Examples
    --------
    >>> table, wrong = parse(b"oven/t,21.5,1700000000000000000\nnonsense\n")
    >>> table.to_pylist(), wrong
    ([{'name': 'oven/t', 'value': 21.5, 'time': 1700000000000000000}], [b'nonsense'])
    """
    wrong: list[bytes] = []

    def no_row(row: csv.InvalidRow) -> str:
        wrong.append(row.text.encode())
        return "skip"

    # Bytes that are no UTF-8 become U+FFFD here, and a name with one in it is refused below.
    text = data.decode("utf-8", "replace").replace("\0", "\ufffd").encode()
    if not text.strip():
        return COLUMNS.empty_table(), wrong
    table = csv.read_csv(
        pa.BufferReader(text),
        csv.ReadOptions(column_names=COLUMNS.names, use_threads=False),
        csv.ParseOptions(quote_char=False, invalid_row_handler=no_row),
        csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS.names, pa.string()), strings_can_be_null=False),
    )
    fits = pc.and_(pc.match_substring_regex(table["value"], NUMBER), pc.match_substring_regex(table["time"], TIME))
    wrong += [",".join(row.values()).encode() for row in table.filter(pc.invert(fits)).to_pylist()]
    return table.filter(fits).cast(COLUMNS).combine_chunks(), wrong


class Book:
    """Names of the device -> local tag numbers, in the order they are announced."""

    def __init__(self, context: Context, options: Options) -> None:
        config = context.config
        self._prefix = f"{config.name}/"
        self._wanted = {tag.address or tag.tag: tag.tag for tag in config.tags}
        self._max = options.tags_max
        self._numbers: dict[str, int] = {}
        self.fresh: list[TagInfo] = []

    def number(self, name: str) -> int | str:
        """The local number of a name, announced if it is new; a sentence when it is not to be read."""
        known = self._numbers.get(name)
        if known is not None:
            return known
        if self._wanted and name not in self._wanted:
            return f"{name[:80]!r} is not in the plant file"
        if len(self._numbers) >= self._max:
            return f"more than options.tags_max = {self._max} names"
        if "\ufffd" in name:
            return "a name is no UTF-8"
        try:
            tag = check_tag(self._wanted.get(name, self._prefix + name))
        except ConfigError as error:
            return str(error)
        # (3) A tag hangs from a node of the plant: what fails together must share one.
        self.fresh.append(TagInfo(tag, tag.rpartition("/")[0] or self._prefix[:-1], name))
        self._numbers[name] = len(self._numbers)
        return self._numbers[name]


class ExampleAdapter:
    """Reads lines ``name,value,time`` (time in ns since 1970) from ``tcp://host:port``; never writes to the device."""

    kind: ClassVar[str] = "example"
    summary: ClassVar[str] = "Lines of name,value,time from a TCP socket"
    options_model: ClassVar[type[Model]] = Options
    bench: ClassVar[str] = "iiot_dask.adapter.example_bench:ExampleBench"

    def __init__(self, context: Context) -> None:
        config = context.config
        self._name = config.name
        self._clock = context.clock
        self._timeout_s = config.timeout / 1e9
        try:
            self._options = Options.model_validate(config.options)
        except ValidationError as error:
            wrong = [f"options.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
            msg = f"adapter {self._name!r}: {'; '.join(wrong)}"
            raise ConfigError(msg) from error
        self._host, self._port = self._address(config.endpoint or "")
        self._book = Book(context, self._options)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._rest = b""
        self._failures = 0
        self._next_try = 0.0

    def _address(self, endpoint: str) -> tuple[str, int]:
        found = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.]+\]|[^/:@\s]+):([0-9]{1,5})/?", endpoint)
        if not found or not 0 < int(found[2]) < 65536:
            msg = f"adapter {self._name!r}: endpoint {endpoint!r}; 'tcp://host:port' is expected"
            raise ConfigError(msg)
        return found[1].strip("[]"), int(found[2])

    async def open(self, position: str | None) -> None:
        """Nothing yet: `read` connects. (4) This device keeps no past, so there is no position to go on from."""

    async def read(self) -> Poll:
        """The lines that came; at most 100 ms are waited for them."""
        if self._streams is None:
            return await self._connect()
        reader, _ = self._streams
        try:
            data = await asyncio.wait_for(reader.read(PIECE_BYTES), WAIT_S)
        except TimeoutError:
            return Poll()
        except OSError as error:
            return self._lost(str(error) or type(error).__name__)
        if not data:
            return self._lost("the device closed the connection")
        whole, _, self._rest = (self._rest + data).rpartition(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            cut, self._rest = self._rest[:RAW_BYTES_MAX], b""
            return Poll(events=(self._event("malformed", f"a line of more than {LINE_BYTES_MAX} bytes", raw=cut),))
        return self._poll(whole + b"\n") if whole else Poll()

    def _poll(self, data: bytes) -> Poll:
        table, wrong = parse(data)
        names = table["name"].combine_chunks().dictionary_encode()
        numbers = [self._book.number(name) for name in names.dictionary.to_pylist()]
        known = np.array([n if isinstance(n, int) else -1 for n in numbers], np.int64)
        local = known[numpy_of(names.indices, np.int32)]
        batch = Batch.of(
            tag=local.clip(0),
            time=numpy_of(table["time"].combine_chunks(), np.int64),
            value=numpy_of(table["value"].combine_chunks(), np.float64),
            received=np.full(len(local), self._clock.now_ns()),
        ).take(local >= 0)
        events: list[Event] = []
        if wrong:
            # (5) Whatever can not be used is told, counted, and shown by its first bytes; it ends nothing.
            events.append(
                self._event("malformed", "a line is not name,value,time", len(wrong), wrong[0][:RAW_BYTES_MAX])
            )
        refused = Counter(n for n in numbers if isinstance(n, str))
        events += [self._event("rejected", why, count) for why, count in refused.most_common(10)]
        fresh, self._book.fresh = tuple(self._book.fresh), []
        return Poll(fresh, batch, tuple(events))

    async def _connect(self) -> Poll:
        loop = asyncio.get_running_loop()
        if loop.time() < self._next_try:
            await asyncio.sleep(min(WAIT_S, self._next_try - loop.time()))
            return Poll()
        try:
            self._streams = await asyncio.wait_for(
                asyncio.open_connection(self._host, self._port, limit=2 * PIECE_BYTES), self._timeout_s
            )
        except (OSError, TimeoutError) as error:
            return self._lost(str(error) or type(error).__name__)
        self._rest, self._failures = b"", 0
        return Poll(events=(self._event("connected", f"tcp://{self._host}:{self._port}"),))

    def _lost(self, why: str) -> Poll:
        """(6) A device that is away is no error: try again, ever more slowly, never in step with others; say so once."""
        first = self._streams is not None or not self._failures
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
        wait_s = min(self._options.backoff_max, 0.1 * 2 ** min(self._failures, 16)) * random.uniform(0.5, 1)
        self._next_try = asyncio.get_running_loop().time() + wait_s
        self._failures += 1
        return Poll(events=(self._event("disconnected", why),) if first else ())

    def _event(self, kind: EventKind, reason: str, count: int = 1, raw: bytes = b"") -> Event:
        return Event(kind, self._name, self._clock.now_ns(), reason, count, raw)

    async def acknowledge(self, position: str) -> None:
        """Nothing to do: there are no positions."""

    async def close(self) -> None:
        """End the connection."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            await asyncio.wait({asyncio.ensure_future(writer.wait_closed())}, timeout=1.0)

    @classmethod
    async def check(cls, context: Context) -> list[str]:
        """Whether the device takes a connection."""
        try:
            adapter = cls(context)
        except ConfigError as error:
            return [str(error)]
        poll = await adapter._connect()
        await adapter.close()
        return [f"{context.config.endpoint}: {e.reason}" for e in poll.events if e.kind == "disconnected"]

    @classmethod
    async def discover(cls, context: Context) -> list[TagInfo]:
        """The names the device sends within two seconds.

        Raises
        ------
        RemoteAdapterError
            If it can not be reached.
        """
        adapter, found = cls(context), dict[str, TagInfo]()
        loop = asyncio.get_running_loop()
        end = loop.time() + 2.0
        try:
            while loop.time() < end:
                poll = await adapter.read()
                found |= {info.tag: info for info in poll.tags}
                lost = [event.reason for event in poll.events if event.kind == "disconnected"]
                if lost:
                    msg = f"{context.config.endpoint}: {lost[0]}"
                    raise RemoteAdapterError(msg)
        finally:
            await adapter.close()
        return list(found.values())

    @classmethod
    async def decode(cls, context: Context, kept: Sequence[Kept]) -> Poll:
        """Lines out of the quarantine, parsed again."""
        adapter = cls(context)
        return adapter._poll(b"".join(item.raw.rstrip(b"\n") + b"\n" for item in kept))
