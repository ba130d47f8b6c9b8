"""OPC UA: a subscription on explicit or browsed variables of one server."""

from .adapter import OpcUaAdapter

__all__ = ["OpcUaAdapter"]
