"""Normalisation by the statistics of the training part, per channel; never of a single sample.

Absolute levels carry the class (current, gas), so that a sample is only ever shifted and scaled by numbers that are the
same for all samples. Moments are merged sample by sample in float64 (Chan, Golub and LeVeque 1979).
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from acquisition.packet import MODALITIES
from models.detector_contract import DetectorError
from recordings.weld_folder import replace_file

Floats = npt.NDArray[np.float64]
SCHEMA: Final = 1
_CHANNEL_AXIS: Final = {"video": -3, "audio": -2, "sensors": -1, "post_images": -3}


class Channel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Moments of one channel.

    Attributes:
        mean: In the units of the sample; sound in parts of full scale.
        sd: Positive; 1 for a channel that was never measured or never varied.
        count: Values measured.
    """

    mean: float
    sd: float
    count: int


class Normalisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Moments of the training part by modality, a `Channel` each.

    Attributes:
        channels: By modality; a modality that no sample has is absent and stays as it is.
        samples: Samples that they were taken from.
        welds: Digest of the keys of their welds.
        schema: `SCHEMA`.
    """

    channels: dict[str, list[Channel]]
    samples: int
    welds: str
    schema: int = SCHEMA

    def apply(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Shift and scale the contents of a sample to float32; what is masked is zero."""
        made = dict(sample)
        for modality, channels in self.channels.items():
            values = full_scale(sample[modality])
            axis = _CHANNEL_AXIS[modality]
            shape = [len(channels) if i == values.ndim + axis else 1 for i in range(values.ndim)]
            mean = torch.tensor([c.mean for c in channels], dtype=torch.float64).reshape(shape)
            sd = torch.tensor([c.sd for c in channels], dtype=torch.float64).reshape(shape)
            mask = spread_mask(sample[f"{modality}_mask"], values, modality)
            made[modality] = torch.where(mask, (values.double() - mean) / sd, 0.0).float()
        return made

    def save(self, path: Path) -> None:
        """Write it as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.format(msgspec.json.encode(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> "Normalisation":
        """Read it; raises `DetectorError` when the file is absent, malformed or of a newer schema."""
        try:
            made = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise DetectorError(f"{path}: {error.strerror}; name a normalisation that was saved") from error
        except msgspec.MsgspecError as error:
            raise DetectorError(f"{path}: {error}; fit the normalisation again") from error
        if made.schema > SCHEMA:
            raise DetectorError(f"{path}: schema {made.schema} is newer than {SCHEMA}; use a newer version of the app")
        return made


def full_scale(values: Tensor) -> Tensor:
    """Give integer sound in parts of full scale; everything else as it is."""
    if values.dtype in (torch.int16, torch.int32):
        return values.double() / float(-torch.iinfo(values.dtype).min)
    return values


def spread_mask(mask: Tensor, values: Tensor, modality: str) -> Tensor:
    """Give the mask of a modality the number of axes of its contents, those of windows included."""
    if modality in ("video", "post_images"):
        return mask[..., None, None, None]
    if modality == "audio":
        return mask[..., None, :]
    return mask.expand(values.shape)


class Moments:
    """Count, mean and sum of squared deviations per channel of every modality, merged sample by sample."""

    def __init__(self) -> None:
        self._moments: dict[str, tuple[Floats, Floats, Floats]] = {}
        self.samples = 0

    def add(self, sample: dict[str, Any]) -> None:
        """Take a sample as the data set gives it."""
        self.samples += 1
        for modality in MODALITIES:
            values = full_scale(sample[modality]).double()
            mask = spread_mask(sample[f"{modality}_mask"], values, modality).expand(values.shape)
            if not mask.any():
                continue
            flat = values.movedim(_CHANNEL_AXIS[modality], 0).flatten(1)
            known = mask.movedim(_CHANNEL_AXIS[modality], 0).flatten(1)
            count = known.sum(1).double()
            mean = torch.where(known, flat, 0.0).sum(1) / count.clamp(min=1)
            square = torch.where(known, (flat - mean[:, None]) ** 2, 0.0).sum(1)
            self._merge(modality, count.numpy(), mean.numpy(), square.numpy())

    def _merge(self, modality: str, count: Floats, mean: Floats, square: Floats) -> None:
        if modality not in self._moments:
            self._moments[modality] = (count, mean, square)
            return
        count_0, mean_0, square_0 = self._moments[modality]
        total = np.maximum(count_0 + count, 1)
        step = mean - mean_0
        self._moments[modality] = (
            count_0 + count,
            mean_0 + step * count / total,
            square_0 + square + step**2 * count_0 * count / total,
        )

    def channels(self) -> dict[str, list[Channel]]:
        """Give mean and standard deviation (of the population) per channel."""
        made = {}
        for modality, (count, mean, square) in self._moments.items():
            sd = np.sqrt(square / np.maximum(count, 1))
            made[modality] = [
                Channel(mean=m if n else 0.0, sd=s if s > 0 else 1.0, count=int(n))
                for n, m, s in zip(count.tolist(), mean.tolist(), sd.tolist(), strict=True)
            ]
        return made
