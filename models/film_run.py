"""`train causal-film`: one run from weld folders to a calibrated checkpoint, in steps that can be continued.

Sessions are shared out whole: those that fit the networks, those that stop the training and set the scales of weld
scores, and those that calibrate, which nothing else ever sees. What is done already is kept in the folder `state` of
the run; a run that was killed goes on with the same command. It may be deleted when the run is finished.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
import xxhash

from models.backbone_config import photo_widths
from models.backbones import load_backbones, with_backbones
from models.bead_model import BeadModel
from models.causal_film import CausalFilm
from models.checkpoint import Checkpoint, TrainingRecord
from models.detector_contract import DetectorError
from models.film_config import FilmRun, load_run
from models.film_data import CutFile, cut_welds
from models.film_fitting import fitted_bead, fitted_detector
from models.film_tokens import FrozenInputs, WeldTokens, described_photos, weld_tokens
from models.film_training import MIN_WELDS, Start, train_film
from models.pretraining import pretrain, sensor_scale
from models.result_tokens import ResultTokens, ResultTokensConfig
from models.small_encoders import WeldSmall
from models.statistics import EncodedWeld
from models.training_loop import Epoch, Progress, parameter_counts
from models.weld_features import FoundWeld

STATE: Final = "state"
CUTS: Final = "cuts"
RECORD: Final = "run.json"
GOOD: Final = 0
_TOGETHER: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Welds of a run by what they are for; see the module."""

    fit: list[FoundWeld]
    validation: list[FoundWeld]
    calibration: list[FoundWeld]


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: how a run went.

    Attributes:
        settings: Of the run.
        digest: Of settings and welds.
        welds: How many welds did what.
        parameters: Total and trained, per network.
        pretraining: History.
        training: History.
        seconds: Wall time of each step, of the last time that the command was given.
    """

    settings: dict[str, Any]
    digest: str
    welds: dict[str, int]
    parameters: dict[str, list[int]]
    pretraining: list[Epoch]
    training: list[Epoch]
    seconds: dict[str, float]


def train_causal_film(
    welds: Sequence[FoundWeld], out: Path, *, config: Path | None, progress: Progress, weights: Path | None = None
) -> tuple[Checkpoint, list[EncodedWeld], RunRecord]:
    """Pretrain, freeze, train and scale; what is left is to calibrate.

    Args:
        welds: Complete welds of the training split, whatever their label; only good ones teach what is good.
        out: Folder of the run.
        config: Settings, or None for the defaults.
        progress: Takes lines for the user.
        weights: Folder of the backbones that the settings name; see `weights_folder`.

    Returns:
        The checkpoint without a calibration, the welds that calibrate and the record of the run.

    Raises:
        DetectorError: Too few good welds, a modality that is absent in all of them, a bad number, too little memory.
    """
    run = load_run(config)
    threads = torch.get_num_threads()
    torch.set_num_threads(run.threads)
    try:
        return _Run(run, welds, out, progress, weights).finish()
    finally:
        torch.set_num_threads(threads)


class _Run:
    """See `train_causal_film`."""

    def __init__(
        self, run: FilmRun, welds: Sequence[FoundWeld], out: Path, progress: Progress, weights: Path | None
    ) -> None:
        self.run = run
        self.large = load_backbones(run.backbones, run.sample, weights)
        self.out = out
        self.state = out / STATE
        self.progress = progress
        self.clock: dict[str, float] = {}
        self._last = time.monotonic()
        self.shares = shared_out(welds, run, progress)
        self.digest = xxhash.xxh3_128_hexdigest(
            repr(
                (run, self.large.records, [sorted(w.digest for w in part) for part in self._parts()], torch.__version__)
            ).encode()
        )

    def _parts(self) -> tuple[list[FoundWeld], list[FoundWeld], list[FoundWeld]]:
        return self.shares.fit, self.shares.validation, self.shares.calibration

    def finish(self) -> tuple[Checkpoint, list[EncodedWeld], RunRecord]:
        """Do everything that is not done yet."""
        began = time.monotonic()
        fit, validation, calibration = (self._cut(part) for part in self._parts())
        good = _good(fit)
        if len(good) < MIN_WELDS:
            raise DetectorError(
                f"{len(good)} good welds are left to fit on; at least {MIN_WELDS} are needed: record and label more"
            )
        self._tick("cutting")
        self.state.mkdir(parents=True, exist_ok=True)
        inputs, pretraining = self._pretrained(fit, validation)
        tokens = [
            weld_tokens(inputs, _good(part), self.state, self.progress) for part in (fit, validation, calibration)
        ]
        self._tick("tokens")
        bead = None if inputs.result is None else fitted_bead(tokens[0], inputs.result.config, self.run.sample)
        film, training = self._trained(inputs, bead, tokens[0], tokens[1])
        self.progress("scoring good welds")
        detector = fitted_detector(self.run.sample, inputs, film, bead, tokens[0], tokens[1])
        encoded = [detector.encode_tokens(w) for w in tokens[2] if len(w)]
        self._tick("scores")
        keys = {name: [f.weld.manifest.key for f in part] for name, part in (("fit", fit), ("validation", validation))}
        used = [f.weld for f in (*fit, *validation)]
        record = TrainingRecord(
            welds=keys["fit"],
            sessions=sorted({w.manifest.session for w in used}),
            held_out=sorted(w.key for w in encoded),
            digest=xxhash.xxh3_128_hexdigest("".join(w.digest for w in used).encode()),
            utc=datetime.now(tz=UTC).isoformat(timespec="seconds"),
            validation=keys["validation"],
            seconds=round(time.monotonic() - began, 1),
        )
        history = RunRecord(
            settings=asdict(self.run),
            digest=self.digest,
            welds={
                "pretraining": len(fit),
                "fit": len(tokens[0]),
                "validation": len(tokens[1]),
                "calibration": len(encoded),
            },
            parameters={
                "encoders": list(parameter_counts(WeldSmall(self.run.encoders))),
                **{name: [sum(p.numel() for p in large.parameters()), 0] for name, large in self.large.models.items()},
                "causal-film": list(parameter_counts(CausalFilm(film.config))),
            },
            pretraining=pretraining,
            training=training,
            seconds=self.clock,
        )
        return Checkpoint(detector=detector, training=record), encoded, history

    def _tick(self, step: str) -> None:
        """Note the wall time since the last step ended."""
        now = time.monotonic()
        self.clock[step] = round(now - self._last, 1)
        self._last = now

    def _cut(self, welds: Sequence[FoundWeld]) -> list[CutFile]:
        return cut_welds(welds, self.run.sample, self.out / CUTS, self.progress)

    def _pretrained(self, fit: Sequence[CutFile], validation: Sequence[CutFile]) -> tuple[FrozenInputs, list[Epoch]]:
        """Train the small encoders that are used, freeze everything and fit the result tokens."""
        torch.manual_seed(self.run.seed)
        small = WeldSmall(self.run.encoders)
        scale = sensor_scale(fit)
        history = []
        if self.run.backbones.small:
            history = pretrain(
                small,
                fit,
                validation or fit,
                scale,
                self.run,
                digest=self.digest,
                file=self.state / "pretraining.safetensors",
                progress=self.progress,
                modalities=(*self.run.backbones.small, "sensors"),
            )
        encoders = with_backbones(small, self.large)
        total = sum(p.numel() for p in encoders.parameters())
        self.progress(f"encoders frozen: {total:,} parameters, 0 trained from here on")
        result = None
        photos = [file.load().photos for file in _good(fit)]
        photos = [sample for sample in photos if sample.post_images_mask.any()]
        if len(photos) >= MIN_WELDS:
            described = [
                described_photos(encoders, photos[i : i + _TOGETHER]) for i in range(0, len(photos), _TOGETHER)
            ]
            settings = self.run.result
            widths = photo_widths(encoders.config)
            sizes = ResultTokensConfig(widths=widths, **asdict(settings))
            result = ResultTokens.fit([photo[:2] for photo in described], sizes, seed=self.run.seed)
        else:
            self.progress(f"{len(photos)} good training welds have photos; the photos will not be judged")
        self._tick("pretraining")
        return FrozenInputs(encoders=encoders, scale=scale, result=result), history

    def _trained(
        self,
        inputs: FrozenInputs,
        bead: BeadModel | None,
        fit: Sequence[WeldTokens],
        validation: Sequence[WeldTokens],
    ) -> tuple[CausalFilm, list[Epoch]]:
        widths = (self.run.encoders.photo_width,)
        sizes = ResultTokensConfig(widths=widths, words=1) if inputs.result is None else inputs.result.config
        torch.manual_seed(self.run.seed + 1)
        film = CausalFilm(self.run.network(sizes.tokens, sizes.width, inputs.encoders.config))
        history = train_film(
            film,
            Start(bead=bead, spec=self.run.sample, shape=(sizes.tokens, sizes.width)),
            fit,
            validation,
            self.run,
            digest=self.digest,
            file=self.state / "training.safetensors",
            best_file=self.out / "best.safetensors",
            progress=self.progress,
        )
        self._tick("training")
        return film, history


def save_record(out: Path, record: RunRecord) -> None:
    """Write `run.json`."""
    fresh = out / f"{RECORD}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    fresh.replace(out / RECORD)


def shared_out(welds: Sequence[FoundWeld], run: FilmRun, progress: Progress) -> Shares:
    """Share out whole sessions; single welds when there are fewer than three sessions."""
    sessions = {w.manifest.session for w in welds}
    few = len(sessions) < 3
    if few:
        progress(f"only {len(sessions)} sessions: single welds are shared out, and another session may look abnormal")

    def group(weld: FoundWeld) -> str:
        return weld.manifest.key if few else weld.manifest.session

    groups = sorted({group(w) for w in welds})
    order = [groups[i] for i in np.random.default_rng(run.seed).permutation(len(groups))]
    first = max(1, round(run.sessions.validation * len(groups)))
    last = first + round(run.sessions.calibration * len(groups))
    chosen = {"validation": set(order[:first]), "calibration": set(order[first:last]), "fit": set(order[last:])}
    parts = {name: [w for w in welds if group(w) in those] for name, those in chosen.items()}
    return Shares(fit=parts["fit"], validation=parts["validation"], calibration=parts["calibration"])


def _good(files: Iterable[CutFile]) -> list[CutFile]:
    return [file for file in files if file.weld.manifest.label == GOOD]
