"""Line adapter: whatever Telegraf or an Influx client sends, answered only once it is on disk."""

from .adapter import LineAdapter

__all__ = ["LineAdapter"]
