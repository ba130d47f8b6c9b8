"""The plant file as frozen models: every key, its type, its default and its limits. Reading it is `plantfile.load`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from iiot_dask.core.tags import check_tag
from iiot_dask.core.times import span_ns

Span = Annotated[
    int,
    BeforeValidator(span_ns),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "examples": ["250ms", "1h30m"]}, {"type": "number", "description": "seconds"}]}
    ),
]
"""A span of time: text or seconds in the file, int ns in the program."""


def _span(text: str, **rules: Any) -> Any:
    """A field whose default is the span `text`: in ns in the program, as text in the JSON schema."""
    return Field(span_ns(text), json_schema_extra={"default": text}, **rules)


TagName = Annotated[str, AfterValidator(check_tag)]
SecretRef = Annotated[str, Field(pattern=r"^(env|file):.+", examples=["env:PLC7_PASSWORD", "file:secrets/plc7"])]
"""A secret, by reference only: ``env:NAME`` or ``file:PATH``. It is resolved when the adapter starts, never stored."""

Order = Literal["abcd", "dcba", "badc", "cdab"]
RegisterType = Literal[
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
    "bcd", "string", "bits",
]  # fmt: skip
TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
Payload = Literal["json", "raw", "line", "sparkplug", "cbor", "msgpack"]


class Model(BaseModel):
    """Base of every section: unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Plant(Model):
    """`[plant]`: what the plant is called and where its data lies."""

    name: str = Field(min_length=1, max_length=100)
    data: str = Field("plant-data", description="catalogue, journal, history, checkpoints; relative to the plant file")


class Tag(Model):
    """`[[adapters.tags]]`: one tag an adapter reads."""

    tag: TagName
    address: str | None = Field(None, description="Modbus: holding:100, input:, coil:, discrete:")
    node: str | None = Field(None, description="OPC UA: ns=2;s=Name or nsu=urn:x;s=Name")
    type: RegisterType | None = None
    order: Order = "abcd"
    unit_id: int = Field(1, ge=0, le=255)
    scan: Span = _span("1s")
    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = Field(None, max_length=40, description="engineering unit, for people")


class Topic(Model):
    """`[[adapters.topics]]`: which MQTT topics become which tags."""

    filter: str = Field(min_length=1, max_length=512)
    tag: str = Field(min_length=1, max_length=512, description="{n} is the n-th wildcard of the filter")
    payload: Payload = "json"
    value: str = Field("v", description="JSON path of the value, dots between levels; '' = the payload itself")
    time: str | None = Field("ts", description="JSON path of the time; absent = receive time, quality uncertain")
    time_unit: TimeUnit = "ms"


