"""What the camera of a session looks at, drawn once: glow at 24 light levels, and luminous blobs of many sizes.

Everything is laid out in the pixels of a 960 x 600 frame and scaled to the frame that is asked for.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from acquisition.simulated.causes import Floats
from acquisition.simulated.seeds import generator
from acquisition.simulated.session import Nuisances

FLOOR: Final = 10
LEVELS: Final = 24
LIGHT_MAX: Final = 2.0
SIZES: Final = tuple(np.linspace(0.25, 1.45, 13).tolist())
"""Blob sizes drawn beforehand: side length against the blob of a steady good arc."""
SHAPES: Final = 3
BOX: Final = (480, 200)
"""Width and height of a blob sprite."""
BOX_CENTRE: Final = (240, 120)
WIRE_HALF: Final = 8.0
WIRE_TIP: Final = 45.0
"""Half width of the wire, and how far above the arc's centre it ends while the arc burns."""
NOZZLE: Final = (486.0, -62.0, 178.0)
"""Centre and radius of the nozzle's rim."""

Pixels = npt.NDArray[np.uint8]
Floats32 = npt.NDArray[np.float32]


class Scene:
    """Pictures that a session's camera view is put together from; nothing here depends on a weld.

    Attributes:
        height: Frame height in pixels.
        width: Frame width in pixels.
        scale: (x, y) frame pixels per scene pixel.
        centre: (x, y) of the steady arc, scene pixels.
        backgrounds: `LEVELS` frames, light 0 to `LIGHT_MAX`; never written to.
        blobs: Sprites [shape][size], uint16, to be added to the frame.
        pool: Sprite of the glowing pool without an arc, float32.
        wire: Share of the light that passes beside and before the wire's end, float32, about the arc's centre.
    """

    def __init__(self, nuisances: Nuisances, session: int, height: int, width: int) -> None:
        """Draw the scene of one session (about 0.15 s at 960 x 600)."""
        self.height, self.width = height, width
        self.scale = (width / 960.0, height / 600.0)
        right, down = nuisances.pose_px
        self.centre = (478.0 + right, 242.0 + down)
        self.wire = self._draw_wire()
        self._slope = nuisances.edge_slope
        self.backgrounds = self._draw_backgrounds(nuisances, generator(session, "scene"))
        self.pool, self.blobs = self._draw_blobs(generator(session, "blobs"))

    def edge(self, x: Floats32) -> Floats32:
        """Return the height of the plate's edge in scene pixels; below it the picture is black."""
        return np.asarray(self.centre[1] + 42.0 + self._slope * (x - self.centre[0]), np.float32)

    def level(self, light: float) -> Pixels:
        """Return the background for a light level."""
        return self.backgrounds[min(max(round(light / LIGHT_MAX * (LEVELS - 1)), 0), LEVELS - 1)]

    def _draw_backgrounds(self, nuisances: Nuisances, rng: np.random.Generator) -> list[Pixels]:
        sx, sy = self.scale
        x = ((np.arange(self.width) + 0.5) / sx).astype(np.float32)[None, :]
        y = ((np.arange(self.height) + 0.5) / sy).astype(np.float32)[:, None]
        cx, cy = self.centre
        r = np.sqrt((x - cx) ** 2 + (1.15 * (y - cy)) ** 2)
        below = y > self.edge(x)
        glow = 46.0 * np.exp(-r / 60.0) + 40.0 * np.exp(-((r / 300.0) ** 2))
        soft = gaussian_filter(rng.standard_normal((self.height // 8 + 1, self.width // 8 + 1)), 5.0)
        smoke = np.kron(soft / max(float(soft.std()), 1e-6), np.ones((8, 8)))[: self.height, : self.width]
        glow *= 1.0 + 0.12 * gaussian_filter(smoke.astype(np.float32), 4.0)
        mirror = 26.0 * np.exp(-(((x - cx) / 26.0) ** 2) - ((y - cy - 265.0) / 22.0) ** 2)  # reflection in the table
        ambient = np.where(below, 0.0, 1.6 * np.exp(-((r / 300.0) ** 2)))
        glow = np.where(below, 0.42 * glow + mirror, glow)

        nx, ny, radius = NOZZLE
        nx, ny = nx + cx - 478.0, ny + cy - 242.0
        rim = np.sqrt((x - nx) ** 2 + (y - ny) ** 2) - radius
        inside = np.clip(-rim / 6.0, 0.0, 1.0)
        half, tip = WIRE_HALF, WIRE_TIP
        wire_x = nx + (y - cy + tip) * -0.03
        wire = (np.abs(x - wire_x) < half) & (rim > 0) & (y < cy - tip)
        for picture, dark in ((glow, 0.22), (ambient, 0.0)):
            picture *= 1.0 - (1.0 - dark) * inside
            picture[wire] *= 0.45 if dark else 0.0
        glow += np.where(wire & (x < wire_x - half + 3.0), 28.0, 0.0)  # the lit side of the wire
        for angle in rng.normal(0.0, 0.55, 90):
            px, py = nx + (radius + rng.normal(0.0, 2.0)) * np.sin(angle), ny + radius * np.cos(angle)
            self._dot(glow, px, py, rng.uniform(1.2, 2.6), rng.uniform(-14.0, 60.0))
        for _ in range(nuisances.dirt):
            self._dot(glow, rng.uniform(0, 960), rng.uniform(0, 600), rng.uniform(5.0, 16.0), rng.uniform(6.0, 26.0))

        noise = rng.standard_normal((self.height + 64, self.width + 64), np.float32)
        pictures = []
        for light in np.linspace(0.0, LIGHT_MAX, LEVELS):
            dy, dx = rng.integers(0, 64, 2)
            lit = np.maximum(np.float32(light) * glow + ambient, 0.0, dtype=np.float32)
            lit += np.sqrt(0.12 * lit) * noise[dy : dy + self.height, dx : dx + self.width]
            frame = np.clip(lit + FLOOR + 0.5, FLOOR, 250).astype(np.uint8)
            frame.flags.writeable = False
            pictures.append(frame)
        return pictures

    def _draw_wire(self) -> Floats32:
        """Draw the end of the wire that a short circuit shows: dark, with a lit flank, thinner towards the pool."""
        sx, sy = self.scale
        x = (np.arange(round(32 * sx)) + 0.5) / sx - 16.0
        y = ((np.arange(round(62 * sy)) + 0.5) / sy)[:, None]
        half = WIRE_HALF * (1.0 - 0.35 * (y / 62.0) ** 2)
        dark = np.clip(half - np.abs(x) + 0.5, 0.0, 1.0) * np.clip((62.0 - y) / 8.0, 0.0, 1.0)
        flank = 0.35 * np.exp(-(((x + 0.6 * half) / 1.6) ** 2))
        return np.asarray(1.0 - dark * (0.82 - flank), np.float32)

    def _dot(self, picture: Floats, x: float, y: float, radius: float, value: float) -> None:
        """Add a soft disc to a picture; positions in scene pixels."""
        sx, sy = self.scale
        reach = 2.0 * radius
        x0, x1 = max(int((x - reach) * sx), 0), min(int((x + reach) * sx) + 2, self.width)
        y0, y1 = max(int((y - reach) * sy), 0), min(int((y + reach) * sy) + 2, self.height)
        if x0 >= x1 or y0 >= y1:
            return
        px, py = np.arange(x0, x1) / sx - x, (np.arange(y0, y1) / sy - y)[:, None]
        picture[y0:y1, x0:x1] += value * np.exp(-(((px**2 + py**2) / radius**2) ** 2))

    def _draw_blobs(self, rng: np.random.Generator) -> tuple[Floats32, list[list[npt.NDArray[np.uint16]]]]:
        sx, sy = self.scale
        width, height = round(BOX[0] * sx), round(BOX[1] * sy)
        x = ((np.arange(width) + 0.5) / sx - BOX_CENTRE[0]).astype(np.float32)[None, :]
        y = ((np.arange(height) + 0.5) / sy - BOX_CENTRE[1]).astype(np.float32)[:, None]
        cx, cy = self.centre
        above = 1.0 / (1.0 + np.exp(np.clip((y - (self.edge(x + np.float32(cx)) - cy)) / 1.2, -30.0, 30.0)))
        feather = np.clip((BOX_CENTRE[0] - np.abs(x)) / 40.0, 0.0, 1.0) * np.clip((y + BOX_CENTRE[1]) / 25.0, 0.0, 1.0)
        window = (0.12 + 0.88 * above) * feather * np.clip((BOX[1] - BOX_CENTRE[1] - y) / 25.0, 0.0, 1.0)

        tail = np.sqrt((np.minimum(x + 30.0, 0.0) / 170.0) ** 2 + (np.maximum(x + 30.0, 0.0) / 75.0) ** 2)
        skin = gaussian_filter(rng.standard_normal((height, width)), (5.0 * sy, 12.0 * sx))
        skin /= max(float(skin.std()), 1e-6)
        surface = np.exp(-((np.sqrt(tail**2 + ((y - 22.0) / 34.0) ** 2)) ** 5))
        pool = np.asarray(surface * (135.0 + 20.0 * skin) * above * feather, np.float32)

        blobs = []
        for _ in range(SHAPES):
            theta = np.arctan2(y, x)
            wobble = sum(rng.normal(0.0, 0.05) * np.cos(k * theta + rng.uniform(0.0, 2.0 * np.pi)) for k in range(2, 7))
            row: list[npt.NDArray[np.uint16]] = []
            for size in SIZES:
                a = np.where(x < 0, 88.0, 72.0) * size
                b = np.where(y < 0, 48.0, 36.0) * size
                re = np.sqrt((x / a) ** 2 + (y / b) ** 2) / (1.0 + wobble)
                light = 420.0 * np.exp(-0.55 * re**2.4)
                row.append(np.asarray((light * window + pool * min(1.0, size)), np.uint16))
            blobs.append(row)
        return pool, blobs
