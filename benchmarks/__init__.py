"""Measurements against peers in the same run, one file a name: ``iiot-dask bench NAME``. Installed as ``iiot_dask_benchmarks``.

Each has ``main(argv) -> int`` (the exit status), takes its own options and ``--json``: one document on stdout, nothing else there.
"""
