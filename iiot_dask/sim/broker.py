"""The MQTT broker of the simulated factory: mosquitto as a child process, or amqtt in a thread."""

from __future__ import annotations

import asyncio
import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Literal, Protocol

from iiot_dask.core.errors import CapacityError, ConfigError

BrokerName = Literal["auto", "mosquitto", "amqtt"]
STARTUP_TIMEOUT_S = 15.0
PORT_TRIES = 5
QUEUED_MAX = 1_000_000
"""Messages the broker keeps for a subscriber that is away or behind (mosquitto's default of 1,000 drops silently)."""

_PR_SET_PDEATHSIG = 1


class Broker(Protocol):
    """A running broker on 127.0.0.1."""

    name: str
    port: int

    def start(self) -> None:
        """Listen; returns when connections are accepted."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


def make(name: BrokerName, directory: Path) -> Broker:
    """The broker of that name; ``auto`` takes mosquitto when it is installed.

    Raises
    ------
    ConfigError
        If the name is unknown, or mosquitto is asked for and not installed.
    """
    program = mosquitto_program()
    if name == "amqtt" or (name == "auto" and program is None):
        return AmqttBroker()
    if name not in ("auto", "mosquitto"):
        msg = f"broker {name!r} is unknown; auto, mosquitto and amqtt are allowed"
        raise ConfigError(msg)
    if program is None:
        msg = "broker 'mosquitto': the program is not on PATH; install it or use broker 'amqtt'"
        raise ConfigError(msg)
    return MosquittoBroker(program, directory)


def mosquitto_program() -> str | None:
    """Path of mosquitto, or None; Debian keeps it in /usr/sbin, which not every PATH has."""
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def free_port() -> int:
    """A TCP port of 127.0.0.1 nobody listens on now; somebody else may take it before you do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Linux: be sent SIGTERM when the parent's main thread ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class MosquittoBroker:
    """mosquitto with a configuration of ours: loopback, persistent, large queues."""

    name = "mosquitto"

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def _config(self, port: int) -> str:
        store = self._directory / "mosquitto"
        store.mkdir(parents=True, exist_ok=True)
        return (
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n"
            f"persistence true\npersistence_location {store}/\nautosave_interval 5\n"
            f"max_queued_messages {QUEUED_MAX}\nmax_inflight_messages 20000\nqueue_qos0_messages true\n"
            "set_tcp_nodelay true\nlog_dest stderr\nlog_type error\nlog_type warning\n"
        )

    def start(self) -> None:
        """Start on a free port; tried again when somebody else was quicker.

        Raises
        ------
        CapacityError
            If it does not listen.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        log = self._directory / "mosquitto.log"
        for _ in range(PORT_TRIES):
            port = free_port()
            config = self._directory / "mosquitto.conf"
            config.write_text(self._config(port), encoding="utf-8")
            with log.open("ab") as stderr:
                self._process = subprocess.Popen(
                    [self._program, "-c", str(config)],
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509 -- started before this process has threads
                )
            if _listens(port, self._process):
                self.port = port
                return
            self.stop()
        msg = f"mosquitto did not listen on {PORT_TRIES} ports in turn; its log is {log}"
        raise CapacityError(msg)

    def stop(self) -> None:
        """SIGTERM (it saves its store), then SIGKILL after 5 s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + STARTUP_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return True
        except OSError:
            time.sleep(0.02)
    return False


class AmqttBroker:
    """amqtt (pure Python, MQTT 3.1.1) on a loop of its own in a daemon thread; slower, but always there."""

    name = "amqtt"

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None
        self._broker: Any = None
        self.port = 0

    def start(self) -> None:
        """Start on a free port.

        Raises
        ------
        CapacityError
            If it does not listen.
        """
        self._thread = threading.Thread(target=self._loop.run_forever, name="amqtt", daemon=True)
        self._thread.start()
        self.port = free_port()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(STARTUP_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            msg = f"amqtt can not listen on 127.0.0.1:{self.port}: {error}"
            raise CapacityError(msg) from error

    async def _start(self) -> None:
        from amqtt.broker import Broker as Amqtt

        config = {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{self.port}", "max_connections": 1000}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        self._broker = Amqtt(config, loop=self._loop)
        await self._broker.start()

    def stop(self) -> None:
        """Shut it down and end its thread."""
        if self._thread is None:
            return
        if self._broker is not None:
            asyncio.run_coroutine_threadsafe(self._broker.shutdown(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._thread = None
