"""What was true of the devices: clocks, every lost or disturbed item, and the true time of every sample."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acquisition.simulated.clocks import DeviceClock, Opening, sampling_jitter
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import SENSORS
from acquisition.simulated.disturbance import LOSSES, Mark, draw_traits
from acquisition.simulated.outlet import Outlet
from acquisition.simulated.plan import WeldPlan

RUNS_KEPT: Final = 10_000

Int64s = npt.NDArray[np.int64]


class Ledger:
    """What befell one stream's items, in runs of consecutive ones.

    Attributes:
        drops: Lost items: `first`, `missing`, `segment`, `reason`, `t_ns` (of the first).
        disturbed: All others: `kind`, `first`, `count`, `segment`, `t_ns`, and `amount` where the kind has one.
    """

    def __init__(self, *, joined: bool = True) -> None:
        """Begin with nothing; without `joined`, every item is a run of its own."""
        self._joined = joined
        self.drops: list[dict[str, Any]] = []
        self.disturbed: list[dict[str, Any]] = []

    def note(self, item: int, segment: int, t_ns: int, marks: Sequence[Mark]) -> None:
        """Note what befell an item: its loss, or else all of its marks; one with an amount is a run of its own."""
        reason = next((mark.kind for mark in marks if mark.kind in LOSSES), None)
        if reason is not None:
            self._add(self.drops, "missing", {"first": item, "missing": 1, "segment": segment, "reason": reason}, t_ns)
            return
        for mark in marks:
            entry = {"kind": mark.kind, "first": item, "count": 1, "segment": segment}
            self._add(self.disturbed, "count", entry | ({"amount": mark.amount} if mark.amount else {}), t_ns)

    def _add(self, runs: list[dict[str, Any]], size: str, entry: dict[str, Any], t_ns: int) -> None:
        about = ("kind", "reason", "segment")
        for last in reversed(runs[-8:]):  # several kinds may befall the same items
            if (
                self._joined
                and "amount" not in entry
                and entry["first"] == last["first"] + last[size]
                and all(entry.get(name) == last.get(name) for name in about)
            ):
                last[size] += 1
                return
        if len(runs) >= RUNS_KEPT:
            del runs[0]
        runs.append(entry | {"t_ns": t_ns})


def device_truth(clock: DeviceClock, openings: Sequence[Opening], start_ns: int) -> dict[str, Any]:
    """Return the true timing of a device; `clocks` holds one line per opening and per jump."""
    lines = [line for opening in openings for line in opening.truth(start_ns)]
    return {
        "offset_ns": lines[-1]["offset_ns"] if lines else None,
        "drift_ppm": clock.drift * 1e6,
        "latency_ms": {"shortest": clock.latency_s * 1e3, "mean": (clock.latency_s + clock.jitter_s) * 1e3},
        "clocks": lines,
    }


def times_truth(
    config: SimulationConfig,
    clock: DeviceClock,
    openings: Sequence[tuple[Opening, Outlet]],
    start_ns: int,
    plan: WeldPlan,
    start_s: float,
) -> dict[str, Any]:
    """Return what `true_times` needs, and what the device is capable of, for one cycle.

    Args:
        config: The cell.
        clock: The device's clock.
        openings: Its openings, each with what was delivered.
        start_ns: Cell time of world time 0.
        plan: The weld.
        start_s: World time at which its cycle begins.
    """
    traits = draw_traits(config, clock.stream)
    per_item = openings[0][1].per_item if openings else 1
    grid, numbering, stray = [], [], []
    for opening, outlet in openings:
        for pace in opening.paces:
            t_ns = start_ns + round(pace.t_s * 1e9)
            grid.append([opening.segment, pace.number * per_item, t_ns, pace.period_s * 1e9 / per_item])
        numbering += [[opening.segment, *run] for run in outlet.runs]
        first = clock.first_item(start_s)
        last = clock.first_item(start_s + plan.duration_s)
        if clock.stream == SENSORS:
            jitter_s = sampling_jitter(plan.seed, config.sensor_rate_hz, (last - first) * per_item)
            begin = (first - opening.first_item) * per_item
            if len(opening.paces) > 1:  # a changed rate leaves rows on an even grid
                jitter_s = jitter_s[: max(0, opening.paces[1].number * per_item - begin)]
            if jitter_s.any():
                stray.append([opening.segment, begin, np.rint(jitter_s * 1e9).astype(int).tolist()])
    return {
        "true_rate_hz": per_item / clock.period_s,
        "has_counter": traits.has_counter,
        "device_clock": traits.device_clock,
        "counter_bits": traits.counter_bits,
        "ms_stamps": traits.ms_stamps,
        "per_item": per_item,
        "grid": grid,
        "stray": stray,
        "numbering": numbering,
    }


def item_numbers(
    truth: dict[str, Any], stream: str, numbers: npt.ArrayLike, *, segment: int = 0, restarts: int = 0
) -> Int64s:
    """Turn recorded numbers into item numbers, which count all that happened since the opening, losses included.

    Args:
        truth: Content of `truth.json`.
        stream: Stream name.
        numbers: (n,) frame numbers (`seq`), sound sample or sensor row numbers, as recorded.
        segment: Segment of the stream.
        restarts: How often the device had begun to count anew before, within the segment (fault `reset`).

    Raises:
        ValueError: The truth knows no times, or nothing was delivered under one of the numbers.
    """
    asked = np.asarray(numbers, np.int64)
    runs = np.array(
        [run[2:] for run in _times(truth, stream)["numbering"] if run[:2] == [segment, restarts]], np.int64
    ).reshape(-1, 3)
    # Of two runs with the same number, which a doubled item makes, either is right.
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    at = np.searchsorted(runs[:, 0], asked, "right") - 1
    inside = (at >= 0) & (asked < (runs[at, 0] + runs[at, 2] if len(runs) else -1))
    if not inside.all():
        number = int(asked[~inside][0])
        raise ValueError(f"{stream}: nothing was delivered as number {number} of segment {segment}, restart {restarts}")
    return np.asarray(asked - runs[at, 0] + runs[at, 1])


def true_times(
    truth: dict[str, Any], stream: str, numbers: npt.ArrayLike, *, segment: int = 0, restarts: int = 0
) -> Int64s:
    """Return when recorded frames, sound samples or sensor rows truly happened, whatever their stamps say.

    Arguments and errors are those of `item_numbers`.

    Returns:
        (n,) cell time in ns: begin of a frame's exposure, instant of a sample or row.
    """
    items = item_numbers(truth, stream, numbers, segment=segment, restarts=restarts)
    times = _times(truth, stream)
    out = np.zeros(items.shape, np.int64)
    for _, first, t_ns, period_ns in [piece for piece in times["grid"] if piece[0] == segment]:
        later = items >= first
        out[later] = t_ns + np.rint((items[later] - first) * period_ns).astype(np.int64)
    for _, first, stray_ns in [piece for piece in times["stray"] if piece[0] == segment]:
        inside = (items >= first) & (items < first + len(stray_ns))
        out[inside] += np.array(stray_ns, np.int64)[items[inside] - first]
    return out


def _times(truth: dict[str, Any], stream: str) -> dict[str, Any]:
    devices: dict[str, Any] = truth["devices"]
    if stream not in devices or "times" not in devices[stream]:
        raise ValueError(
            f"{stream}: its true times are not in this truth; simulate with faults, or use its clock lines"
        )
    times: dict[str, Any] = devices[stream]["times"]
    return times
