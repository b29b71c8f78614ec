"""`causal-film`: frozen small encoders, Causal-FiLM on their tokens, and z-scores against good welds.

- Window: the mean of three z-scores: (i) how badly each process modality is predicted from the others under FiLM,
  (ii) how badly the tokens of all modalities are restored through the noisy bottleneck (its noise is off here), and
  (iii) how unusual the plain statistics are.
- Photos: how unusual the result tokens are, and how badly they are restored from themselves.
- Weld with photos: process, photos, and how much worse the photos fit this process than they fit good welds in general.

A window is looked at once, under all sets of its modalities; scores cost next to nothing afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from acquisition.packet import SENSOR_CHANNELS
from models.backbones import encoders_of
from models.bead_model import BeadModel, arc_seconds
from models.causal_film import CausalFilm, CausalFilmConfig
from models.detector_contract import (
    PHASES,
    PHOTOS,
    PROCESS,
    PROCESS_PATTERNS,
    Detector,
    DetectorError,
    Encoded,
    Pattern,
    running_maximum,
    same_spec,
)
from models.film_data import cut_welds
from models.film_errors import ErrorModel, errors_of
from models.film_inputs import SensorScale
from models.film_scores import (
    PARTS,
    PHOTO_PARTS,
    RESTORED,
    STATISTICS,
    FilmScales,
    combined,
    mean_of_known,
    standardised,
    window_score,
)
from models.film_tokens import Arrays, FrozenInputs, WeldTokens, as_input, presence, weld_tokens
from models.network_state import converted, fill
from models.plain_windows import PlainWindows
from models.result_tokens import ResultTokens, ResultTokensConfig
from models.statistics import EncodedWeld
from models.weld_features import FoundWeld, Progress
from sync.sample import SampleSpec, Weld4MSample

Values = npt.NDArray[np.float64]

RESIDUALS: Final = "residuals"
TOKENS: Final = "process"
INDEX: Final = "index"
LIVE_THREADS: Final = 1
"""More do not shorten the median on small networks, and lengthen the tail; and one thread always adds in one order."""
AT_ONCE: Final = 8
"""Windows of a recorded weld that are looked at together."""
_LEVELS: Final = ("fine", "middle", "coarse")
_BANDS: Final = ("upper", "central", "lower")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the network says of windows, each under every set of its modalities: a row per window and set.

    Attributes:
        rows: `(r,)` which window.
        patterns: `(r,)` number of the set.
        phases: `(r,)` number of the phase, as the set sees it.
        errors: `(r, 2D)` per modality, see `errors_of`.
        restored: `(r, 3)` log of the largest errors of each restored modality, NaN where it is not looked at.
        process: `(r, P, D)` process tokens.
    """

    rows: npt.NDArray[np.int64]
    patterns: npt.NDArray[np.int64]
    phases: npt.NDArray[np.int64]
    errors: dict[str, Values]
    restored: Values
    process: npt.NDArray[np.float32]


