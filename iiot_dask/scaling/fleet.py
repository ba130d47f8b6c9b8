"""Where adding workers stops to help: a discrete simulation of one scheduler, one committer and up to hundreds of workers.

Each worker takes a batch, works on it, and asks for the next. The scheduler handles every task one after the other (its cost
per task was measured); results of `commit_tasks` tasks are committed by one committer, one after the other. So throughput
grows with the workers until either of the two has no time left: at 1 / scheduler seconds, or commit_tasks / commit seconds,
tasks a second. The simulation shows how early queueing is felt. Simulated, never measured: it says what the measured costs
imply.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured costs of one task.

    Parameters
    ----------
    task_s
        Work of a worker, seconds.
    scheduler_s
        Work of the scheduler, seconds.
    transfer_s
        Waiting of the worker for a task's way to and fro, seconds.
    rows
        Rows of a task.
    commit_s, commit_tasks
        Work of the one committer, seconds, and how many tasks share a commit.
    spread
        Standard deviation of a task's work over its mean.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> Costs(task_s=0.1, scheduler_s=0.0005, rows=50_000).limit
    200
    """

    task_s: float
    scheduler_s: float
    rows: int
    transfer_s: float = 0.0
    commit_s: float = 0.0
    commit_tasks: int = 1
    spread: float = 0.2

    def __post_init__(self) -> None:
        if (
            self.task_s <= 0
            or min(self.scheduler_s, self.transfer_s, self.commit_s, self.spread) < 0
            or min(self.rows, self.commit_tasks) < 1
        ):
            msg = f"{self}: allowed: task_s above 0, rows and commit_tasks from 1, the rest from 0"
            raise ConfigError(msg)

    @property
    def serial_s(self) -> float:
        """Seconds of the busiest thing there is only one of, per task."""
        return max(self.scheduler_s, self.commit_s / self.commit_tasks)

    @property
    def limit(self) -> int:
        """Workers that keep it busy all the time: more add nothing."""
        return round((self.task_s + self.transfer_s) / self.serial_s) if self.serial_s > 0 else 1 << 30


@njit
def _run(
    workers: int,
    tasks: int,
    work: npt.NDArray[np.float64],
    scheduler_s: float,
    transfer_s: float,
    commit_s: float,
    commit_tasks: int,
) -> float:
    """Seconds until `tasks` tasks are done and committed: the earliest free worker is served first."""
    free = np.zeros(workers)
    scheduler = 0.0
    committer = 0.0
    group = 0.0
    for at in range(tasks):
        one = 0
        for k in range(1, workers):
            if free[k] < free[one]:
                one = k
        scheduler = max(scheduler, free[one]) + scheduler_s
        free[one] = scheduler + transfer_s + work[at % len(work)]
        group = max(group, free[one])
        if commit_s > 0 and (at + 1) % commit_tasks == 0:
            committer = max(committer, group) + commit_s
            group = 0.0
            # At most four commits may wait: the stream's bound on what is in flight makes the source wait.
            scheduler = max(scheduler, committer - 4 * commit_s)
    return float(max(free.max(), committer))


@dataclass(frozen=True, slots=True)
class Scaling:
    """Result of `scale_out`; simulated.

    Parameters
    ----------
    rows_s
        Rows a second by number of workers.
    efficiency
        Of it, the share of workers times one worker, by number of workers.
    linear_to
        Most workers at an efficiency of at least 0.9.
    bound_by
        What ends it: ``"scheduler"``, ``"committer"``, or ``"none"`` within what was simulated.
    """

    rows_s: dict[int, float]
    efficiency: dict[int, float]
    linear_to: int
    bound_by: str

    def document(self) -> dict[str, Any]:
        """The numbers as plain data."""
        return asdict(self)


def scale_out(
    costs: Costs, workers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 100, 128, 160, 200), *, seed: int = 0
) -> Scaling:
    """Throughput by number of workers.

    Parameters
    ----------
    costs
        As measured.
    workers
        Numbers to simulate.
    seed
        Of the spread of the tasks' work.

    Examples
    --------
    >>> s = scale_out(Costs(task_s=0.1, scheduler_s=0.002, rows=1000), (1, 2, 10, 50, 100))
    >>> s.linear_to, s.bound_by, round(s.rows_s[100])  # 500 tasks/s are all the scheduler can do
    (50, 'scheduler', 497011)
    """
    rng = np.random.default_rng(seed)
    sigma = np.sqrt(np.log1p(costs.spread**2))
    work = costs.task_s * rng.lognormal(-(sigma**2) / 2, sigma, 10_007)
    rows_s: dict[int, float] = {}
    for n in workers:
        tasks = n * 100
        took = _run(n, tasks, work, costs.scheduler_s, costs.transfer_s, costs.commit_s, costs.commit_tasks)
        rows_s[n] = tasks * costs.rows / took
    one = rows_s[workers[0]] / workers[0]
    efficiency = {n: rows / (n * one) for n, rows in rows_s.items()}
    linear = [n for n in workers if efficiency[n] >= 0.9]
    serial = "scheduler" if costs.scheduler_s >= costs.commit_s / costs.commit_tasks else "committer"
    return Scaling(rows_s, efficiency, max(linear), "none" if max(linear) == workers[-1] else serial)
