"""OPC UA sensors: a subscription to nodes of a server (a PLC, a power source), stamped by their source.

A row holds what was sampled together: values whose SourceTimestamps lie within `join_ms`; a channel that was not
sampled then is NaN. Time comes from those stamps, which the clock model fits to the arrivals, so neither the publishing
interval nor the server's wall clock matters. After OPC 10000-4 (services): subscription 5.14, monitored items 5.13.
"""

import asyncio
import contextlib
import importlib
import logging
import math
import re
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from acquisition.channels import CHANNEL_UNITS, by_channel, channel_of, require_channels, scale_by_channel
from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, SensorRows, StreamInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S: Final = 5.0
"""Small PLCs need seconds for the signatures of a session."""
LEAVE_S: Final = 0.5
APPLICATION_URI: Final = "urn:weld-4m"
"""Our certificate must name this (subject alternative name), or servers refuse it."""
LEAST_QUEUE: Final = 100
"""The server keeps so many values per node between two publishings; with the usual 1 it loses nine in ten."""
OVERFLOW: Final = 0x0480
"""Info bits of a status that say: the server's queue was full, and values before this one are lost (part 4, 7.39)."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

SECURITY: Final = re.compile(
    r"(Basic256Sha256|Aes128Sha256RsaOaep|Aes256Sha256RsaPss),(Sign|SignAndEncrypt)(,[^,]+){2,3}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcUaConfig:
    """Settings of an OPC UA server.

    Attributes:
        url: `opc.tcp://HOST:PORT`, with a path if the server has one.
        nodes: Node id of each channel (`ns=2;s=Weld.Current`), by channel.
        scale: Factor from the node's number to the channel's unit, by channel.
        rate_hz: How often the server shall sample each node, and nominal rows per second.
        publish_ms: How often the server shall send what it sampled.
        join_ms: Values stamped within this of each other make one row; must be below a row's period.
        username: User name, empty for anonymous.
        password: Its password; never shown nor logged.
        security: `Policy,Mode,certificate,key[,server certificate]` as asyncua takes it; empty for none.
        stale_s: The server is lost after this long without a sign of life.
    """

    url: str
    nodes: dict[str, str]
    scale: dict[str, float] = field(default_factory=dict)
    rate_hz: float = 10.0
    publish_ms: float = 50.0
    join_ms: float = 5.0
    username: str = ""
    password: str = field(default="", repr=False)
    security: str = field(default="", repr=False)
    stale_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse settings that no server could satisfy, without showing credentials."""
        if not re.fullmatch(r"opc\.tcp://[^@\s]+", self.url):
            raise ValueError("url must be opc.tcp://HOST:PORT, without a user; username and password are settings")
        require_channels("nodes", self.nodes)
        for name in self.scale:
            if channel_of(name) not in by_channel(self.nodes):
                raise ValueError(f"scale names '{name}', which has no node; correct or remove it")
        if not 0 < self.rate_hz <= 1000 or not 0 <= self.join_ms < 1000 / self.rate_hz:
            raise ValueError(
                f"rate_hz ({self.rate_hz}) must lie in 0 to 1000, and join_ms ({self.join_ms}) below a row's period"
            )
        if not 1 <= self.publish_ms <= 1000 or self.stale_s * 1000 < 4 * self.publish_ms:
            raise ValueError(
                f"publish_ms ({self.publish_ms}) must lie in 1 to 1000, and stale_s ({self.stale_s}) four times above"
            )
        if self.security and not SECURITY.fullmatch(self.security):
            raise ValueError(
                "security must be Policy,Sign or SignAndEncrypt,certificate,key, e.g. Basic256Sha256,Sign,.."
            )


class _Value(NamedTuple):
    """One sampled value: source time, column, number (NaN where bad)."""

    t_ns: int
    column: int
    number: float


def join_values(values: list[_Value], join_ns: int) -> list[tuple[int, dict[int, float]]]:
    """Make rows of values: time of the first value in it, and number by column."""
    rows: list[tuple[int, dict[int, float]]] = []
    for value in sorted(values, key=lambda value: value.t_ns):
        if not rows or value.t_ns - rows[-1][0] > join_ns or value.column in rows[-1][1]:
            rows.append((value.t_ns, {}))
        rows[-1][1][value.column] = value.number
    return rows


