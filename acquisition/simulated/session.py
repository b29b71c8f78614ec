"""What a shift keeps constant: the recipe that is welded, and the nuisances that no detector may depend on."""

import itertools
from dataclasses import dataclass

import numpy as np

from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.recipes import JOINTS, PLATES_MM, TRAVEL_MM_S, current_range_a, in_pool, recipe_name
from acquisition.simulated.seeds import generator


def matched_voltage_v(current_a: float) -> float:
    """Arc voltage that suits a current; the line passes through the measured good weld (177 A, 24.7 V)."""
    return 14.0 + 0.06 * current_a


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of the welding machine and the part; every class is welded with every recipe.

    Attributes:
        name: Where it lies in the recipe space: plate, joint and third of the current range.
        plate_mm: Plate thickness h.
        joint: `butt`, `fillet` or `plate` (bead on plate).
        travel_mm_s: Travel speed v.
        current_a: Set current I.
        voltage_v: Set voltage V.
    """

    name: str
    plate_mm: float
    joint: str
    travel_mm_s: float
    current_a: float
    voltage_v: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuisances:
    """What differs between shifts and says nothing of quality.

    Attributes:
        mic_gain_db: Microphone gain against the reference.
        mic_tilt_db_per_octave: Tilt of its response about 2 kHz.
        floor_dbfs: Level of the shop noise.
        exposure: Camera exposure against the reference.
        pose_px: (right, down) shift of the weld in the picture, in pixels of a 960 x 600 frame.
        edge_slope: Slope of the plate edge in the picture.
        dirt: Number of dirt specks on the camera's window.
        photo_light: Light on the bead photos against the reference.
        gas_l_min: Shielding gas flow while welding.
        gas_peak: Highest reading of the flow meter after opening, over the steady one.
        gas_peak_s: When it comes, after arc-on.
        gas_decay_s: Time constant with which it decays.
        line_bar: Gas line pressure at rest.
        encoder: Gain of the wire encoder (0.01 when it has failed).
    """

    mic_gain_db: float
    mic_tilt_db_per_octave: float
    floor_dbfs: float
    exposure: float
    pose_px: tuple[float, float]
    edge_slope: float
    dirt: int
    photo_light: float
    gas_l_min: float
    gas_peak: float
    gas_peak_s: float
    gas_decay_s: float
    line_bar: float
    encoder: float


def draw_recipe(config: SimulationConfig) -> Recipe:
    """Draw the session's recipe; settings given in the configuration win, and its pool is respected."""
    recipe = _drawn(config, generator(config.session, "recipe"))
    again = itertools.count(1)
    while not in_pool(recipe.name, config.recipe_pool):
        recipe = _drawn(config, generator(config.session, "recipe", next(again)))
    return recipe


def _drawn(config: SimulationConfig, rng: np.random.Generator) -> Recipe:
    plate_mm = float(rng.choice(PLATES_MM)) if config.plate_mm is None else config.plate_mm
    drawn_joint = str(rng.choice(JOINTS))
    low, high = current_range_a(plate_mm)
    share, travel, deviation = rng.random(), rng.uniform(*TRAVEL_MM_S), rng.normal(0.0, 1.2)
    current_a = low + (high - low) * share if config.current_a is None else config.current_a
    joint = drawn_joint if config.joint is None else config.joint
    return Recipe(
        name=recipe_name(plate_mm, joint, current_a),
        plate_mm=plate_mm,
        joint=joint,
        travel_mm_s=travel if config.travel_mm_s is None else config.travel_mm_s,
        current_a=current_a,
        voltage_v=matched_voltage_v(current_a) + deviation if config.voltage_v is None else config.voltage_v,
    )


def draw_nuisances(config: SimulationConfig) -> Nuisances:
    """Draw the session's nuisances, scaled by `config.nuisance` about the reference set-up."""
    rng = generator(config.session, "nuisances")
    k = config.nuisance

    def about(reference: float, half_range: float) -> float:
        return reference + k * float(rng.uniform(-half_range, half_range))

    return Nuisances(
        mic_gain_db=about(0.0, 4.0),
        mic_tilt_db_per_octave=about(0.0, 3.0),
        floor_dbfs=about(-75.5, 3.5),
        exposure=about(1.0, 0.25),
        pose_px=(about(0.0, 25.0), about(0.0, 15.0)),
        edge_slope=about(-0.03, 0.03),
        dirt=round(k * float(rng.integers(0, 12))),
        photo_light=float(np.exp(about(0.0, 0.5))),
        gas_l_min=about(14.5, 7.5),
        gas_peak=min(4.6, 1.2 + k * float(rng.exponential(0.4)) + 0.1),
        gas_peak_s=about(4.0, 0.6),
        gas_decay_s=about(2.5, 0.5),
        line_bar=about(1.4, 0.3),
        encoder=0.01 if rng.random() < 0.05 * k else 1.0,
    )
