"""One simulated weld offline: the packets that the live drivers would have delivered, as fast as they render."""

import heapq
from collections.abc import Iterator
from typing import Any

from acquisition.packet import Packet
from acquisition.simulated.clocks import DeviceClock, Opening, draw_clocks, open_clock
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.disturbance import LOSSES, Mark
from acquisition.simulated.outlet import Outlet
from acquisition.simulated.plan import plan_truth
from acquisition.simulated.sets import PlannedSet, TestSet, plan_set
from acquisition.simulated.take import Take, photo_packet, stream_infos
from acquisition.simulated.truth import Ledger, device_truth, times_truth


class SimulatedWeld:
    """A weld with its truth; made by `simulated_weld`.

    Attributes:
        infos: The streams, by name.
        truth: What is true of the weld: class, causes, times, device clocks, losses (JSON-compatible).
        take: The rendered cycle, for those who want the hidden state itself.
    """

    def __init__(
        self, config: SimulationConfig, plan: PlannedSet, take: Take, clocks: dict[str, DeviceClock], start_ns: int
    ) -> None:
        self.infos = stream_infos(config)
        self.take = take
        self._clocks = clocks
        self._start_ns = start_ns
        self._openings: dict[str, Opening] = {}
        for stream, clock in clocks.items():
            opening = self._openings[stream] = open_clock(clock, 0, 0.0, config, take.plan.seed)
            for at_s, shows_ns in take.items[stream].resets:
                opening.reset_clock(at_s, shows_ns)
        ledgers = {s: self._ledger(s) for s in clocks}
        self.truth = plan_truth(take.plan, start_ns) | {
            "session": config.session,
            "set": plan.name,
            "photos_show": _result_truth(plan),
            "devices": {s: device_truth(c, [self._openings[s]], start_ns) for s, c in clocks.items()},
            "drops": {s: ledger.drops for s, ledger in ledgers.items()},
            "bursts": int(take.process.bursts.onset_s.size),
            "faults": [],
        }
        if config.fault_names:
            self.truth["device_faults"] = sorted(config.fault_names)
            self.truth["disturbed"] = {s: ledger.disturbed for s, ledger in ledgers.items()}
            for s, clock in clocks.items():
                opened = [(self._openings[s], self._delivered(s))]
                self.truth["devices"][s]["times"] = times_truth(config, clock, opened, start_ns, take.plan, 0.0)

    def packets(self) -> Iterator[Packet]:
        """Yield the device packets of the weld by arrival (`order` 0), photos last.

        Photos keep their names and bytes but arrive after everything else, so that arrivals never go back.
        """
        streams = [self.device_packets(s) for s in self._clocks]
        last_ns = self._start_ns
        for packet in heapq.merge(*streams, key=lambda p: p.t_arrival_ns):
            last_ns = packet.t_arrival_ns
            yield packet
        for view, due_s in enumerate(self.take.photo_due_s):
            last_ns = max(self._start_ns + round(float(due_s) * 1e9), last_ns + 1)
            yield photo_packet(self.take, view, view, 0, last_ns)

    def device_packets(self, stream: str) -> Iterator[Packet]:
        """Yield the packets of one device (`camera`, `microphone` or `sensors`) by arrival."""
        take, items, opening = self.take, self.take.items[stream], self._openings[stream]
        outlet = Outlet(take.config, stream)
        for j in range(items.t_s.size):
            marks = self._marks(stream, j)
            if _lost(marks):
                continue
            arrival_ns = self._start_ns + round(float(items.due_s[j]) * 1e9)
            packet = take.packet(stream, items.first + j, opening, arrival_ns)
            for number in self._numbers(outlet, stream, j, marks):
                yield outlet.deliver(packet, number, marks)

    def _numbers(self, outlet: Outlet, stream: str, j: int, marks: tuple[Mark, ...]) -> Iterator[int]:
        """Number item `j` as often as it comes."""
        t_s, opening = float(self.take.items[stream].t_s[j]), self._openings[stream]
        for _ in range(2 if any(mark.kind == "dup" for mark in marks) else 1):
            yield outlet.number(j, self.take.device_first(stream, j, t_s, opening), 0, t_s)

    def _delivered(self, stream: str) -> Outlet:
        """Number everything that is delivered, without rendering it."""
        outlet = Outlet(self.take.config, stream)
        for j in range(self.take.items[stream].t_s.size):
            marks = self._marks(stream, j)
            if not _lost(marks):
                for _ in self._numbers(outlet, stream, j, marks):
                    pass
        return outlet

    def _marks(self, stream: str, j: int) -> tuple[Mark, ...]:
        items = self.take.items[stream]
        lost = (Mark(kind="drop"),) if items.lost[j] else ()
        return (*lost, *items.marks.get(j, ()))

    def _ledger(self, stream: str) -> Ledger:
        ledger, items = Ledger(joined=bool(self.take.config.fault_names)), self.take.items[stream]
        for j in sorted({*map(int, items.lost.nonzero()[0]), *items.marks}):
            ledger.note(j, 0, self._start_ns + round(float(items.t_s[j]) * 1e9), self._marks(stream, j))
        return ledger


def _lost(marks: tuple[Mark, ...]) -> bool:
    return any(mark.kind in LOSSES for mark in marks)


def _result_truth(plan: PlannedSet) -> dict[str, Any] | None:
    """Return what the photos show where that is not what the process did, else None."""
    result = plan.result
    if result is plan.process:
        return None
    recipe = {name: getattr(result.recipe, name) for name in result.recipe.__slots__}
    return {"class": result.weld_class, "seed": result.seed, "recipe": recipe}


def simulated_weld(
    config: SimulationConfig,
    *,
    weld_class: str = "good",
    severity: float = 1.0,
    seed: int = 1,
    start_ns: int = 0,
    set: TestSet = "",
) -> SimulatedWeld:
    """Simulate one weld.

    Args:
        config: The cell; its `session` draws recipe and nuisances, its `seed` the device clocks.
        weld_class: One of `CLASS_LABELS`; in a test-only set, one of `SET_CLASSES`.
        severity: 0..1; ignored by good welds.
        seed: Seed of the weld.
        start_ns: Cell time at which the weld's cycle begins.
        set: Test-only set in which process and result do not belong together (see `plan_set`).

    Raises:
        ValueError: The class or the set cannot be simulated, or the severity is out of range.
    """
    clocks = draw_clocks(config)
    plan = plan_set(config, set, weld_class, severity, seed)
    take = Take(config, clocks, plan.process, 0.0, plan.result)
    return SimulatedWeld(config, plan, take, clocks, start_ns)
