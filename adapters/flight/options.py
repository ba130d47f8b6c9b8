"""The adapter's own keys: `[adapters.options]` of a flight section, validated."""

from __future__ import annotations

from pydantic import Field

from iiot_dask.core.config import Model, SecretRef, Span
from iiot_dask.core.times import span_ns


class Options(Model):
    """Who may put, and the limits. Spans are text or seconds in the file, ns in the program."""

    token: SecretRef | None = Field(None, description="what clients send as 'authorization: Bearer …'")
    anonymous: bool = Field(False, description="listen beyond loopback without a token or client certificates")
    queue_rows: int = Field(1_000_000, ge=1_000, le=100_000_000, description="rows that wait before senders wait")
    put_rows_max: int = Field(1_000_000, ge=1_000, le=10_000_000, description="most rows of one put")
    durable: Span = Field(span_ns("30s"), gt=0, description="longest wait for the disk at the end of a put stream")
    connections_max: int = Field(64, ge=1, le=1_000, description="connections that put at once")
    tags_max: int = Field(1_000_000, ge=1, le=20_000_000, description="different tags one session names")
