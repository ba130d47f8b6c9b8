"""The conformance kit: what every adapter must stand, tried out on one adapter with a source that its author provides.

`run` makes eight trials (`TRIALS`) and reports each as passed, failed or not applicable. A trial is a function of a `Kit`;
what it returns are sentences on what is wrong, none when all is well. `life_cycle` is the contract of `testing`, the
others play with the source: they fill the pipe, cut the cable, turn the clock, and send what nobody should send.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from iiot_dask.adapter.bench import Bench, NotApplicable
from iiot_dask.adapter.contract import Adapter, Context, Event
from iiot_dask.adapter.host import Delivery, Host
from iiot_dask.adapter.limits import take_limits
from iiot_dask.adapter.message import check_poll
from iiot_dask.adapter.testing import SECRET, AdapterContract
from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.config import PlantFile
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.metrics import Metrics
from iiot_dask.core.plantfile import LoadedPlant
from iiot_dask.core.quality import Quality
from iiot_dask.core.registry import Registry

GROUP = "iiot_dask.adapters"
PATIENCE_S = 30.0
"""Longest a trial waits for one thing to happen, seconds."""
BLOCK_S = 1.5
GROWTH_MAX = 96 << 20
"""Bytes a process may grow by while nobody takes its rows, or while it is fed with noise."""
FUZZ_MAX = 200
FUZZ_S = 5.0
TAGS = ("kit/line 1/temperature", "kit/line 1/pressure")
UNICODE = ("Zürich/Öfen 3/Temperatur", "завод/линия 2/давление", "工場/🌡️/値")
POISON: tuple[bytes, ...] = (
    b"", b"\x00" * 64, b"\xff" * 512, b"{", b'{"v": ', b"[" * 500, b"NaN,NaN,NaN", b"1e999", b"%s%n{0}", b"\r\n\r\n",
    "\u202etag,1,1".encode(), b"a" * 70_000,
)  # fmt: skip
TOLD = frozenset({"malformed", "rejected", "disconnected", "device_down", "overflow"})
STAMPS = (0, -1_000_000_000, 86_400_000_000_000, 4_102_444_800_000_000_000)
"""1970, just before, a day later, and the year 2100: what devices without a battery say."""

Verdict = Literal["passed", "failed", "n/a"]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one trial; `sentences` say what is wrong, or why it does not apply."""

    trial: str
    verdict: Verdict
    sentences: tuple[str, ...]
    seconds: float


class TurnedClock:
    """The system's clock, but its wall time can be turned."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.by_ns = 0

    def now_ns(self) -> int:
        """Wall time, ns since 1970-01-01 UTC."""
        return self._clock.now_ns() + self.by_ns

    def monotonic_ns(self) -> int:
        """Steady time, ns; not turned."""
        return self._clock.monotonic_ns()


class Reader:
    """One adapter in this process, opened, and all it has said."""

    def __init__(self, adapter: Adapter, patience_s: float) -> None:
        self.adapter = adapter
        self.patience_s = patience_s
        self.names: list[str] = []
        self.rows: dict[str, int] = {}
        self.good: dict[str, int] = {}
        self.events: list[Event] = []
        self.received: tuple[int, int] | None = None
        self.times: set[int] = set()
        self.replaced = 0

    async def read(self) -> None:
        """Read once."""
        poll = await asyncio.wait_for(self.adapter.read(), self.patience_s)
        check_poll(poll)
        self.names += [info.tag for info in poll.tags]
        self.events += poll.events
        if poll.batch is None or not len(poll.batch):
            return
        for number, tag in enumerate(self.names):
            mine = poll.batch.tag == number
            self.rows[tag] = self.rows.get(tag, 0) + int(mine.sum())
            self.good[tag] = self.good.get(tag, 0) + int((mine & (poll.batch.quality < 128)).sum())
        received = poll.batch.received
        self.received = int(received.min()), int(received.max())
        self.replaced += int((poll.batch.quality == Quality.UNCERTAIN_TIME_REPLACED).sum())
        self.times |= set(np.unique(poll.batch.time)[:1000].tolist())

    async def until(self, condition: Callable[[], bool], again: Callable[[], None] | None = None) -> bool:
        """Read until a condition holds, calling `again` before each quarter of a second; False if it never does."""
        loop = asyncio.get_running_loop()
        end, due = loop.time() + self.patience_s, loop.time()
        while not condition():
            if loop.time() >= end:
                return False
            if again is not None and loop.time() >= due:
                await asyncio.to_thread(again)
                due = loop.time() + 0.25
            await self.read()
        return True


class Kit:
    """One adapter, one source, and what the trials share."""

    def __init__(self, adapter: type[Adapter], bench: type[Bench], patience_s: float = PATIENCE_S) -> None:
        self.adapter = adapter
        self.bench = bench
        self.patience_s = patience_s

    @contextmanager
    def source(self) -> Iterator[Bench]:
        """A fresh source in a fresh folder, which is the current one meanwhile, as a plant file's would be."""
        before = Path.cwd()
        with tempfile.TemporaryDirectory(prefix="iiot-kit-") as folder:
            os.chdir(folder)
            try:
                with self.bench(Path(folder)) as bench:
                    yield bench
            finally:
                os.chdir(before)

    def config(self, section: dict[str, Any]) -> AdapterConfig:
        """A section as the plant file would hold it, and as the adapter sees it."""
        config = AdapterConfig.model_validate({"name": "kit", "kind": self.adapter.kind} | section)
        return take_limits(config)[0]

    async def reading(
        self, section: dict[str, Any], doing: Callable[[Reader], Any], clock: Clock | None = None
    ) -> list[str]:
        """Open the adapter on a section, run `doing` with a reader of it, close it."""
        context = Context(self.config(section), lambda _reference: SECRET, clock or SystemClock())
        adapter = self.adapter(context)
        try:
            await asyncio.wait_for(adapter.open(None), self.patience_s)
            found: list[str] = await doing(Reader(adapter, self.patience_s))
        finally:
            await asyncio.wait_for(adapter.close(), self.patience_s)
        return found


