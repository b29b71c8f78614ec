"""Why a weld is bad: interventions on the hidden process state. Renderers see the state, never the class.

A class is a recipe for drawing `Cause`s. A further class is one more function in `_CAUSES_OF`; what a cause does to the
process is said once, in `process.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

Lever: TypeAlias = Literal[
    "gas_loss",
    "draft",
    "contamination",
    "buried_dirt",
    "arc_length_v",
    "current",
    "travel",
    "gap_mm",
    "thin_plate",
    "torch_offset_mm",
    "joint_offset_mm",
    "spatter",
    "instability",
    "blow_through_mm",
]
"""The hidden variables that a cause can move.

`gas_loss` and `draft` are shares of the shielding lost (the first also shows in the flow), `contamination` is 0..1,
`buried_dirt` is the same inside the part, where the arc does not meet it, `torch_offset_mm` moves the torch beside the
joint and `joint_offset_mm` the part under the torch,
`arc_length_v` is added to the arc voltage at equal current, `current`, `travel` and `thin_plate` are relative changes,
`spatter` multiplies the births by 1 + value, `blow_through_mm` is the diameter of a hole blown at the segment's start.
"""

CLASS_LABELS: Final[dict[str, int]] = {
    "good": 0,
    "burnthrough": 2,
    "porosity": 3,
    "lack_of_fusion": 7,
    "spatter": 9,
}
"""The classes that can be simulated, with their Weld-4M labels."""

Segments: TypeAlias = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One intervention on the process.

    Attributes:
        lever: The hidden variable that is moved.
        strength: By how much, in the lever's unit.
        segments: When, as (from, to) in seconds after the arc was struck.
    """

    lever: Lever
    strength: float
    segments: Segments

    RAMP_S: ClassVar[float] = 0.15

    def envelope(self, t_s: Floats) -> Floats:
        """Say how far the cause is in force at `t_s` (seconds after arc-on): 0..1, with short ramps at the ends."""
        out = np.zeros_like(t_s)
        for begin, end in self.segments:
            rise = (t_s - begin) / self.RAMP_S + 0.5
            fall = (end - t_s) / self.RAMP_S + 0.5
            np.maximum(out, np.clip(np.minimum(rise, fall), 0.0, 1.0), out=out)
        return out


def draw_segments(rng: np.random.Generator, arc_s: float) -> Segments:
    """Draw when a defect is made: the whole weld (40 %), else 1-3 stretches of 2-6 s that may touch."""
    whole: Segments = ((0.0, arc_s),)
    if rng.random() < 0.4:
        return whole
    lengths = rng.uniform(2.0, 6.0, rng.integers(1, 4))
    starts = np.sort(rng.uniform(0.0, np.maximum(arc_s - lengths, 0.1)))
    return tuple((float(a), float(min(a + n, arc_s))) for a, n in zip(starts, lengths, strict=True))


Draw: TypeAlias = Callable[[np.random.Generator, float, float], list[Cause]]
"""(generator, severity, arc time in seconds) -> causes."""


def _porosity(rng: np.random.Generator, severity: float, arc_s: float) -> list[Cause]:
    segments = draw_segments(rng, arc_s)
    origins: tuple[tuple[Lever, float], ...] = (("gas_loss", 0.8), ("draft", 0.6), ("contamination", 1.0))
    lever, strength = origins[int(rng.choice(3, p=[0.35, 0.35, 0.30]))]
    return [Cause(lever=lever, strength=strength * severity, segments=segments)]


def _burnthrough(rng: np.random.Generator, severity: float, arc_s: float) -> list[Cause]:
    segments = draw_segments(rng, arc_s)
    events = 1 + min(3, int(rng.poisson(1.5 * severity)))
    causes = [
        Cause(lever="current", strength=0.15 * severity, segments=segments),
        Cause(lever="travel", strength=-0.20 * severity, segments=segments),
        Cause(lever="gap_mm", strength=1.5 * severity, segments=segments),
        Cause(lever="thin_plate", strength=-0.15 * severity, segments=segments),
    ]
    for _ in range(events):
        begin, end = segments[rng.integers(len(segments))]
        at = float(rng.uniform(begin + 0.3, max(begin + 0.4, end - 0.6)))
        hole_mm = float(rng.uniform(4.0, 4.0 + 5.0 * severity))
        causes.append(Cause(lever="blow_through_mm", strength=hole_mm, segments=((at, at + 0.3),)))
    return causes


def _spatter(rng: np.random.Generator, severity: float, arc_s: float) -> list[Cause]:
    segments = draw_segments(rng, arc_s)
    return [
        Cause(lever="arc_length_v", strength=-5.0 * severity, segments=segments),
        Cause(lever="spatter", strength=3.0 * severity, segments=segments),
        Cause(lever="instability", strength=0.5 * severity, segments=segments),
    ]


def _lack_of_fusion(rng: np.random.Generator, severity: float, arc_s: float) -> list[Cause]:
    segments = draw_segments(rng, arc_s)
    if rng.random() < 0.4:
        side = 1.0 if rng.random() < 0.5 else -1.0
        return [Cause(lever="torch_offset_mm", strength=side * (1.0 + 2.0 * severity), segments=segments)]
    return [
        Cause(lever="arc_length_v", strength=-4.0 * severity, segments=segments),
        Cause(lever="current", strength=-0.20 * severity, segments=segments),
    ]


_CAUSES_OF: Final[dict[str, Draw]] = {
    "burnthrough": _burnthrough,
    "porosity": _porosity,
    "lack_of_fusion": _lack_of_fusion,
    "spatter": _spatter,
}


def _porosity_in_part(rng: np.random.Generator, severity: float, arc_s: float) -> list[Cause]:
    return [Cause(lever="buried_dirt", strength=severity, segments=draw_segments(rng, arc_s))]


def _lack_of_fusion_in_part(rng: np.random.Generator, severity: float, arc_s: float) -> list[Cause]:
    segments = draw_segments(rng, arc_s)
    side = 1.0 if rng.random() < 0.5 else -1.0
    return [Cause(lever="joint_offset_mm", strength=side * (1.0 + 2.0 * severity), segments=segments)]


_CAUSES_IN_PART: Final[dict[str, Draw]] = {
    "porosity": _porosity_in_part,
    "lack_of_fusion": _lack_of_fusion_in_part,
}


def classes_in_part() -> tuple[str, ...]:
    """Name the classes that a part alone can cause, with no trace in the process."""
    return tuple(_CAUSES_IN_PART)


def draw_causes(
    weld_class: str, severity: float, arc_s: float, rng: np.random.Generator, *, in_part: bool = False
) -> tuple[Cause, ...]:
    """Draw the causes of one weld.

    Args:
        weld_class: A key of `CLASS_LABELS`.
        severity: 0..1; ignored by good welds.
        arc_s: Arc time in seconds.
        rng: The weld's generator for causes.
        in_part: The causes lie in the part and leave the process alone; only for `classes_in_part()`.

    Raises:
        ValueError: The class cannot be simulated, or not from the part alone.
    """
    known = tuple(_CAUSES_IN_PART) if in_part else tuple(CLASS_LABELS)
    if weld_class not in known:
        cause = " from a cause in the part" if in_part else ""
        raise ValueError(f"class {weld_class!r} cannot be simulated{cause}: use one of " + ", ".join(known))
    draw = (_CAUSES_IN_PART if in_part else _CAUSES_OF).get(weld_class)
    return () if draw is None else tuple(draw(rng, severity, arc_s))
