"""``python -m iiot_dask.sim.serve --config FILE.json --status DIR``: the simulated factory as a process of its own.

FILE.json: ``{"factory": Factory.to_dict(), "broker": "auto"}``. Once every server answers, DIR/ready.json holds the
endpoint of each adapter, and the same goes to stdout as an event. Devices send nothing until told to, so that whoever
reads can subscribe first.

stdin, one word a line: ``start`` (devices begin to send), ``stop`` (they stop; servers stay up so that readers can
drain). The end of stdin and SIGTERM both stop the devices, end the servers and write DIR/truth.parquet and
DIR/truth.json; so the process ends with its parent, however that one ends.

stdout: JSON lines ``{"event": "ready" | "started" | "fault_start" | "fault_end" | "stopped" | "truth" | "error", ...}``.
Exit status: 0, or 1 when something failed, with the reason on stderr.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from iiot_dask.core.clock import SystemClock
from iiot_dask.core.errors import ConfigError, IiotError, InUseError
from iiot_dask.sim.factory import Factory
from iiot_dask.sim.ledger import write_text
from iiot_dask.sim.plantrun import PlantRun

READY = "ready.json"
LOCK = "factory.lock"
COMMAND_BYTES_MAX = 1024
STDOUT, STDERR = 1, 2


def emit(event: str, **fields: Any) -> None:
    """Print one event as a JSON line; on stderr when whoever read stdout is gone, which must not cost the truth."""
    line = json.dumps({"event": event, **fields}).encode() + b"\n"
    try:
        os.write(STDOUT, line)
    except BrokenPipeError:
        os.write(STDERR, line)


@contextmanager
def alone(status: Path) -> Iterator[None]:
    """Hold the status directory: two factories in one would overwrite each other's truth.

    Raises
    ------
    InUseError
        If another simulated factory holds it.
    """
    with (status / LOCK).open("w", encoding="ascii") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"{status}: another simulated factory is running there; give each a directory of its own"
            raise InUseError(msg) from None
        yield


async def _commands() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=COMMAND_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


async def serve(config: dict[str, Any], status: Path) -> int:
    """Run until stdin ends or SIGTERM; returns the exit status.

    Raises
    ------
    ConfigError
        If the configuration has other keys than ``factory`` and ``broker``, or wrong ones.
    """
    if set(config) != {"factory", "broker"}:
        msg = f"configuration has the keys {sorted(config)}; 'broker' and 'factory' are needed"
        raise ConfigError(msg)
    factory = Factory.from_dict(config["factory"])
    run = PlantRun(factory, config["broker"], status, clock=SystemClock(), emit=emit)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    try:
        endpoints = await run.open()
        ready = {"pid": os.getpid(), "broker": run.broker, "endpoints": endpoints}
        write_text(status / READY, json.dumps(ready, indent=1) + "\n")
        emit("ready", **ready)
        await _obey(run, await _commands(), ending)
    finally:
        await run.close()
    return 1 if run.failed else 0


async def _obey(run: PlantRun, commands: asyncio.StreamReader, ending: asyncio.Event) -> None:
    end = asyncio.create_task(ending.wait())
    try:
        while not ending.is_set():
            line = asyncio.create_task(commands.readline())
            await asyncio.wait({line, end}, return_when=asyncio.FIRST_COMPLETED)
            if not line.done():
                line.cancel()
                return
            word = line.result().decode(errors="replace")
            if not word:
                return
            if word.strip() == "start":
                await run.begin()
            elif word.strip() == "stop":
                await run.quiesce()
            else:
                emit("error", reason=f"command {word.strip()[:80]!r} is unknown; start and stop are allowed")
    finally:
        end.cancel()


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m iiot_dask.sim.serve", description="A simulated factory.")
    parser.add_argument("--config", type=Path, required=True, help="JSON: factory and broker")
    parser.add_argument("--status", type=Path, required=True, help="directory for ready.json and the truth")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR)
    # asyncua warns of every unencrypted endpoint; this one is loopback and meant to be open.
    logging.getLogger("asyncua").setLevel(logging.ERROR)
    try:
        options.status.mkdir(parents=True, exist_ok=True)
        config = json.loads(options.config.read_text(encoding="utf-8"))
        with alone(options.status):
            return asyncio.run(serve(config, options.status))
    except (IiotError, OSError, ValueError) as error:
        sys.stderr.write(f"iiot_dask.sim.serve: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