# -- the trials ------------------------------------------------------------------------------------------------------


def life_cycle(kit: Kit) -> list[str]:
    """Opens, reads, resumes, checks, closes, and leaves nothing behind: every rule of `iiot_dask.adapter.testing`."""
    with kit.source() as bench:
        section = bench.section(TAGS)
        stop = threading.Event()

        def feed() -> None:
            while not stop.wait(0.05):
                bench.send(2)

        feeder = threading.Thread(target=feed, name="asyncio_feeder", daemon=True)
        feeder.start()

        async def warm(reader: Reader) -> list[str]:
            await reader.until(lambda: bool(sum(reader.rows.values())))
            return []

        try:
            # Once before anything is counted: a library's pool of threads is made at its first use, and stays.
            asyncio.run(kit.reading(section, warm))
            config = AdapterConfig.model_validate({"name": "kit", "kind": kit.adapter.kind} | section)
            findings = AdapterContract(kit.adapter, config, bench.folder, rows=4, verb_s=kit.patience_s).run()
        finally:
            stop.set()
            feeder.join()
    return [str(finding) for finding in findings]


def back_pressure(kit: Kit) -> list[str]:
    """While nobody takes its rows its process neither grows nor ends; then it goes on."""
    if kit.adapter.kind not in Registry[Adapter](GROUP, "adapter").names():
        msg = f"kind {kit.adapter.kind!r} is not installed, so the host can not start it"
        raise NotApplicable(msg)
    with kit.source() as bench:
        gate, taken = threading.Event(), [0]

        def deliver(delivery: Delivery) -> None:
            if delivery.poll.batch is not None:
                gate.wait(kit.patience_s)
                taken[0] += len(delivery.poll.batch)
            if delivery.poll.position is not None:
                host.acknowledge("kit", delivery.poll.position, delivery.incarnation)

        section = {"name": "kit", "kind": kit.adapter.kind} | bench.section(TAGS)
        plant = LoadedPlant(
            bench.folder / "plant.toml", PlantFile.model_validate({"plant": {"name": "kit"}, "adapters": [section]})
        )
        host = Host(plant, deliver, {}, clock=SystemClock(), metrics=Metrics())
        host.start()
        try:
            return _blocked(host, bench, gate, taken, kit.patience_s)
        finally:
            gate.set()
            host.stop(5)


def _blocked(host: Host, bench: Bench, gate: threading.Event, taken: list[int], patience_s: float) -> list[str]:
    def wait(condition: Callable[[], bool]) -> bool:
        end = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() > end:
                return False
            bench.send(1)
            time.sleep(0.1)
        return True

    if not wait(lambda: host.status()[0].state == "running"):
        return [f"it is {host.status()[0].state} after {patience_s:g} s: {host.status()[0].reason}"]
    process = psutil.Process(host.status()[0].pid)
    bench.send(1)
    time.sleep(0.5)
    before, end = process.memory_info().rss, time.monotonic() + BLOCK_S
    while time.monotonic() < end:
        bench.send(500)
        time.sleep(0.01)
    status = host.status()[0]
    if status.restarts or status.pid is None:
        return [f"it did not live through {BLOCK_S:g} s of a blocked host: {status.reason}"]
    grown = process.memory_info().rss - before
    gate.set()
    found = [f"it grew by {grown} bytes in {BLOCK_S:g} s of a blocked host"] if grown > GROWTH_MAX else []
    if not wait(lambda: taken[0] > 0):
        found.append(f"no rows came in {patience_s:g} s after the host took them again")
    if host.status()[0].restarts:
        found.append(f"it was restarted: {host.status()[0].reason}")
    return found


