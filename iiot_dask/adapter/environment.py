"""The command line and the environment an adapter's process is started with: what it needs, and nothing else."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from iiot_dask.adapter.limits import Limits
from iiot_dask.core.config import Adapter as AdapterConfig

USUAL = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "PYTHONPATH", "PYTHONUTF8",
        "PYTHONHASHSEED", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT",
        "XDG_CACHE_HOME",
    }
)  # fmt: skip
"""Variables every child gets: where things are, what language is spoken. No password has a place in them."""
USUAL_PREFIXES = ("LC_", "NUMBA_", "OMP_", "OPENBLAS_", "MALLOC_", "ARROW_")
_REFERENCE = re.compile(r"env:(.+)", re.DOTALL)


def command(config: AdapterConfig, *arguments: str) -> list[str]:
    """The command line of an adapter's process; no secret and no setting is in it.

    The section's own `command`, if it has one, and the arguments behind it: another interpreter, ``ssh edge-7 …``,
    ``docker run -i …``. Whatever it is, it must speak the frames of `wire` on its stdin and stdout.
    """
    # -P: a file in the plant's directory must not be imported in place of a module.
    program = list(config.command) or [sys.executable, "-P", "-m", "iiot_dask.adapter.child"]
    return [*program, *arguments]


def environment(config: AdapterConfig, limits: Limits, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables an adapter's process gets: the usual ones, those its section refers to, those its limits name.

    Examples
    --------
    >>> section = AdapterConfig(name="plc", kind="opcua", password="env:PLC_PASSWORD")
    >>> given = {"PATH": "/bin", "PLC_PASSWORD": "x", "CLOUD_TOKEN": "y"}
    >>> environment(section, Limits.model_validate({}), given)
    {'PATH': '/bin', 'PLC_PASSWORD': 'x'}
    """
    wanted = {*USUAL, *limits.environment, *references(config.model_dump())}
    everything = os.environ if environ is None else environ
    return {name: value for name, value in everything.items() if name in wanted or name.startswith(USUAL_PREFIXES)}


def references(section: Any) -> Iterator[str]:
    """Names of the variables that a section refers to as ``env:NAME``, anywhere in it."""
    if isinstance(section, str):
        found = _REFERENCE.fullmatch(section)
        if found:
            yield found[1]
    elif isinstance(section, Mapping):
        for value in section.values():
            yield from references(value)
    elif isinstance(section, (list, tuple)):
        for value in section:
            yield from references(value)
