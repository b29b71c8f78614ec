"""Photos of the finished bead: a height field on the plate, lit, tinted, and seen from five places.

Everything is painted in plate coordinates first; `view_map` gives the one homography per view that takes the plate
into the photo, so that masks painted in the same coordinates will fit the photo.
"""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from acquisition.simulated.bead import Bead
from acquisition.simulated.causes import Floats
from acquisition.simulated.plan import WeldPlan
from acquisition.simulated.seeds import generator

Floats32 = npt.NDArray[np.float32]

MARGIN_MM: Final = 9.0
ACROSS_MM: Final = 46.0
PLATE_GRAY: Final = 47.0
TABLE_GRAY: Final = 12
LIGHTS: Final = ((-0.35, -0.55, 0.76), (0.45, -0.40, 0.80), (0.0, -0.70, 0.71), (-0.6, 0.3, 0.74), (0.3, 0.5, 0.81))
"""Direction of the lamp for each view."""
CORNERS: Final = (
    ((0.04, 0.30), (0.96, 0.30), (0.96, 0.72), (0.04, 0.72)),
    ((0.10, 0.22), (0.92, 0.34), (0.95, 0.74), (0.04, 0.66)),
    ((0.06, 0.36), (0.90, 0.24), (0.97, 0.66), (0.08, 0.76)),
    ((0.14, 0.32), (0.86, 0.32), (0.99, 0.72), (0.01, 0.72)),
    ((-0.10, 0.20), (1.10, 0.20), (1.16, 0.82), (-0.16, 0.82)),
)
"""Where the plate's corners lie in each view, as shares of width and height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """The plate with its bead, in plate coordinates: row = across, column = along.

    Attributes:
        px_per_mm: Resolution.
        slope_x: Height gradient along the weld.
        slope_y: Height gradient across.
        albedo: Gray level of the surface under full light.
        gloss: Strength of the highlight.
        tint: (rows, columns, 3) colour of the surface.
    """

    px_per_mm: float
    slope_x: Floats32
    slope_y: Floats32
    albedo: Floats32
    gloss: Floats32
    tint: Floats32


def paint_relief(bead: Bead, plan: WeldPlan) -> Relief:
    """Paint height, reflectance and colour of the plate (about 30 ms, once per weld)."""
    rng = generator(plan.seed, "relief")
    length = float(bead.x_mm[-1]) + 2.0 * MARGIN_MM
    scale = min(8.0, 1000.0 / length)
    cols, rows = round(length * scale), round(ACROSS_MM * scale)
    x = ((np.arange(cols) + 0.5) / scale - MARGIN_MM).astype(np.float32)
    y = ((np.arange(rows) + 0.5) / scale - ACROSS_MM / 2.0).astype(np.float32)[:, None]

    def along(profile: Floats) -> Floats32:
        return np.interp(x, bead.x_mm, profile).astype(np.float32)

    end = np.float32(bead.x_mm[-1])
    width, height, weak = along(bead.width_mm), along(bead.height_mm), along(bead.weakness)
    taper = np.clip(np.minimum(x, end - x) / (0.7 * width) + 0.5, 0.0, 1.0)
    half = np.maximum(0.5 * width * np.sqrt(taper * (2.0 - taper)), 1e-3)
    u = (y - along(bead.offset_mm)) / half
    on_bead = np.abs(u) < 1.0
    inside = np.where(on_bead, 1.0 - u * u, 0.0)
    cap = inside ** (1.0 - 0.6 * weak)  # weak toes stand up steeply instead of running out
    crater = np.exp(-(((x - end + 5.0) / 5.0) ** 2))
    period = 1.8 * float(np.clip((plan.recipe.travel_mm_s / 5.0) ** 0.25, 0.9, 1.1))
    uneven = np.cumsum(rng.normal(0.0, 1.0, bead.x_mm.size) * bead.roughness) * 0.09
    phase = along(2.0 * np.pi * bead.x_mm / period + uneven)
    ripple = np.sin(phase + 1.4 * u * u) * inside * (1.0 - 0.85 * crater) * (0.05 + 0.10 * along(bead.roughness))
    z = height * taper * (cap - 0.55 * crater * np.exp(-2.0 * u * u) * on_bead) + ripple
    if plan.recipe.joint == "fillet":
        z += 0.35 * np.abs(y) * (1.0 - 0.8 * inside)
    z -= np.float32(np.tan(np.radians(bead.angle_deg))) * np.abs(y)
    grain = rng.standard_normal((rows, cols), np.float32)
    brushed = (grain + np.roll(grain, 1, 1) + np.roll(grain, 2, 1) + np.roll(grain, 3, 1)) * 0.5
    z += np.where(on_bead, 0.004 * grain, 0.006 * brushed)

    albedo = np.where(on_bead, 128.0 + 6.0 * grain, PLATE_GRAY + 2.5 * brushed)
    toe = np.abs(np.abs(u) - 1.02) < 0.05 + 0.05 * weak
    albedo[toe] *= np.broadcast_to(1.0 - 0.35 - 0.45 * weak, toe.shape)[toe]
    if plan.recipe.joint == "butt":
        albedo[(np.abs(y) < 0.25) & ~on_bead] *= 0.25
    gloss = np.where(on_bead, 95.0, 14.0).astype(np.float32)
    past_ends = np.maximum(np.maximum(-x - 0.35 * width, x - end - 0.35 * width), 0.0)
    beyond = np.hypot(past_ends, np.maximum(np.abs(y - along(bead.offset_mm)) - half, 0.0))
    tint = _heat_tint(along(bead.tint), beyond, ~on_bead)
    albedo[~on_bead & (beyond < 4.0)] *= 1.25  # vapour leaves a light film beside the bead

    for px, py, d in bead.dots:
        _press(z, albedo, x, y, px, py, 0.5 * d, 0.45 * d, 1.7)
    for px, py, d in bead.pits:
        _press(z, albedo, x, y, px, py, 0.5 * d, -0.7 * d, 0.30)
    for px, py, d in bead.holes:
        _press(z, albedo, x, y, px, py, 0.62 * d, 0.25 * d, 0.8)
        _press(z, albedo, x, y, px, py, 0.5 * d, -1.0 * d, 0.04)
    slope_y, slope_x = np.gradient(z.astype(np.float32), 1.0 / scale)
    return Relief(
        px_per_mm=scale,
        slope_x=slope_x.astype(np.float32),
        slope_y=slope_y.astype(np.float32),
        albedo=albedo.astype(np.float32),
        gloss=gloss * np.minimum(albedo / 60.0, 1.0).astype(np.float32),
        tint=tint,
    )


def _heat_tint(heat: Floats32, beyond_mm: Floats32, plate: npt.NDArray[np.bool_]) -> Floats32:
    """Colour the heat-affected zone by the distance from the bead: blue within, straw outside, wider the hotter."""
    reach = 3.5 * np.sqrt(np.clip(heat, 0.05, 4.0))
    blue = np.exp(-(((beyond_mm - 0.55 * reach) / (0.35 * reach)) ** 2)) * plate
    straw = np.exp(-(((beyond_mm - 1.15 * reach) / (0.4 * reach)) ** 2)) * plate
    return np.stack(
        (1.0 - 0.30 * blue + 0.22 * straw, 1.0 - 0.12 * blue + 0.06 * straw, 1.0 + 0.35 * blue - 0.25 * straw), axis=-1
    ).astype(np.float32)


def _press(
    z: Floats32, albedo: Floats32, x: Floats32, y: Floats32, px: float, py: float, r: float, depth: float, shade: float
) -> None:
    """Press a round dent (or a bump) of radius `r` mm into the relief and shade it."""
    x0, x1 = np.searchsorted(x, (px - r, px + r))
    y0, y1 = np.searchsorted(y[:, 0], (py - r, py + r))
    if x0 >= x1 or y0 >= y1:
        return
    q = ((x[None, x0:x1] - px) ** 2 + (y[y0:y1] - py) ** 2) / (r * r)
    z[y0:y1, x0:x1] += depth * np.sqrt(np.maximum(1.0 - q, 0.0))
    albedo[y0:y1, x0:x1] *= np.where(q < 1.0, shade + (1.0 - shade) * q**3, 1.0)


def view_map(relief: Relief, view: int, height: int, width: int, jitter: Floats) -> tuple[float, ...]:
    """Return the eight coefficients that take photo pixels to plate pixels for a view (a homography, PIL's order)."""
    rows, cols = relief.albedo.shape
    plate = np.array([(0, 0), (cols, 0), (cols, rows), (0, rows)], np.float64)
    photo = (np.array(CORNERS[view]) + jitter) * (width, height)
    system = np.zeros((8, 8))
    for i, ((px, py), (u, v)) in enumerate(zip(photo, plate, strict=True)):
        system[2 * i] = (px, py, 1, 0, 0, 0, -px * u, -py * u)
        system[2 * i + 1] = (0, 0, 0, px, py, 1, -px * v, -py * v)
    return tuple(float(c) for c in np.linalg.solve(system, plate.ravel()))


def render_photo(relief: Relief, plan: WeldPlan, view: int, height: int, width: int) -> bytes:
    """Photograph the bead from one of five places.

    Args:
        relief: The painted plate.
        plan: The weld, for its seed and the session's photo light.
        view: 0-4.
        height: Photo height in pixels.
        width: Photo width in pixels.

    Returns:
        JPEG bytes.
    """
    rng = generator(plan.seed, "photo", view)
    lx, ly, lz = (np.float32(v) for v in LIGHTS[view])
    norm = 1.0 / np.sqrt(1.0 + relief.slope_x**2 + relief.slope_y**2)
    diffuse = np.maximum((lz - relief.slope_x * lx - relief.slope_y * ly) * norm, 0.0)
    # Blinn: half-way vector between the lamp and a camera straight above.
    hx, hy, hz = lx, ly, lz + np.float32(1.0)
    half_norm = np.float32(1.0 / np.sqrt(hx * hx + hy * hy + hz * hz))
    shine = np.maximum((hz - relief.slope_x * hx - relief.slope_y * hy) * norm * half_norm, 0.0)
    shine *= shine
    shine *= shine
    shine *= shine
    shine *= shine
    gray = relief.albedo * (0.28 + 0.90 * diffuse) + relief.gloss * shine
    gray *= np.float32(plan.nuisances.photo_light)
    plate = Image.fromarray(np.clip(gray[:, :, None] * relief.tint, 0, 255).astype(np.uint8), "RGB")
    coefficients = view_map(relief, view, height, width, rng.normal(0.0, 0.008, (4, 2)))
    photo = plate.transform(
        (width, height),
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BILINEAR,
        fillcolor=(TABLE_GRAY, TABLE_GRAY, TABLE_GRAY),
    ).filter(ImageFilter.BoxBlur(0.7))
    pixels = np.asarray(photo).astype(np.int16)
    tile = rng.normal(0.0, 2.0, (64, 64)).astype(np.int16)
    pixels += np.tile(tile, (height // 64 + 1, width // 64 + 1))[:height, :width, None]
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8), "RGB").save(out, "JPEG", quality=88)
    return out.getvalue()
