"""`Channel`: one incarnation of an adapter: its process, and the host's ends of its three pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iiot_dask.adapter.logfile import BoundedLog
from iiot_dask.adapter.message import ack
from iiot_dask.adapter.wire import Frame, encode

PIPE_BYTES = 1 << 20
PIECE_BYTES = 1 << 16
_F_SETPIPE_SZ = 1031
_INT = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Program:
    """How a child is started: its command line, its environment, its working directory.

    `base` is the plant file's folder, so that relative paths in a section mean what they say. `queue` is the size of the
    pipe for what the child sends, bytes.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    base: Path
    queue: int = PIPE_BYTES


class Channel:
    """A running child. All methods but `read` are for the host's one control thread.

    The thread that constructs it must outlive the child: on Linux the kernel kills the child when that *thread* ends.

    Parameters
    ----------
    program
        What is started.
    opening
        The OPEN frame.
    log
        Takes the child's stderr.
    incarnation
        Number of this run.

    Raises
    ------
    OSError
        If the process can not be started.
    """

    def __init__(self, program: Program, opening: Frame, log: BoundedLog, incarnation: int) -> None:
        self.incarnation = incarnation
        self.log = log
        self.drained = False
        """Set by the reading thread: stdout has ended and every frame was handed over."""
        self.drained_ns: int | None = None
        self.ended = False
        self.opened = False
        self._out = bytearray(encode(opening))
        self._process = subprocess.Popen(
            list(program.command), cwd=program.base, env=dict(program.environment), bufsize=0, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.stdin = self._process.stdin.fileno()
        self.stderr = self._process.stderr.fileno()
        self._stdout = self._process.stdout
        for descriptor in (self.stdin, self.stderr):
            os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):
            # A larger pipe saves context switches; a kernel that refuses leaves the usual 64 KiB.
            fcntl.fcntl(self._stdout.fileno(), _F_SETPIPE_SZ, program.queue)

    # -- down --------------------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Bytes the child has not taken yet."""
        return len(self._out)

    def send(self, frame: Frame) -> None:
        """Queue a frame; the few kinds there are, and `acknowledge`'s coalescing, keep the queue short."""
        self._out += encode(frame)

    def acknowledge(self, position: str) -> bool:
        """Queue an ACK if nothing waits before it; otherwise the caller keeps the newest and comes again."""
        if self._out:
            return False
        self.send(ack(position))
        return True

    def flush(self) -> None:
        """Write what the pipe takes now."""
        try:
            while self._out:
                with memoryview(self._out) as view:
                    written = os.write(self.stdin, view[:PIECE_BYTES])
                del self._out[:written]
        except BlockingIOError:
            return
        except BrokenPipeError:
            # The child is on its way out; its end is noticed by itself.
            self._out.clear()

    # -- up ----------------------------------------------------------------------------------------------------------

    def read(self) -> bytes:
        """The next piece of stdout, waiting for it; empty at the end. For the reading thread."""
        return os.read(self._stdout.fileno(), PIPE_BYTES)

    def finish_reading(self) -> None:
        """Close stdout; the reading thread's last call."""
        self._stdout.close()

    @property
    def unread(self) -> int:
        """Bytes that wait in the stdout pipe."""
        if self._stdout.closed:
            return 0
        (size,) = _INT.unpack(fcntl.ioctl(self._stdout.fileno(), termios.FIONREAD, bytes(_INT.size)))
        return int(size)

    def copy_log(self) -> bool:
        """Move what waits on stderr to the log; False once stderr has ended."""
        try:
            while data := os.read(self.stderr, PIECE_BYTES):
                self.log.write(data)
        except BlockingIOError:
            return True
        return False

    # -- life --------------------------------------------------------------------------------------------------------

    def has_ended(self) -> bool:
        """Whether the process has ended; the first time, whatever it left behind is killed too."""
        if self.ended:
            return True
        # WNOWAIT keeps the pid ours until the group has been signalled.
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return False
        self.ended = True
        self._signal_group()
        return True

    def kill(self) -> None:
        """SIGKILL to the process and what it started."""
        if not self.ended:
            self._signal_group()

    def _signal_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def reap(self) -> str:
        """Collect the ended process and close its pipes; returns how it ended, in words."""
        self.copy_log()
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stderr):
            if stream is not None:
                stream.close()
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        last = self.log.last_line
        return f"{how}; last line of its log: {last}" if code and last else how
