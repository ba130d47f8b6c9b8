"""Replay: plays a recording as if its devices were there."""

from .adapter import ReplayAdapter

__all__ = ["ReplayAdapter"]
