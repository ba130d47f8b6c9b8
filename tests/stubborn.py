"""A sender that never gives up, as a program: ``stubborn.py line|flight PORT TOKEN``; for at most two minutes.

A process of its own, because the contract counts the file descriptors of the one it runs in.
"""

import sys
import time
import urllib.error
import urllib.request

END = time.monotonic() + 120


def line(port, token):
    k = 0
    while time.monotonic() < END:
        body = b"\n".join(b"m,n=%d f=%d %d" % (j, k, 1_764_064_000_000_000_000 + k) for j in range(5))
        url = f"http://127.0.0.1:{port}/write?db=x"
        request = urllib.request.Request(url, data=body, headers={"Authorization": f"Token {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10):
                k += 1
        except (urllib.error.HTTPError, OSError):
            # Refused, or not there: the same again.
            time.sleep(0.01)


def flight(port, token):
    import numpy as np
    import pyarrow as pa
    from iiot_dask_adapters.flight.client import EdgeClient

    from iiot_dask.core.errors import CapacityError, RemoteAdapterError

    while time.monotonic() < END:
        try:
            with EdgeClient(f"grpc+tcp://127.0.0.1:{port}", "edge-7", token=token, timeout_s=1) as edge:
                at = -1 if edge.durable is None else edge.durable
                while time.monotonic() < END:
                    at += 1
                    times = np.arange(10 * at, 10 * at + 10)
                    tag = pa.array([f"a/{k % 2}" for k in times.tolist()]).dictionary_encode()
                    edge.send(pa.record_batch({"tag": tag, "time": times, "value": times.astype(float)}), at)
                    time.sleep(0.005)
        except (RemoteAdapterError, CapacityError):
            time.sleep(0.01)


if __name__ == "__main__":
    {"line": line, "flight": flight}[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
