"""What is decided about a weld before its arc is struck, and the truth that follows from it."""

from dataclasses import dataclass
from typing import Any

from acquisition.simulated.causes import CLASS_LABELS, Cause, draw_causes
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.seeds import generator
from acquisition.simulated.session import Nuisances, Recipe, draw_nuisances, draw_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class WeldPlan:
    """Everything that was decided before the arc was struck.

    Attributes:
        weld_class: Class, for the truth only.
        severity: 0..1, for the truth only.
        seed: Seed of the weld.
        recipe: Settings of this weld (the session's, slightly off).
        nuisances: The session's.
        causes: Interventions; their times count from arc-on.
        arc_on_s: When the arc is struck, in cycle seconds.
        arc_off_s: When it goes out.
        duration_s: Length of the cycle: idle, arc, tail and gap.
    """

    weld_class: str
    severity: float
    seed: int
    recipe: Recipe
    nuisances: Nuisances
    causes: tuple[Cause, ...]
    arc_on_s: float
    arc_off_s: float
    duration_s: float


def plan_weld(
    config: SimulationConfig, weld_class: str, severity: float, seed: int, *, in_part: bool = False
) -> WeldPlan:
    """Decide everything about a weld before its arc is struck.

    Args:
        config: The cell.
        weld_class: One of `CLASS_LABELS`.
        severity: 0..1; ignored by good welds.
        seed: Seed of the weld.
        in_part: The causes lie in the part and leave the process alone.

    Raises:
        ValueError: The class cannot be simulated or the severity is out of range.
    """
    if not 0 <= severity <= 1:
        raise ValueError(f"severity {severity}: give a number from 0 to 1")
    rng = generator(seed, "plan")
    arc_s = config.arc_s * float(rng.uniform(0.8, 1.2))
    base = draw_recipe(config)
    k = config.nuisance
    return WeldPlan(
        weld_class=weld_class,
        severity=0.0 if weld_class == "good" else severity,
        seed=seed,
        recipe=Recipe(
            name=base.name,
            plate_mm=base.plate_mm,
            joint=base.joint,
            travel_mm_s=base.travel_mm_s * (1.0 + 0.01 * k * float(rng.normal())),
            current_a=base.current_a * (1.0 + 0.01 * k * float(rng.normal())),
            voltage_v=base.voltage_v + 0.15 * k * float(rng.normal()),
        ),
        nuisances=draw_nuisances(config),
        causes=draw_causes(weld_class, severity, arc_s, generator(seed, "causes"), in_part=in_part),
        arc_on_s=config.idle_s,
        arc_off_s=config.idle_s + arc_s,
        duration_s=config.idle_s + arc_s + config.tail_s + config.gap_s,
    )


def plan_truth(plan: WeldPlan, start_ns: int) -> dict[str, Any]:
    """Return what is true of a planned weld, JSON-compatible; `start_ns` is the cell time of its cycle's start."""

    def cell_ns(cycle_s: float) -> int:
        return start_ns + round(cycle_s * 1e9)

    def spans(segments: tuple[tuple[float, float], ...]) -> list[list[int]]:
        return [[cell_ns(plan.arc_on_s + a), cell_ns(plan.arc_on_s + b)] for a, b in segments]

    recipe, nuisances = plan.recipe, plan.nuisances
    pose = {"pose_px": list(nuisances.pose_px)}
    return {
        "class": plan.weld_class,
        "label": CLASS_LABELS[plan.weld_class],
        "severity": plan.severity,
        "seed": plan.seed,
        "causes": [{"lever": c.lever, "strength": c.strength, "segments_ns": spans(c.segments)} for c in plan.causes],
        "segments_ns": [list(s) for s in sorted({(a, b) for c in plan.causes for a, b in spans(c.segments)})],
        "start_ns": start_ns,
        "arc_on_ns": cell_ns(plan.arc_on_s),
        "arc_off_ns": cell_ns(plan.arc_off_s),
        "end_ns": cell_ns(plan.duration_s),
        "recipe": {name: getattr(recipe, name) for name in Recipe.__slots__},
        "nuisances": {name: getattr(nuisances, name) for name in Nuisances.__slots__} | pose,
    }
