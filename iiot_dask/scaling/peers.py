"""The controllers others scale with, behind the interface of a back-test, so that one simulation judges all.

`DaskAdaptive` runs the product's own logic (`AdaptiveCore.recommendations` and `Scheduler.adaptive_target` of the installed
`distributed`) on a scheduler that stands in for the simulated queue. The others are their published formulas with their
default numbers, without their start-up delays and restarts: kinder to them than life.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil, isnan
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.scaling.load import Observed
from iiot_dask.scaling.sizing import Sizing

S = 1_000_000_000
HOUR_NS, DAY_NS = 3_600 * S, 86_400 * S


class Peer:
    """Something that decides; `every` says how often it likes to be asked."""

    every = "10s"

    def __init__(self, sizing: Sizing) -> None:
        self.sizing = sizing
        self._wanted = sizing.minimum

    def decide(self, now: int, observed: Observed | None) -> int:
        """Workers wanted; without metrics the last number stands."""
        if observed is not None:
            self._wanted = self.sizing.clip(self.want(now, observed))
        return self._wanted

    def want(self, now: int, observed: Observed) -> float:
        """Workers wanted before limits."""
        raise NotImplementedError


class Hpa(Peer):
    """Kubernetes' HorizontalPodAutoscaler: ceil(ready * metric / target), tolerance 10 %, down-scaling over 300 s.

    Parameters
    ----------
    sizing
        As of any policy.
    signal
        ``"cpu"``: the busy share, which can not rise above 1, so that a surge is climbed in steps; ``"rate"``: an external
        metric of the offered load (KEDA).
    """

    every = "15s"

    def __init__(self, sizing: Sizing, signal: str = "cpu") -> None:
        super().__init__(sizing)
        self.signal = signal
        self._wants: deque[float] = deque([0.0], maxlen=20)  # 300 s of 15 s

    def want(self, now: int, observed: Observed) -> float:  # noqa: ARG002 -- the interface
        """The largest recommendation of the last 300 s, never more than twice and four more than there are."""
        z = self.sizing
        ready = max(1, observed.ready)
        busy = observed.busy if self.signal == "cpu" else observed.rate / (z.capacity * ready)
        ratio = (0.0 if isnan(busy) else busy) / z.utilisation
        wish = float(self._wanted) if abs(ratio - 1.0) <= 0.1 else ceil(ready * ratio - 1e-9)
        self._wants.append(wish)
        return min(max(self._wants), max(2.0 * observed.workers, observed.workers + 4.0))


class Flink(Peer):
    """The Flink Kubernetes operator's autoscaler with its defaults, as DS2 reckons: true rate from busy time.

    Target 0.7 within 0.4 to 1.0, metrics over 15 minutes, 5 minutes of stabilisation, scale-down at most once an hour, a
    backlog caught up within 30 minutes. Its restart of the job is left out.
    """

    every = "60s"

    def __init__(self, sizing: Sizing) -> None:
        super().__init__(sizing)
        self._rates: deque[float] = deque(maxlen=15)
        self._changed: int | None = None

    def want(self, now: int, observed: Observed) -> float:
        """The parallelism for the mean load of 15 minutes."""
        z = self.sizing
        self._rates.append(observed.rate)
        if self._changed is not None and now - self._changed < 300 * S:
            return self._wanted
        mean = sum(self._rates) / len(self._rates)
        one = observed.true_rate if not isnan(observed.true_rate) else z.capacity
        load = mean / (one * max(1, observed.ready))
        if 0.4 <= load <= 1.0 and observed.backlog < observed.rate:
            return self._wanted
        wish = ceil((mean / z.utilisation + observed.backlog / 1800.0) / one - 1e-9)
        if wish < self._wanted and self._changed is not None and now - self._changed < HOUR_NS:
            return self._wanted
        if z.clip(wish) != self._wanted:
            self._changed = now
        return wish


class AwsHourly(Peer):
    """EC2-like predictive scaling: the highest forecast load of the hour, launched five minutes early, with target tracking.

    The hour's forecast is the mean peak of the same hour of the last 14 days. Scale-in by the dynamic part: 15 minutes.
    """

    every = "60s"

    def __init__(self, sizing: Sizing) -> None:
        super().__init__(sizing)
        self._peaks: dict[int, float] = {}
        self._wants: deque[float] = deque([0.0], maxlen=15)

    def want(self, now: int, observed: Observed) -> float:
        """The larger of the forecast of this or the coming hour and of what tracks the load."""
        z, hour = self.sizing, now // HOUR_NS
        self._peaks[hour] = max(self._peaks.get(hour, 0.0), observed.rate)
        self._peaks.pop(hour - 15 * 24, None)
        ahead = max(self._forecast(hour), self._forecast((now + round((300 + z.boot_s) * S)) // HOUR_NS))
        self._wants.append(z.workers(observed.rate))
        return max(z.workers(ahead), *self._wants)

    def _forecast(self, hour: int) -> float:
        seen = [self._peaks[hour - 24 * d] for d in range(1, 15) if hour - 24 * d in self._peaks]
        return sum(seen) / len(seen) if seen else 0.0


class Oracle(Peer):
    """Knows the demand: asks so early that every worker is ready in time. What no policy can beat with real boots."""

    def __init__(self, sizing: Sizing, time: npt.NDArray[np.int64], rate: npt.NDArray[np.float64]) -> None:
        super().__init__(sizing)
        step = float(time[1] - time[0]) / 1e9
        span = max(1, ceil((sizing.boot_s + 20.0) / step))
        padded = np.concatenate([rate, np.full(span, rate[-1])])
        self._ahead = np.lib.stride_tricks.sliding_window_view(padded, span + 1).max(axis=1)
        self._first, self._step_ns = int(time[0]), int(time[1] - time[0])

    def want(self, now: int, observed: Observed) -> float:  # noqa: ARG002 -- it knows better
        """Workers for the highest load until a worker asked for now would be ready."""
        return self.sizing.workers(float(self._ahead[(now - self._first) // self._step_ns]))


@dataclass(slots=True)
class _Queue:
    """Tasks that wait, as the scheduler keeps them: only their number and their (equal) kind matter."""

    count: int = 0
    task: Any = None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter([self.task] * min(self.count, 100))


@dataclass(slots=True)
class _Worker:
    nthreads: int = 1
    memory_limit: int = 0
    nbytes: int = 0
    processing: range = range(0)


@dataclass(slots=True)
class _Task:
    prefix: str = "batch"


@dataclass(slots=True)
class _Scheduler:
    """What `Scheduler.adaptive_target` looks at."""

    duration: float
    queued: _Queue = field(default_factory=lambda: _Queue(0, _Task()))
    unrunnable: dict[Any, Any] = field(default_factory=dict)
    workers: dict[int, _Worker] = field(default_factory=dict)
    total_occupancy: float = 0.0

    def _get_prefix_duration(self, prefix: str) -> float:  # noqa: ARG002 -- all are of one kind
        return self.duration

    def workers_to_close(self) -> list[int]:
        """Only idle ones are offered."""
        return [name for name, worker in self.workers.items() if not worker.processing]


class DaskAdaptive(Peer):
    """Dask's `Adaptive` with its defaults, by the code of the installed `distributed`.

    Micro-batches of `batch_s` of one worker's work are the tasks. Each worker runs one; the rest is queued at the scheduler.

    Parameters
    ----------
    sizing
        As of any policy.
    target_duration
        Dask's option: how long all work at hand may take.
    batch_s
        Work of one task, seconds.
    """

    every = "1s"

    def __init__(self, sizing: Sizing, target_duration: str = "5s", batch_s: float = 0.1) -> None:
        from distributed.deploy.adaptive_core import AdaptiveCore
        from distributed.scheduler import Scheduler

        super().__init__(sizing)
        self._scheduler = scheduler = _Scheduler(batch_s)
        self._plan: set[int] = set(range(sizing.minimum))
        self._observed: set[int] = set(self._plan)
        self._next = sizing.minimum
        peer = self

        class Core(AdaptiveCore):  # type: ignore[misc, unused-ignore] # distributed is untyped here
            plan = property(lambda _: peer._plan)
            requested = property(lambda _: peer._plan)
            observed = property(lambda _: peer._observed)

            async def target(self) -> int:
                return int(Scheduler.adaptive_target(scheduler, target_duration))

            async def scale_up(self, n: int) -> None:
                while len(peer._plan) < n:
                    peer._plan.add(peer._next)
                    peer._next += 1

            async def scale_down(self, workers: Iterable[int]) -> None:
                peer._plan -= set(workers)

        self._core = Core(minimum=sizing.minimum, maximum=sizing.maximum)

    def want(self, now: int, observed: Observed) -> float:  # noqa: ARG002 -- the interface
        """One round of the adaptive loop."""
        z, scheduler = self.sizing, self._scheduler
        # The oldest of the plan are those that work.
        self._observed = set(sorted(self._plan)[: observed.ready])
        work_s = (observed.backlog + observed.rate * scheduler.duration) / z.capacity
        tasks = ceil(work_s / scheduler.duration - 1e-9)
        running = min(tasks, max(1, len(self._observed)))
        scheduler.queued.count = max(0, tasks - running)
        scheduler.total_occupancy = running * scheduler.duration
        scheduler.workers = {
            name: _Worker(processing=range(int(at < running))) for at, name in enumerate(sorted(self._observed))
        }
        _run(self._core.adapt())
        return float(len(self._plan))


def _run(coroutine: Any) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    msg = "the adaptive loop waited for something"
    raise AssertionError(msg)


PEERS: dict[str, Callable[[Sizing], Peer]] = {
    "dask-adaptive": DaskAdaptive,
    "dask-adaptive-0.5s": lambda sizing: DaskAdaptive(sizing, "0.5s"),
    "hpa-cpu": Hpa,
    "hpa-rate": lambda sizing: Hpa(sizing, "rate"),
    "flink": Flink,
    "aws-hourly": AwsHourly,
}
"""Name -> maker."""
