"""Live drivers of the simulated cell: they hold the device's schedule, and lose only what a fault takes."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, StreamInfo
from acquisition.simulated.clocks import CAMERA, PHOTOS, Opening, open_clock
from acquisition.simulated.faults import Fault
from acquisition.simulated.take import Take, photo_packet

if TYPE_CHECKING:
    from acquisition.simulated.cell import SimulatedCell

LONGEST_WAIT_S: Final = 0.25
"""A waiting driver looks for newly injected faults at least this often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One item on its way.

    Attributes:
        number: The device's own number of the item.
        t_s: World time at which it happened.
        due_s: World time at which it arrives.
        lost: The device loses it by itself.
        prepare: Does the work that can be done before it is due, and returns what builds the packet on arrival.
    """

    number: int
    t_s: float
    due_s: float
    lost: bool
    prepare: Callable[[], Callable[[int], Packet]]


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
        self._dropped: dict[Fault, int] = {}

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
            if self._stop.is_set():
                return
            reason = self._fate(item)
            build = None if reason else item.prepare()
            if not self._wait(item.due_s):
                return
            # A fault may have been injected while waiting.
            reason = reason or self._fate(item)
            if reason or build is None:
                self._cell.note_loss(self.name, self._segment, item.number, item.t_s, reason or "drop")
                continue
            packet = build(time.monotonic_ns())
            self._put(packet if packet.stream == self.name else replace(packet, stream=self.name))

    def _deliveries(self) -> Iterator[Delivery]:
        opening = open_clock(self._cell.clocks[self.device], self._segment, self._opened_s, self._cell.config.seed)
        self._cell.note_opening(self.name, opening)
        index = self._cell.index_at(opening.t_s)
        next_item = opening.first_item
        while not self._stop.is_set():
            take = self._cell.take(index)
            items = take.items[self.device]
            for k in range(max(next_item, items.first), items.first + items.t_s.size):
                j = k - items.first
                self._step_clock(opening, float(items.t_s[j]))

                yield Delivery(
                    number=k - opening.first_item,
                    t_s=float(items.t_s[j]),
                    due_s=float(items.due_s[j]),
                    lost=bool(items.lost[j]),
                    prepare=functools.partial(self._prepare, take, k, opening),
                )
            next_item = items.first + items.t_s.size
            index += 1

    def _prepare(self, take: Take, k: int, opening: Opening) -> Callable[[int], Packet]:
        """Draw what takes time before it is due."""
        pixels = take.frame(k) if self.device == CAMERA else None
        return lambda arrival_ns: take.packet(self.device, k, opening, arrival_ns, pixels)

    def _step_clock(self, opening: Opening, t_s: float) -> None:
        """Let the device clock jump once world time has come to an injected jump."""
        for fault in self._cell.faults_of(self):
            step = (fault.at_s, round(fault.amount * 1e9))
            if fault.kind == "clock-step" and opening.t_s <= fault.at_s <= t_s and step not in opening.steps:
                opening.steps.append(step)

    def _fate(self, item: Delivery) -> str | None:
        """Say why an item is lost, or None if it arrives."""
        if item.lost:
            return "drop"
        for fault in self._cell.faults_of(self):
            if item.t_s < fault.at_s:
                continue
            if fault.kind == "freeze" and item.t_s < fault.at_s + fault.amount:
                return "freeze"
            if fault.kind == "drop" and fault.at_s >= self._opened_s:
                last = self._dropped.setdefault(fault, item.number + round(fault.amount))
                if item.number < last:
                    return "drop"
        return None

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
        self._cell.note_opening(self.name, None)
        index, seq = self._cell.index_at(self._opened_s), 0
        # Photos may be due after their cycle has ended.
        index = max(index - 1, 0)
        while not self._stop.is_set():
            take = self._cell.take(index)
            for view, due_s in enumerate(map(float, take.photo_due_s)):
                if due_s < self._opened_s:
                    continue

                prepare = functools.partial(self._develop, take, view, seq)
                yield Delivery(number=seq, t_s=due_s, due_s=due_s, lost=False, prepare=prepare)
                seq += 1
            index += 1

    def _develop(self, take: Take, view: int, seq: int) -> Callable[[int], Packet]:
        packet = photo_packet(take, view, seq, self._segment, 0)
        return lambda arrival_ns: replace(packet, t_arrival_ns=arrival_ns)


def make_driver(cell: "SimulatedCell", name: str, device: str, info: StreamInfo) -> SimulatedDriver:
    """Make the driver that fits a device."""
    kind = PhotoDriver if device == PHOTOS else SimulatedDriver
    return kind(cell, name, device, info)