def bad_tag(kit: Kit) -> list[str]:
    """A tag that its source does not have costs no other tag its rows, and never has a good value."""
    with kit.source() as bench:
        section = bench.absent_tag(bench.section(TAGS))

        async def doing(reader: Reader) -> list[str]:
            there = await reader.until(lambda: all(reader.good.get(t, 0) >= 3 for t in TAGS), lambda: bench.send(1))
            found = [] if there else [f"the other tags have no rows: {reader.good}, {_last(reader)}"]
            if reader.good.get("kit/absent"):
                found.append(f"{reader.good['kit/absent']} good rows of a tag that is not there")
            return found

        return asyncio.run(kit.reading(section, doing))


def reconnect(kit: Kit) -> list[str]:
    """A source that went away is told, and read again when it is back, with nobody's help."""
    with kit.source() as bench:

        async def doing(reader: Reader) -> list[str]:
            if not await reader.until(lambda: bool(sum(reader.good.values())), lambda: bench.send(1)):
                return [f"there are no rows to begin with: {_last(reader)}"]
            await asyncio.to_thread(bench.cut)
            gone = {"disconnected", "device_down"}
            told = await reader.until(lambda: any(event.kind in gone for event in reader.events))
            await asyncio.to_thread(bench.mend)
            before = sum(reader.good.values())
            back = await reader.until(lambda: sum(reader.good.values()) >= before + 2, lambda: bench.send(1))
            found = [] if told else ["no 'disconnected' or 'device_down' event says that the source went away"]
            if not back:
                found.append(f"no rows come in {kit.patience_s:g} s after the source is back: {_last(reader)}")
            elif not any(event.kind in {"connected", "device_up"} for event in reader.events[1:]):
                found.append("no 'connected' or 'device_up' event says that it is back")
            return found

        return asyncio.run(kit.reading(bench.section(TAGS), doing))


def clock(kit: Kit) -> list[str]:
    """Wall time that is turned, and devices that tell impossible times, end nothing."""
    turned = TurnedClock()
    with kit.source() as bench:

        async def doing(reader: Reader) -> list[str]:
            found = []
            for by_s in (0, -3600, 86_400, 0):
                turned.by_ns = by_s * 1_000_000_000
                reader.received = None
                before = sum(reader.rows.values())
                # Rows that were received before the turn may still be on their way: the second answer counts.
                if not await _goes_on(reader, bench, before + 4):
                    found.append(f"no rows come once the clock is turned by {by_s} s")
                newest = reader.received[1] if reader.received else 0
                if newest > 0:
                    off_s = (turned.now_ns() - newest) / 1e9
                    if abs(off_s) > kit.patience_s:
                        found.append(
                            f"rows are received {off_s:.0f} s before the context's clock: another clock is used"
                        )
            return found + await _stamps(reader, bench)

        return asyncio.run(kit.reading(bench.section(TAGS), doing, turned))


async def _stamps(reader: Reader, bench: Bench) -> list[str]:
    found: list[str] = []
    for stamp in STAMPS:
        before = len(reader.events), reader.replaced
        try:
            await asyncio.to_thread(bench.stamp, stamp)
        except NotApplicable:
            return found
        seen = await reader.until(
            lambda s=stamp, b=before: (  # type: ignore[misc]
                s in reader.times or reader.replaced > b[1] or any(e.kind in TOLD for e in reader.events[b[0] :])
            )
        )
        if not seen:
            found.append(
                f"a sample of time {stamp} ns neither comes as it is, nor with a time replaced, nor is an event"
            )
    return found


def unicode(kit: Kit) -> list[str]:
    """Tag names are text of any language, and come out as they went in."""
    with kit.source() as bench:
        section = bench.section(UNICODE)

        async def doing(reader: Reader) -> list[str]:
            there = await reader.until(lambda: all(reader.good.get(t) for t in UNICODE), lambda: bench.send(1))
            return (
                []
                if there
                else [f"rows of {[t for t in UNICODE if not reader.good.get(t)]} are missing; {_last(reader)}"]
            )

        return asyncio.run(kit.reading(section, doing))


def poison(kit: Kit) -> list[str]:
    """Bytes that nobody should send are told as events, and what follows is read."""
    return _fed(kit, POISON, len(POISON) * kit.patience_s, one_by_one=True)


