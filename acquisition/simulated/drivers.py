"""Live drivers of the simulated cell: they hold the device's schedule, and lose only what a fault takes."""

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Event, Packet, StreamInfo
from acquisition.simulated.clocks import Opening, open_clock
from acquisition.simulated.devices import CAMERA, PHOTOS
from acquisition.simulated.disturbance import LOSSES, Mark
from acquisition.simulated.faults import Fault
from acquisition.simulated.outlet import Outlet
from acquisition.simulated.take import Take, photo_packet

if TYPE_CHECKING:
    from acquisition.simulated.cell import SimulatedCell

Build: TypeAlias = Callable[[int, Sequence[Mark]], Packet]
"""Builds a packet from its arrival (cell time, ns) and what befalls it."""

LONGEST_WAIT_S: Final = 0.25
"""A waiting driver looks for newly injected faults at least this often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One item on its way.

    Attributes:
        number: The device's own number of the item.
        t_s: World time at which it happened.
        due_s: World time at which it arrives.
        marks: The drawn faults that befall it.
        prepare: Does the work that can be done before it is due, and returns what builds the packet on arrival.
    """

    number: int
    t_s: float
    due_s: float
    marks: tuple[Mark, ...]
    prepare: Callable[[], Build]


class SimulatedDriver(ThreadedDriver):
    """Delivers one stream of a simulated cell at absolute deadlines: late if it must, never skipping."""

    def __init__(self, cell: "SimulatedCell", name: str, device: str, info: StreamInfo) -> None:
        """Make the driver of stream `name`, backed by one of the cell's devices.

        Args:
            cell: The shared world.
            name: Stream name in the cell file.
            device: `CAMERA`, `MICROPHONE`, `SENSORS` or `PHOTOS`.
            info: The stream's description.
        """
        super().__init__(name)
        self.device = device
        self.info = info
        self._cell = cell
        self._held = False
        self._opened_s = 0.0
        self._first_hit: dict[Fault, int] = {}

    def open(self, wakeup: Callable[[], None] | None = None) -> None:
        """See `Driver.open`; the first driver opened starts the world."""
        if self._held:
            return
        self._cell.acquire()
        self._held = True
        try:
            super().open(wakeup)
        except BaseException:
            self._release()
            raise

    def close(self) -> None:
        """See `Driver.close`; the last driver closed stops the cell's own thread."""
        super().close()
        self._release()

    def read(self, timeout_s: float) -> Packet | None:
        """See `Driver.read`; what is taken goes into the cell's tally, if it keeps one."""
        packet = super().read(timeout_s)
        if packet is not None and self._cell.tally is not None:
            self._cell.tally.taken(packet)
        return packet

    def notify(self, event: Event) -> None:
        """See `Driver.notify`; opening and closing of welds go into the cell's tally, if it keeps one."""
        if self._cell.tally is not None:
            self._cell.tally.heard(event)

    def _release(self) -> None:
        held, self._held = self._held, False
        if held:
            self._cell.release()

    def _connect(self) -> StreamInfo:
        if self.device == CAMERA:
            self._cell.take(self._cell.index_at(max(self._cell.now_s(), 0.0))).scene()
        now_s = self._cell.start()
        for fault in self._cell.faults_of(self):
            if fault.kind == "kill" and fault.at_s <= now_s < fault.at_s + fault.amount:
                back_s = fault.at_s + fault.amount - now_s
                raise DeviceError(f"{self.name}: the {self.device} is unplugged; it returns in {back_s:.1f} s")
        self._opened_s = max(now_s, 0.0)
        return self.info

    def _disconnect(self) -> None:
        """Nothing to let go of: the world goes on."""

    def _run(self) -> None:
        for item in self._deliveries():
            build = None if _lost(self._marks(item)) else item.prepare()
            due_s = None
            # Faults may be injected while waiting: a stall moves what is due, a loss takes what was prepared.
            while due_s is None or due_s < self._due_s(item):
                due_s = self._due_s(item)
                if not self._wait(due_s):
                    return
            marks = self._marks(item)
            self._cell.note_item(self.name, self._segment, item.number, item.t_s, marks)
            if _lost(marks):
                continue
            build = item.prepare() if build is None else build
            for _ in range(2 if any(mark.kind == "dup" for mark in marks) else 1):
                packet = build(time.monotonic_ns(), marks)
                self._put(packet if packet.stream == self.name else replace(packet, stream=self.name))

    def _deliveries(self) -> Iterator[Delivery]:
        clock, config = self._cell.clocks[self.device], self._cell.config
        opening, outlet = open_clock(clock, self._segment, self._opened_s, config), Outlet(config, self.device)
        self._cell.note_opening(self.name, opening, outlet)
        index, applied = self._cell.index_at(opening.t_s), set[Fault]()
        take = self._cell.take(index)
        for number in itertools.count():
            if self._stop.is_set():
                return
            self._change_pace(opening, number, applied)
            k = opening.place(number, clock)
            while k >= take.items[self.device].first + take.items[self.device].t_s.size:
                index += 1
                take = self._cell.take(index)
            items = take.items[self.device]
            j = max(k - items.first, 0)
            t_s = float(take.times(self.device, items.first + j, opening, number)[-1])
            self._change_clock(opening, outlet, take, number, t_s, applied)
            lost = (Mark(kind="drop"),) if items.lost[j] else ()
            yield Delivery(
                number=number,
                t_s=t_s,
                due_s=float(items.due_s[j]) + (t_s - float(items.t_s[j])),
                marks=(*lost, *items.marks.get(j, ())),
                prepare=functools.partial(self._prepare, take, items.first + j, opening, outlet, number, t_s),
            )

    def _prepare(self, take: Take, k: int, opening: Opening, outlet: Outlet, number: int, t_s: float) -> Build:
        """Draw what takes time before it is due."""
        pixels = take.frame(k) if self.device == CAMERA else None

        def build(arrival_ns: int, marks: Sequence[Mark]) -> Packet:
            packet = take.packet(self.device, k, opening, arrival_ns, pixels, number)
            counted = take.device_first(self.device, number, t_s, opening)
            first = outlet.number(number, counted, opening.restarts_by(number), t_s)
            return outlet.deliver(packet, first, marks)

        return build

    def _change_pace(self, opening: Opening, number: int, applied: set[Fault]) -> None:
        """Let the rate change once world time has come to an injected change."""
        for fault in self._cell.faults_of(self):
            due = fault.kind == "rate" and opening.t_s <= fault.at_s <= opening.item_s(number)
            if due and fault not in applied:
                applied.add(fault)
                opening.change_rate(number, fault.amount / 100)

    def _change_clock(
        self, opening: Opening, outlet: Outlet, take: Take, number: int, t_s: float, applied: set[Fault]
    ) -> None:
        """Let clock and counter jump or begin anew once world time has come to a jump."""
        for at_s, shows_ns in take.items[self.device].resets:
            if opening.t_s <= at_s <= t_s and not any(step_s == at_s for step_s, _ in opening.steps):
                opening.reset_clock(at_s, shows_ns)
        for fault in self._cell.faults_of(self):
            if fault in applied or not opening.t_s <= fault.at_s <= t_s:
                continue
            if fault.kind == "clock-step":
                applied.add(fault)
                opening.steps.append((fault.at_s, round(fault.amount * 1e9)))
            elif fault.kind == "reset":
                applied.add(fault)
                counted_ns = number * outlet.per_item * 1_000_000_000 // take.config.audio_rate_hz
                if opening.counts_samples:
                    opening.steps.append((t_s, -counted_ns - opening.base_ns - opening.stepped_ns(t_s)))
                else:
                    opening.reset_clock(t_s, round(fault.amount * 1e9))
                opening.restarts.append(number)

    def _marks(self, item: Delivery) -> tuple[Mark, ...]:
        """Return all that befalls an item, by itself and by injected faults."""
        marks = list(item.marks)
        for fault in self._cell.faults_of(self):
            if item.t_s < fault.at_s:
                continue
            match fault.kind:
                case "freeze" | "clip" | "hold" | "stuck-clock" if item.t_s < fault.at_s + fault.amount:
                    marks.append(Mark(kind=fault.kind))
                case "stall" if item.t_s < fault.at_s + fault.amount:
                    waits_s = max(0.0, fault.at_s + fault.amount - item.due_s)
                    marks.append(Mark(kind="stall", amount=1e3 * waits_s))
                case "drop" | "dup" | "garbage" if self._hits(fault, item) < fault.amount:
                    marks.append(Mark(kind=fault.kind))
                case "xrun" if self._hits(fault, item) <= fault.amount:
                    over = self._hits(fault, item) >= fault.amount
                    marks.append(Mark(kind="overflow" if over else "xrun"))
        return tuple(marks)

    def _hits(self, fault: Fault, item: Delivery) -> float:
        """Return how many items a fault that counts has hit before; one of an earlier opening hits none."""
        if fault.at_s < self._opened_s:
            return float("inf")
        return item.number - self._first_hit.setdefault(fault, item.number)

    def _due_s(self, item: Delivery) -> float:
        """Return when an item arrives, injected stalls included."""
        stalls = [fault for fault in self._cell.faults_of(self) if fault.kind == "stall"]
        ends_s = [f.at_s + f.amount for f in stalls if f.at_s <= item.t_s < f.at_s + f.amount]
        return max([item.due_s, *ends_s])

    def _wait(self, due_s: float) -> bool:
        """Wait until an item is due; False when the driver is being closed.

        Raises:
            DeviceError: The plug was pulled before that.
        """
        while not self._stop.is_set():
            now_s = self._cell.now_s()
            kills = [f.at_s for f in self._cell.faults_of(self) if f.kind == "kill" and f.at_s >= self._opened_s]
            pulled_s = min(kills, default=float("inf"))
            until_s = min(due_s, pulled_s)
            if now_s < until_s:
                self._stop.wait(min(until_s - now_s, LONGEST_WAIT_S))
            elif pulled_s <= due_s:
                raise DeviceError(f"{self.name}: the {self.device} was unplugged; plug it in again")
            else:
                return True
        return False


