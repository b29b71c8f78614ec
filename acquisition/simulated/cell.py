"""The simulated cell: an endless row of welds that live drivers share, with faults on demand and a known truth."""

import bisect
import itertools
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from acquisition.driver import Driver
from acquisition.packet import Modality
from acquisition.simulated.clocks import Opening, draw_clocks
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import DEVICES
from acquisition.simulated.disturbance import Mark
from acquisition.simulated.drivers import SimulatedDriver, make_driver
from acquisition.simulated.faults import Fault, parse_fault
from acquisition.simulated.outlet import Outlet
from acquisition.simulated.plan import WeldPlan, plan_truth, plan_weld
from acquisition.simulated.seeds import generator
from acquisition.simulated.take import Take, stream_infos
from acquisition.simulated.tally import Tally
from acquisition.simulated.truth import Ledger, device_truth, times_truth

DEVICE_OF: Final[dict[Modality, str]] = {modality: device for device, modality in DEVICES.items()}
TAKES_KEPT: Final = 3


class SimulatedCell:
    """A world of welds, one after the other, for as long as anybody listens.

    Attributes:
        config: Its settings.
        clocks: Its device clocks.
        start_ns: Cell-clock time of world time 0, or None before the first driver was opened.
        tally: Notes what the live drivers handed over, where the settings ask for it.
    """

    def __init__(self, config: SimulationConfig, start_ns: int | None = None) -> None:
        """Make the cell; nothing runs until a driver is opened.

        Args:
            config: Settings; equal settings give equal worlds.
            start_ns: Cell-clock time of world time 0; by default, the moment the first driver is opened.
        """
        self.config = config
        self.clocks = draw_clocks(config)
        self.start_ns = start_ns
        self.tally: Tally | None = None
        self._plans: list[WeldPlan] = []
        self._starts_s: list[float] = [0.0]
        self._takes: dict[int, Take] = {}
        self._wanted = 0
        self._faults: list[Fault] = []
        self._names: dict[str, str] = {device: device for device in DEVICE_OF.values()}
        self._openings: dict[str, list[tuple[Opening, Outlet]]] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._lock = threading.RLock()
        self._rendering = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._users = 0
        self._ahead: threading.Thread | None = None

    def driver(self, name: str, modality: Modality) -> Driver:
        """Make a live driver of one of the cell's devices, to deliver under the stream name `name`.

        Raises:
            ValueError: The modality is none of the four.
        """
        if modality not in DEVICE_OF:
            raise ValueError(f"{name}: modality {modality!r} is unknown: use one of {', '.join(DEVICE_OF)}")
        device = DEVICE_OF[modality]
        with self._lock:
            self._names[name] = device
        return make_driver(self, name, device, replace(stream_infos(self.config)[device], name=name))

    def inject(self, fault: str) -> None:
        """Disturb a stream: `KIND:STREAM@SECONDS[:AMOUNT]`, seconds since the world's start.

        `INJECTED_FAULTS` says what each kind does. A time that has passed means now.

        Raises:
            ValueError: The specification is wrong; one line names the fix.
        """
        with self._lock:
            parsed = parse_fault(fault, self._names)
            if self.start_ns is not None:
                parsed = replace(parsed, at_s=max(parsed.at_s, self.now_s()))
            self._faults = [*self._faults, parsed]

    def truth_between(self, t0_ns: int, t1_ns: int) -> dict[str, Any] | None:
        """Return the truth of the weld whose arc lies in [t0, t1] (cell time), or None where there is none.

        Of several, the one with the longest arc inside counts. JSON-compatible: class, label, severity, causes,
        segments, arc times, per-device clocks and latencies, losses and faults so far.
        """
        if self.start_ns is None:
            return None
        start_ns = self.start_ns
        with self._lock:
            first = self.index_at(max((t0_ns - start_ns) / 1e9, 0.0))
            last = self.index_at(max((t1_ns - start_ns) / 1e9, 0.0))
            best: dict[str, Any] | None = None
            best_index = longest_ns = 0
            for index in range(first, last + 1):
                truth = plan_truth(self._plan(index), start_ns + round(self._starts_s[index] * 1e9))
                truth["session"] = self.config.session
                inside_ns = min(truth["arc_off_ns"], t1_ns) - max(truth["arc_on_ns"], t0_ns)
                if inside_ns > longest_ns:
                    best, best_index, longest_ns = truth, index, inside_ns
            if best is None:
                return None
            self._add_devices(best, best_index, start_ns)
            best["faults"] = [
                {"kind": f.kind, "stream": f.stream, "t_ns": start_ns + round(f.at_s * 1e9), "amount": f.amount}
                for f in self._faults
            ]
            return best

    def _add_devices(self, truth: dict[str, Any], index: int, start_ns: int) -> None:
        """Add what was true of the devices during a weld."""
        begin_ns, end_ns = truth["start_ns"], truth["end_ns"]

        def within(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [dict(run) for run in runs if begin_ns <= run["t_ns"] < end_ns]

        in_force = {name: _in_force(openings, start_ns, end_ns) for name, openings in self._openings.items()}
        truth["devices"] = {
            name: device_truth(self.clocks[self._names[name]], [opening for opening, _ in openings], start_ns)
            for name, openings in in_force.items()
        }
        truth["drops"] = {name: within(ledger.drops) for name, ledger in self._ledgers.items()}
        if not self.config.fault_names and not self._faults:
            return
        truth["device_faults"] = sorted(self.config.fault_names)
        truth["disturbed"] = {name: within(ledger.disturbed) for name, ledger in self._ledgers.items()}
        for name, openings in in_force.items():
            truth["devices"][name]["times"] = times_truth(
                self.config,
                self.clocks[self._names[name]],
                openings,
                start_ns,
                self._plan(index),
                self._starts_s[index],
            )

    def now_s(self) -> float:
        """Return world time; 0 before the start."""
        return 0.0 if self.start_ns is None else (time.monotonic_ns() - self.start_ns) / 1e9

    def start(self) -> float:
        """Start the world if it does not run yet, with its first weld already rendered; return world time."""
        self.take(self.index_at(max(self.now_s(), 0.0)))
        with self._lock:
            if self.start_ns is None:
                self.start_ns = time.monotonic_ns()
                return 0.0
        return self.now_s()

    def index_at(self, t_s: float) -> int:
        """Return which weld's cycle world time `t_s` falls into."""
        with self._lock:
            while self._starts_s[-1] <= t_s:
                self._plan(len(self._plans))
            return bisect.bisect_right(self._starts_s, t_s) - 1

    def take(self, index: int) -> Take:
        """Return a rendered cycle, and have the next one rendered in the background."""
        take = self._render(index)
        with self._lock:
            self._wanted = max(self._wanted, index + 1)
            self._wake.notify_all()
        return take

    def _render(self, index: int) -> Take:
        with self._rendering:
            with self._lock:
                plan = self._plan(index)
                start_s = self._starts_s[index]
                take = self._takes.get(index)
            if take is None:
                take = Take(self.config, self.clocks, plan, start_s)
            with self._lock:
                self._takes[index] = take
                for old in [i for i in self._takes if i < index - TAKES_KEPT]:
                    del self._takes[old]
            return take

    def faults_of(self, driver: SimulatedDriver) -> list[Fault]:
        """Return the faults that hit a driver, by its own name or its device's."""
        faults = self._faults
        return [f for f in faults if f.stream in (driver.name, driver.device)] if faults else faults

    def note_opening(self, name: str, opening: Opening | None = None, outlet: Outlet | None = None) -> None:
        """Remember an opening of a device, with what it delivers; of a device without a clock, that it exists."""
        with self._lock:
            if opening is not None and outlet is not None:
                self._openings.setdefault(name, []).append((opening, outlet))
            self._ledgers.setdefault(name, Ledger())

    def note_item(self, name: str, segment: int, number: int, t_s: float, marks: Sequence[Mark]) -> None:
        """Remember what befell an item."""
        if marks:
            with self._lock:
                self._ledgers[name].note(number, segment, (self.start_ns or 0) + round(t_s * 1e9), marks)

    def acquire(self) -> None:
        """Take part in the world; the first one starts the thread that renders ahead."""
        with self._lock:
            self._users += 1
            if self.config.tally and self.tally is None:
                self.tally = Tally(Path(self.config.tally))
            if self._ahead is None:
                self._ahead = threading.Thread(target=self._render_ahead, name="simulated-cell", daemon=True)
                self._ahead.start()

    def release(self) -> None:
        """Leave the world; the last one stops the thread."""
        with self._lock:
            self._users -= 1
            thread = self._ahead if self._users == 0 else None
            if self._users == 0 and self.tally is not None:
                self.tally.close()
                self.tally = None
            if thread is not None:
                self._ahead = None
                self._wake.notify_all()
        if thread is not None:
            thread.join(2.0)

    def _render_ahead(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(
                    lambda: (
                        self._ahead is not threading.current_thread()
                        or (self._wanted > 0 and self._wanted not in self._takes)
                    )
                )
                if self._ahead is not threading.current_thread():
                    return
                index = self._wanted
            self._render(index)

    def _plan(self, index: int) -> WeldPlan:
        with self._lock:
            for i in itertools.count(len(self._plans)):
                if i > index:
                    break
                rng = generator(self.config.seed, "cycle", i)
                low, high = self.config.severity
                weld_class = self.config.classes[i % len(self.config.classes)]
                plan = plan_weld(self.config, weld_class, float(rng.uniform(low, high)), int(rng.integers(2**31)))
                self._plans.append(plan)
                self._starts_s.append(self._starts_s[-1] + plan.duration_s)
            return self._plans[index]


def _in_force(openings: list[tuple[Opening, Outlet]], start_ns: int, end_ns: int) -> list[tuple[Opening, Outlet]]:
    """Return the openings that began before `end_ns`, the latest last."""
    return [(o, outlet) for o, outlet in openings if start_ns + round(o.t_s * 1e9) < end_ns]