class FilmDetector(Detector):
    """See the module.

    Attributes:
        inputs: Frozen encoders and scales.
        film: The network, in eval mode.
        errors: What errors of good welds are like.
        plain: What plain statistics of good windows are like.
        bead: What beads of good welds are like; None when it was trained without photos.
        scales: What is usual among good welds.
    """

    name = "causal-film"
    made_with = ("numpy", "scipy", "torch")

    def __init__(
        self,
        spec: SampleSpec,
        inputs: FrozenInputs,
        film: CausalFilm,
        *,
        errors: ErrorModel,
        plain: PlainWindows,
        bead: BeadModel | None,
        scales: FilmScales,
    ) -> None:
        self.spec = spec
        self.inputs = inputs
        self.film = film.eval().requires_grad_(False)
        self.errors = errors
        self.plain = plain
        self.bead = bead
        self.scales = scales

    def encode_window(self, window: Weld4MSample) -> Encoded:
        """See `Detector`."""
        same_spec(window.spec, self.spec, self.name)
        return self._encoded(self.inputs.windows([window]))[0]

    def encode_photos(self, sample: Weld4MSample) -> Encoded | None:
        """See `Detector`."""
        same_spec(sample.spec, self.spec, self.name)
        return self._encoded_photos(self.inputs.photos(sample))

    def encode_tokens(self, weld: WeldTokens) -> EncodedWeld:
        """Encode a whole weld whose tokens are known."""
        windows = [
            encoded
            for first in range(0, len(weld), AT_ONCE)
            for encoded in self._encoded({n: a[first : first + AT_ONCE] for n, a in weld.windows.items()})
        ]
        return EncodedWeld(
            key=weld.key,
            session=weld.session,
            label=weld.label,
            windows=windows,
            photos=self._encoded_photos(weld.result),
        )

    def window_score(self, window: Encoded, pattern: Pattern) -> float:
        """See `Detector`."""
        used = _used(window, pattern)
        if not used:
            return float("nan")
        number = PROCESS_PATTERNS.index(used)
        return window_score(self.scales, window.values[RESIDUALS][number], number, PHASES.index(window.phase(used)))

    def photo_score(self, photos: Encoded) -> float:
        """See `Detector`."""
        z = mean_of_known(standardised(photos.values[RESIDUALS], self.scales.photo_parts))
        return float(standardised(np.asarray(z), self.scales.photo))

    def whole_score(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> float:
        """See `Detector`; without a window that can be judged, the photos alone are."""
        used = tuple(m for m in PROCESS if m in pattern)
        parts = self.whole_parts(windows, photos, used)
        if parts is None:
            return self.photo_score(photos)
        return float(standardised(np.asarray(combined(parts)), self.scales.whole[PROCESS_PATTERNS.index(used)]))

    def whole_parts(self, windows: Sequence[Encoded], photos: Encoded, used: Pattern) -> Values | None:
        """Give z-scores `(3,)` of process, photos and their relation; None without a window that can be judged."""
        process = running_maximum([self.window_score(w, used) for w in windows]) if used else float("nan")
        if np.isnan(process):
            return None
        number = PROCESS_PATTERNS.index(used)
        relation = standardised(np.asarray(self.relation(windows, photos, used)), self.scales.relation[number])
        return np.array(
            [
                float(standardised(np.asarray(process), self.scales.process[number])),
                self.photo_score(photos),
                float(relation),
            ]
        )

    def relation(self, windows: Sequence[Encoded], photos: Encoded, used: Pattern) -> float:
        """Tell how much further the photos are from what this process predicts than from good welds in general."""
        assert self.bead is not None
        left = photos.values[PHOTOS] - self.predicted_result(windows, used)
        among_all = float(photos.values[RESIDUALS][PHOTO_PARTS.index("tokens")])
        return self.bead.distance_left(left, _seen(windows, used)) - among_all

    def predicted_result(self, windows: Sequence[Encoded], used: Pattern) -> npt.NDArray[np.float32]:
        """Predict the result tokens `(K, R)` from windows that have some of the modalities used."""
        assert self.bead is not None
        statistics, index = (np.array([w.values[name] for w in windows]) for name in (STATISTICS, INDEX))
        predicted = self.bead.predict(statistics, arc_seconds(index, self.spec), _seen(windows, used))
        gain = float(self.scales.gain[PROCESS_PATTERNS.index(used), 0])
        return predicted + gain * self.correction(windows, used) if gain else predicted

    @torch.no_grad()
    def correction(self, windows: Sequence[Encoded], used: Pattern) -> npt.NDArray[np.float32]:
        """Give what the network adds to the result that the settings predict, `(K, R)`."""
        tokens = [w.values[TOKENS][PROCESS_PATTERNS.index(_used(w, used))] for w in windows if _used(w, used)]
        found: npt.NDArray[np.float32] = self.film.predict_result(torch.from_numpy(np.concatenate(tokens))[None])[
            0
        ].numpy()
        return found

    def token_distances(self, windows: Sequence[Encoded], photos: Encoded, used: Pattern) -> Values:
        """Give the logarithm of the squared difference of each result token from its prediction, `(K,)`."""
        left = photos.values[PHOTOS] - self.predicted_result(windows, used)
        return np.asarray(np.log(np.square(left.astype(np.float64)).sum(axis=1) + 1e-3))

    def disagreement(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> dict[str, float]:
        """See `Detector`: z-scores of single result tokens against what the process predicts."""
        used = tuple(m for m in PROCESS if m in pattern)
        if not used or not any(_used(w, used) for w in windows):
            return {}
        distances = self.token_distances(windows, photos, used)
        z = standardised(distances, self.scales.tokens[PROCESS_PATTERNS.index(used)])
        names = token_names(self.inputs.result.config) if self.inputs.result is not None else []
        return {names[i]: float(z[i]) for i in np.argsort(-z)}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """See `Detector`."""
        film = {f"film.{name}": tensor.numpy() for name, tensor in self.film.state_dict().items()}
        bead = {} if self.bead is None else self.bead.state()
        return self.inputs.state() | film | self.errors.state() | self.plain.state() | bead | self.scales.state()

    def configuration(self) -> dict[str, Any]:
        """See `Detector`."""
        result = self.inputs.result
        return {
            "encoders": asdict(self.inputs.encoders.config),
            "result": None if result is None else asdict(result.config),
            "film": asdict(self.film.config),
        }

    def parameters(self) -> int:
        """Count the parameters of encoders and network."""
        return sum(p.numel() for network in (self.inputs.encoders, self.film) for p in network.parameters())

    @classmethod
    def from_state(
        cls, spec: SampleSpec, configuration: Mapping[str, Any], state: Mapping[str, npt.NDArray[Any]]
    ) -> "FilmDetector":
        """Make it from a checkpoint, and set torch to one thread, which is a setting of the whole process.

        Raises:
            DetectorError: Something is missing, or of another size.
        """
        torch.set_num_threads(LIVE_THREADS)
        film = CausalFilm(converted(configuration, "film", CausalFilmConfig))
        fill(film, "film", state)
        result, bead = None, None
        if configuration.get("result") is not None:
            result = ResultTokens(converted(configuration, "result", ResultTokensConfig))
            fill(result, "result", state)
            bead = BeadModel(state, result.config)
        for name in ("sensors.mean", "sensors.sd"):
            if name not in state or state[name].shape != (len(SENSOR_CHANNELS),):
                raise DetectorError(f"the checkpoint's '{name}' is missing or of another size; train it again")
        scale = SensorScale(mean=state["sensors.mean"], sd=state["sensors.sd"])
        return cls(
            spec,
            FrozenInputs(encoders=encoders_of(configuration, state), scale=scale, result=result),
            film,
            errors=ErrorModel.from_state(state, film.config),
            plain=PlainWindows.from_state(state),
            bead=bead,
            scales=FilmScales.from_state(state, film.config.result_tokens),
        )

    def _encoded(self, windows: Arrays) -> list[Encoded]:
        """Encode windows whose tokens are known, each under every set of its modalities."""
        looked = look(self.film, windows)
        count, p, d = len(windows["index"]), self.film.config.process_tokens, self.film.config.width
        residuals = np.full((count, len(PROCESS_PATTERNS), len(PARTS)), np.nan)
        tokens = np.zeros((count, len(PROCESS_PATTERNS), p, d), dtype=np.float32)
        for number, pattern in enumerate(PROCESS_PATTERNS):
            mine = np.flatnonzero(looked.patterns == number)
            rows = looked.rows[mine]
            tokens[rows, number] = looked.process[mine]
            for m in pattern:
                residuals[rows, number, PARTS.index(m)] = self.errors.distances(
                    number, m, looked.errors[m][mine], looked.phases[mine]
                )
            residuals[rows[:, None], number, [PARTS.index(name) for name in RESTORED]] = looked.restored[mine]
            residuals[rows, number, PARTS.index(STATISTICS)] = self.plain.distances(windows, rows, pattern)
        encoded = []
        for i in range(count):
            phases = {m: PHASES[number] for m, number in zip(PROCESS, windows["phases"][i], strict=True) if number >= 0}
            encoded.append(
                Encoded(
                    index=int(windows["index"][i]),
                    present=tuple(phases),
                    values={
                        RESIDUALS: residuals[i],
                        TOKENS: tokens[i],
                        STATISTICS: windows["statistics"][i],
                        INDEX: windows["index"][i],
                    },
                    phases=phases,
                )
            )
        return encoded

    @torch.no_grad()
    def _encoded_photos(self, result: npt.NDArray[np.float32] | None) -> Encoded | None:
        if result is None:
            return None
        assert self.bead is not None
        tokens, there = torch.from_numpy(result)[None], torch.ones(1, dtype=torch.bool)
        restored = self.film.restore_result(tokens, there)
        found = self.film.result_residuals("restored", restored, tokens, there)
        left = np.array([float(found[name]) for name in PHOTO_PARTS[1:]])
        residuals = np.array([self.bead.distance(result), *np.log(left + 1e-6)])
        return Encoded(index=-1, present=(PHOTOS,), values={PHOTOS: result, RESIDUALS: residuals})


@torch.no_grad()
def look(film: CausalFilm, windows: Arrays) -> Look:
    """Look at windows under every set of their modalities, in one batch."""
    there = presence(windows)
    sets = np.array([[m in pattern for m in PROCESS] for pattern in PROCESS_PATTERNS])
    rows, patterns = np.nonzero((there[:, None] | ~sets).all(axis=2))
    phases = windows["phases"][rows]
    used = sets[patterns]
    # An end that one modality sees is the end, and so for the start: see `Encoded.phase`.
    end, start = ((used & (phases == PHASES.index(name))).any(axis=1) for name in ("end", "start"))
    phase = np.where(end, PHASES.index("end"), np.where(start, PHASES.index("start"), PHASES.index("steady")))
    present = torch.from_numpy(np.concatenate([used, np.zeros((len(used), 1), dtype=np.bool_)], axis=1))
    out = film(*as_input(windows, rows), None, present)
    residuals = film.residuals(out)
    restored = np.stack([np.log(residuals[f"{name}_error"].double().numpy() + 1e-6) for name in RESTORED], axis=1)
    return Look(
        rows=rows,
        patterns=patterns,
        phases=phase,
        errors=errors_of(out),
        restored=restored,
        process=out.process.numpy(),
    )


def encoded_by_film(
    detector: Detector, welds: Sequence[FoundWeld], cache: Path, progress: Progress
) -> list[EncodedWeld]:
    """Encode recorded welds, from the cache where it holds their tokens; unreadable ones are named and left out."""
    assert isinstance(detector, FilmDetector)
    files = cut_welds(welds, detector.spec, cache, progress)
    return [detector.encode_tokens(weld) for weld in weld_tokens(detector.inputs, files, cache, progress)]


def token_names(config: ResultTokensConfig) -> list[str]:
    """Name the result tokens, as `ResultTokens` orders them."""
    bands: tuple[str, ...] = (
        _BANDS if config.bands == len(_BANDS) else tuple(f"band {i + 1}" for i in range(config.bands))
    )
    count = len(config.widths)
    levels: tuple[str, ...] = _LEVELS if count == len(_LEVELS) else tuple(f"level {i + 1}" for i in range(count))
    kinds = [
        "largest anywhere",
        "smallest anywhere",
        *(f"mean of the {band} band" for band in bands),
        *(f"spread of the {band} band" for band in bands),
        "texture mix",
        "texture mix of the oddest view",
    ]
    plain = ["look of all views", "look of the oddest view", "width and place", "length and gaps"]
    return plain + [f"{level}: {kind}" for level in levels for kind in kinds]


def _seen(windows: Sequence[Encoded], pattern: Pattern) -> Pattern:
    """Tell which modalities of a pattern some window has."""
    return tuple(m for m in pattern if any(m in w.present for w in windows))


def _used(window: Encoded, pattern: Pattern) -> Pattern:
    return tuple(m for m in PROCESS if m in pattern and m in window.present)
