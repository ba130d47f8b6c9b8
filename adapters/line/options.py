"""The adapter's own keys: `[adapters.options]` of a line section, validated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from iiot_dask.core.config import Model, SecretRef, Span
from iiot_dask.core.errors import ConfigError
from iiot_dask.core.times import span_ns


class Options(Model):
    """What tags are called, who may write, and the limits. Spans are text or seconds in the file, ns in the program."""

    tag: str = Field(
        "{measurement}/{tags}/{field}", min_length=1, max_length=512,
        description="{measurement}, {field}, {db}, {NAME} = value of a tag, {tags} = the other tags as key=value levels",
    )  # fmt: skip
    token: SecretRef | None = Field(None, description="what clients send as 'Authorization: Token …'")
    anonymous: bool = Field(False, description="listen beyond loopback without token or password")
    body_bytes_max: int = Field(25_000_000, ge=1 << 10, le=1 << 30, description="largest body, packed and unpacked")
    bytes_max: int = Field(256 << 20, ge=1 << 10, le=8 << 30, description="bytes of bodies held at once")
    queue_rows: int = Field(1_000_000, ge=1_000, le=100_000_000, description="rows that wait before clients get 429")
    durable: Span = Field(span_ns("10s"), gt=0, description="longest wait for the disk before a client gets 503")
    tags_max: int = Field(1_000_000, ge=1, le=20_000_000, description="different tags one session names")


def options(given: Mapping[str, Any], adapter: str) -> Options:
    """Validate the `options` table of an adapter.

    Raises
    ------
    ConfigError
        Naming adapter, key, value and what is allowed.

    Examples
    --------
    >>> options({"durable": "5s"}, "telegraf").durable
    5000000000
    >>> options({"tagg": "x"}, "telegraf")
    Traceback (most recent call last):
    iiot_dask.core.errors.ConfigError: adapter 'telegraf': options.tagg = 'x': Extra inputs are not permitted
    """
    try:
        return Options.model_validate(dict(given))
    except ValidationError as error:
        lines = [
            f"adapter {adapter!r}: options.{'.'.join(map(str, e['loc']))} = {e.get('input')!r}: {e['msg']}"
            for e in error.errors(include_url=False)
        ]
        raise ConfigError("\n".join(lines)) from error
