"""Forks a child for each task it reads: the libraries are loaded once, the child does the work and may be killed in it.

Run with ``killer.so`` preloaded. A line of JSON in: scenario, folder, kill_at (0: only count), torn. A line out: exit status as
`os.waitpid` gives it, and how many calls were counted (when it lived).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import crash_scenarios
import deltalake
import polars as pl
import pyarrow.parquet

LOADED = (deltalake, pl, pyarrow.parquet)


def main() -> None:
    killer = ctypes.CDLL(None)
    for line in sys.stdin:
        task = json.loads(line)
        back, front = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(back)
            # Armed with the folder's end slash, so that the folder itself does not count.
            killer.crash_arm(task["folder"].encode() + b"/", task["kill_at"], task["torn"])
            try:
                getattr(crash_scenarios, task["scenario"])(Path(task["folder"]))
                os.write(front, str(killer.crash_count()).encode())
            except BaseException as error:  # noqa: BLE001 -- told to whoever asked
                os.write(front, f"{type(error).__name__}: {error}".encode()[:4000])
                os._exit(3)
            os._exit(0)
        os.close(front)
        with os.fdopen(back, "rb") as pipe:
            said = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status, "said": said}), flush=True)


if __name__ == "__main__":
    main()
