"""Phase two: Causal-FiLM on frozen tokens of good welds; process-only, result-only and full parts in one run.

An example is one weld with some of its windows. Each window is predicted and restored on its own; the result is
predicted from all of them together, beginning with what the weld's settings predict. Windows lose modalities at random,
the whole weld the same ones, so that the network has seen every presence pattern that it will be asked to judge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.bead_model import BeadModel, arc_seconds
from models.causal_film import CausalFilm, FilmOutput
from models.collapse import CollapseReport, collapse_report
from models.detector_contract import PHOTOS, PROCESS, PROCESS_PATTERNS, DetectorError, Pattern
from models.film_config import FilmRun
from models.film_tokens import WeldTokens, as_input, presence
from models.training_loop import Epoch, Phase, Progress, run_phase
from sync.sample import SampleSpec

NAME: Final = "training"
MIN_WELDS: Final = 10
_LOGGED: Final = 32
"""Validation welds that the signs of collapse are logged on after each epoch; the gate looks at all of them."""
_AT_ONCE: Final = 64
"""Windows per forward pass where nothing is learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One batch before it is put together: welds, the same number of windows of each, and what they keep."""

    welds: tuple[WeldTokens, ...]
    rows: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a weld's settings predict of its result, which is what the network begins with.

    Attributes:
        bead: None without photos.
        spec: What samples are cut to.
        shape: (K, R).
    """

    bead: BeadModel | None
    spec: SampleSpec
    shape: tuple[int, int]

    def of(self, weld: WeldTokens, used: Pattern) -> npt.NDArray[np.float32]:
        """Predict the result tokens `(K, R)` of a weld; zeros, the mean of good welds, if there is nothing to go by."""
        there = presence(weld.windows)
        known = tuple(m for i, m in enumerate(PROCESS) if m in used and there[:, i].any())
        if self.bead is None or not known:
            return np.zeros(self.shape, dtype=np.float32)
        return self.bead.predict(weld.windows["statistics"], arc_seconds(weld.windows["index"], self.spec), known)


