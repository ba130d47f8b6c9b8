"""What one adapter's process may use, and how long it may take: `[adapters.options.limits]` of a plant file."""

from __future__ import annotations

import resource
import sys
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
    open_files: int = Field(4096, ge=64, le=1 << 20, description="file descriptors, sockets among them")
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


def apply(limits: Limits) -> None:
    """Put the limits on this process.

    RLIMIT_DATA, not RLIMIT_AS: reserved but unused address space (threads, allocators, numba) must not count. Linux
    only; elsewhere the host's watch on resident memory is what there is.
    """
    _lower(resource.RLIMIT_NOFILE, limits.open_files)
    # A core file would hold the adapter's secrets.
    _lower(resource.RLIMIT_CORE, 0)
    if sys.platform == "linux":
        _lower(resource.RLIMIT_DATA, limits.memory)


def _lower(which: int, soft: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