class PhotoDriver(SimulatedDriver):
    """Delivers the bead photos of every weld some time after its arc went out."""

    def _deliveries(self) -> Iterator[Delivery]:
        self._cell.note_opening(self.name)
        index, seq = self._cell.index_at(self._opened_s), 0
        # Photos may be due after their cycle has ended.
        index = max(index - 1, 0)
        while not self._stop.is_set():
            take = self._cell.take(index)
            for view, due_s in enumerate(map(float, take.photo_due_s)):
                if due_s < self._opened_s:
                    continue

                prepare = functools.partial(self._develop, take, view, seq)
                yield Delivery(number=seq, t_s=due_s, due_s=due_s, marks=(), prepare=prepare)
                seq += 1
            index += 1

    def _develop(self, take: Take, view: int, seq: int) -> Build:
        packet = photo_packet(take, view, seq, self._segment, 0)
        return lambda arrival_ns, _: replace(packet, t_arrival_ns=arrival_ns)


def _lost(marks: Sequence[Mark]) -> bool:
    return any(mark.kind in LOSSES for mark in marks)


def make_driver(cell: "SimulatedCell", name: str, device: str, info: StreamInfo) -> SimulatedDriver:
    """Make the driver that fits a device."""
    kind = PhotoDriver if device == PHOTOS else SimulatedDriver
    return kind(cell, name, device, info)
