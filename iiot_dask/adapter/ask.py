"""Questions to an adapter, each asked in a process of its own that ends with the answer: check, discover, decode."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

from iiot_dask.adapter.contract import Kept, Poll, TagInfo
from iiot_dask.adapter.environment import command, environment
from iiot_dask.adapter.limits import take_limits
from iiot_dask.adapter.logfile import BoundedLog
from iiot_dask.adapter.message import Failure, Opening, State, kept_frame, read_up
from iiot_dask.adapter.wire import UP, Decoder, Frame, encode
from iiot_dask.core.config import Adapter as AdapterConfig
from iiot_dask.core.errors import ConfigError, DataError, LocalAdapterError
from iiot_dask.core.plantfile import LoadedPlant

CHECK_S = 30.0
DISCOVER_S = 120.0


def check_adapter(plant: LoadedPlant, config: AdapterConfig, timeout_s: float = CHECK_S) -> list[str]:
    """Have an adapter look at its endpoint and tags.

    Parameters
    ----------
    plant
        The loaded plant file.
    config
        One of its adapters.
    timeout_s
        Seconds until the process is killed.

    Returns
    -------
    list of str
        Sentences on what is wrong; empty when all is well.
    """
    try:
        for said in _ask(plant, config, "check", (), timeout_s):
            if isinstance(said, State):
                return list(said.problems)
            if isinstance(said, Failure):
                return [said.sentence]
    except (ConfigError, DataError, LocalAdapterError) as error:
        return [str(error)]
    return [f"adapter {config.name!r} ended its check without an answer"]


def discover_adapter(plant: LoadedPlant, config: AdapterConfig, timeout_s: float = DISCOVER_S) -> list[TagInfo]:
    """Have an adapter list what it could read; nothing of it need be configured.

    Raises
    ------
    LocalAdapterError
        If the adapter has no such verb, its source does not answer, or it took longer than `timeout_s`.
    ConfigError
        If its limits are wrong.
    """
    return [info for poll in _polls(plant, config, "discover", (), timeout_s) for info in poll.tags]


def decode_adapter(
    plant: LoadedPlant, config: AdapterConfig, kept: Sequence[Kept], timeout_s: float = DISCOVER_S
) -> list[Poll]:
    """Have an adapter decode bytes again that it could not decode before, as if they came now.

    Returns
    -------
    list of Poll
        With the tags they need, numbered from 0, and events for what still does not parse.

    Raises
    ------
    LocalAdapterError
        If the adapter has no such verb, or did not get through.
    ConfigError
        If its limits are wrong.
    """
    return _polls(plant, config, "decode", (kept_frame(kept),), timeout_s)


def _polls(plant: LoadedPlant, config: AdapterConfig, verb: str, more: Sequence[Frame], timeout_s: float) -> list[Poll]:
    polls: list[Poll] = []
    for said in _ask(plant, config, verb, more, timeout_s):
        if isinstance(said, Poll):
            polls.append(said)
        elif isinstance(said, Failure):
            raise LocalAdapterError(said.sentence)
        else:
            return polls
    msg = f"adapter {config.name!r} ended its {verb} without an answer"
    raise LocalAdapterError(msg)


def _ask(
    plant: LoadedPlant, config: AdapterConfig, verb: str, more: Sequence[Frame], timeout_s: float
) -> Iterator[Poll | State | Failure]:
    """Every frame of the answer.

    Raises
    ------
    LocalAdapterError
        If it can not be started, is too slow, or its answer is damaged.
    ConfigError
        If its limits are wrong.
    """
    shown, limits = take_limits(config)
    base = plant.path.parent
    classes = tuple((c.match, c.period) for c in plant.config.classes if c.period)
    opening = Opening(shown, base, None, classes, limits.model_dump())
    try:
        asked = subprocess.Popen(
            command(config, f"--{verb}", config.name), cwd=base, env=environment(config, limits), start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    except OSError as error:
        msg = f"adapter {config.name!r} can not be started: {error}"
        raise LocalAdapterError(msg) from error
    with asked:
        try:
            out, err = asked.communicate(b"".join(encode(frame) for frame in (opening.frame(), *more)), timeout_s)
        except subprocess.TimeoutExpired as error:
            asked.kill()
            msg = f"adapter {config.name!r} did not finish its {verb} within {timeout_s:g} s"
            raise LocalAdapterError(msg) from error
    yield from _answer(config.name, verb, out, asked.returncode, err)


def _answer(name: str, verb: str, out: bytes, code: int, err: bytes) -> Iterator[Poll | State | Failure]:
    decoder = Decoder(UP)
    decoder.feed(out)
    try:
        while frame := decoder.next_frame():
            said = read_up(frame)
            yield said
            if not isinstance(said, Poll):
                return
    except DataError as error:
        msg = f"adapter {name!r} answered its {verb} with damaged bytes: {error}"
        raise LocalAdapterError(msg) from error
    last = BoundedLog(None)
    last.write(err)
    msg = f"adapter {name!r} ended with status {code} before it answered: {last.last_line}"
    raise LocalAdapterError(msg)
