"""`AdapterContract`: what every adapter must do, tried out on one. Ships with the package, for strangers' adapters too.

It drives the adapter as a child process would, in this process, against a source that the caller provides, and judges
what it saw by `RULES`. A rule is a function from an `Observed` to sentences; no sentences = kept.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from iiot_dask.adapter.contract import Adapter, Context, Poll
from iiot_dask.adapter.limits import take_limits
from iiot_dask.adapter.message import check_poll
from iiot_dask.core.clock import Clock, SystemClock
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.errors import AdapterError, ConfigError, IiotError, LocalAdapterError
from iiot_dask.core.tags import check_tag

SECRET = "contract-secret-8d1f"  # noqa: S105 -- what must never be seen again
VERB_S = 30.0
"""Longest a verb may take before it counts as hung, seconds; generous, because test machines are busy."""
BLOCK_S = 5.0
"""Longest the event loop may stand still, seconds."""
SLACK_NS = 1_000_000_000
SUMMARY_MAX = 100
VERBS = ("open", "read", "acknowledge", "close", "check")


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule: its name, and what was seen."""

    rule: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.sentence}"


@dataclass(slots=True)
class Observed:
    """All that was seen of one adapter.

    `polls` are those of the first session, `resumed` those of a second one opened with the position of
    ``polls[resumed_after]``; `constructing` and `left` name resources taken by the constructor and still held after
    `close`; `raised` are exceptions by verb; `stood_still_s` is the longest time the loop did not turn.
    """

    adapter: type[Adapter]
    config: AdapterConfig
    block_s: float
    began_ns: int = 0
    ended_ns: int = 0
    polls: list[Poll] = field(default_factory=list)
    resumed: list[Poll] | None = None
    resumed_after: int = -1
    problems: Any = None
    constructing: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    raised: list[tuple[str, BaseException]] = field(default_factory=list)
    stood_still_s: float = 0.0
    rows_wanted: int = 1


Rule = Callable[[Observed], Iterable[str]]