class Adapter(Model):
    """`[[adapters]]`: one connection to devices, run in a process of its own."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    kind: str
    endpoint: str | None = None
    listen: str | None = None
    tags: tuple[Tag, ...] = ()
    topics: tuple[Topic, ...] = ()
    browse: tuple[str, ...] = ()
    username: str | None = None
    password: SecretRef | None = None
    timeout: Span = _span("3s", gt=0)
    ca: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    client_id: str | None = None
    qos: Literal[0, 1, 2] = 1
    clean_session: bool = False
    version: Literal[3, 5] = 5
    security_policy: str | None = None
    security_mode: Literal["None", "Sign", "SignAndEncrypt"] | None = None
    sampling: Span = _span("0ms")
    queue_size: int = Field(100, ge=1, le=100_000)
    command: tuple[str, ...] = Field(
        (), description="start the adapter's process by this instead of this Python: another venv, ssh, docker run -i"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="keys of a plug-in's own")


class Class(Model):
    """`[[classes]]`: precision and expectations of the tags a glob matches; the first match counts."""

    match: str = Field(min_length=1)
    error_bound: float | str | None = Field(None, description="absolute, or '0.1%' of span; absent = lossless")
    time_snap: Span | None = None
    period: Span | None = None

    @model_validator(mode="after")
    def _bound(self) -> Class:
        bound = self.error_bound
        if isinstance(bound, str):
            try:
                share = float(bound.removesuffix("%")) if bound.endswith("%") else -1.0
            except ValueError:
                share = -1.0
            if not 0 < share < 100:
                msg = f"error_bound {bound!r} is neither a number nor a percentage of span between 0% and 100%"
                raise ValueError(msg)
        elif bound is not None and not 0 < bound < float("inf"):
            msg = f"error_bound {bound!r} is not a positive finite number"
            raise ValueError(msg)
        return self


class Cluster(Model):
    """`[cluster]`: the Dask workers and what decides their number."""

    kind: Literal["local", "gateway", "kubernetes", "address"] = "local"
    address: str | None = None
    minimum: int = Field(1, ge=1, le=10_000)
    maximum: int = Field(4, ge=1, le=10_000)
    processes: bool = Field(False, description="worker processes instead of threads in this process")
    memory: int = Field(1 << 30, ge=64 << 20, description="bytes a worker process may use")
    policy: Literal["forecast", "reactive", "static"] = "forecast"
    capacity: float = Field(500_000.0, gt=0, description="samples/s one worker takes at full use")
    utilisation: float = Field(0.7, gt=0, le=1)
    boot: Span = _span("2s")
    day: Span = _span(
        "1d",
        ge=span_ns("1s"),
        description="length of the plant's cycle; shorter only in simulated time",
    )

    @model_validator(mode="after")
    def _order(self) -> Cluster:
        if self.minimum > self.maximum:
            msg = f"minimum {self.minimum} is above maximum {self.maximum}"
            raise ValueError(msg)
        return self


class Journal(Model):
    """`[journal]`: the durable log between adapters and the stream."""

    segment_bytes: int = Field(64 << 20, ge=1 << 16)
    bytes_max: int = Field(4 << 30, ge=1 << 20, description="at this size adapters are made to wait")
    commit: Span = _span("10ms", description="longest wait to share one fsync")
    queue_rows: int = Field(2_000_000, ge=1_000, description="rows waiting for the disk before adapters wait")


class Streaming(Model):
    """`[stream]`: when a micro-batch closes, how many shards, how often history is written."""

    batch_rows: int = Field(50_000, ge=1)
    batch: Span = _span("100ms", gt=0)
    shards: int = Field(2, ge=1, le=1024)
    flush: Span = _span("2s", gt=0, description="history is committed at least this often")
    flush_rows: int = Field(2_000_000, ge=1)
    in_flight: int = Field(16, ge=1, le=1024, description="micro-batches being worked on at once")


class HistoryKeeping(Model):
    """`[history]`: how the stored samples are looked after while the engine runs."""

    compact: Span = _span("5m", gt=0, description="time between two compactions")
    retention: Span = _span("1d", description="files a compaction replaced are deleted after this long")
    keep: Span | None = Field(None, gt=0, description="how long samples are kept; absent = for ever")
    tiers: tuple[str, ...] = Field(
        (), description="windows that samples become after, finest first, and how long those are kept: '1m=730d', '1h'"
    )


class Dashboard(Model):
    """`[dashboard]`: where the Panel app listens; loopback unless told otherwise."""

    address: str = "127.0.0.1"
    port: int = Field(5006, ge=0, le=65535)


class PlantFile(Model):
    """A whole plant file."""

    plant: Plant
    adapters: tuple[Adapter, ...] = ()
    classes: tuple[Class, ...] = ()
    cluster: Cluster = Field(default_factory=Cluster)  # type: ignore[arg-type]  # pydantic's overloads
    journal: Journal = Field(default_factory=Journal)  # type: ignore[arg-type]  # pydantic's overloads
    stream: Streaming = Field(default_factory=Streaming)  # type: ignore[arg-type]  # pydantic's overloads
    history: HistoryKeeping = Field(default_factory=HistoryKeeping)  # type: ignore[arg-type]  # pydantic's overloads
    dashboard: Dashboard = Field(default_factory=Dashboard)  # type: ignore[arg-type]  # pydantic's overloads

    @model_validator(mode="after")
    def _unique(self) -> PlantFile:
        names: set[str] = set()
        tags: dict[str, str] = {}
        for adapter in self.adapters:
            if adapter.name in names:
                msg = f"adapter name {adapter.name!r} is used twice; each needs its own"
                raise ValueError(msg)
            names.add(adapter.name)
            for tag in adapter.tags:
                if tag.tag in tags:
                    msg = f"tag {tag.tag!r} is defined twice, in adapters {tags[tag.tag]!r} and {adapter.name!r}"
                    raise ValueError(msg)
                tags[tag.tag] = adapter.name
        return self
