"""The loop behind every network that is trained here: AdamW, warm-up and cosine, clipping, early stopping, resuming.

Every draw follows from the seed, the phase and the epoch, and the state is kept after each epoch (one safetensors file,
replaced at once). So a run that was killed goes on with the same command, and ends with the same numbers, to the last
bit, as one that was not.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.detector_contract import DetectorError
from models.film_config import PhaseSettings

Batch = TypeVar("Batch")
Progress = Callable[[str], None]
_SAY_EVERY_S: Final = 10.0
_NOTES: Final = "notes"


class Epoch(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history of a phase.

    Attributes:
        epoch: From 1.
        loss: Mean over its steps.
        validation: Loss on the validation welds; lower is better.
        figures: What else was measured on them.
    """

    epoch: int
    loss: float
    validation: float
    figures: dict[str, float]


class Notes(msgspec.Struct, kw_only=True):
    """What a state file holds beside tensors."""

    settings: str
    epochs: list[Epoch]
    best: int
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(Generic[Batch]):
    """What is trained, and on what.

    Attributes:
        name: As the user sees it.
        network: In whatever mode; the loop sets it.
        batches: Gives the batches of an epoch, always as many, from a source of random numbers.
        loss: Gives the loss of a batch from a source of random numbers of torch.
        validate: Gives the validation loss and further figures; the network is in eval mode, without gradients.
        welds: Names the welds of a batch, for messages.
    """

    name: str
    network: nn.Module
    batches: Callable[[np.random.Generator], Sequence[Batch]]
    loss: Callable[[Batch, torch.Generator], Tensor]
    validate: Callable[[], tuple[float, dict[str, float]]]
    welds: Callable[[Batch], Sequence[str]]


def parameter_counts(network: nn.Module) -> tuple[int, int]:
    """Count all and trainable parameters."""
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable)


def run_phase(
    phase: Phase[Batch],
    settings: PhaseSettings,
    *,
    seed: int,
    digest: str,
    file: Path,
    progress: Progress,
    best_file: Path | None = None,
) -> list[Epoch]:
    """Train until the validation loss no longer falls, and leave the best weights in the network.

    Args:
        phase: What is trained.
        settings: How.
        seed: Of the run.
        digest: Of everything that the numbers depend on; a state of another digest is refused.
        file: State, read if it is there and written after each epoch.
        progress: Takes lines for the user.
        best_file: Where the best weights so far are kept as well, for whoever wants them before the end.

    Returns:
        The history of all epochs.

    Raises:
        DetectorError: A loss was not finite, memory ran out, or the state belongs to other settings.
    """
    total, trainable = parameter_counts(phase.network)
    progress(f"{phase.name}: {total:,} parameters, {trainable:,} of them trained")
    loop = _Loop(phase, settings, seed, digest, file)
    loop.resume(progress)
    began_at, began = len(loop.notes.epochs), time.monotonic()
    while not loop.notes.finished:
        number = len(loop.notes.epochs) + 1
        try:
            loss = loop.epoch(number, progress)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise _out_of_memory(phase.name, settings) from error
        except RuntimeError as error:
            if "not enough memory" in str(error):
                raise _out_of_memory(phase.name, settings) from error
            raise
        done = loop.close(number, loss)
        left_s = (time.monotonic() - began) / (number - began_at) * (settings.epochs - number)
        figures = "".join(f", {name} {value:.4g}" for name, value in done.figures.items())
        best = " (best)" if loop.notes.best == number else ""
        end = "" if loop.notes.finished else f"; at most {left_s:.0f} s left"
        progress(
            f"{phase.name}: epoch {number} of {settings.epochs}, loss {done.loss:.4f}, "
            f"validation {done.validation:.4f}{best}{figures}{end}"
        )
        if best and best_file is not None:
            _write(best_file, loop.best, {})
    phase.network.load_state_dict(loop.best)
    phase.network.eval()
    return loop.notes.epochs


