"""Adapters: the plug-in contract, and the host that runs each one in a process of its own."""
