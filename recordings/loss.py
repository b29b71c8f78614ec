"""Where items were lost: from the device's own numbers where it has them, else from its stamps, else from lateness.

Silences and restarts are estimated from time and nominal rate.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import Packet, SampleBlock, SensorRows, StreamInfo, item_range
from sync.item_count import Missed
from sync.stamp_gaps import StampGaps

FOUND_BY_TIME: Final = frozenset({"stamps", "late"})
"""Reasons of losses that the item numbers pass over, because only the driver counts."""

_REMEMBERED: Final = 40
"""Packets that a loss may be found after it happened, and a few more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemLoss:
    """A located loss.

    Attributes:
        first: Number of the first lost item.
        missing: How many are lost.
        segment: Segment that the numbers are of.
        t_ns: Cell time at which the gap begins.
        reason: `device` (its numbers jumped), `stamps` (its time did), `late` (the count lags behind the clock), the
            reason the stream was lost for, or `restart`.
        exact: False when `missing` was estimated from time, because the device does not number its items.
    """

    first: int
    missing: int
    segment: int
    t_ns: int
    reason: str
    exact: bool


@dataclass(frozen=True, slots=True)
class _Seen:
    """A packet received: number of its first item, and cell time at which that began."""

    first: int
    begin_ns: int


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
        self._seen: deque[_Seen] = deque(maxlen=_REMEMBERED)
        self._stamps = StampGaps() if info.device_clock == "stamps" and not info.has_counter else None
        self._found: deque[ItemLoss] = deque()
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

    def observe(self, packet: Packet, end_ns: int, missed: Missed | None = None) -> ItemLoss | None:
        """Take note of a packet; returns a loss before it, if any (the next one where it showed several).

        Args:
            packet: A device packet.
            end_ns: Cell time of its last item; of a sound block, its end (`ClockTable.last_cell_time_ns`).
            missed: What the stream's `CountedClock` found with this packet.
        """
        first, count = item_range(packet)
        after_ns = end_ns if isinstance(packet.payload, SampleBlock) else end_ns + round(self._period_ns)
        begin_ns = after_ns - round(count * self._period_ns)
        if self._next is not None:
            self._follow_numbers(packet, first, begin_ns)
        self._follow_stamps(packet, first, end_ns)
        if packet.segment != self._segment:
            self._seen.clear()
        self._seen.append(_Seen(first, begin_ns))
        self._next = self._known = first + count
        self._segment = packet.segment
        if missed is not None:
            self._follow_count(missed)
        self._end_ns = after_ns
        self.silence_reason = None
        self.received += count
        return self._found.popleft() if self._found else None

    def _follow_numbers(self, packet: Packet, first: int, begin_ns: int) -> None:
        assert self._next is not None
        if packet.segment == self._segment and self._known <= first < self._next:
            self.dropped -= self._next - first  # given up by `settle`, and yet it came
        elif packet.segment != self._segment or first < self._next:
            missing = self.missing_until(begin_ns)
            if missing:
                self._lose(self._loss(self._next, missing, self.silence_reason or "restart", exact=False))
        elif first > self._next:
            self._lose(self._loss(self._next, first - self._next, self.silence_reason or "device", exact=True))

    def _follow_stamps(self, packet: Packet, first: int, end_ns: int) -> None:
        """Without a counter, the driver counts what came, and only the stamps show what did not."""
        if self._stamps is None:
            return
        if packet.segment != self._segment:
            self._stamps.restart()
        stamps_ns = _stamps(packet)
        if stamps_ns is None:
            return
        for missed in self._stamps.find(stamps_ns):
            number = first + missed.index
            after_ns = end_ns - int(stamps_ns[-1] - stamps_ns[max(missed.index, 0)])
            t_ns = after_ns - round((missed.count - min(missed.index, 0)) * self._period_ns)
            self._lose(
                ItemLoss(
                    first=number, missing=missed.count, segment=packet.segment, t_ns=t_ns, reason="stamps", exact=False
                )
            )

    def _follow_count(self, missed: Missed) -> None:
        """Place what is known by lateness only after some more packets have come."""
        at = max(len(self._seen) - 1 - missed.index, 0)
        self._lose(
            ItemLoss(
                first=self._seen[at].first,
                missing=missed.count,
                segment=self._segment,
                t_ns=self._seen[at].begin_ns if missed.index else self._end_ns,
                reason="late",
                exact=False,
            )
        )

    def _lose(self, loss: ItemLoss) -> None:
        self.dropped += loss.missing
        self._found.append(loss)

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


def _stamps(packet: Packet) -> npt.NDArray[np.int64] | None:
    """Device times of a packet's items, where it has them."""
    if isinstance(packet.payload, SensorRows):
        return packet.payload.t_device_ns
    return None if packet.t_device_ns is None else np.array([packet.t_device_ns], np.int64)
