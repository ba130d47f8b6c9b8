"""`CommandProvisioner`: any program that can start and stop workers: a shell script, Terraform, a scheduler's `sbatch`.

The program is called in two ways and answers in one line of JSON::

    PROGRAM … scale 5     asks for five workers, returns at once; anything on stdout is ignored
    PROGRAM … observed    {"ready": 3, "booting": 2}

Exit status 0 is fine; anything else, or no answer within `timeout_s`, counts as not reachable.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from iiot_dask.core.clock import Clock
from iiot_dask.core.errors import CapacityError, ConfigError
from iiot_dask.core.metrics import Metrics
from iiot_dask.scaling.guard import Guard
from iiot_dask.scaling.provision import AskedProvisioner, Workforce


class CommandProvisioner(AskedProvisioner):
    """Scales by calling a program; never through a shell.

    Parameters
    ----------
    command
        Program and its first arguments.
    guard, clock, metrics, dry_run
        As of `AskedProvisioner`.
    timeout_s
        Longest answer, seconds.

    Raises
    ------
    ConfigError
        If the command is empty.
    CapacityError
        By `scale` and `observed`, if the program can not be started, fails, is too slow, or answers something else.
    """

    def __init__(
        self,
        command: Sequence[str],
        guard: Guard,
        *,
        clock: Clock,
        metrics: Metrics | None = None,
        dry_run: bool = False,
        timeout_s: float = 10.0,
    ) -> None:
        super().__init__(guard, clock=clock, metrics=metrics, dry_run=dry_run)
        if not command or not command[0]:
            msg = f"command {list(command)!r} names no program"
            raise ConfigError(msg)
        self._command = list(command)
        self._timeout_s = timeout_s

    def _call(self, *arguments: str) -> str:
        line = [*self._command, *arguments]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=self._timeout_s, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            msg = f"command {line!r} did not answer: {error}"
            raise CapacityError(msg) from error
        if done.returncode:
            msg = f"command {line!r} failed with status {done.returncode}: {done.stderr.strip()[-500:]}"
            raise CapacityError(msg)
        return done.stdout

    def observed(self) -> Workforce:
        """What the program says."""
        text = self._call("observed")
        try:
            answer = json.loads(text)
            there = Workforce(int(answer["ready"]), int(answer["booting"]))
        except (ValueError, TypeError, KeyError) as error:
            msg = f'command {self._command!r} answered {text.strip()[:200]!r}; expected {{"ready": 3, "booting": 2}}'
            raise CapacityError(msg) from error
        if min(there.ready, there.booting) < 0:
            msg = f"command {self._command!r} answered {there}; numbers are from 0"
            raise CapacityError(msg)
        return there

    def _apply(self, n: int, there: Workforce) -> bool:  # noqa: ARG002 -- the interface
        self._call("scale", str(n))
        return True