def fuzz(kit: Kit) -> list[str]:
    """Noise for some seconds, the same each time: no crash, no hang, no growth."""
    rng = random.Random(8)
    noise = [rng.randbytes(rng.choice((1, 7, 64, 400))) for _ in range(FUZZ_MAX)]
    return _fed(kit, noise, FUZZ_S, one_by_one=False)


def _fed(kit: Kit, pieces: Sequence[bytes], at_most_s: float, *, one_by_one: bool) -> list[str]:
    with kit.source() as bench:

        async def doing(reader: Reader) -> list[str]:
            if not await reader.until(lambda: bool(sum(reader.good.values())), lambda: bench.send(1)):
                return [f"there are no rows to begin with: {_last(reader)}"]
            loop = asyncio.get_running_loop()
            before, end, found = psutil.Process().memory_info().rss, loop.time() + at_most_s, list[str]()
            for piece in pieces:
                if loop.time() > end:
                    break
                await asyncio.to_thread(bench.poison, piece)
                await reader.read()
                if one_by_one and not await _goes_on(reader, bench):
                    return [f"no rows come after {piece[:24]!r} ({len(piece)} bytes); {_last(reader)}"]
            if not await _goes_on(reader, bench):
                found.append(f"no rows come after it was fed with noise; {_last(reader)}")
            if not any(event.kind in TOLD for event in reader.events):
                found.append("no event says that there was anything that could not be used")
            grown = psutil.Process().memory_info().rss - before
            if grown > GROWTH_MAX:
                found.append(f"it grew by {grown} bytes while it was fed with noise")
            return found

        return asyncio.run(kit.reading(bench.section(TAGS), doing))


async def _goes_on(reader: Reader, bench: Bench, rows: int | None = None) -> bool:
    """Whether there are so many rows in the end; one good one more than now if not said."""
    wanted = sum(reader.good.values()) + 1 if rows is None else rows
    counted = reader.good if rows is None else reader.rows
    return await reader.until(lambda: sum(counted.values()) >= wanted, lambda: bench.send(1))


def _last(reader: Reader) -> str:
    return "; ".join(f"{event.kind}: {event.reason}" for event in reader.events[-3:]) or "it reported no event"


TRIALS: dict[str, Callable[[Kit], list[str]]] = {
    "life cycle": life_cycle,
    "back-pressure": back_pressure,
    "bad tag": bad_tag,
    "reconnect": reconnect,
    "clock": clock,
    "unicode": unicode,
    "poison": poison,
    "fuzz": fuzz,
}


def bench_of(adapter: type[Adapter]) -> type[Bench]:
    """The source that an adapter's author provides.

    Raises
    ------
    ConfigError
        If there is none, or it does not import.
    """
    target = getattr(adapter, "bench", None)
    if not isinstance(target, str) or target.count(":") != 1:
        msg = f"adapter {adapter.kind!r} has bench = {target!r}; 'module:Class' of an iiot_dask.adapter.bench.Bench is needed"
        raise ConfigError(msg)
    module, _, name = target.partition(":")
    try:
        found: type[Bench] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        msg = f"adapter {adapter.kind!r}: its bench {target!r} does not import: {error}"
        raise ConfigError(msg) from error
    return found


def run(
    adapter: type[Adapter],
    bench: type[Bench] | None = None,
    *,
    only: Sequence[str] = (),
    patience_s: float = PATIENCE_S,
    told: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Try an adapter out.

    Parameters
    ----------
    adapter
        The class.
    bench
        Its source; its own `bench` if absent.
    only
        Names of `TRIALS`; all if empty.
    patience_s
        Seconds one thing may take.
    told
        Called with each result as it comes.

    Raises
    ------
    ConfigError
        If it has no bench, or a trial does not exist.
    """
    unknown = [name for name in only if name not in TRIALS]
    if unknown:
        msg = f"trial {unknown[0]!r}; allowed: {', '.join(TRIALS)}"
        raise ConfigError(msg)
    kit = Kit(adapter, bench or bench_of(adapter), patience_s)
    results = []
    for name in only or TRIALS:
        results.append(_tried(kit, name))
        if told is not None:
            told(results[-1])
    return results


def _tried(kit: Kit, name: str) -> Result:
    began = time.monotonic()
    verdict: Verdict
    try:
        sentences = TRIALS[name](kit)
        verdict = "failed" if sentences else "passed"
    except NotApplicable as why:
        verdict, sentences = "n/a", [str(why)]
    except Exception as error:  # noqa: BLE001 -- whatever a plug-in raises is its finding
        verdict, sentences = "failed", [f"{type(error).__name__}: {error}"]
    return Result(name, verdict, tuple(sentences), time.monotonic() - began)
