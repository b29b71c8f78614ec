"""Where items were lost: from the device's own numbers where it has them, else from time and nominal rate."""

from dataclasses import dataclass

from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLoss:
    """A located loss.

    Attributes:
        first: Number of the first lost item.
        missing: How many are lost.
        segment: Segment that the numbers are of.
        t_ns: Cell time at which the gap begins.
        reason: `device` (numbers jumped), the reason the stream was lost for, or `restart`.
        exact: False when `missing` was estimated from time and nominal rate.
    """

    first: int
    missing: int
    segment: int
    t_ns: int
    reason: str
    exact: bool


def item_range(packet: Packet) -> tuple[int, int]:
    """First item number and item count of a device packet (frames, sample instants or rows)."""
    payload = packet.payload
    if isinstance(payload, SampleBlock):
        return payload.first_sample, len(payload.samples)
    if isinstance(payload, SensorRows):
        return payload.first_row, len(payload.values)
    return packet.seq, 1


class LossTracker:
    """Follows one stream's item numbers; constant memory.

    Attributes:
        received: Items received so far.
        dropped: Items known to be lost so far.
    """

    def __init__(self, info: StreamInfo) -> None:
        """Begin before the first packet of `info`'s stream."""
        self._period_ns = 1e9 / info.rate_hz if info.rate_hz else 0.0
        self._next: int | None = None
        self._known = 0
        self._segment = 0
        self._end_ns = 0
        self.silence_reason: str | None = None
        self.received = 0
        self.dropped = 0

    @property
    def next_item(self) -> int:
        """Number that the next item would have."""
        return self._next or 0

    @property
    def end_ns(self) -> int:
        """Cell time just past the last item."""
        return self._end_ns

    def observe(self, packet: Packet, end_ns: int) -> ItemLoss | None:
        """Take note of a packet; returns the loss before it, if any.

        Args:
            packet: A device packet.
            end_ns: Cell time of its last item; of a sound block, its end (`ClockTable.last_cell_time_ns`).
        """
        first, count = item_range(packet)
        after_ns = end_ns if isinstance(packet.payload, SampleBlock) else end_ns + round(self._period_ns)
        loss = None
        if self._next is not None:
            begin_ns = after_ns - round(count * self._period_ns)
            if packet.segment == self._segment and self._known <= first < self._next:
                self.dropped -= self._next - first  # given up by `settle`, and yet it came
            elif packet.segment != self._segment or first < self._next:
                missing = self.missing_until(begin_ns)
                if missing:
                    loss = self._loss(self._next, missing, self.silence_reason or "restart", exact=False)
            elif first > self._next:
                loss = self._loss(self._next, first - self._next, self.silence_reason or "device", exact=True)
        self._next = self._known = first + count
        self._segment = packet.segment
        self._end_ns = after_ns
        self.silence_reason = None
        self.received += count
        if loss is not None:
            self.dropped += loss.missing
        return loss

    def _loss(self, first: int, missing: int, reason: str, *, exact: bool) -> ItemLoss:
        return ItemLoss(
            first=first, missing=missing, segment=self._segment, t_ns=self._end_ns, reason=reason, exact=exact
        )

    def missing_until(self, t_ns: int) -> int:
        """Items that should have come between the last one and cell time `t_ns`, by the nominal rate."""
        if self._next is None or not self._period_ns:
            return 0
        return max(0, round((t_ns - self._end_ns) / self._period_ns))

    def silent_loss(self, t_ns: int) -> ItemLoss | None:
        """The loss so far of a stream still silent at cell time `t_ns` (an estimate; not added to `dropped`)."""
        missing = self.missing_until(t_ns)
        if not missing:
            return None
        return self._loss(self.next_item, missing, self.silence_reason or "silent", exact=False)

    def settle(self, t_ns: int) -> ItemLoss | None:
        """Give up what a silent stream has lost until cell time `t_ns`: counted now, and not again when it returns."""
        loss = self.silent_loss(t_ns)
        if loss is not None:
            self._next = loss.first + loss.missing
            self._end_ns += round(loss.missing * self._period_ns)
            self.dropped += loss.missing
        return loss
