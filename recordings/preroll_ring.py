"""The ring: the encoded packets of the last seconds, from which a weld's pre-roll is taken; bounded in bytes."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import merge
from typing import Final, TypeAlias

from acquisition.packet import CLOCKS_STREAM, EVENTS_STREAM, Packet, SampleBlock, SensorRows, StreamInfo, item_range
from recordings.cell import RecordSettings
from recordings.manifest import Loss
from recordings.video_encoder import EncodedFrame
from sync.arc import ArcConfig

Item: TypeAlias = Packet | EncodedFrame

REASON: Final = "ring"
"""`Loss.reason` of what the ring was too small for."""

_BEYOND_S: Final = 12.0
"""How much longer than the pre-roll items are kept while there is room: what a weld begins with may be noticed late."""

_GOP_S: Final = 0.5
_HEAD_BYTES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class LostItem:
    """A packet or frame that was received and is not kept: the ring or the queue before it was full.

    Attributes:
        stream: Its stream.
        order: Its order.
        first: Number of its first item.
        items: How many it held.
        arrival_ns: Its arrival.
        reason: `ring` or `overrun`.
    """

    stream: str
    order: int
    first: int
    items: int
    arrival_ns: int
    reason: str


def lost(item: Item, reason: str) -> LostItem:
    """Remember an item that is not kept."""
    first, items = (item.seq, 1) if isinstance(item, EncodedFrame) else item_range(item)
    return LostItem(
        stream=item.stream, order=item.order, first=first, items=items, arrival_ns=item.t_arrival_ns, reason=reason
    )


def add_loss(losses: list[Loss], one: LostItem, rate_hz: float) -> None:
    """Add a lost item to the losses of its stream, to the last one where it follows that."""
    first, t_ns, missing = one.first, one.arrival_ns, one.items
    before = losses[-1] if losses else None
    if before is not None and before.reason == one.reason and before.first + before.missing == first:
        first, t_ns, missing = before.first, before.t_ns or t_ns, before.missing + missing
        losses.pop()
    seconds = missing / rate_hz if rate_hz else 0.0
    losses.append(Loss(t_ns=t_ns, first=first, missing=missing, seconds=seconds, reason=one.reason))


class PrerollRing:
    """Holds items in order; owned by the recorder thread, its figures may be read by others.

    Clock changes and events are few and small, and without them nothing could be timed: they are never cut.

    Attributes:
        bytes: Encoded bytes held.
        limit_bytes: Most that may be held.
        seconds: How far back a weld could begin now.
        oldest_order: Order of the oldest device item held, 0 for an empty ring.
    """

    def __init__(self, record: RecordSettings, arc: ArcConfig) -> None:
        """Make an empty ring for the pre-roll that the cell file asks for."""
        self.bytes = 0
        self.limit_bytes = round(record.ring_mb * 1e6)
        self.seconds = 0.0
        self.oldest_order = 0
        self._pre_s = record.pre_s
        self._needed_s = record.pre_s + max(arc.on_s, record.shortest_s) + _GOP_S
        self._reach_ns = round((record.pre_s + record.shortest_s + _BEYOND_S) * 1e9)
        self._items: deque[Item] = deque()
        self._decided: deque[Packet] = deque()
        self._cut: deque[LostItem] = deque()
        self._missed: deque[LostItem] = deque()
        self._newest_ns = 0

    def add(self, items: Iterable[Item]) -> None:
        """Take items in order; drops what is too old, and what is too much."""
        for item in items:
            self._newest_ns = max(self._newest_ns, item.t_arrival_ns)
            if isinstance(item, Packet) and item.stream in (CLOCKS_STREAM, EVENTS_STREAM):
                self._decided.append(item)
            else:
                self._items.append(item)
                self.bytes += _size(item)
        horizon_ns = self._newest_ns - self._reach_ns
        while self._items and self._items[0].t_arrival_ns < horizon_ns:
            self.bytes -= _size(self._items.popleft())
        while self._decided and self._decided[0].t_arrival_ns < horizon_ns:
            self._decided.popleft()
        for gone in (self._cut, self._missed):
            while gone and gone[0].arrival_ns < horizon_ns:
                gone.popleft()
        while self.bytes > self.limit_bytes and self._items:
            self._cut.append(lost(self._items[0], REASON))
            self.bytes -= _size(self._items.popleft())
        oldest = self._items[0] if self._items else None
        self.oldest_order = oldest.order if oldest else 0
        self.seconds = (self._newest_ns - oldest.t_arrival_ns) / 1e9 if oldest else 0.0

    def miss(self, item: LostItem) -> None:
        """Know of an item that never came here, for the welds that may still begin before it."""
        self._missed.append(item)

    @property
    def problem(self) -> str | None:
        """Say that the limit cuts into the pre-roll, where it does."""
        if not self._cut or self.seconds >= self._needed_s:
            return None
        held_s = max(0.0, self.seconds - (self._needed_s - self._pre_s))
        return f"the ring holds {held_s:.1f} s of the {self._pre_s:g} s pre-roll; raise ring_mb or lower pre_s"

    def before(self, first_order: int) -> list[Item]:
        """Give the device items from before a weld."""
        return [item for item in self._items if item.order < first_order]

    def since(self, first_order: int, infos: Mapping[str, StreamInfo]) -> tuple[list[Item], dict[str, list[Loss]]]:
        """Give what a weld begins with.

        Args:
            first_order: Order of the weld's first packet.
            infos: The weld's streams.

        Returns:
            The items from there on, and per stream what is missing among them. A video of which the beginning had to
            go begins with its first keyframe; frames before that are lost with the rest.
        """
        cut = [one for one in self._cut if one.order >= first_order]
        items: list[Item] = []
        missed = [one for one in self._missed if one.order >= first_order]
        begun = {name for name in infos if name not in {one.stream for one in cut}}
        for item in self._items:
            if item.order < first_order:
                continue
            if isinstance(item, EncodedFrame) and item.stream not in begun and not item.keyframe:
                cut.append(lost(item, REASON))
                continue
            begun.add(item.stream)
            items.append(item)
        decided = [packet for packet in self._decided if packet.order >= first_order]
        losses: dict[str, list[Loss]] = {}
        for one in sorted([*cut, *missed], key=lambda one: one.order):
            if one.stream in infos:
                add_loss(losses.setdefault(one.stream, []), one, infos[one.stream].rate_hz)
        return list(merge(items, decided, key=lambda item: item.order)), losses


def _size(item: Item) -> int:
    """Bytes that an item holds, roughly."""
    if isinstance(item, EncodedFrame):
        return _HEAD_BYTES + len(item.data)
    payload = item.payload
    if isinstance(payload, SampleBlock):
        return _HEAD_BYTES + payload.samples.nbytes
    if isinstance(payload, SensorRows):
        stamps = 0 if payload.t_device_ns is None else payload.t_device_ns.nbytes
        return _HEAD_BYTES + payload.values.nbytes + payload.t_arrival_ns.nbytes + stamps
    return _HEAD_BYTES
