"""The adapter's own keys: `[adapters.options]` of a line section, validated."""

from __future__ import annotations

from pydantic import Field

from iiot_dask.core.config import Model, SecretRef, Span
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
