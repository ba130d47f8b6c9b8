"""`FactoryProcess`: starts a simulated factory as a child process, tells it when to begin and stop, fetches its truth."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from iiot_dask.core.errors import CapacityError, LocalAdapterError
from iiot_dask.sim.broker import BrokerName
from iiot_dask.sim.factory import Factory
from iiot_dask.sim.ledger import TRUTH_INFO, TRUTH_ROWS, Truth, write_text

EVENTS_MAX = 10_000
"""Events kept; older ones are dropped first."""


class FactoryProcess:
    """The factory's process: `start`, then `begin`, `quiesce` and `stop`, in this order; also a context manager.

    Parameters
    ----------
    factory
        The plant.
    directory
        For ready.json, the broker's files, the log (``factory.log``) and the truth; made if absent.
    broker
        ``auto`` (mosquitto when installed, else amqtt), ``mosquitto`` or ``amqtt``.

    Attributes
    ----------
    endpoints : dict of str to str
        Adapter name -> endpoint, once started.
    events : deque of dict
        What the process reported so far, oldest first: faults as they start and end, errors.
    """

    def __init__(self, factory: Factory, directory: str | Path, broker: BrokerName = "auto") -> None:
        self.factory = factory
        self.directory = Path(directory)
        self.endpoints: dict[str, str] = {}
        self.broker: str = broker
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        # One answer a call, and the end: it can not fill.
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=8)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self, timeout_s: float = 60.0) -> dict[str, str]:
        """Start the process, unless it runs already, and wait until every server answers; returns the endpoints.

        Raises
        ------
        LocalAdapterError
            If the process ends instead; the text holds the end of its log.
        CapacityError
            If it takes longer than `timeout_s`.
        """
        if self.alive and self.endpoints:
            return self.endpoints
        self.directory.mkdir(parents=True, exist_ok=True)
        for stale in (TRUTH_INFO, TRUTH_ROWS):
            (self.directory / stale).unlink(missing_ok=True)
        config = self.directory / "factory.json"
        write_text(config, json.dumps({"factory": self.factory.to_dict(), "broker": self.broker}))
        command = [
            sys.executable,
            "-m",
            "iiot_dask.sim.serve",
            "--config",
            str(config),
            "--status",
            str(self.directory),
        ]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
            )
        self._reader = threading.Thread(target=self._read, name="factory-events", daemon=True)
        self._reader.start()
        ready = self._wait("ready", timeout_s)
        self.endpoints, self.broker = dict(ready["endpoints"]), ready["broker"]
        return self.endpoints

    def plant_file(self, data: str = "plant-data", name: str = "demo") -> dict[str, Any]:
        """The plant file that reads this factory as it was started; `data` is relative to the plant file.

        amqtt speaks MQTT 3.1.1 only, and does not say so: it leaves a CONNECT of version 5 unanswered.
        """
        raw = self.factory.plant_file(self.endpoints, data, name)
        if self.broker == "amqtt":
            for adapter in raw["adapters"]:
                if adapter["kind"] == "mqtt":
                    adapter["version"] = 3
        return raw

    @property
    def _log(self) -> Path:
        return self.directory / "factory.log"

    @property
    def pid(self) -> int | None:
        """Process id, None before `start`."""
        return self._process.pid if self._process is not None else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                event = json.loads(line)
                self.events.append(event)
                if event["event"] in ("ready", "started", "stopped"):
                    self._waiting.put(event)
        self._waiting.put(None)

    def _wait(self, name: str, timeout_s: float) -> dict[str, Any]:
        try:
            event = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            self.kill()
            msg = f"simulated factory: no {name!r} within {timeout_s} s; its log is {self._log}"
            raise CapacityError(msg) from None
        if event is None or event["event"] != name:
            self.kill()
            tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            msg = f"simulated factory ended before {name!r}: {tail or 'nothing in its log'}"
            raise LocalAdapterError(msg)
        return event

    def _tell(self, word: str) -> None:
        if self._process is None or self._process.stdin is None:
            msg = f"simulated factory: {word!r} before start()"
            raise LocalAdapterError(msg)
        try:
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        except OSError as error:
            msg = f"simulated factory has ended; its log is {self._log}"
            raise LocalAdapterError(msg) from error

    def begin(self, timeout_s: float = 20.0) -> int:
        """Let the devices send: call it when every adapter is subscribed. Returns the start, ns UTC.

        Raises
        ------
        LocalAdapterError, CapacityError
            If the process ends or does not answer.
        """
        self._tell("start")
        return int(self._wait("started", timeout_s)["ns"])

    def quiesce(self, timeout_s: float = 30.0) -> int:
        """Stop the devices and wait until the broker has all they sent; servers stay up. Returns the stop, ns UTC.

        Raises
        ------
        LocalAdapterError, CapacityError
            If the process ends or does not answer.
        """
        self._tell("stop")
        return int(self._wait("stopped", timeout_s)["ns"])

    def stop(self, timeout_s: float = 60.0) -> Truth:
        """End the servers and load the truth.

        Raises
        ------
        CapacityError
            If the process does not end in time; it is killed.
        DataError
            If it left no truth.
        """
        self._end(timeout_s)
        return Truth.load(self.directory)

    def _end(self, timeout_s: float) -> None:
        if self._process is None:
            return
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                # It ended by itself; what it left, or did not, is told by the truth files.
                self.events.append({"event": "error", "reason": "the process had ended before it was told to"})
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            msg = f"simulated factory did not end within {timeout_s} s and was killed; its log is {self._log}"
            raise CapacityError(msg) from None
        if self._reader is not None:
            self._reader.join()

    def kill(self) -> None:
        """End the process at once, without a truth."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._reader is not None:
            self._reader.join()

    def __enter__(self) -> Self:
        if self._process is None:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.alive:
            self._end(60.0)
