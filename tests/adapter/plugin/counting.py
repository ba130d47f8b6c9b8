"""A stranger's adapter that counts, and misbehaves where its options say so. Positions are the next number."""

import asyncio
import ctypes
import os
import resource
import signal
import stat
import sys
import time
from pathlib import Path

import numpy as np

from iiot_dask.adapter.contract import Event, Poll, TagInfo
from iiot_dask.core.batch import Batch
from iiot_dask.core.errors import ConfigError, LocalAdapterError, RemoteAdapterError


class Counting:
    kind = "counting"
    summary = "Counts"

    def __init__(self, context):
        self.context = context
        self.options = context.config.options
        self.next = 0
        self.announced = False
        self.connected = False
        self.began = 0.0

    def note(self, word):
        with Path(f"{self.context.config.name}.notes").open("a") as notes:
            notes.write(f"{word}\n")

    async def open(self, position):
        self.note(f"open {position}")
        if self.options.get("open_hangs"):
            await asyncio.sleep(3600)
        self.next = int(position or 0)

    async def read(self):
        await asyncio.sleep(self.options.get("pause", 0.01))
        if self.next >= self.options.get("at", 1 << 62):
            await getattr(self, "do_" + self.options["do"])()
        size = min(self.options.get("rows", 10), self.options.get("total", 1 << 62) - self.next)
        if "per_s" in self.options:  # as a device does: what is due by the clock, however late it is asked
            self.began = self.began or time.monotonic()
            size = min(100_000, int((time.monotonic() - self.began) * self.options["per_s"]) - self.next)
        if size <= 0:
            return Poll()
        value = np.arange(self.next, self.next + size)
        batch = Batch.of(tag=np.zeros(size), time=value, value=value, received=np.full(size, time.time_ns()))
        tags = () if self.announced else (TagInfo("count/n", "count", "n"),)
        self.announced = True
        self.next += size
        return Poll(tags, batch, (), str(self.next))

    async def acknowledge(self, position):
        self.note(f"ack {position}")
        if self.options.get("ack_fails"):
            msg = "the source refuses the acknowledgement"
            raise RemoteAdapterError(msg)

    async def close(self):
        self.note("close")

    @classmethod
    async def check(cls, context):
        what = context.config.options.get("check", "fine")
        if what == "hang":
            await asyncio.sleep(3600)
        if what == "exit":
            print("last words")
            sys.stdout.flush()
            os._exit(3)
        if what == "raise":
            msg = f"login with {context.secret(context.config.password)} is refused"
            raise RemoteAdapterError(msg)
        return [] if what == "fine" else [f"{context.config.name} in {Path.cwd().name}: {what}"]

    # -- what it does at number `at` ---------------------------------------------------------------------------------

    async def do_config(self):
        msg = "register 70000 of 'count/n' is out of range 0..65535"
        raise ConfigError(msg)

    async def do_remote(self):
        msg = "the device refuses the connection"
        raise RemoteAdapterError(msg)

    async def do_bug(self):
        return {}["absent"]

    async def do_local(self):
        raise LocalAdapterError("secret is " + self.context.secret(self.context.config.password))

    async def do_hang(self):
        await asyncio.sleep(3600)

    async def do_block(self):
        time.sleep(3600)  # noqa: ASYNC251 -- on purpose

    async def do_exit(self):
        os._exit(3)

    async def do_segv(self):
        ctypes.string_at(0)

    async def do_term(self):
        os.kill(os.getpid(), signal.SIGTERM)
        self.options = {}

    async def do_eat(self):
        held = [np.ones(1 << 20) for _ in range(1 << 12)]  # 32 GiB
        self.note(f"ate {len(held)}")

    async def do_leak(self):
        self.held = [*getattr(self, "held", []), np.ones(4 << 20)]  # 32 MiB a read

    async def do_write(self):
        with Path(f"{self.context.config.name}.big").open("wb") as file:  # noqa: ASYNC230 -- nothing else to do
            for _ in range(64):
                file.write(bytes(1 << 16))
                file.flush()

    async def do_raise_limits(self):
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        except ValueError:
            self.said = f"limit {soft} {hard} refused"
        else:
            self.said = "limit raised"
        raise LocalAdapterError(self.said)

    async def do_environment(self):
        self.note("\n".join(os.environ))
        self.options = self.options | {"at": 1 << 62}

    async def do_spin(self):
        self.note("spins")
        while True:  # never gives the loop a turn
            pass

    async def do_files(self):
        held = []
        try:
            while len(held) < 10_000:
                held.append(os.open(os.devnull, os.O_RDONLY))
        finally:
            for file in held:
                os.close(file)
            self.note(f"files {len(held)}")

    async def do_print(self):
        print("hello from a library")
        os.write(1, b"and from C\n")
        self.options = self.options | {"at": 1 << 62}

    async def do_garbage(self):
        for fd in range(3, 64):
            try:
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.write(fd, b"Traceback (most recent call last):\n")
            except OSError:
                continue

    async def do_fork(self):
        if os.fork() == 0:
            time.sleep(3600)  # noqa: ASYNC251 -- the forked process has no loop
        self.note("forked")
        os._exit(3)

    async def do_wrong(self):
        self.do_wrong_poll = True
        self.read = self.read_wrong

    async def read_wrong(self):
        return Poll(position=7)

    async def do_disconnect(self):
        if not self.connected:
            self.connected = True
            self.next_event = Event("disconnected", self.context.config.name, 1, "no route to host")
            self.read = self.read_event

    async def read_event(self):
        event, self.next_event = self.next_event, None
        await asyncio.sleep(0.05)
        return Poll(events=(event,) if event else ())