class AdapterContract:
    """The contract, tried out on one adapter with one source.

    Parameters
    ----------
    adapter
        The class.
    config
        Its section of a plant file; the source it names is there and sends.
    base
        Directory that relative paths are relative to; the current one while the contract is tried.
    rows
        Rows to wait for.
    reads_max
        Reads after which no more rows are waited for.
    verb_s, block_s
        Seconds a verb may take; seconds the event loop may stand still.

    Examples
    --------
    >>> from iiot_dask.core.registry import Registry
    >>> replay = Registry("iiot_dask.adapters", "adapter").load("replay")
    >>> config = AdapterConfig(name="x", kind="replay", endpoint="absent.parquet")
    >>> [str(finding) for finding in AdapterContract(replay, config, Path.cwd()).run()][0]
    "opens: open() raised ConfigError: recording 'absent.parquet' can not be read: ..."
    """

    def __init__(
        self,
        adapter: type[Adapter],
        config: AdapterConfig,
        base: Path,
        *,
        rows: int = 1,
        reads_max: int = 500,
        verb_s: float = VERB_S,
        block_s: float = BLOCK_S,
        clock: Clock | None = None,
    ) -> None:
        self.adapter = adapter
        self.config, _ = take_limits(config)
        self.base = base
        self.rows = rows
        self.reads_max = reads_max
        self.verb_s = verb_s
        self.block_s = block_s
        self.clock = SystemClock() if clock is None else clock

    def run(self) -> list[Finding]:
        """Try everything; the broken rules, none when the adapter keeps the contract."""
        before = Path.cwd()
        os.chdir(self.base)
        try:
            observed = asyncio.run(self.observe())
        finally:
            os.chdir(before)
        return [Finding(rule.__name__, sentence) for rule in RULES for sentence in rule(observed)]

    async def observe(self) -> Observed:
        """Drive the adapter through two sessions and a check, and write down what happens."""
        seen = Observed(self.adapter, self.config, self.block_s, rows_wanted=self.rows)
        seen.began_ns = self.clock.now_ns()
        turning = asyncio.create_task(self._watch_the_loop(seen))
        try:
            await self._session(seen, None, seen.polls)
            positions = [i for i, poll in enumerate(seen.polls) if isinstance(poll, Poll) and poll.position is not None]
            if positions and not seen.raised:
                seen.resumed_after = positions[(len(positions) - 1) // 2]
                seen.resumed = []
                await self._session(seen, seen.polls[seen.resumed_after].position, seen.resumed)
            seen.problems = await self._verb(seen, "check", self.adapter.check(self._context()))
        finally:
            turning.cancel()
            await asyncio.gather(turning, return_exceptions=True)
        seen.ended_ns = self.clock.now_ns()
        return seen

    async def _session(self, seen: Observed, position: str | None, polls: list[Poll]) -> None:
        before = held()
        try:
            adapter = self.adapter(self._context())
        except Exception as error:  # noqa: BLE001 -- becomes a finding
            seen.raised.append(("__init__", error))
            return
        seen.constructing += grown(before, held())
        await self._verb(seen, "open", adapter.open(position))
        if not seen.raised:
            await self._read(seen, adapter, polls, first=position is None)
        await self._verb(seen, "close", adapter.close())
        del adapter
        seen.left += await self._left(before)

    async def _read(self, seen: Observed, adapter: Adapter, polls: list[Poll], *, first: bool) -> None:
        rows = 0
        for _ in range(self.reads_max):
            poll = await self._verb(seen, "read", adapter.read())
            if seen.raised:
                return
            polls.append(poll)
            rows += 0 if getattr(poll, "batch", None) is None else len(poll.batch)
            if rows >= self.rows and (first or covers(polls, seen)):
                break
        # Only a position in the middle is acknowledged: what came after it must come again in the second session.
        marks = [poll.position for poll in good(polls) if poll.position is not None]
        if marks:
            chosen = marks[(len(marks) - 1) // 2] if first else marks[-1]
            await self._verb(seen, "acknowledge", adapter.acknowledge(chosen))

    async def _verb(self, seen: Observed, name: str, doing: Any) -> Any:
        if not inspect.isawaitable(doing):
            seen.raised.append((name, TypeError(f"it returned {type(doing).__name__}, not an awaitable")))
            return None
        try:
            return await asyncio.wait_for(doing, self.verb_s)
        except TimeoutError as error:
            hung = LocalAdapterError(f"it did not return within {self.verb_s:g} s")
            hung.__cause__ = error
            seen.raised.append((name, hung))
        except Exception as error:  # noqa: BLE001 -- becomes a finding
            seen.raised.append((name, error))
        return None

    async def _left(self, before: dict[str, int]) -> list[str]:
        for _ in range(100):
            gc.collect()
            if not (more := grown(before, held())):
                return []
            # Transports close in a turn of the loop or two, threads when their work is done.
            await asyncio.sleep(0.02)
        return more

    async def _watch_the_loop(self, seen: Observed) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(0.01)
            now = loop.time()
            seen.stood_still_s = max(seen.stood_still_s, now - last - 0.01)
            last = now

    def _context(self) -> Context:
        return Context(self.config, lambda _reference: SECRET, self.clock)


def held() -> dict[str, int]:
    """What this process holds: file descriptors, threads, and tasks of the running loop."""
    folder = Path("/proc/self/fd") if Path("/proc/self/fd").is_dir() else Path("/dev/fd")
    return {
        "file descriptors": len(list(folder.iterdir())),
        # A loop's own pool of threads outlives an adapter by design.
        "threads": sum(not t.name.startswith("asyncio_") for t in threading.enumerate()),
        "tasks": len(asyncio.all_tasks()),
    }


def grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """What there is more of, in words."""
    return [f"{after[what] - count} {what}" for what, count in before.items() if after[what] > count]


# -- the rules -------------------------------------------------------------------------------------------------------


def identity(seen: Observed) -> Iterator[str]:
    """`kind` is the entry point's name, `summary` one short line, and every verb is a coroutine function."""
    kind, summary = getattr(seen.adapter, "kind", None), getattr(seen.adapter, "summary", None)
    if kind != seen.config.kind:
        yield f"kind is {kind!r}, the plant file's {seen.config.kind!r}"
    if not isinstance(summary, str) or not 0 < len(summary) <= SUMMARY_MAX or "\n" in summary:
        yield f"summary {summary!r} is not one line of 1 to {SUMMARY_MAX} characters"
    for verb in VERBS:
        if not inspect.iscoroutinefunction(getattr(seen.adapter, verb, None)):
            yield f"{verb} is no coroutine function"


def constructs_without_io(seen: Observed) -> Iterator[str]:
    """The constructor opens nothing and starts nothing."""
    for what in seen.constructing:
        yield f"constructing took {what}"


def opens(seen: Observed) -> Iterator[str]:
    """The verbs return; what they raise is a `ConfigError` or an `AdapterError`."""
    for verb, error in seen.raised:
        ours = isinstance(error, (ConfigError, AdapterError))
        blame = "" if ours else ", which is neither a ConfigError nor an AdapterError"
        yield f"{verb}() raised {type(error).__name__}: {error}{blame}"


def reads_rows(seen: Observed) -> Iterator[str]:
    """A source that sends is read."""
    rows = sum(len(poll.batch) for poll in good(seen.polls) if poll.batch is not None)
    if not seen.raised and rows < seen.rows_wanted:
        yield f"{rows} rows in {len(seen.polls)} reads; {seen.rows_wanted} were to come"


def well_formed(seen: Observed) -> Iterator[str]:
    """Every answer is a `Poll` within its limits."""
    for poll in (*seen.polls, *(seen.resumed or ())):
        try:
            check_poll(poll)
        except IiotError as error:
            yield str(error)


def announces_first(seen: Observed) -> Iterator[str]:
    """Tags are numbered from 0 in the order they are announced, once each, before rows use the numbers."""
    for polls in (seen.polls, seen.resumed or ()):
        names: list[str] = []
        for poll in good(polls):
            names += [info.tag for info in poll.tags]
            if poll.batch is not None and len(poll.batch) and int(poll.batch.tag.max()) >= len(names):
                yield f"rows of tag number {int(poll.batch.tag.max())} when {len(names)} were announced"
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            yield f"{twice[0]!r} was announced {names.count(twice[0])} times in one session"


def legal_tags(seen: Observed) -> Iterator[str]:
    """Names are legal, and each tag hangs from a node."""
    for poll in good(seen.polls):
        for info in poll.tags:
            try:
                check_tag(info.tag)
            except ConfigError as error:
                yield str(error)
            if not info.device:
                yield f"tag {info.tag!r} has no device"


def honest_values(seen: Observed) -> Iterator[str]:
    """A missing value is never good: NaN has a quality that says why."""
    for poll in good(seen.polls):
        if poll.batch is not None:
            lies = int((np.isnan(poll.batch.value) & (poll.batch.quality < 64)).sum())
            if lies:
                yield f"{lies} rows are NaN of good quality"


def honest_times(seen: Observed) -> Iterator[str]:
    """`received` is when a row was received: within the session, or 0 to have the host fill it in."""
    for poll in good(seen.polls):
        if poll.batch is None or not len(poll.batch):
            continue
        set_ = poll.batch.received[poll.batch.received > 0]
        wrong = int(((set_ < seen.began_ns - SLACK_NS) | (set_ > seen.ended_ns + SLACK_NS)).sum())
        if wrong:
            yield f"{wrong} rows were received before the session or after it"


def resumes(seen: Observed) -> Iterator[str]:
    """After a restart every row comes again that the position did not cover."""
    if seen.resumed is None:
        return
    missing = rows_of(seen.polls, seen.resumed_after + 1) - rows_of(seen.resumed, 0)
    if missing:
        tag, time, value = next(iter(missing))
        yield (
            f"{sum(missing.values())} rows after position {seen.polls[seen.resumed_after].position!r} did not come "
            f"again, such as {tag!r} at {time} = {value}"
        )


def lets_the_loop_turn(seen: Observed) -> Iterator[str]:
    """No verb blocks the event loop: keep-alives and acknowledgements wait for it."""
    if seen.stood_still_s > seen.block_s:
        yield f"the event loop stood still for {seen.stood_still_s:.2f} s; at most {seen.block_s:g} s are allowed"


def cleans_up(seen: Observed) -> Iterator[str]:
    """`close` gives everything back."""
    for what in seen.left:
        yield f"{what} are still there after close()"


def keeps_secrets(seen: Observed) -> Iterator[str]:
    """A secret is in no event, no tag, no error and no answer of a check."""
    for poll in (*good(seen.polls), *good(seen.resumed or ())):
        for event in poll.events:
            if SECRET in event.reason or SECRET in event.node or SECRET.encode() in event.raw:
                yield f"a secret is in an event of kind {event.kind!r}"
        for info in poll.tags:
            if SECRET in repr(info):
                yield "a secret is in an announced tag"
    for verb, error in seen.raised:
        if SECRET in str(error):
            yield f"a secret is in what {verb}() raised"
    if SECRET in repr(seen.problems):
        yield "a secret is in the answer of check()"


def checks(seen: Observed) -> Iterator[str]:
    """`check` finds nothing wrong with a source that is there, and answers in sentences."""
    if any(verb == "check" for verb, _ in seen.raised):
        return
    if not isinstance(seen.problems, list) or not all(isinstance(p, str) and p for p in seen.problems):
        yield f"check() returned {seen.problems!r}; a list of sentences is needed"
    elif seen.problems and not seen.raised:
        yield f"check() finds fault with a source that can be read: {seen.problems[0]}"


RULES: tuple[Rule, ...] = (
    identity,
    constructs_without_io,
    opens,
    reads_rows,
    well_formed,
    announces_first,
    legal_tags,
    honest_values,
    honest_times,
    resumes,
    lets_the_loop_turn,
    cleans_up,
    keeps_secrets,
    checks,
)


def good(polls: Iterable[Poll]) -> list[Poll]:
    """The polls that are polls: `well_formed` speaks of the others."""
    return [poll for poll in polls if _is_good(poll)]


def _is_good(poll: Poll) -> bool:
    try:
        check_poll(poll)
    except IiotError:
        return False
    return True


def rows_of(polls: list[Poll], start: int) -> Counter[tuple[str, int, float]]:
    """(tag name, time in ns, value) of every row from poll number `start` on; NaN, which equals nothing, as -inf."""
    names: list[str] = []
    found: Counter[tuple[str, int, float]] = Counter()
    for number, poll in enumerate(polls):
        if not _is_good(poll):
            continue
        names += [info.tag for info in poll.tags]
        if number < start or poll.batch is None:
            continue
        values = np.where(np.isnan(poll.batch.value), -np.inf, poll.batch.value)
        for tag, time, value in zip(poll.batch.tag.tolist(), poll.batch.time.tolist(), values.tolist(), strict=True):
            found[names[tag] if tag < len(names) else f"#{tag}", time, value] += 1
    return found


def covers(resumed: list[Poll], seen: Observed) -> bool:
    """Whether the second session has shown all that the first one saw after the position."""
    return not rows_of(seen.polls, seen.resumed_after + 1) - rows_of(resumed, 0)
