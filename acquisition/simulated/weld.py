"""One simulated weld offline: the packets that the live drivers would have delivered, as fast as they render."""

import heapq
from collections.abc import Iterator
from typing import Any

from acquisition.packet import Packet
from acquisition.simulated.clocks import DeviceClock, Opening, draw_clocks, open_clock
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.plan import plan_truth
from acquisition.simulated.sets import PlannedSet, TestSet, plan_set
from acquisition.simulated.take import Take, photo_packet, stream_infos


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
        self._openings: dict[str, Opening] = {s: open_clock(c, 0, 0.0, config.seed) for s, c in clocks.items()}
        self.truth = plan_truth(take.plan, start_ns) | {
            "session": config.session,
            "set": plan.name,
            "photos_show": _result_truth(plan),
            "devices": {s: device_truth(c, [self._openings[s]], start_ns) for s, c in clocks.items()},
            "drops": {s: self._drops(s) for s in clocks},
            "bursts": int(take.process.bursts.onset_s.size),
            "faults": [],
        }

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
        items = self.take.items[stream]
        for j in range(items.t_s.size):
            if not items.lost[j]:
                arrival_ns = self._start_ns + round(float(items.due_s[j]) * 1e9)
                yield self.take.packet(stream, items.first + j, self._openings[stream], arrival_ns)

    def _drops(self, stream: str) -> list[dict[str, Any]]:
        items = self.take.items[stream]
        return [
            {
                "first": j,
                "missing": 1,
                "segment": 0,
                "reason": "drop",
                "t_ns": self._start_ns + round(float(items.t_s[j]) * 1e9),
            }
            for j in map(int, items.lost.nonzero()[0])
        ]


def _result_truth(plan: PlannedSet) -> dict[str, Any] | None:
    """Return what the photos show where that is not what the process did, else None."""
    result = plan.result
    if result is plan.process:
        return None
    recipe = {name: getattr(result.recipe, name) for name in result.recipe.__slots__}
    return {"class": result.weld_class, "seed": result.seed, "recipe": recipe}


def device_truth(clock: DeviceClock, openings: list[Opening], start_ns: int) -> dict[str, Any]:
    """Return the true timing of a device; `clocks` holds one line per opening and per jump."""
    lines = [line for opening in openings for line in opening.truth(start_ns)]
    return {
        "offset_ns": lines[-1]["offset_ns"] if lines else None,
        "drift_ppm": clock.drift * 1e6,
        "latency_ms": {"shortest": clock.latency_s * 1e3, "mean": (clock.latency_s + clock.jitter_s) * 1e3},
        "clocks": lines,
    }


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
