"""Whether the dashboard's port is free, told before anything slow or heavy begins."""

import socket

from iiot_dask.core.errors import InUseError


def free_port(address: str, port: int) -> int:
    """`port`, or a free one for 0.

    Raises
    ------
    InUseError
        If the port is taken or the address is not this machine's.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            msg = f"dashboard port {address}:{port} is not available: {error.strerror}; choose another with --port (0 = any free one)"
            raise InUseError(msg) from error
        return int(probe.getsockname()[1])
