"""The solidified bead along the plate: what the process leaves behind, in millimetres."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from acquisition.simulated.causes import Floats
from acquisition.simulated.process import STATE_RATE_HZ, Process
from acquisition.simulated.seeds import generator
from acquisition.simulated.spatter import Spatter

STEP_MM: Final = 0.1
WIRE_AREA_MM2: Final = 1.131


@dataclass(frozen=True, slots=True, kw_only=True)
class Bead:
    """A bead; profiles are (n,) every `STEP_MM` along the weld, spots are (k, 3): x, y, diameter.

    Attributes:
        x_mm: Along the weld, 0 where the arc was struck.
        width_mm: w.
        height_mm: r, reinforcement.
        penetration_mm: p.
        offset_mm: Bead axis beside the joint.
        weakness: 0 where the toes are fused, to 1 where the bead lies on the plate.
        roughness: Irregularity of the ripples, from the instability.
        tint: Heat tint, about 1 for a steady good weld.
        angle_deg: Distortion of the plate.
        pits: Pores open to the surface.
        holes: Burn-throughs.
        dots: Spatter that stuck to the plate.
    """

    x_mm: Floats
    width_mm: Floats
    height_mm: Floats
    penetration_mm: Floats
    offset_mm: Floats
    weakness: Floats
    roughness: Floats
    tint: Floats
    angle_deg: float
    pits: Floats
    holes: Floats
    dots: Floats


def _residual(rng: np.random.Generator, n: int, sd: float) -> Floats:
    """Smooth relative deviation along the bead (correlated over about 5 mm)."""
    knots = max(n // 50, 4)
    wave: Floats = np.interp(np.linspace(0.0, 1.0, n), np.linspace(0.0, 1.0, knots), rng.standard_normal(knots))
    return 1.0 + sd * wave


def _spots(x: Floats, y: Floats, d: Floats) -> Floats:
    return np.column_stack((x, y, d)) if x.size else np.zeros((0, 3))


def bead_width_mm(current_a: Floats, travel_mm_s: Floats, arc_length_v: Floats) -> Floats:
    """Width of the bead that a steady process lays."""
    return np.asarray(
        8.5 * np.sqrt(current_a / 177.0) * np.sqrt(5.0 / travel_mm_s) * np.clip(1.0 + 0.05 * arc_length_v, 0.4, 1.6)
    )


def lay_bead(process: Process, spatter: Spatter) -> Bead:
    """Solidify the weld: geometry from current, speed and arc length, pores where the shield failed, holes, spatter."""
    plan = process.plan
    rng = generator(plan.seed, "bead")
    travelled = np.concatenate(([0.0], np.cumsum(process.travel_mm_s[:-1]) / STATE_RATE_HZ))
    x = np.arange(0.0, float(travelled[-1]), STEP_MM)
    welding = process.arc > 0
    at_x = np.interp(x, travelled[welding], process.t_s[welding])
    n = x.size

    smooth = np.hanning(203)[1:-1] / np.hanning(203).sum()  # the pool is long: it averages over about 0.5 s

    def along(values: Floats) -> Floats:
        padded = np.pad(values[welding], 100, mode="edge")
        out: Floats = np.interp(at_x, process.t_s[welding], np.convolve(padded, smooth, mode="valid"))
        return out

    current, travel, arc_length = along(process.current_a), along(process.travel_mm_s), along(process.arc_length_v)
    offset, thickness = along(process.torch_offset_mm + process.joint_offset_mm), along(process.thickness_mm)
    penetration = 3.0 * (current / 177.0) ** 1.3 * (travel / 5.0) ** -0.35 * np.exp(-((arc_length / 6.0) ** 2))
    penetration = (penetration + 0.5 * along(process.gap_mm)) * _residual(rng, n, 0.07)
    width = bead_width_mm(current, travel, arc_length)
    width *= (1.0 - 0.05 * np.abs(offset)) * _residual(rng, n, 0.04)
    height = WIRE_AREA_MM2 * along(process.wire_mm_s) / (0.7 * travel * width) * _residual(rng, n, 0.06)
    needed = 0.6 + 0.17 * thickness
    weakness = np.clip(1.5 * (1.0 - penetration / needed) + np.abs(offset) / 3.0, 0.0, 1.0)
    heat = along(process.heat_j_mm)

    # Pores: 1.2 per millimetre at the worst, wherever the pool lacked shield or was dirty.
    dirt = along(np.maximum(process.contamination, process.buried_dirt))
    porous = np.clip(np.maximum((1.0 - along(process.shield)) / 0.7, dirt), 0.0, 1.0)
    hit = np.flatnonzero(rng.random(n) < 1.2 * porous**1.5 * STEP_MM)
    pit_d = np.clip(rng.lognormal(-0.35, 0.45, hit.size), 0.3, 2.0)
    pit_y = offset[hit] + 0.5 * width[hit] * np.clip(rng.normal(0.0, 0.4, hit.size), -0.85, 0.85)

    hole_x = np.array([np.interp(t, process.t_s, travelled) for t, _ in process.holes])
    hole_d = np.array([d for _, d in process.holes])
    hole_y = np.interp(hole_x, x, offset) if hole_x.size else hole_x

    # One droplet in forty sticks, mostly large ones near the bead.
    stuck = np.flatnonzero(rng.random(spatter.born_s.size) < 0.06 * spatter.size)
    side = np.where(rng.random(stuck.size) < 0.5, -1.0, 1.0)
    dot_x = np.interp(spatter.born_s[stuck], process.t_s, travelled) + rng.normal(0.0, 5.0, stuck.size)
    dot_y = side * (4.0 + rng.gamma(1.3, 4.0, stuck.size))
    return Bead(
        x_mm=x,
        width_mm=width,
        height_mm=height,
        penetration_mm=penetration,
        offset_mm=offset,
        weakness=weakness,
        roughness=along(process.instability),
        tint=heat / 700.0 * 7.0 / thickness,
        angle_deg=float(2.5 * np.mean(heat) / 700.0 * (7.0 / np.mean(thickness)) ** 1.3 * 0.1),
        pits=_spots(x[hit], pit_y, pit_d),
        holes=_spots(hole_x, hole_y, hole_d),
        dots=_spots(dot_x, dot_y, 0.35 + 1.3 * spatter.size[stuck]),
    )
