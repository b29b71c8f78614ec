"""The clock of a stream that only the driver counts, and what it shows: deliveries that never came.

The count knows no loss. After one it lags, so that everything is late by whole deliveries from then on, while a stall
drains and a spike passes. Who is late is therefore a suspect until enough others have come at the device's pace, late
by the same; then the loss is known, if a little after it happened.
"""

from typing import Final

import numpy as np

from acquisition.packet import ClockUpdate
from sync.clock_fault import ClockFault
from sync.clock_model import ClockModel
from sync.item_count import Missed
from sync.online_clock import OnlineClock

_FEW: Final = 4
_MANY: Final = 10
_MOST: Final = 32
_LEARNING: Final = 20


class CountedClock:
    """Follows one segment of a counted stream; as `OnlineClock`, and `missed` beside.

    Attributes:
        stream: Stream name.
        segment: Segment of the stream.
        missed: The loss that the newest observation made known, or None: `index` deliveries came since the first one
            after it, `count` items are missing.
        fault, faults: As of `OnlineClock`.
        model: The model in force, on the driver's count.
    """

    def __init__(self, stream: str, segment: int, item_ns: float, former: "CountedClock | None" = None) -> None:
        """Begin a segment.

        Args:
            stream: Stream name.
            segment: Its segment.
            item_ns: Nominal time of one item (frame, sample instant, row).
            former: The clock of the segment before.
        """
        self.stream = stream
        self.segment = segment
        self.missed: Missed | None = None
        before = None if former is None else former._clock
        self._clock: OnlineClock = OnlineClock(stream, segment, before, blind=True)
        self._item_ns = item_ns
        self._unit_ns: float | None = None
        self._count_ns: int | None = None
        self._added_ns = 0
        self._seen = 0
        self._span_ns = 0
        self._suspects: list[tuple[int, int]] = []
        self._before_ns = 0.0

    @property
    def fault(self) -> ClockFault | None:
        """What was wrong with the newest observation."""
        return self._clock.fault

    @property
    def faults(self) -> dict[str, int]:
        """As of `OnlineClock`."""
        return self._clock.faults

    @property
    def untimed(self) -> bool:
        """No model holds now: arrival counts."""
        return self._clock.untimed

    @property
    def model(self) -> ClockModel:
        """The model in force, on the driver's count."""
        inner = self._clock.model
        return ClockModel(
            ref_ns=inner.ref_ns - self._added_ns,
            offset_ns=inner.offset_ns + self._added_ns,
            drift_ppb=inner.drift_ppb,
            sigma_ns=inner.sigma_ns,
        )

    @property
    def delivery_ns(self) -> float:
        """Time of what is lost at once: a delivery where all are equally long, else an item."""
        return self._unit_ns or self._item_ns

    def observe(self, count_ns: int, arrival_ns: int, span_ns: int = 0) -> ClockUpdate | None:
        """Take one observation, before its packet is timed.

        Args:
            count_ns: The driver's count up to the packet's newest item, at the nominal rate.
            arrival_ns: Its arrival on the cell clock.
            span_ns: Count from the packet's first item to its newest.

        Returns:
            The change to record in front of this packet, or None while the model stands.
        """
        self.missed, self._span_ns = None, span_ns
        self._measure(count_ns)
        self._seen += 1
        x_ns = count_ns + self._added_ns
        line = self._clock.line
        unit_ns = self.delivery_ns
        if line is None or self._seen < _LEARNING or line.sigma_ns(x_ns) > max(unit_ns, self._noise_ns) / 4:
            return self._shifted(self._clock.observe(x_ns, arrival_ns, self._span_ns))
        late_ns = arrival_ns - x_ns - line.base_ns(x_ns)
        if late_ns <= max(0.5 * unit_ns, 2.5 * self._noise_ns):
            self._before_ns = late_ns
            return self._acquit(x_ns, arrival_ns)
        self._suspects.append((x_ns, arrival_ns))
        if len(self._suspects) > _MOST:
            line.add(*self._suspects.pop(0))
        return self._judge(x_ns, arrival_ns)

    @property
    def _noise_ns(self) -> float:
        return 1e6 * self._clock.line.mean_ms if self._clock.line else 0.0

    def _measure(self, count_ns: int) -> None:
        """Learn how long deliveries are."""
        if self._count_ns is not None:
            step_ns = count_ns - self._count_ns
            if self._unit_ns is None:
                self._unit_ns = float(step_ns)
            elif abs(step_ns - self._unit_ns) > 2:
                self._unit_ns = 0.0
        self._count_ns = count_ns

    def _acquit(self, x_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """The newest is in time, so the suspects had only been late."""
        line = self._clock.line
        assert line is not None
        for suspect in self._suspects:
            line.add(*suspect)
        self._suspects.clear()
        return self._shifted(self._clock.observe(x_ns, arrival_ns, self._span_ns))

    def _judge(self, x_ns: int, arrival_ns: int) -> ClockUpdate | None:
        """Tell a loss from a stall: after a loss, items come at the device's pace, all as late."""
        line, unit_ns, noise_ns = self._clock.line, self.delivery_ns, self._noise_ns
        assert line is not None
        clear = unit_ns > 12.0 * noise_ns
        need = _FEW if clear else _MANY
        if len(self._suspects) < need:
            return None
        x, arrival = np.array(self._suspects).T
        late = arrival - x - np.array([line.base_ns(one) for one in x.tolist()])
        paced = arrival[-1] - arrival[-need] > 0.7 * (x[-1] - x[-need])
        true_ns = unit_ns * (1.0 + line.slope)
        lag = (float(np.median(late[-need:])) - 0.8 * noise_ns) / true_ns
        units = round(lag)
        if not paced or units < 1 or (abs(lag - units) > 0.3 and len(self._suspects) < _MOST):
            return None
        too_early = np.flatnonzero(late < (units - 0.3) * true_ns)
        at = int(too_early[-1]) + 1 if len(too_early) else 0
        if len(x) - at < need:
            return None
        before_ns = late[at - 1] if at else self._before_ns
        crept = clear and late[at] - before_ns < 0.5 * units * true_ns
        if crept or (units == 1 and unit_ns > 1.5 * self._item_ns):
            # A device off its rate, or a server whose queue grew, by a block of samples even from one to the next:
            # lateness alone does not tell less than two blocks from that.
            self._before_ns = float(late[-1])
            return self._acquit(x_ns, arrival_ns) if len(x) >= _MOST else None
        for suspect in self._suspects[:at]:
            line.add(*suspect)
        lost_ns = round(units * unit_ns)
        for one, when in self._suspects[at:-1]:
            line.add(one + lost_ns, when)
        self.missed = Missed(index=len(x) - 1 - at, count=round(lost_ns / self._item_ns))
        self._suspects.clear()
        self._added_ns += lost_ns
        self._clock.observe(x_ns + lost_ns, arrival_ns, self._span_ns)
        return self.model.as_update(self.stream, self.segment)

    def _shifted(self, update: ClockUpdate | None) -> ClockUpdate | None:
        """Put a change of the inner clock onto the driver's count."""
        if update is None or update.segment != self.segment:
            return update
        return self.model.as_update(self.stream, self.segment)
