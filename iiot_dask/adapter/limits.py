"""What one adapter's process may use, and how long it may take: `[adapters.options.limits]` of a plant file."""

from __future__ import annotations

import math
import os
import resource
import sys
import zlib
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.config import Model, Span
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import span_ns

KEY = "limits"


class Limits(Model):
    """Limits of an adapter's process; times in ns, sizes in bytes.

    Examples
    --------
    >>> limits = Limits.model_validate({})
    >>> limits.open_files, limits.silence
    (4096, 30000000000)
    """

    memory: int = Field(
        2 << 30, ge=128 << 20, description="bytes of private memory (RLIMIT_DATA); past it, allocations fail"
    )
    cpu: float = Field(2.0, ge=0.05, le=1024, description="cores it may use")
    open_files: int = Field(4096, ge=64, le=1 << 20, description="file descriptors, sockets among them")
    file_size: int = Field(1 << 30, ge=1 << 20, description="bytes of the largest file it may write")
    tasks: int = Field(512, ge=16, description="processes and threads, where a control group can be made")
    queue: int = Field(1 << 20, ge=4096, le=1 << 24, description="bytes on their way to the host before it waits")
    rate: int = Field(5_000_000, ge=1, description="rows/s, averaged over a second; past it, it waits")
    environment: tuple[str, ...] = Field(
        (), description="names of environment variables it needs besides the usual ones"
    )
    open: Span = Field(span_ns("120s"), gt=0, description="longest start, until open() has returned")
    silence: Span = Field(span_ns("30s"), ge=span_ns("1s"), description="longest a read may hang before a restart")
    linger: Span = Field(span_ns("2s"), description="at a stop, longest wait for the last acknowledgement")
    close: Span = Field(span_ns("5s"), gt=0, description="longest close()")


def take_limits(config: AdapterConfig) -> tuple[AdapterConfig, Limits]:
    """Part an adapter's section into what the adapter sees and the host's limits.

    Raises
    ------
    ConfigError
        Naming the wrong key.
    """
    if KEY not in config.options:
        return config, Limits.model_validate({})
    options = {key: value for key, value in config.options.items() if key != KEY}
    given: Any = config.options[KEY]
    try:
        limits = Limits.model_validate(given)
    except ValidationError as error:
        problems = [
            f"{'.'.join(('options.limits', *map(str, item['loc'])))} = {item.get('input')!r}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        msg = f"adapter {config.name!r}: {'; '.join(problems)}; allowed keys: {', '.join(Limits.model_fields)}"
        raise ConfigError(msg) from error
    return config.model_copy(update={"options": options}), limits


def apply(limits: Limits, name: str) -> None:
    """Put the limits on this process, before a line of the plug-in runs; for good: the hard limits go down too.

    RLIMIT_DATA, not RLIMIT_AS: reserved but unused address space (threads, allocators, numba) must not count. Linux
    only; elsewhere the host's watch on resident memory is what there is. A budget of fewer cores than the machine has
    becomes an affinity: the finest share that needs no privilege. Where there is a control group, that is finer.
    """
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    _lower(resource.RLIMIT_FSIZE, limits.file_size)
    # A core file would hold the adapter's secrets.
    _lower(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_DATA, limits.memory)
        os.sched_setaffinity(0, cores(os.sched_getaffinity(0), limits.cpu, name))


def cores(there: set[int], cpu: float, name: str) -> set[int]:
    """The cores an adapter is kept to: as many as its budget is, rounded up, a different run of them by its name.

    Examples
    --------
    >>> len(cores({0, 1, 2, 3}, 1.5, "press")), cores({0, 1}, 2.0, "press")
    (2, {0, 1})
    """
    every = sorted(there)
    many = min(len(every), math.ceil(cpu))
    first = zlib.crc32(name.encode()) % len(every)
    return {every[(first + i) % len(every)] for i in range(many)}


def demote(pid: int) -> str:
    """Put every thread of a process into the idle class: it gets the CPU that nobody else wants. Linux.

    Returns
    -------
    str
        What was done, or why it was not.
    """
    if sys.platform != "linux":
        return "no idle class on this system"
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        return f"it can not be moved to the idle class: {error.strerror}"
    return "it runs in the idle class until its next start"


def _lower(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))