class _Loop(Generic[Batch]):
    """State of one phase; see `run_phase`."""

    def __init__(self, phase: Phase[Batch], settings: PhaseSettings, seed: int, digest: str, file: Path) -> None:
        self.phase = phase
        self.settings = settings
        self.seed = seed
        self.file = file
        self.notes = Notes(settings=digest, epochs=[], best=0, finished=False)
        self.best: dict[str, Tensor] = {}
        self.parameters = {n: p for n, p in phase.network.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def epoch(self, number: int, progress: Progress) -> float:
        """Run one epoch; returns the mean loss."""
        rng = np.random.default_rng([self.seed, *self.phase.name.encode(), number])
        torch.manual_seed(int(rng.integers(2**62)))
        source = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batches = self.phase.batches(rng)
        self.phase.network.train()
        losses = []
        began = said = time.monotonic()
        for i, batch in enumerate(batches):
            rate = learning_rate(self.settings, (number - 1) * len(batches) + i, self.settings.epochs * len(batches))
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.optimiser.zero_grad(set_to_none=True)
            loss = self.phase.loss(batch, source)
            value = float(loss.detach())
            if not math.isfinite(value):
                welds = ", ".join(sorted(set(self.phase.welds(batch)))[:8])
                raise DetectorError(
                    f"{self.phase.name}: the loss is {value} in epoch {number}, step {i + 1}; it holds the welds "
                    f"{welds}: look at them with verify, take them out, or lower the learning rate"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
            self.optimiser.step()
            losses.append(value)
            now = time.monotonic()
            if now - said > _SAY_EVERY_S:
                said = now
                left_s = (now - began) / (i + 1) * (len(batches) * (self.settings.epochs - number + 1) - i - 1)
                progress(
                    f"{self.phase.name}: epoch {number}, step {i + 1} of {len(batches)}, at most {left_s:.0f} s left"
                )
        return float(np.mean(losses))

    def close(self, number: int, loss: float) -> Epoch:
        """Validate, decide whether to go on, and keep the state."""
        self.phase.network.eval()
        with torch.no_grad():
            validation, figures = self.phase.validate()
        done = Epoch(epoch=number, loss=loss, validation=validation, figures=figures)
        before = self.notes.epochs[self.notes.best - 1].validation if self.notes.best else math.inf
        self.notes.epochs.append(done)
        if not math.isfinite(validation):
            raise DetectorError(f"{self.phase.name}: the validation loss is {validation}; lower the learning rate")
        if validation < before:
            self.notes.best = number
            self.best = {n: t.detach().clone() for n, t in self.phase.network.state_dict().items()}
        self.notes.finished = number >= self.settings.epochs or number - self.notes.best >= self.settings.patience
        self._keep()
        return done

    def resume(self, progress: Progress) -> None:
        """Go on where an earlier run of the same settings was, if there was one."""
        if not self.file.exists():
            return
        try:
            with safe_open(self.file, framework="pt") as source:
                notes = msgspec.json.decode(source.metadata()[_NOTES], type=Notes)
                tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise DetectorError(f"{self.file}: {error}; delete it, and {self.phase.name} begins anew") from error
        if notes.settings != self.notes.settings:
            raise DetectorError(
                f"{self.file}: begun with other settings, other welds or another version; "
                "give back the old ones to go on, or another folder to begin anew"
            )
        self.notes = notes
        parts = {part: _part(tensors, part) for part in ("network", "best", "step", "mean", "square")}
        self.phase.network.load_state_dict(parts["network"])
        self.best = parts["best"]
        for name, parameter in self.parameters.items():
            if name in parts["mean"]:
                self.optimiser.state[parameter] = {
                    "step": parts["step"][name],
                    "exp_avg": parts["mean"][name],
                    "exp_avg_sq": parts["square"][name],
                }
        progress(f"{self.phase.name}: {len(notes.epochs)} epochs are done already")

    def _keep(self) -> None:
        states = {n: self.optimiser.state[p] for n, p in self.parameters.items() if p in self.optimiser.state}
        tensors = {f"network.{n}": t for n, t in self.phase.network.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in self.best.items()}
        tensors |= {f"step.{n}": s["step"] for n, s in states.items()}
        tensors |= {f"mean.{n}": s["exp_avg"] for n, s in states.items()}
        tensors |= {f"square.{n}": s["exp_avg_sq"] for n, s in states.items()}
        _write(self.file, tensors, {_NOTES: msgspec.json.encode(self.notes).decode()})


def learning_rate(settings: PhaseSettings, step: int, steps: int) -> float:
    """Give the rate of a step (from 0): linear warm-up, then a cosine down to a hundredth."""
    warm = max(1, round(settings.warm_up * steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}


def _write(file: Path, tensors: dict[str, Tensor], notes: dict[str, str]) -> None:
    fresh = file.with_suffix(".new")
    save_file({name: t.detach().contiguous().clone() for name, t in tensors.items()}, fresh, metadata=notes)
    fresh.replace(file)


def _out_of_memory(name: str, settings: PhaseSettings) -> DetectorError:
    return DetectorError(
        f"{name}: out of memory with batch = {settings.batch}; close other programs and give the same command again, "
        f"or give a smaller batch in [{name}] and another run folder"
    )
