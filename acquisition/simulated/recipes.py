"""The space of recipes and its two halves: welds for testing can use recipes that no weld for training ever had."""

import zlib
from typing import Final, Literal, TypeAlias

RecipePool: TypeAlias = Literal["all", "train", "test"]

JOINTS: Final = ("butt", "fillet", "plate")
PLATES_MM: Final = (3.0, 7.0)
BANDS: Final = ("low", "mid", "high")
"""Thirds of a plate's current range."""
TRAVEL_MM_S: Final = (4.2, 8.0)


def current_range_a(plate_mm: float) -> tuple[float, float]:
    """Return the welding currents that suit a plate."""
    return (120.0, 160.0) if plate_mm < 5 else (140.0, 300.0)


def recipe_name(plate_mm: float, joint: str, current_a: float) -> str:
    """Name the cell of the recipe space that a recipe lies in, for example `7mm-butt-high`."""
    low, high = current_range_a(plate_mm)
    third = int(len(BANDS) * (current_a - low) / (high - low))
    return f"{plate_mm:g}mm-{joint}-{BANDS[min(max(third, 0), len(BANDS) - 1)]}"


def pool_of(name: str) -> RecipePool:
    """Return the half that a recipe belongs to, by a fixed hash: 10 of the 18 are for training, 8 for testing.

    Both halves hold both plates, all joints and all bands.
    """
    return "train" if zlib.crc32(name.encode()) % 2 else "test"


def in_pool(name: str, pool: RecipePool) -> bool:
    """Tell whether a recipe may be drawn from `pool`."""
    return pool in ("all", pool_of(name))
