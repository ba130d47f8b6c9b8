"""Flight adapter: Arrow batches by Arrow Flight, acknowledged only once they are on disk; and the client edges use.

`client.EdgeClient` is the sending side; it is imported from its module, because it loads gRPC.
"""

from .adapter import FlightAdapter

__all__ = ["FlightAdapter"]
