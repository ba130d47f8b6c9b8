"""Helpers are no tests."""

collect_ignore = ["controller.py", "gateways.py"]
