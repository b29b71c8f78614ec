"""Phase one: the small encoders learn from unlabelled welds what belongs together, and are frozen afterwards."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from acquisition.packet import MODALITIES
from models.film_config import FilmRun
from models.film_data import CutFile
from models.film_inputs import SensorScale, photo_batch, process_batch
from models.small_encoders import WeldSmall
from models.training_loop import Epoch, Phase, Progress, run_phase

NAME: Final = "pretraining"
_EVERY: Final = 4
"""Every so many windows of a weld are enough to scale its sensors, and to validate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One batch before it is read: some welds, and the seed that draws their windows."""

    files: tuple[CutFile, ...]
    seed: int


def sensor_scale(files: Sequence[CutFile]) -> SensorScale:
    """Scale the sensors after the welds that fit the networks."""
    return SensorScale.fit(w for file in files for w in file.load().windows[::_EVERY] if "sensors" in w.present)


def pretrain(
    encoders: WeldSmall,
    fit: Sequence[CutFile],
    validation: Sequence[CutFile],
    scale: SensorScale,
    run: FilmRun,
    *,
    digest: str,
    file: Path,
    progress: Progress,
    modalities: Collection[str] = MODALITIES,
) -> list[Epoch]:
    """Train the encoders, and freeze them.

    Args:
        encoders: Fresh ones.
        fit: Welds to learn from; their labels are not looked at.
        validation: Welds that say when to stop.
        scale: Of the sensors.
        run: Settings.
        digest: See `run_phase`.
        file: State, see `run_phase`.
        progress: Takes lines for the user.
        modalities: What to learn from; the encoders of others learn nothing.

    Returns:
        The history.
    """
    settings = run.pretraining
    together = max(2, settings.batch // settings.windows_per_weld)

    def batches(rng: np.random.Generator) -> list[_Plan]:
        parts = np.array_split(rng.permutation(len(fit)), max(1, len(fit) // together))
        return [_Plan(files=tuple(fit[i] for i in part), seed=int(rng.integers(2**31))) for part in parts]

    def batch_of(plan: _Plan) -> dict[str, Tensor]:
        rng = np.random.default_rng(plan.seed)
        welds = [one.load() for one in plan.files]
        windows = [
            weld.windows[i] for weld in welds for i in rng.permutation(len(weld.windows))[: settings.windows_per_weld]
        ]
        batch = process_batch(windows, scale) | photo_batch([weld.photos for weld in welds])
        return {name: tensor for name, tensor in batch.items() if name.removesuffix("_mask") in modalities}

    def loss(plan: _Plan, source: torch.Generator) -> Tensor:
        total: Tensor = encoders.pretraining_loss(batch_of(plan), source)[0]
        return total

    def validate() -> tuple[float, dict[str, float]]:
        source = torch.Generator().manual_seed(run.seed)
        losses: list[float] = []
        parts: dict[str, list[float]] = {}
        for first in range(0, len(validation), together):
            plan = _Plan(files=tuple(validation[first : first + together]), seed=first)
            value, found = encoders.pretraining_loss(batch_of(plan), source)
            losses.append(float(value))
            for name, part in found.items():
                parts.setdefault(name, []).append(part)
        return float(np.mean(losses)), {name: float(np.mean(values)) for name, values in parts.items()}

    phase = Phase(
        name=NAME,
        network=encoders,
        batches=batches,
        loss=loss,
        validate=validate,
        welds=lambda plan: [one.weld.manifest.key for one in plan.files],
    )
    history = run_phase(phase, settings, seed=run.seed, digest=digest, file=file, progress=progress)
    encoders.requires_grad_(False)
    return history
