"""Test-only sets: welds in which the process and its result do not belong together, or only one of them is at fault.

Each takes the process from one plan and the bead on the photos from another.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np

from acquisition.simulated.bead import bead_width_mm
from acquisition.simulated.causes import CLASS_LABELS, classes_in_part
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.plan import WeldPlan, plan_weld
from acquisition.simulated.recipes import TRAVEL_MM_S
from acquisition.simulated.seeds import generator
from acquisition.simulated.session import Recipe, matched_voltage_v

TestSet: TypeAlias = Literal["", "swap", "silent_part", "process_only"]

SET_CLASSES: Final[dict[TestSet, tuple[str, ...]]] = {
    "": tuple(CLASS_LABELS),
    "swap": ("good",),
    "silent_part": classes_in_part(),
    "process_only": tuple(name for name in CLASS_LABELS if name != "good"),
}
"""The classes that each set can be made of; the empty name is no set."""

SWAP_MARGIN: Final = 0.06
"""How far the width of a swapped bead lies outside all that the process could have laid; means vary by 1-2 %."""
SWAP_CHOICE: Final = 5
"""Candidates per swap. The most ordinary one is taken, else swaps would show as extreme beads to photos alone."""
_ORDINARY_WIDTH_MM: Final = 7.5
_TRIES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSet:
    """One weld of a test-only set.

    Attributes:
        name: Which set.
        process: What sensors, sound and video show; its class and severity are the weld's.
        result: What the photos show.
    """

    name: TestSet
    process: WeldPlan
    result: WeldPlan


def plan_set(config: SimulationConfig, name: TestSet, weld_class: str, severity: float, seed: int) -> PlannedSet:
    """Decide everything about a weld of a set.

    * none (`""`): process and result are of one weld, as the live cell makes them.
    * `swap`: a good process with the good bead of another recipe, under this session's light. No travel speed of the
      recipe space explains the bead's width by the process.
    * `silent_part`: the cause lies in the part; the process is that of the good weld of the same seed.
    * `process_only`: a disturbed process and the bead of the good weld of the same seed.

    Args:
        config: The cell.
        name: The set.
        weld_class: One of `SET_CLASSES[name]`.
        severity: 0..1; ignored by good welds.
        seed: Seed of the weld.

    Raises:
        ValueError: The set is unknown or not made of that class, the severity is out of range, or the configuration
            leaves no other recipe for a swap.
    """
    if name not in SET_CLASSES:
        raise ValueError(f"set {name!r} is unknown: use one of " + ", ".join(filter(None, SET_CLASSES)))
    if name and weld_class not in SET_CLASSES[name]:
        raise ValueError(f"set {name} is not made of class {weld_class!r}: use " + ", ".join(SET_CLASSES[name]))
    plan = plan_weld(config, weld_class, severity, seed, in_part=name == "silent_part")
    result = plan
    if name == "swap":
        result = _foreign_weld(config, plan)
    elif name == "process_only":
        result = plan_weld(config, "good", 0.0, seed)
    return PlannedSet(name=name, process=plan, result=result)


def implied_widths_mm(recipe: Recipe) -> tuple[float, float]:
    """Return the narrowest and the widest bead that a process can have laid; its travel speed is seen by no sensor."""
    slow, fast = TRAVEL_MM_S
    return _width_mm(recipe, fast), _width_mm(recipe, slow)


def _width_mm(recipe: Recipe, travel_mm_s: float) -> float:
    arc_length_v = recipe.voltage_v - matched_voltage_v(recipe.current_a)
    return float(bead_width_mm(np.array(recipe.current_a), np.array(travel_mm_s), np.array(arc_length_v)))


def _foreign_weld(config: SimulationConfig, plan: WeldPlan) -> WeldPlan:
    """Plan a good weld of another recipe whose bead this process cannot have laid, in this session's light."""
    narrowest, widest = implied_widths_mm(plan.recipe)
    rng = generator(plan.seed, "swap")
    found: list[tuple[float, WeldPlan]] = []
    for _ in range(_TRIES):
        session, seed = (int(n) for n in rng.integers(2**31, size=2))
        other = plan_weld(replace(config, session=session), "good", 0.0, seed)
        width = _width_mm(other.recipe, other.recipe.travel_mm_s)
        implied = narrowest * (1.0 - SWAP_MARGIN) <= width <= widest * (1.0 + SWAP_MARGIN)
        if not implied and other.recipe.name != plan.recipe.name:
            found.append((abs(float(np.log(width / _ORDINARY_WIDTH_MM))), other))
        if len(found) == SWAP_CHOICE:
            break
    else:
        raise ValueError("swap needs recipes with other beads: leave plate_mm, current_a and travel_mm_s to be drawn")
    return replace(min(found, key=lambda f: f[0])[1], nuisances=plan.nuisances)