def train_film(
    film: CausalFilm,
    start: Start,
    fit: Sequence[WeldTokens],
    validation: Sequence[WeldTokens],
    run: FilmRun,
    *,
    digest: str,
    file: Path,
    best_file: Path,
    progress: Progress,
) -> list[Epoch]:
    """Train the network on good welds.

    Args:
        film: A fresh one.
        start: What it begins with; see `Start`.
        fit: Good welds to learn from.
        validation: Good welds that say when to stop, and whether the predictions have collapsed.
        run: Settings.
        digest: See `run_phase`.
        file: State, see `run_phase`.
        best_file: The best weights so far.
        progress: Takes lines for the user.

    Returns:
        The history, with the collapse figures of each epoch.

    Raises:
        DetectorError: There are too few welds, a modality is absent in all of them, or the predictions collapsed.
    """
    fit = [w for w in fit if len(w)]
    validation = [w for w in validation if len(w)]
    check_welds(fit, validation)
    film.fit_normalisation(as_input(w.windows, slice(None)) for w in fit)
    output = film.outputs[PHOTOS]
    nn.init.zeros_(output.get_parameter("weight"))
    nn.init.zeros_(output.get_parameter("bias"))
    settings = run.training

    def batches(rng: np.random.Generator) -> list[_Plan]:
        parts = np.array_split(
            rng.permutation(len(fit)), max(1, len(fit) * settings.windows_per_weld // settings.batch)
        )
        return [_plan([fit[i] for i in part], settings.windows_per_weld, run.modality_dropout, rng) for part in parts]

    def loss(plan: _Plan, source: torch.Generator) -> Tensor:
        del source  # the bottleneck draws from the global one, which follows from the epoch
        return weld_losses(film, start, plan)[0]

    def validate() -> tuple[float, dict[str, float]]:
        rng = np.random.default_rng(run.seed)
        parts: dict[str, list[float]] = {}
        losses = []
        for first in range(0, len(validation), 8):
            plan = _plan(validation[first : first + 8], settings.windows_per_weld, run.modality_dropout, rng)
            value, found = weld_losses(film, start, plan)
            losses.append(float(value))
            for name, part in found.items():
                parts.setdefault(name, []).append(part)
        report = collapse_of(film, start, validation[:_LOGGED])
        figures = {name: float(np.mean(values)) for name, values in parts.items()}
        figures |= {"cosine": report.pairwise_cosine, "std": report.std, "rank": report.effective_rank}
        return float(np.mean(losses)), figures

    phase = Phase(
        name=NAME,
        network=film,
        batches=batches,
        loss=loss,
        validate=validate,
        welds=lambda plan: [w.key for w in plan.welds],
    )
    history = run_phase(
        phase, settings, seed=run.seed, digest=digest, file=file, progress=progress, best_file=best_file
    )
    film.requires_grad_(False)
    problem = collapse_of(film, start, validation).problem if _with_photos(validation) else None
    if problem is not None:
        raise DetectorError(f"{problem}; give more welds, another seed or a smaller learning rate")
    return history


def check_welds(fit: Sequence[WeldTokens], validation: Sequence[WeldTokens]) -> None:
    """Refuse too few welds; a modality that no weld has is an error too, for nothing could be said of it."""
    if len(fit) < MIN_WELDS:
        raise DetectorError(
            f"{len(fit)} good training welds have windows; at least {MIN_WELDS} are needed: record and label more"
        )
    if not validation:
        raise DetectorError("no good weld is left for validation; record good welds in more sessions")
    there = np.concatenate([presence(w.windows) for w in fit])
    absent = [m for i, m in enumerate(PROCESS) if not there[:, i].any()]
    if absent:
        raise DetectorError(
            f"{absent[0]} is absent in all {len(fit)} training welds; Causal-FiLM needs video, sound and sensors: "
            "record welds with all of them, or train statistics"
        )


def weld_losses(film: CausalFilm, start: Start, plan: _Plan) -> tuple[Tensor, dict[str, float]]:
    """Give the loss of a batch of welds, and its parts."""
    count = plan.rows.shape[1]
    windows = {
        name: np.concatenate([w.windows[name][rows] for w, rows in zip(plan.welds, plan.rows, strict=True)])
        for name in (*PROCESS, "phases")
    }
    present = np.concatenate(
        [presence(windows) & plan.kept.repeat(count, axis=0), np.zeros((len(plan.rows) * count, 1))], 1
    )
    out: FilmOutput = film(*as_input(windows, slice(None)), None, torch.from_numpy(present.astype(np.bool_)))
    total, parts = film.loss(out)
    result, there = results_of(film, plan.welds)
    if there.any():
        kept = [tuple(m for m, here in zip(PROCESS, row, strict=True) if here) for row in plan.kept]
        begun = np.stack([start.of(w, used) for w, used in zip(plan.welds, kept, strict=True)])
        predicted = film.predict_result(out.process.reshape(len(plan.welds), -1, film.config.width))
        predicted = predicted + torch.from_numpy(begun)
        of_results, more = film.result_loss(predicted, film.restore_result(result, there), result, there)
        total, parts = total + of_results, parts | more
    return total, parts


def results_of(film: CausalFilm, welds: Sequence[WeldTokens]) -> tuple[Tensor, Tensor]:
    """Stack the result tokens `(B, K, R)` of welds, zero without photos, and tell which have any."""
    shape = (film.config.result_tokens, film.config.result_width)
    arrays = [np.zeros(shape, dtype=np.float32) if w.result is None else w.result for w in welds]
    return torch.from_numpy(np.stack(arrays)), torch.tensor([w.result is not None for w in welds])


@torch.no_grad()
def process_tokens(film: CausalFilm, weld: WeldTokens, pattern: Pattern) -> Tensor:
    """Give the process tokens `(1, n*P, D)` of all windows of a weld, from the modalities of a pattern."""
    kept = np.array([m in pattern for m in PROCESS])
    there = torch.from_numpy(
        np.concatenate([presence(weld.windows) & kept, np.zeros((len(weld), 1))], 1).astype(np.bool_)
    )
    parts = [
        film(*as_input(weld.windows, slice(i, i + _AT_ONCE)), None, there[i : i + _AT_ONCE]).process
        for i in range(0, len(weld), _AT_ONCE)
    ]
    return torch.cat(parts).flatten(0, 1)[None]


@torch.no_grad()
def collapse_of(film: CausalFilm, start: Start, welds: Sequence[WeldTokens]) -> CollapseReport:
    """Compare the predicted results of welds."""
    predicted = [
        film.predict_result(process_tokens(film, w, PROCESS)) + torch.from_numpy(start.of(w, PROCESS))
        for w in _with_photos(welds)
    ]
    width = film.config.result_tokens * film.config.result_width
    return collapse_report(torch.cat(predicted) if predicted else torch.zeros(0, width))


def _with_photos(welds: Sequence[WeldTokens]) -> list[WeldTokens]:
    return [w for w in welds if w.result is not None]


def _plan(welds: Sequence[WeldTokens], windows: int, dropout: float, rng: np.random.Generator) -> _Plan:
    rows = np.stack([rng.permutation(np.arange(max(len(w), windows)) % len(w))[:windows] for w in welds])
    kept = np.ones((len(welds), len(PROCESS)), dtype=np.bool_)
    for i in range(len(welds)):
        if rng.random() < dropout:
            pattern = PROCESS_PATTERNS[int(rng.integers(len(PROCESS_PATTERNS)))]
            kept[i] = [m in pattern for m in PROCESS]
    return _Plan(welds=tuple(welds), rows=rows, kept=kept)
