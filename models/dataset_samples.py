"""Samples of a data set: windows as tensors under their names, and batches of them."""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import torch

from acquisition.packet import MODALITIES
from sync.sample import Weld4MSample

Sample: TypeAlias = dict[str, Any]
_PHOTOS: Final = ("post_images", "post_images_mask")
_PROCESS: Final = tuple(name for m in MODALITIES if m != _PHOTOS[0] for name in (m, f"{m}_mask"))


def tensors(windows: Sequence[Weld4MSample], photos: Weld4MSample | None, *, stacked: bool) -> Sample:
    """Put windows and photos together, the arrays as they are."""
    sample: Sample = {}
    for name in _PROCESS:
        arrays = [getattr(w, name) for w in windows]
        sample[name] = torch.from_numpy(np.stack(arrays) if stacked else np.ascontiguousarray(arrays[0]))
    for name in _PHOTOS:
        sample[name] = torch.from_numpy(getattr(windows[0] if photos is None else photos, name))
    stamps = torch.tensor([[w.t0_ns, w.duration_ns, w.index] for w in windows])
    for i, name in enumerate(("t0_ns", "duration_ns", "index")):
        sample[name] = stamps[:, i] if stacked else stamps[0, i]
    if stacked:
        sample["windows_mask"] = torch.ones(len(windows), dtype=torch.bool)
    return sample


def collate(samples: Sequence[Sample]) -> Sample:
    """Make a batch: tensors stacked on a first axis B, everything else as a list.

    Samples of whole welds are filled up with masked windows (`windows_mask`). Sound of 16 bits beside sound of 32 is
    shifted up to it, so that full scale is the same.
    """
    batch: Sample = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if not isinstance(first, torch.Tensor):
            batch[name] = values
            continue
        if name == "audio" and len({v.dtype for v in values}) > 1:
            values = [v.to(torch.int32) << 16 if v.dtype == torch.int16 else v for v in values]
        longest = max((len(v) for v in values), default=0) if first.ndim else 0
        if any(v.shape != first.shape for v in values):
            values = [torch.cat([v, v.new_zeros((longest - len(v), *v.shape[1:]))]) for v in values]
        batch[name] = torch.stack(values)
    return batch
