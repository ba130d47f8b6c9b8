"""The adapter's own keys: `[adapters.options]` of an MQTT section, validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from iiot_dask.core.config import Model, Span
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import span_ns


class Options(Model):
    """Limits and habits of one MQTT session. Spans are text or seconds in the file, ns in the program."""

    keepalive: Span = Field(span_ns("30s"), ge=span_ns("5s"), le=span_ns("18h"))
    session_expiry: Span = Field(span_ns("1d"), description="how long the broker keeps our session (MQTT 5)")
    receive_maximum: int = Field(65_535, ge=1, le=65_535, description="unacknowledged QoS 1/2 messages (MQTT 5)")
    payload_bytes_max: int = Field(4 << 20, ge=1 << 10, le=128 << 20, description="larger messages are refused")
    inbox_bytes: int = Field(8 << 20, ge=1 << 16, le=1 << 30, description="bytes held before the socket waits")
    inbox_messages: int = Field(100_000, ge=1_000, le=100_000, description="messages held before the socket waits")
    topics_max: int = Field(1_000_000, ge=1, le=20_000_000, description="different topics (or metrics) a session names")
    linger: Span = Field(span_ns("5ms"), le=span_ns("100ms"), description="wait for more after the first message")
    reconnect_max: Span = Field(span_ns("30s"), ge=span_ns("100ms"), description="longest pause between attempts")
    rebirth: bool = Field(True, description="Sparkplug: ask a node for its birth when something is unknown or missing")
    stale_rows: bool = Field(False, description="Sparkplug: a death writes one stale row per metric")


def options(given: Mapping[str, Any], adapter: str) -> Options:
    """Validate the `options` table of an adapter.

    Raises
    ------
    ConfigError
        Naming adapter, key, value and what is allowed.

    Examples
    --------
    >>> options({"keepalive": "1m"}, "cells").keepalive
    60000000000
    >>> options({"keepalife": 1}, "cells")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: adapter 'cells': options.keepalife = 1: Extra inputs are not permitted
    """
    try:
        return Options.model_validate(dict(given))
    except ValidationError as error:
        lines = [
            f"adapter {adapter!r}: options.{'.'.join(map(str, e['loc']))} = {e.get('input')!r}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from error