class OpcUaSensors(ThreadedDriver):
    """Nodes of an OPC UA server as a stream of sensor rows.

    Attributes:
        overflows: How often the server said that its queue was full; each is a jump of `first_row` by at least one.
        bad_values: Values that were no number, or had no stamp, over all openings.
    """

    def __init__(self, name: str, config: OpcUaConfig) -> None:
        """Prepare the client; touches no network."""
        super().__init__(name)
        self.config = config
        self.overflows = self.bad_values = 0
        self._nodes = by_channel(config.nodes)
        self._scales = scale_by_channel(config.scale, self._nodes)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Any = None
        self._ua: Any = None
        self._begin()

    def _begin(self) -> None:
        self._results: deque[tuple[int, Any]] = deque()
        self._came = asyncio.Event()
        self._heard_ns = time.monotonic_ns()
        self._standing = set(range(len(self._nodes)))
        self._rows = self._sent = 0
        self._problem_said = False

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"sensors {self.name}: {self.config.url} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        try:
            asyncua = importlib.import_module("asyncua")
        except ImportError as error:
            raise self._error(f"cannot be read without asyncua ({error})", "run: pip install asyncua") from error
        logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # what it has to say is said here, in one line
        self._ua = asyncua.ua
        self._begin()
        self._loop = asyncio.new_event_loop()
        try:
            self._loop.run_until_complete(self._unless_stopped(self._subscribe(asyncua)))
        except DeviceError:
            self._disconnect()
            raise
        except (TimeoutError, asyncio.CancelledError):
            self._disconnect()
            raise self._error(f"did not answer in {CONNECT_S:g} s", "check the server and the network") from None
        except OSError as error:
            self._disconnect()
            raise self._error(f"cannot be reached ({error})", "check url and network") from error
        except Exception as error:  # wrong credentials, certificates, policies: the library raises what it likes
            self._disconnect()
            what = type(error).__name__
            raise self._error(
                f"refuses us ({what})", "check username, password and security in the cell file"
            ) from None
        return StreamInfo(
            name=self.name,
            modality="sensors",
            rate_hz=self.config.rate_hz,
            channels=tuple(self._nodes),
            units=tuple(CHANNEL_UNITS[channel] for channel in self._nodes),
            dtype="float64",
            device_clock="stamps",
        )

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, at most `CONNECT_S`, and not when the driver is being closed."""
        task = asyncio.ensure_future(work)
        deadline = time.monotonic() + CONNECT_S
        while not task.done():
            await asyncio.wait((task,), timeout=0.1)
            if time.monotonic() > deadline or self._is_closing():
                task.cancel()
        return await task

    async def _subscribe(self, asyncua: Any) -> None:
        """Open a session and subscribe to every node."""
        config, ua = self.config, self._ua
        client = self._client = asyncua.Client(config.url, timeout=CONNECT_S, watchdog_intervall=config.stale_s / 2)
        client.session_timeout = 30_000  # servers have few sessions, and ours may be cut off
        if config.username:
            client.set_user(config.username)
            client.set_password(config.password)
        client.application_uri = APPLICATION_URI
        try:
            await client.set_security_string(config.security)
        except FileNotFoundError as error:
            raise self._error(f"wants a certificate, and there is no {error.filename}", "correct security") from None
        await client.connect()
        session = client.uaclient.session
        alive = max(1, int(config.stale_s * 1000 / config.publish_ms / 3))
        wanted = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=config.publish_ms,
            RequestedMaxKeepAliveCount=alive,
            RequestedLifetimeCount=max(3 * alive, int(30_000 / config.publish_ms)),
            MaxNotificationsPerPublish=0,
            PublishingEnabled=True,
        )
        made = await session.create_subscription(wanted, self._publish)
        parameters = ua.CreateMonitoredItemsParameters(
            SubscriptionId=made.SubscriptionId,
            TimestampsToReturn=ua.TimestampsToReturn.Both,
            ItemsToCreate=[self._item(handle, node) for handle, node in enumerate(self._nodes.values())],
        )
        results = await session.create_monitored_items(parameters)
        for node, result in zip(self._nodes.values(), results, strict=True):
            if not result.StatusCode.is_good():
                raise self._error(f"has no usable node '{node}' ({result.StatusCode.name})", "correct nodes")

    def _item(self, handle: int, node: str) -> Any:
        """Ask for every sample of a node, also of a value that did not change."""
        config, ua = self.config, self._ua
        try:
            node_id = ua.NodeId.from_string(node)
        except (ua.UaError, ValueError) as error:
            raise self._error(f"cannot have a node '{node}' ({error})", "correct nodes") from None
        queue = max(LEAST_QUEUE, math.ceil(10 * config.rate_hz * config.publish_ms / 1000))
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=node_id, AttributeId=ua.AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=handle,
                SamplingInterval=1000 / config.rate_hz,
                QueueSize=queue,
                DiscardOldest=True,
                Filter=ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp),
            ),
        )

    def _publish(self, result: Any) -> None:
        """Take a publish response (called by asyncua in its loop); an empty one says that the server lives."""
        self._heard_ns = time.monotonic_ns()
        self._results.append((self._heard_ns, result))
        self._came.set()

    def _run(self) -> None:
        assert self._loop is not None
        self._loop.run_until_complete(self._listen())

    async def _listen(self) -> None:
        stale_s = self.config.stale_s
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._came.wait(), 0.1)
            self._came.clear()
            while self._results:
                arrival_ns, result = self._results.popleft()
                self._deliver(result.NotificationMessage.NotificationData or (), arrival_ns)
            if time.monotonic_ns() - self._heard_ns > stale_s * 1e9:
                raise self._error(f"gave no sign of life for {stale_s:g} s", "check the server and the network")

    def _deliver(self, notifications: Any, arrival_ns: int) -> None:
        values: list[_Value] = []
        for notification in notifications:
            if isinstance(notification, self._ua.StatusChangeNotification):
                raise self._error("broke off", "check the server and the network")
            for item in getattr(notification, "MonitoredItems", ()):
                if item.ClientHandle in self._standing:
                    self._standing.remove(item.ClientHandle)  # a node's first value is of any age
                    continue
                if item.Value.StatusCode is not None and item.Value.StatusCode.value & OVERFLOW == OVERFLOW:
                    self.overflows += 1
                    self._rows += 1
                    self._say("lost values (its queue was full)", "choose a smaller publish_ms")
                value = self._value(item.ClientHandle, item.Value)
                if value is not None:
                    values.append(value)
        rows = join_values(values, round(self.config.join_ms * 1e6))
        if not rows:
            return
        table = np.full((len(rows), len(self._nodes)), np.nan)
        for row, (_, numbers) in enumerate(rows):
            table[row, list(numbers)] = list(numbers.values())
        t_device_ns = np.array([t_ns for t_ns, _ in rows], np.int64)
        payload = SensorRows(
            first_row=self._rows,
            values=table,
            t_device_ns=t_device_ns,
            t_arrival_ns=np.full(len(rows), arrival_ns, np.int64),
        )
        self._rows += len(rows)
        self._put(
            Packet(
                stream=self.name,
                seq=self._sent,
                t_device_ns=int(t_device_ns[0]),
                t_arrival_ns=arrival_ns,
                payload=payload,
            )
        )
        self._sent += 1

    def _value(self, column: int, data: Any) -> _Value | None:
        """Number and time of a value; None without any time."""
        stamp = data.SourceTimestamp or data.ServerTimestamp
        raw = None if data.Value is None else data.Value.Value
        number = math.nan
        if data.StatusCode is None or not data.StatusCode.is_bad():
            if isinstance(raw, int | float) and math.isfinite(raw):
                number = float(raw) * self._scales[column]
            else:
                self.bad_values += 1
                node = list(self._nodes.values())[column]
                self._say(f"sends {str(raw)[:40]!r} as node '{node}', which is no number", "correct nodes")
        if stamp is None:
            self.bad_values += 1
            self._say("sends values without a time", "let the server give a SourceTimestamp")
            return None
        return _Value((stamp.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) * 1000, column, number)

    def _say(self, what: str, fix: str) -> None:
        """Log the first oddity of this opening; the rest are only counted."""
        if not self._problem_said:
            self._problem_said = True
            log.warning("%s", self._error(what, fix))

    def _disconnect(self) -> None:
        loop, self._loop = self._loop, None
        client, self._client = self._client, None
        if loop is None:
            return
        try:
            loop.run_until_complete(_leave(client))
        finally:
            loop.close()


async def _leave(client: Any) -> None:
    """Say goodbye to the server if it still listens, and end everything in this loop."""
    if client is not None:
        protocol = client.uaclient.protocol
        with contextlib.suppress(Exception):  # whatever state it is in, it is left
            await asyncio.wait_for(client.disconnect(), LEAVE_S)
        if protocol is not None and protocol.transport is not None:
            protocol.transport.abort()  # a frozen server would never take what is still to be sent
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # the transport closes its socket in the next turn
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    with contextlib.suppress(TimeoutError):  # a name that is still being looked up
        await asyncio.wait_for(loop.shutdown_default_executor(), LEAVE_S)
