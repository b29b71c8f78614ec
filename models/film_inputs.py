"""What the small encoders are given: samples as tensors, sensors in units of the training welds.

Everything else is left as it was recorded; the encoders do their own scaling of pictures and sound.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acquisition.packet import SENSOR_CHANNELS
from models.detector_contract import PHOTOS, PROCESS, DetectorError, Pattern
from sync.sample import CHANNEL_INDEX, Weld4MSample

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
LARGEST: Final = 8.0
"""Sensors are cut off this many standard deviations from the mean: a saturated meter shows 819 A."""
_WIRE: Final = CHANNEL_INDEX["wire_mm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorScale:
    """Location and scale of the sensor channels in the training welds.

    Attributes:
        mean: `(6,)`, of the wire its feed speed in mm/s.
        sd: `(6,)`, positive; 1 for a channel that no weld has.
    """

    mean: Values
    sd: Values

    @classmethod
    def fit(cls, windows: Iterable[Weld4MSample]) -> "SensorScale":
        """Fit on the windows of training welds."""
        count, total, square = np.zeros(6), np.zeros(6), np.zeros(6)
        for window in windows:
            rows, mask = _wire_as_speed(window)
            known = np.where(mask, rows, 0.0)
            count += mask.sum(axis=0)
            total += known.sum(axis=0)
            square += np.square(known).sum(axis=0)
        mean = total / np.maximum(count, 1)
        variance = square / np.maximum(count, 1) - mean**2
        return cls(mean=mean, sd=np.where(count > 0, np.sqrt(np.maximum(variance, 1e-6)), 1.0))

    def apply(self, window: Weld4MSample) -> tuple[npt.NDArray[np.float32], Mask]:
        """Give rows `(S, 6)` in these units, zero where not measured, and their mask."""
        rows, mask = _wire_as_speed(window)
        scaled = np.clip((np.where(mask, rows, self.mean) - self.mean) / self.sd, -LARGEST, LARGEST)
        return scaled.astype(np.float32), mask


def process_batch(windows: Sequence[Weld4MSample], scale: SensorScale) -> dict[str, Tensor]:
    """Stack the process modalities of windows; one that is not present in a window is masked there.

    Raises:
        DetectorError: A measured sensor value is not a number.
    """
    sensors = [scale.apply(w) for w in windows]
    for window, (rows, mask) in zip(windows, sensors, strict=True):
        broken = (mask & ~np.isfinite(rows)).any(axis=0)
        if broken.any():
            channel = SENSOR_CHANNELS[int(np.argmax(broken))]
            raise DetectorError(
                f"weld {window.weld}, window {window.index}: {channel} holds a value that is not a number; "
                "take the weld out, or correct its sensor file and import it again"
            )
    batch = {
        "video": torch.from_numpy(np.stack([w.video for w in windows])),
        "audio": torch.from_numpy(np.stack([w.audio for w in windows])),
        "sensors": torch.from_numpy(np.stack([rows for rows, _ in sensors])),
    }
    masks = {m: [getattr(w, f"{m}_mask") for w in windows] for m in ("video", "audio")}
    masks["sensors"] = [mask for _, mask in sensors]
    for m in PROCESS:
        there = [np.logical_and(mask, m in w.present) for w, mask in zip(windows, masks[m], strict=True)]
        batch[f"{m}_mask"] = torch.from_numpy(np.stack(there))
    return batch


def photo_batch(samples: Sequence[Weld4MSample]) -> dict[str, Tensor]:
    """Stack the photos of welds."""
    return {
        PHOTOS: torch.from_numpy(np.stack([s.post_images for s in samples])),
        f"{PHOTOS}_mask": torch.from_numpy(np.stack([s.post_images_mask for s in samples])),
    }


def present_process(window: Weld4MSample) -> Pattern:
    """Tell which process modalities of a window are present and have contents."""
    return tuple(m for m in PROCESS if m in window.present and getattr(window, f"{m}_mask").any())


def _wire_as_speed(window: Weld4MSample) -> tuple[Values, Mask]:
    """Replace the wire's cumulative length by its feed speed, mm/s."""
    rows, mask = window.sensors.copy(), window.sensors_mask.copy()
    per_s = len(rows) / (window.duration_ns / 1e9)
    rows[1:, _WIRE] = np.diff(window.sensors[:, _WIRE]) * per_s
    mask[1:, _WIRE] &= mask[:-1, _WIRE]
    mask[0, _WIRE] = False
    return np.where(mask, rows, 0.0), mask
