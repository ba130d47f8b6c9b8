# ruff: noqa: SLF001 -- asyncua offers no public way to a publish loop, transport or session of one's own
"""The one file that touches asyncua: a session with its subscription, that hands over notifications as bytes.

asyncua owns socket, secure channel, session and every service call. Three things are ours: the publish loop (several
requests outstanding, acknowledged, gaps republished, bodies kept as bytes), bounds on what a peer may make us buffer,
and reconnecting - its own supervisor recreates a subscription in one request of any size and carries on if that fails.
Private names are used where no public one exists; this was written against 2.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from asyncua import Client, ua
from asyncua.client.ua_client import UaClient, UaClientState, UASocketProtocol
from asyncua.client.ua_session import SessionState, UaSession
from asyncua.common.connection import TransportLimits
from asyncua.common.shortcuts import Shortcuts
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

from iiot_dask.core.errors import DataError, IiotError, RemoteAdapterError

from .notification import DATA_CHANGE, STATUS_CHANGE, Publish, read_publish
from .security import Security

MESSAGE_BYTES_MAX = 64 << 20
CHUNKS_MAX = 4096
PUBLISHES = 3
"""Publish requests outstanding: the server always has one at hand while others are on the way."""
KEEP_ALIVE_S = 2.0
LIFETIME_S = 60.0
REPUBLISH_MAX = 1000
SEQUENCE_MAX = 0xFFFFFFFF
"""Sequence numbers run from 1 to this and start again at 1."""

# Whatever asyncua logs about a failed call comes back to us as an exception and leaves as an event.
logging.getLogger("asyncua").setLevel(logging.CRITICAL)

T = TypeVar("T")


class SessionLostError(RemoteAdapterError):
    """The session or its connection is gone; a new one is needed."""


class CallFailedError(RemoteAdapterError):
    """The server answered a service call with an error; the session lives."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's OperationLimits that concern us (0 = none stated), capped by what we ask at most."""

    read: int = 1000
    browse: int = 200
    monitor: int = 500


@dataclass(frozen=True, slots=True)
class Found:
    """A node met while browsing."""

    node: str
    name: str
    variable: bool


class _Protocol(UASocketProtocol):  # type: ignore[misc]  # asyncua is untyped to mypy here
    """Refuses chunks and messages beyond the limits instead of buffering them."""

    def data_received(self, data: bytes) -> None:
        if len(self.receive_buffer or b"") + len(data) > MESSAGE_BYTES_MAX:
            self._fail_all_pending(ua.UaError(f"a message chunk of more than {MESSAGE_BYTES_MAX} bytes"))
            self.disconnect_socket()
            return
        super().data_received(data)


class _Transport(UaClient):  # type: ignore[misc]
    def _make_protocol(self) -> _Protocol:
        limits = TransportLimits(65535, 65535, CHUNKS_MAX, MESSAGE_BYTES_MAX)
        self.protocol = _Protocol(self._timeout, security_policy=self.security_policy, limits=limits)
        self.protocol.pre_request_hook = self._pre_request_hook
        self.protocol.on_connection_lost = self._on_transport_lost
        self.protocol.is_session_closing = self._is_session_closing
        return self.protocol


class _Session(UaSession):  # type: ignore[misc]
    """asyncua's session with our publish loop."""

    def __init__(self, client: UaClient, take: Callable[[bytes, int], Awaitable[None]]) -> None:
        super().__init__(client)
        self._take = take
        self.failed: str | None = None
        """Why the publish loop ended, if it did."""
        self.acks: list[ua.SubscriptionAcknowledgement] = []

    async def _publish_loop(self) -> None:
        self.failed = None
        workers = [asyncio.create_task(self._publisher()) for _ in range(PUBLISHES)]
        try:
            await asyncio.gather(*workers)
        except Exception as error:  # noqa: BLE001 -- asyncua's decoders raise whatever the bytes make them raise; becomes an event
            self.failed = f"publishing: {type(error).__name__}: {error}"
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _publisher(self) -> None:
        while self._state not in (SessionState.CLOSING, SessionState.CLOSED):
            request = ua.PublishRequest()
            request.Parameters.SubscriptionAcknowledgements, self.acks = self.acks, []
            try:
                # The server answers when it has something to say, so there is no timeout; a dead one is found by the watchdog.
                data = await self._send_request(request, timeout=0)
            except (ua.uaerrors.BadTooManyPublishRequests, ua.uaerrors.BadNoSubscription):
                return
            except ua.uaerrors.BadTimeout:
                continue
            raw = bytes(data._data[data._cur_pos : data._cur_pos + len(data)])
            nodeid_from_binary(data)
            header = struct_from_binary(ua.ResponseHeader, data)
            header.ServiceResult.check()
            await self._take(raw, len(raw) - len(data))


