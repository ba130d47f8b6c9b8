"""An adapter in a process of its own, to be killed: writes every row to a file (fsynced), then acknowledges it.

Arguments: port, output file, rows between acknowledgements, rows after which it kills itself (0 = never).
"""

import asyncio
import os
import signal
import sys

from iiot_dask_adapters.mqtt import MqttAdapter

from iiot_dask.adapter.contract import Context
from iiot_dask.core.clock import SystemClock
from iiot_dask.core.config import Adapter


async def run(port, out, every, die_after):
    topic = {"filter": "f/+/+", "tag": "site/{1}/{2}", "payload": "json"}
    raw = {"name": "victim", "kind": "mqtt", "endpoint": f"mqtt://127.0.0.1:{port}", "topics": [topic]}
    raw["options"] = {"inbox_messages": 1000, "reconnect_max": "100ms"}
    adapter = MqttAdapter(Context(Adapter.model_validate(raw), lambda ref: ref, SystemClock()))
    await adapter.open(None)
    rows = pending = 0
    with open(out, "ab", buffering=0) as file:  # noqa: ASYNC230, PTH123 -- the disk is what this is about
        while True:
            poll = await adapter.read()
            if poll.batch is not None:
                file.write(
                    b"".join(
                        b"%d %d\n" % (t, v)
                        for t, v in zip(poll.batch.time.tolist(), poll.batch.value.tolist(), strict=True)
                    )
                )
                os.fsync(file.fileno())
                rows += len(poll.batch)
                pending += len(poll.batch)
            if die_after and rows >= die_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if poll.position is not None and pending >= every:
                await adapter.acknowledge(poll.position)
                pending = 0


if __name__ == "__main__":
    asyncio.run(run(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
