"""What a session's devices lack, and what befalls their items in one weld: drawn once, known to the truth."""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from acquisition.simulated.causes import Floats
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import CAMERA, MICROPHONE, SENSORS
from acquisition.simulated.plan import WeldPlan
from acquisition.simulated.seeds import generator

LOSSES: Final = frozenset({"drop", "freeze", "gap", "xrun"})
"""Kinds of marks whose item never arrives."""
MOST_LOST_S: Final = 1.0
"""Longest burst or hold."""

_BEFALL: Final = {
    CAMERA: ("drop", "dup", "stall", "bad-stamps"),
    MICROPHONE: ("gap", "xrun", "clip"),
    SENSORS: ("drop", "dup", "stall", "bad-stamps", "hold", "clip"),
}
"""Drawn faults that befall the items of each device."""

Marks = dict[int, tuple["Mark", ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a device of this session can do.

    Attributes:
        has_counter: It numbers its items; otherwise the driver counts what comes.
        device_clock: As in `StreamInfo`.
        counter_bits: Width of its counter; 0 for one that never wraps.
        ms_stamps: Its stamps are whole milliseconds.
    """

    has_counter: bool = True
    device_clock: Literal["stamps", "samples", "none"] = "stamps"
    counter_bits: int = 0
    ms_stamps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that befalls one item.

    Attributes:
        kind: One of `LOSSES`, or `dup`, `stall`, `clip`, `hold`, `garbage`, `overflow`, `repeat` (stamp of the item
            before), `stuck-clock` (the same, injected), `backwards`.
        amount: Milliseconds: of waiting (`stall`), or that a stamp lies too early (`backwards`); else 0.
    """

    kind: str
    amount: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What befalls one device's items in one cycle.

    Attributes:
        due_s: (n,) world times of arrival, stalls included.
        marks: By item, counted from the cycle's first.
        resets: (world time, reading in ns) of each time that the device clock starts anew.
    """

    due_s: Floats
    marks: Marks = field(default_factory=dict)
    resets: tuple[tuple[float, int], ...] = ()


def draw_traits(config: SimulationConfig, device: str) -> Traits:
    """Draw what the session's device can do; without faults, everything."""
    faults, sound = config.fault_names, device == MICROPHONE
    rng = generator(config.seed, config.session, "traits")
    numberless = (CAMERA, MICROPHONE, SENSORS)[int(rng.integers(3))]
    clockless = (CAMERA, SENSORS)[int(rng.integers(2))]
    bits = int(generator(config.seed, config.session, "bits", device).choice((8, 16)))
    if device == SENSORS and config.sensor_rate_hz > 100:
        bits = 16  # 8 bit would turn within one burst of losses
    has_counter = not ("no-counter" in faults and device == numberless)
    return Traits(
        has_counter=has_counter,
        device_clock="samples" if sound else "none" if "no-clock" in faults and device == clockless else "stamps",
        counter_bits=bits if "wrap" in faults and has_counter and not sound else 0,
        ms_stamps="ms-stamps" in faults and device == SENSORS,
    )


def disturb(
    config: SimulationConfig, device: str, plan: WeldPlan, start_s: float, t_s: Floats, due_s: Floats
) -> Disturbance:
    """Draw what befalls a device's items in one cycle.

    Args:
        config: The cell; its `faults` say what may happen.
        device: Which device.
        plan: The weld.
        start_s: World time at which its cycle begins.
        t_s: (n,) world times of the items.
        due_s: (n,) world times of their arrival.
    """
    drawing = _Drawing(config, device, plan, t_s - start_s, due_s.copy())
    for fault in _BEFALL[device]:
        if fault in config.fault_names and t_s.size > 1:
            drawing.draw(fault)
    due = np.maximum.accumulate(drawing.due_s)
    marks = {j: tuple(found) for j, found in sorted(drawing.marks.items())}
    return Disturbance(due_s=due, marks=marks, resets=_draw_resets(config, device, plan, start_s))


def _draw_resets(
    config: SimulationConfig, device: str, plan: WeldPlan, start_s: float
) -> tuple[tuple[float, int], ...]:
    """Let the clock of camera or sensors start anew in half of the welds, somewhere in the arc."""
    if "clock-reset" not in config.fault_names:
        return ()
    rng = generator(plan.seed, "faults", "clock-reset")
    hit = (CAMERA, SENSORS)[int(rng.integers(2))]
    at_s, shows_s = float(rng.uniform(plan.arc_on_s, plan.arc_off_s)), float(rng.uniform(0.0, 1.0))
    if rng.random() < 0.5 or device != hit:
        return ()
    return ((start_s + at_s, round(shows_s * 1e9)),)


class _Drawing:
    """One cycle of one device while its faults are drawn, each with a generator of its own."""

    def __init__(self, config: SimulationConfig, device: str, plan: WeldPlan, t_s: Floats, due_s: Floats) -> None:
        self.due_s = due_s
        self.marks: dict[int, list[Mark]] = {}
        self._config, self._device, self._plan, self._t_s = config, device, plan, t_s
        self._offset_s = float(due_s[0] - t_s[0]) if t_s.size else 0.0
        self._n = t_s.size
        self._longest = 1
        if t_s.size > 1:
            self._longest = max(1, int(MOST_LOST_S * (t_s.size - 1) / float(t_s[-1] - t_s[0])))

    def draw(self, fault: str) -> None:
        rng = generator(self._plan.seed, "faults", fault, self._device)
        match fault:
            case "drop" | "dup":
                self._scatter(rng, fault)
            case "bad-stamps":
                self._stamps(rng)
            case "stall":
                self._stalls(rng)
            case "gap":
                for _ in range(rng.integers(0, 4)):
                    blocks = math.ceil(float(rng.uniform(0.01, 0.2)) / self._config.block_s)
                    self._run(self._anywhere(rng), blocks, "gap")
            case "xrun":
                for _ in range(rng.integers(0, 4)):
                    at, blocks = self._anywhere(rng), int(rng.integers(1, 4))
                    self._run(at, blocks, "xrun")
                    self._run(at + blocks, 1, "overflow")
            case "clip":
                for _ in range(rng.integers(0, 4)):
                    length_s = float(rng.uniform(0.1, 0.5)) if self._device == MICROPHONE else 0.0
                    self._clip(float(rng.uniform(self._plan.arc_on_s, self._plan.arc_off_s)), length_s)
            case "hold":
                for _ in range(rng.integers(0, 4)):
                    self._run(self._anywhere(rng), min(int(rng.integers(3, 31)), self._longest), "hold")

    def _run(self, first: int, n: int, kind: str, amount: float = 0.0) -> None:
        for j in range(first, min(first + n, self._n)):
            found = self.marks.setdefault(j, [])
            if all(mark.kind != kind for mark in found):
                found.append(Mark(kind=kind, amount=amount))

    def _anywhere(self, rng: np.random.Generator) -> int:
        """Draw an item that has one before it."""
        return int(rng.integers(1, self._n))

    def _scatter(self, rng: np.random.Generator, kind: str) -> None:
        """Hit 0.1-1 % of the items, one half of them one by one, the other in bursts of 3-30."""
        share = float(rng.uniform(0.001, 0.01))
        hit = rng.random(self._n) < share / 2
        for _ in range(rng.poisson(self._n * share / 2 / 16.5)):
            at, n = self._anywhere(rng), min(int(rng.integers(3, 31)), self._longest)
            hit[at : at + n] = True
        for j in np.flatnonzero(hit):
            self._run(int(j), 1, kind)

    def _stamps(self, rng: np.random.Generator) -> None:
        share = float(rng.uniform(0.001, 0.01))
        for j in 1 + np.flatnonzero(rng.random(self._n - 1) < share):
            if rng.random() < 0.5:
                self._run(int(j), 1, "repeat")
            else:
                self._run(int(j), 1, "backwards", float(rng.uniform(1.0, 40.0)))

    def _stalls(self, rng: np.random.Generator) -> None:
        """Let items wait, each for the same moment."""
        for _ in range(rng.poisson(self._n * float(rng.uniform(0.001, 0.01)) / 5)):
            begin_s, wait_s = float(self._t_s[self._anywhere(rng)]), float(rng.uniform(0.05, 0.4))
            waiting = np.flatnonzero((self._t_s >= begin_s) & (self._t_s < begin_s + wait_s))
            until_s = float(self.due_s[waiting[0]]) + wait_s
            for j in waiting:
                self._run(int(j), 1, "stall", max(0.0, (until_s - float(self.due_s[j])) * 1e3))
            self.due_s[waiting] = np.maximum(self.due_s[waiting], until_s)

    def _clip(self, begin_s: float, length_s: float) -> None:
        first = int(np.searchsorted(self._t_s, begin_s))
        last = int(np.searchsorted(self._t_s, begin_s + length_s))
        self._run(first, max(1, last - first), "clip")