class Session:
    """A connection, a session and one subscription.

    Parameters
    ----------
    timeout_s
        Longest wait for each answer, seconds.
    on_body
        Awaited with the body of each DataChangeNotification, in order of sequence numbers. While it waits nothing
        more is asked for: the server's queues fill, and it says so when they overflow.
    on_malformed
        Called with a sentence and the bytes when a publish response can not be read.
    """

    def __init__(
        self,
        endpoint: str,
        timeout_s: float,
        security: Security,
        on_body: Callable[[bytes], Awaitable[None]],
        on_malformed: Callable[[str, bytes], None],
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._security = security
        self._on_body = on_body
        self._on_malformed = on_malformed
        self._client: Any = None
        self._subscription: int | None = None
        self._sequence = 0
        self._turn = asyncio.Lock()
        self.gaps = 0
        """Notification messages that were lost and that the server could not send again."""
        self.keep_alive_s = KEEP_ALIVE_S
        """The server says something at least this often, seconds."""
        self.published_s = 0.0
        """Loop time of the last publish response, seconds."""
        self.ended: str | None = None
        """Why the server ended the subscription, if it did."""
        self.namespaces: list[str] = []
        self.limits = Limits()

    @property
    def connected(self) -> bool:
        """Whether session and connection are up, as far as this side knows."""
        return self._client is not None and self._client.state is UaClientState.CONNECTED

    @property
    def trouble(self) -> str | None:
        """What is known to be wrong with the session, or None."""
        if not self.connected:
            return "the connection was closed"
        if self.ended is not None:
            return f"the server ended the subscription: {self.ended}"
        failed: str | None = self._client.uaclient.session.failed
        return failed

    async def connect(self) -> None:
        """Open a new session; forget the old one.

        Raises
        ------
        SessionLostError
            If the server can not be reached or does not let us in.
        ConfigError
            If certificates can not be read.
        """
        await self.close()
        client = Client(self.endpoint, timeout=self.timeout_s)
        self._adopt(client)
        async with self._mapped(f"connecting to {self.endpoint}", lost=True):
            await self._security.apply(client)
            await client._connect_sequence()
        self._client = client
        self.ended = None
        await self._learn()

    def _adopt(self, client: Any) -> None:
        """Give the client our transport and session, which asyncua has no parameter for."""
        client.max_messagesize, client.max_chunkcount = MESSAGE_BYTES_MAX, CHUNKS_MAX
        client.session_timeout = LIFETIME_S * 1000
        client.uaclient = _Transport(self.timeout_s)
        client.uaclient.pre_request_hook = client._wait_until_ready
        client.uaclient.session = _Session(client.uaclient, self._take)
        client.nodes = Shortcuts(client.uaclient.session)

    async def resume(self) -> bool:
        """After a lost connection: the old session on a new connection, if the server still has it.

        True: session and subscription go on, lost messages are sent again. False: there is no such session any more.

        Raises
        ------
        SessionLostError
            If the server can not be reached.
        """
        client = self._client
        if client is None or not client.uaclient.has_session or self._subscription is None or self.ended:
            return False
        async with self._mapped(f"reconnecting to {self.endpoint}", lost=True):
            await client._teardown_transport_only()
            reused = await client._try_reactivate_existing_session()
        if reused:
            self._touch()
        return bool(reused)

    async def _learn(self) -> None:
        """Namespaces and operation limits of the server; limits it does not state stay ours."""
        self.namespaces = [str(uri) for uri in await self.call(self._client.get_namespace_array(), "the namespaces")]
        ids = ua.ObjectIds
        wanted = [
            ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
            ids.Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
        ]
        values = await self.read([f"i={number}" for number in wanted], ua.AttributeIds.Value)
        stated = [
            value.Value.Value if value.StatusCode.is_good() and value.Value is not None else 0 for value in values
        ]
        ours = Limits()
        best = [
            min(int(said), own) if said else own
            for said, own in zip(stated, (ours.read, ours.browse, ours.monitor), strict=True)
        ]
        self.limits = Limits(*best)

    async def close(self) -> None:
        """Close subscription, session and connection as far as the server still answers."""
        client, self._client, self._subscription = self._client, None, None
        if client is None:
            return
        # asyncua's disconnect swallows what fails on the way down; only its duration is ours to bound.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.disconnect(), 2 * self.timeout_s)

    async def call(self, awaitable: Awaitable[T], what: str) -> T:
        """Await a service call, with asyncua's errors mapped to ours.

        Raises
        ------
        SessionLostError
            The session or connection is gone, or nothing came back in time.
        CallFailedError
            The server answered with an error.
        """
        async with self._mapped(f"{what} of {self.endpoint}"):
            return await asyncio.wait_for(awaitable, self.timeout_s)

    @contextlib.asynccontextmanager
    async def _mapped(self, what: str, *, lost: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                raise
            msg = f"{what}: {error or type(error).__name__}"
            raise SessionLostError(msg) from error
        except ua.UaStatusCodeError as error:
            name = ua.StatusCode(error.code).name
            gone = lost or name in {
                "BadSessionIdInvalid",
                "BadSessionClosed",
                "BadSecureChannelIdInvalid",
                "BadSecureChannelClosed",
                "BadConnectionClosed",
            }
            msg = f"{what}: {name}"
            raise (SessionLostError if gone else CallFailedError)(msg) from error
        except ua.UaError as error:
            msg = f"{what}: {error}"
            raise (SessionLostError if lost else CallFailedError)(msg) from error
        except (IiotError, AssertionError):
            raise
        except Exception as error:
            # asyncua's decoders raise whatever damaged bytes make them raise: ValueError, struct.error, AttributeError …
            msg = f"{what}: the answer can not be read: {type(error).__name__}: {error}"
            raise SessionLostError(msg) from error

    async def read(self, nodes: Sequence[str], attribute: Any) -> list[Any]:
        """One attribute (`ua.AttributeIds`) of many nodes, as asyncua DataValues, in as many calls as the server's limits need."""
        out: list[Any] = []
        for part in _parts(nodes, self.limits.read):
            ids = [ua.NodeId.from_string(node) for node in part]
            out += await self.call(
                self._client.uaclient.session.read_attributes(ids, attribute), f"reading {len(part)} nodes"
            )
        return out

    async def server_time(self) -> Any:
        """The server's current time, as it says."""
        (value,) = await self.read(["i=2258"], ua.AttributeIds.Value)
        return value.Value.Value if value.Value is not None else None

    async def name(self, node: str) -> str:
        """A node's browse name.

        Raises
        ------
        CallFailedError
            If the server has no such node.
        """
        (value,) = await self.read([node], ua.AttributeIds.BrowseName)
        if not value.StatusCode.is_good() or value.Value.Value is None:
            msg = f"node {node} of {self.endpoint}: {value.StatusCode.name}"
            raise CallFailedError(msg)
        return str(value.Value.Value.Name)

    async def types(self, nodes: Sequence[str]) -> list[tuple[int, int]]:
        """Data type (numeric id in namespace 0, else 0) and value rank (-1 scalar, -2 any) of variables."""
        kinds = await self.read(nodes, ua.AttributeIds.DataType)
        ranks = await self.read(nodes, ua.AttributeIds.ValueRank)
        out = []
        for kind, rank in zip(kinds, ranks, strict=True):
            number: Any = kind.Value.Value if kind.StatusCode.is_good() else None
            plain = number is not None and number.NamespaceIndex == 0 and isinstance(number.Identifier, int)
            good = rank.StatusCode.is_good() and rank.Value.Value is not None
            out.append((int(number.Identifier) if plain else 0, int(rank.Value.Value) if good else -2))
        return out

    async def faults(self, nodes: Sequence[str]) -> list[str | None]:
        """What keeps each node from giving a number now, None = nothing."""
        values = await self.read(nodes, ua.AttributeIds.Value)
        out: list[str | None] = []
        for value in values:
            status = value.StatusCode
            content = value.Value.Value if value.Value is not None else None
            if not status.is_good():
                out.append(status.name)
            elif isinstance(content, bool | int | float):
                out.append(None)
            else:
                out.append(
                    f"its value is no single number but {value.Value.VariantType.name if content is not None else 'absent'}"
                )
        return out

    async def subscribe(self, publish_ms: float) -> None:
        """Create the subscription; the old one, if any, is forgotten.

        Raises
        ------
        SessionLostError, CallFailedError
            As `call`.
        """
        params = ua.CreateSubscriptionParameters()
        params.RequestedPublishingInterval = publish_ms
        params.RequestedMaxKeepAliveCount = max(1, round(KEEP_ALIVE_S * 1000 / publish_ms))
        params.RequestedLifetimeCount = max(
            3 * params.RequestedMaxKeepAliveCount, round(LIFETIME_S * 1000 / publish_ms)
        )
        params.MaxNotificationsPerPublish = 10_000
        params.PublishingEnabled = True
        session = self._client.uaclient.session
        session.acks.clear()
        self._subscription, self._sequence, self.ended = None, 0, None
        # The publish loop may deliver before the id is known here; `_take` waits for it.
        async with self._turn:
            made = await self.call(session.create_subscription(params, self._ignore), "subscribing")
            self._subscription = int(made.SubscriptionId)
        self.keep_alive_s = made.RevisedPublishingInterval * made.RevisedMaxKeepAliveCount / 1000
        self._touch()

    @staticmethod
    def _ignore(_result: Any) -> None:
        """Stand in for asyncua's per-response callback: our publish loop does not use it."""

    def _touch(self) -> None:
        self.published_s = asyncio.get_running_loop().time()

    async def monitor(self, items: Iterable[tuple[int, str]], sampling_ms: float, queue_size: int) -> dict[int, str]:
        """Monitor the values of (client handle, node id); what the server refused, as handle -> reason.

        Raises
        ------
        SessionLostError, CallFailedError
            As `call`.
        """
        refused: dict[int, str] = {}
        for part in _parts(list(items), self.limits.monitor):
            params = ua.CreateMonitoredItemsParameters()
            params.SubscriptionId = self._subscription
            params.TimestampsToReturn = ua.TimestampsToReturn.Both
            params.ItemsToCreate = [_item(handle, node, sampling_ms, queue_size, stamps=True) for handle, node in part]
            session = self._client.uaclient.session
            results = await self.call(session.create_monitored_items(params), f"monitoring {len(part)} nodes")
            said = {h: r.StatusCode.name for (h, _), r in zip(part, results, strict=True) if not r.StatusCode.is_good()}
            # A server that can not report by timestamp still reports by value.
            again = [(handle, node) for handle, node in part if said.get(handle) in _NO_FILTER]
            if again:
                params.ItemsToCreate = [_item(handle, node, sampling_ms, queue_size) for handle, node in again]
                results = await self.call(session.create_monitored_items(params), f"monitoring {len(again)} nodes")
                for (handle, _), result in zip(again, results, strict=True):
                    del said[handle]
                    if not result.StatusCode.is_good():
                        said[handle] = result.StatusCode.name
            refused |= said
        return refused

    async def children(self, nodes: Sequence[str]) -> list[list[Found]]:
        """Objects and variables below each node (hierarchical references but properties), continuation points followed."""
        out: list[list[Found]] = []
        for part in _parts(nodes, self.limits.browse):
            params = ua.BrowseParameters()
            params.RequestedMaxReferencesPerNode = 1000
            params.NodesToBrowse = [_browse(node) for node in part]
            session = self._client.uaclient.session
            results = await self.call(session.browse(params), f"browsing {len(part)} nodes")
            for result in results:
                found = _found(result)
                while result.ContinuationPoint:
                    more = ua.BrowseNextParameters(ContinuationPoints=[result.ContinuationPoint])
                    (result,) = await self.call(session.browse_next(more), "browsing on")  # noqa: PLW2901
                    found += _found(result)
                out.append(found)
        return out

    async def _take(self, raw: bytes, start: int) -> None:
        """One publish response: acknowledged, its gap filled, its bodies handed over; one at a time, in order."""
        async with self._turn:
            self._touch()
            try:
                publish = read_publish(raw, start)
            except DataError as error:
                self._on_malformed(str(error), raw)
                return
            if publish.subscription != self._subscription:
                return
            # A keep-alive carries the number of the message that will be next (Part 4, 5.14.1.1): it too shows a gap.
            expected = self._sequence % SEQUENCE_MAX + 1
            missing = (publish.sequence - expected) % SEQUENCE_MAX
            if 0 < missing <= REPUBLISH_MAX:
                await self._fill(expected, missing, publish.available)
                self._sequence = (publish.sequence - 2) % SEQUENCE_MAX + 1
            elif missing and publish.parts and self._sequence:
                self.gaps += 1
            if publish.parts:
                self._sequence = publish.sequence
                await self._hand_over(publish)
                self._acknowledge(publish.sequence)

    def _acknowledge(self, sequence: int) -> None:
        self._client.uaclient.session.acks.append(
            ua.SubscriptionAcknowledgement(SubscriptionId=self._subscription, SequenceNumber=sequence)
        )

    async def _fill(self, expected: int, missing: int, available: tuple[int, ...]) -> None:
        """Ask again for the messages between; what the server no longer has is counted in `gaps`."""
        for offset in range(missing):
            number = (expected + offset - 1) % SEQUENCE_MAX + 1
            if number not in available:
                # Before the first message a server may start at any number.
                self.gaps += 1 if self._sequence else 0
                continue
            request = ua.RepublishRequest()
            request.Parameters.SubscriptionId = self._subscription
            request.Parameters.RetransmitSequenceNumber = number
            try:
                data = await self.call(self._client.uaclient.session._send_request(request), "republishing")
                message = struct_from_binary(ua.RepublishResponse, data)
                message.ResponseHeader.ServiceResult.check()
            except (CallFailedError, ua.UaStatusCodeError):
                self.gaps += 1
                continue
            for part in message.NotificationMessage.NotificationData or ():
                if isinstance(part, ua.DataChangeNotification):
                    await self._on_body(struct_to_binary(part))
            self._acknowledge(number)

    async def _hand_over(self, publish: Publish) -> None:
        for kind, body in publish.parts:
            if kind == DATA_CHANGE:
                await self._on_body(body)
            elif kind == STATUS_CHANGE:
                self.ended = ua.StatusCode(int.from_bytes(body[:4], "little")).name


def general(body: bytes) -> list[tuple[int, Any]]:
    """The slow, complete reading of a DataChangeNotification: (client handle, asyncua DataValue) each."""
    notification = struct_from_binary(ua.DataChangeNotification, ua.utils.Buffer(body))
    return [(int(item.ClientHandle), item.Value) for item in notification.MonitoredItems]


def _parts(items: Sequence[T], most: int) -> Iterable[Sequence[T]]:
    return (items[at : at + most] for at in range(0, len(items), most))


_NO_FILTER = frozenset({"BadMonitoredItemFilterUnsupported", "BadFilterNotAllowed", "BadMonitoredItemFilterInvalid"})


def _item(handle: int, node: str, sampling_ms: float, queue_size: int, *, stamps: bool = False) -> Any:
    item = ua.MonitoredItemCreateRequest()
    item.ItemToMonitor = ua.ReadValueId(NodeId=ua.NodeId.from_string(node), AttributeId=ua.AttributeIds.Value)
    item.MonitoringMode = ua.MonitoringMode.Reporting
    item.RequestedParameters = ua.MonitoringParameters(
        ClientHandle=handle, SamplingInterval=sampling_ms, QueueSize=queue_size, DiscardOldest=True
    )
    if stamps:
        # By default only a changed value is reported: a sensor that repeats itself would look like a silent one.
        item.RequestedParameters.Filter = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
    return item


def _browse(node: str) -> Any:
    wanted = ua.BrowseDescription()
    wanted.NodeId = ua.NodeId.from_string(node)
    wanted.BrowseDirection = ua.BrowseDirection.Forward
    wanted.ReferenceTypeId = ua.NodeId(ua.ObjectIds.HierarchicalReferences)
    wanted.IncludeSubtypes = True
    wanted.NodeClassMask = ua.NodeClass.Object | ua.NodeClass.Variable
    wanted.ResultMask = ua.BrowseResultMask.All
    return wanted


def _found(result: Any) -> list[Found]:
    prop = ua.NodeId(ua.ObjectIds.HasProperty)
    return [
        Found(
            reference.NodeId.to_string(), str(reference.BrowseName.Name), reference.NodeClass == ua.NodeClass.Variable
        )
        for reference in result.References or ()
        # A server index above 0 points into another server.
        if reference.ReferenceTypeId != prop and not getattr(reference.NodeId, "ServerIndex", 0)
    ]
