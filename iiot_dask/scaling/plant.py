"""The simulated cluster of a back-test: a fluid queue before workers that boot late, not at all, or get lost.

Each step the load arrives, workers that have booted take what they can, the rest waits (first in, first out). Workers count
as cost from the moment they are asked for. Everything here is a simulation: ratios compare policies, they are no
measurement of a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from iiot_dask.core.errors import ConfigError
from iiot_dask.core.jit import njit

BOOTS_MAX = 10_000
"""Workers on their way at once; more are refused, as a cloud's quota does."""
WORKERS_MAX = 100_000

# Columns of the accumulator.
BACKLOG, COST, ORACLE, ARRIVED, LATE, SURGE_ARRIVED, SURGE_LATE, OVER, TIME, WAIT, BEHIND = range(11)
# Columns of the counts.
READY, BOOTING, OLDEST, BORN, LOST, FAILED = range(6)
# Columns of the trace.
T_READY, T_BACKLOG, T_WAIT, T_LATE = range(4)


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong in a simulated cluster; all off by default.

    Parameters
    ----------
    boot_sigma
        Spread of the boot time: it is lognormal with its median at `boot_s` (0.5 gives a tail to 3 times).
    boot_failure
        Share of boots that never come, 0..1; they cost until `boot_s_max` and are then gone.
    boot_s_max
        When a boot is given up, seconds.
    loss_per_h
        Chance of a ready worker to be lost, per hour.
    quota
        Most workers the provider gives, whatever is asked for.
    billing_s
        A worker is paid for at least so many seconds.
    gaps
        Spans without metrics, ``((start_s, stop_s), …)`` from the beginning of the demand: the policy is told None.
    seed
        Of all of it.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Examples
    --------
    >>> Faults(boot_sigma=0.5, boot_failure=0.02, billing_s=60.0).quota
    """

    boot_sigma: float = 0.0
    boot_failure: float = 0.0
    boot_s_max: float = 600.0
    loss_per_h: float = 0.0
    quota: int | None = None
    billing_s: float = 0.0
    gaps: tuple[tuple[float, float], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            not 0 <= self.boot_failure < 1
            or min(self.boot_sigma, self.loss_per_h, self.billing_s) < 0
            or self.boot_s_max <= 0
        ):
            msg = f"{self}: allowed: boot_failure from 0 below 1, boot_s_max above 0, the rest from 0"
            raise ConfigError(msg)


@njit
def advance(
    rate: npt.NDArray[np.float64],
    surge: npt.NDArray[np.bool_],
    chance: npt.NDArray[np.float64],
    dt: float,
    now: float,
    boots: npt.NDArray[np.float64],
    born: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.float64],
    acc: npt.NDArray[np.float64],
    trace: npt.NDArray[np.float64],
    scored: bool,
) -> None:
    """Run the queue over the steps of `rate`.

    `boots` rows are (ready at, asked at, fails: 0 or 1); `born` is a ring of the ready workers' ages; `chance` a uniform
    draw per step that decides over a lost worker; `sizes` = (capacity, utilisation, minimum, loss per second).
    """
    capacity, utilisation, minimum, loss = sizes
    for i in range(len(rate)):
        at = 0
        while at < counts[BOOTING]:
            if boots[at, 0] <= now:
                if boots[at, 2] == 0.0:
                    born[counts[BORN] % len(born)] = boots[at, 1]
                    counts[BORN] += 1
                    counts[READY] += 1
                else:
                    counts[FAILED] += 1
                counts[BOOTING] -= 1
                # Order is kept: the youngest is cancelled first.
                for k in range(at, counts[BOOTING]):
                    boots[k] = boots[k + 1]
            else:
                at += 1
        if loss > 0 and chance[i] < loss * dt * counts[READY]:
            counts[READY] -= 1
            counts[OLDEST] += 1
            counts[LOST] += 1
        power = capacity * counts[READY]
        arrived = rate[i] * dt
        wait = 0.0
        if acc[BACKLOG] > 0:
            wait = acc[BACKLOG] / power if power > 0 else np.inf
        asked = acc[BACKLOG] + arrived
        acc[BACKLOG] = max(0.0, asked - power * dt)
        now += dt
        # What arrives in the middle of the step stands for all of it.
        after = acc[BACKLOG] / power if power > 0 else np.inf
        middle = min(1e9, 0.5 * (wait + after)) if acc[BACKLOG] > 0 or wait > 0 else 0.0
        late = arrived if middle > 1.0 else 0.0
        trace[i, T_READY] = counts[READY]
        trace[i, T_BACKLOG] = acc[BACKLOG]
        trace[i, T_WAIT] = min(wait, 1e9)
        trace[i, T_LATE] = middle
        if not scored:
            continue
        if surge[i]:
            acc[SURGE_ARRIVED] += arrived
            acc[SURGE_LATE] += late
        else:
            acc[ARRIVED] += arrived
            acc[LATE] += late
            acc[TIME] += dt
            if asked > utilisation * power * dt * (1.0 + 1e-9):
                acc[OVER] += dt
        acc[WAIT] = max(acc[WAIT], middle)
        acc[BEHIND] += dt if middle > 1.0 else 0.0
        acc[COST] += dt * (counts[READY] + counts[BOOTING])
        acc[ORACLE] += dt * max(minimum, np.ceil(rate[i] / (capacity * utilisation) - 1e-9))


class SimulatedCluster:
    """Workers that are asked for, boot, work, get lost and go; oldest go first, for their minimum is paid.

    Parameters
    ----------
    first
        Workers ready at the beginning.
    boot_s
        Median boot time, seconds.
    faults
        What goes wrong.
    """

    def __init__(self, first: int, boot_s: float, faults: Faults) -> None:
        self.boot_s, self.faults = boot_s, faults
        self.boots = np.zeros((BOOTS_MAX + 1, 3))
        self.born = np.full(WORKERS_MAX, -1e12)
        self.counts = np.array([first, 0, 0, first, 0, 0], np.int64)
        self._rng = np.random.default_rng(faults.seed)

    @property
    def ready(self) -> int:
        """Workers that work."""
        return int(self.counts[READY])

    @property
    def booting(self) -> int:
        """Workers asked for that do not work yet."""
        return int(self.counts[BOOTING])

    def scale(self, want: int, now: float) -> float:
        """Ask for or give back workers at `now`, seconds; returns worker-seconds owed for billing minimums."""
        faults, counts = self.faults, self.counts
        want = min(want, WORKERS_MAX, want if faults.quota is None else faults.quota)
        have = self.ready + self.booting
        for _ in range(min(want - have, BOOTS_MAX - self.booting)):
            boot = self.boot_s * float(np.exp(faults.boot_sigma * self._rng.standard_normal()))
            fails = faults.boot_failure > 0 and self._rng.random() < faults.boot_failure
            fails = fails or boot > faults.boot_s_max
            self.boots[counts[BOOTING]] = now + (faults.boot_s_max if fails else boot), now, float(fails)
            counts[BOOTING] += 1
        owed = 0.0
        for _ in range(have - want):
            if counts[BOOTING] > 0:
                counts[BOOTING] -= 1
                asked = float(self.boots[counts[BOOTING], 1])
            else:
                asked = float(self.born[counts[OLDEST] % WORKERS_MAX])
                counts[READY] -= 1
                counts[OLDEST] += 1
            owed += max(0.0, faults.billing_s - (now - asked))
        return owed
