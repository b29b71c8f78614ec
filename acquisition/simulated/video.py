"""Frames of the camera: a background by light level, a blob, the wire in a short circuit, and streaks of spatter."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from acquisition.simulated.causes import Floats
from acquisition.simulated.process import Process
from acquisition.simulated.scene import BOX_CENTRE, FLOOR, SHAPES, SIZES, WIRE_TIP, Pixels, Scene
from acquisition.simulated.seeds import generator
from acquisition.simulated.spatter import EXPOSURE_S, Spatter

POOL_FADES_S = 0.4
SHORT_LIGHT = 0.28
"""Light of a short circuit against an arc: the glow of the pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTruth:
    """What each frame of a cycle shows; arrays are (n,), positions in pixels of a 960 x 600 frame.

    Attributes:
        t_s: Begin of the exposure, cycle time.
        shorted: Share of the exposure without an arc while welding.
        light: Brightness of the glow; 1 for a steady good arc at the reference exposure.
        size: Side length of the blob against that of a steady good arc.
        x: Arc position to the right of its usual place.
        y: The same, downwards.
        pool: Glow of the pool alone, 0..1 (after the arc).
    """

    t_s: Floats
    shorted: Floats
    light: Floats
    size: Floats
    x: Floats
    y: Floats
    pool: Floats


def plan_frames(process: Process, t_s: Floats) -> FrameTruth:
    """Say what frames exposed at cycle times `t_s` will show."""
    plan, n = process.plan, t_s.size
    rng = generator(plan.seed, "video")
    middle = t_s + 0.5 * EXPOSURE_S
    # The arc re-ignites within a fraction of the exposure, so frames are mostly dark or bright.
    shorted = np.clip(3.0 * (process.bursts.shorted(t_s, t_s + EXPOSURE_S) - 0.1), 0.0, 1.0)
    burning = process.at(process.arc, middle)
    current = np.where(burning > 0, process.at(process.current_a, middle), 0.0) / 177.0
    flicker = np.exp(rng.normal(0.0, 0.13, n))
    bright = 1.0 - (1.0 - SHORT_LIGHT) * shorted
    light = plan.nuisances.exposure * burning * current**0.8 * bright * flicker
    area = process.at(process.blob_gain, middle) * (1.0 - 0.72 * shorted) * np.exp(rng.normal(0.0, 0.30, n))
    area *= current**0.6 * plan.nuisances.exposure**0.4
    wander = np.cumsum(rng.normal(0.0, 1.0, (n, 2)), axis=0)
    wander -= np.linspace(0.0, 1.0, n)[:, None] * wander[-1]
    wander = 5.0 * wander / max(float(np.abs(wander).max()), 1e-6) + rng.normal(0.0, 1.5, (n, 2))
    after = t_s - plan.arc_off_s
    return FrameTruth(
        t_s=t_s,
        shorted=shorted * burning,
        light=light,
        size=np.sqrt(area),
        x=wander[:, 0] + 6.0 * process.at(process.torch_offset_mm, middle),
        y=0.6 * wander[:, 1] + process.at(process.blob_drop_px, middle),
        pool=np.where(after >= 0, np.exp(-np.maximum(after, 0.0) / (POOL_FADES_S / 2.5)), 0.0),
    )


def render_frame(scene: Scene, truth: FrameTruth, index: int, spatter: Spatter) -> Pixels:
    """Draw one frame.

    Args:
        scene: The session's scene.
        truth: What the frames of this cycle show.
        index: Which of them.
        spatter: Droplets of this weld.

    Returns:
        (height, width) uint8; dark frames are the scene's own, read-only pictures.
    """
    light, pool = float(truth.light[index]), float(truth.pool[index])
    x, y = float(truth.x[index]), float(truth.y[index])
    begin, end, glow = spatter.streaks(float(truth.t_s[index]))
    if light <= 0.0 and pool < 0.01 and glow.size == 0:
        return scene.level(0.0)
    frame = scene.level(light if light > 0.0 else 0.3 * pool).copy()
    if light > 0.0:
        size = int(np.argmin(np.abs(np.asarray(SIZES) - truth.size[index])))
        _add(frame, scene, scene.blobs[index % SHAPES][size], x, y)
        if truth.shorted[index] > 0.5:
            _shade_wire(frame, scene, x, y)
    elif pool >= 0.01:
        _add(frame, scene, (scene.pool * np.float32(pool)).astype(np.uint16), x, y)
    if glow.size:
        _draw_streaks(frame, scene, begin, end, glow)
    return frame


def _add(frame: Pixels, scene: Scene, sprite: npt.NDArray[np.uint16], x: float, y: float) -> None:
    """Add a sprite about the arc's place, saturating at 255 and cut at the frame's border."""
    sx, sy = scene.scale
    height, width = sprite.shape
    left = round((scene.centre[0] + x - BOX_CENTRE[0]) * sx)
    top = round((scene.centre[1] + y - BOX_CENTRE[1]) * sy)
    x0, x1 = max(left, 0), min(left + width, scene.width)
    y0, y1 = max(top, 0), min(top + height, scene.height)
    if x0 >= x1 or y0 >= y1:
        return
    region = frame[y0:y1, x0:x1]
    total = sprite[y0 - top : y1 - top, x0 - left : x1 - left] + region
    np.minimum(total, 255, out=total)
    region[...] = total


def _shade_wire(frame: Pixels, scene: Scene, x: float, y: float) -> None:
    """Draw the wire down into the pool: in a short circuit it is seen against it."""
    sx, sy = scene.scale
    height, width = scene.wire.shape
    left = round((scene.centre[0] + x + 6.0 - 16.0) * sx)
    top = round((scene.centre[1] + y - WIRE_TIP) * sy)
    if left < 0 or top < 0 or left + width > scene.width or top + height > scene.height:
        return
    region = frame[top : top + height, left : left + width]
    region[...] = np.maximum(region * scene.wire, FLOOR)


def _draw_streaks(frame: Pixels, scene: Scene, begin: Floats, end: Floats, glow: Floats) -> None:
    """Draw every droplet as a line over the way it flew during the exposure; the brighter pixel wins."""
    sx, sy = scene.scale
    along = np.linspace(0.0, 1.0, 48)[None, :]
    x = ((scene.centre[0] + begin[:, :1] + (end[:, :1] - begin[:, :1]) * along) * sx).astype(np.int64)
    y = ((scene.centre[1] + begin[:, 1:] + (end[:, 1:] - begin[:, 1:]) * along) * sy).astype(np.int64)
    value = np.broadcast_to(glow[:, None], x.shape).astype(np.uint8)
    seen = (x >= 0) & (x < scene.width) & (y >= 0) & (y < scene.height - 1)
    x, y, value = x[seen], y[seen], value[seen]
    frame[y, x] = np.maximum(frame[y, x], value)
    frame[y + 1, x] = np.maximum(frame[y + 1, x], value // 2)
