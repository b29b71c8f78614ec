"""`causal-film`: frozen small encoders, Causal-FiLM on their tokens, and z-scores against good welds.

- Window: the larger of two z-scores: (i) how badly each process modality is predicted from the others under FiLM, and
  (ii) how badly the process tokens are restored through the noisy bottleneck (its noise is off here).
- Photos: how badly the result tokens are restored from themselves.
- Weld with photos: process, photos, and how far the photos are from the result that the process predicts.

A window is looked at once, under all sets of its modalities; scores cost next to nothing afterwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from acquisition.packet import SENSOR_CHANNELS
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
from models.film_errors import PARTS, ErrorModel, errors_of, parts_of
from models.film_inputs import SensorScale
from models.film_scores import FilmScales, combined, mean_of_known, standardised, window_score
from models.film_tokens import Arrays, FrozenInputs, WeldTokens, as_input, presence, weld_tokens
from models.result_tokens import ResultTokens, ResultTokensConfig
from models.small_encoders import WeldSmall, WeldSmallConfig
from models.statistics import EncodedWeld
from models.weld_features import FoundWeld, Progress
from sync.sample import SampleSpec, Weld4MSample

T = TypeVar("T")
Values = npt.NDArray[np.float64]

RESIDUALS: Final = "residuals"
TOKENS: Final = "process"
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
        errors: `(r, 2D)` per part, see `errors_of`.
        process: `(r, P, D)` process tokens.
    """

    rows: npt.NDArray[np.int64]
    patterns: npt.NDArray[np.int64]
    phases: npt.NDArray[np.int64]
    errors: dict[str, Values]
    process: npt.NDArray[np.float32]


class FilmDetector(Detector):
    """See the module.

    Attributes:
        inputs: Frozen encoders and scales.
        film: The network, in eval mode.
        errors: What errors of good welds are like.
        scales: What is usual among good welds.
    """

    name = "causal-film"
    made_with = ("numpy", "scipy", "torch")

    def __init__(
        self, spec: SampleSpec, inputs: FrozenInputs, film: CausalFilm, errors: ErrorModel, scales: FilmScales
    ) -> None:
        self.spec = spec
        self.inputs = inputs
        self.film = film.eval().requires_grad_(False)
        self.errors = errors
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
        z = mean_of_known(standardised(photos.values[RESIDUALS], self.scales.photo_residuals))
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
        z = standardised(self.result_residuals(windows, photos, used)[0], self.scales.result_residuals[number])
        relation = standardised(np.asarray(mean_of_known(z)), self.scales.result[number])
        return np.array(
            [
                float(standardised(np.asarray(process), self.scales.process[number])),
                self.photo_score(photos),
                float(relation),
            ]
        )

    @torch.no_grad()
    def result_residuals(self, windows: Sequence[Encoded], photos: Encoded, used: Pattern) -> tuple[Values, Values]:
        """Compare the photos with the result that the process predicts: log residuals `(2,)`, distances `(K,)`."""
        tokens = [w.values[TOKENS][PROCESS_PATTERNS.index(_used(w, used))] for w in windows if _used(w, used)]
        predicted = self.film.predict_result(torch.from_numpy(np.concatenate(tokens))[None])
        return self._against_photos("result", predicted, photos.values[PHOTOS])

    def disagreement(self, windows: Sequence[Encoded], photos: Encoded, pattern: Pattern) -> dict[str, float]:
        """See `Detector`: z-scores of single result tokens against what the process predicts."""
        used = tuple(m for m in PROCESS if m in pattern)
        if not used or not any(_used(w, used) for w in windows):
            return {}
        distances = self.result_residuals(windows, photos, used)[1]
        z = standardised(distances, self.scales.tokens[PROCESS_PATTERNS.index(used)])
        names = token_names(self.inputs.result.config) if self.inputs.result is not None else []
        return {names[i]: float(z[i]) for i in np.argsort(-z)}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """See `Detector`."""
        film = {f"film.{name}": tensor.numpy() for name, tensor in self.film.state_dict().items()}
        return self.inputs.state() | film | self.errors.state() | self.scales.state()

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
        encoders = WeldSmall(_converted(configuration, "encoders", WeldSmallConfig))
        film = CausalFilm(_converted(configuration, "film", CausalFilmConfig))
        _load(encoders, "encoders", state)
        _load(film, "film", state)
        result = None
        if configuration.get("result") is not None:
            result = ResultTokens(_converted(configuration, "result", ResultTokensConfig))
            _load(result, "result", state)
        scales = FilmScales.from_state(state, film.config.result_tokens)
        for name in ("sensors.mean", "sensors.sd"):
            if name not in state or state[name].shape != (len(SENSOR_CHANNELS),):
                raise DetectorError(f"the checkpoint's '{name}' is missing or of another size; train it again")
        scale = SensorScale(mean=state["sensors.mean"], sd=state["sensors.sd"])
        frozen = encoders.eval().requires_grad_(False)
        errors = ErrorModel.from_state(state, film.config)
        return cls(spec, FrozenInputs(encoders=frozen, scale=scale, result=result), film, errors, scales)

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
            for part in parts_of(pattern):
                residuals[rows, number, PARTS.index(part)] = self.errors.distances(
                    number, part, looked.errors[part][mine], looked.phases[mine]
                )
        encoded = []
        for i in range(count):
            phases = {m: PHASES[number] for m, number in zip(PROCESS, windows["phases"][i], strict=True) if number >= 0}
            encoded.append(
                Encoded(
                    index=int(windows["index"][i]),
                    present=tuple(phases),
                    values={RESIDUALS: residuals[i], TOKENS: tokens[i]},
                    phases=phases,
                )
            )
        return encoded

    @torch.no_grad()
    def _encoded_photos(self, result: npt.NDArray[np.float32] | None) -> Encoded | None:
        if result is None:
            return None
        tokens = torch.from_numpy(result)[None]
        restored = self.film.restore_result(tokens, torch.ones(1, dtype=torch.bool))
        residuals = self._against_photos("result_only", restored, result)[0]
        return Encoded(index=-1, present=(PHOTOS,), values={PHOTOS: result, RESIDUALS: residuals})

    def _against_photos(self, name: str, found: Tensor, result: npt.NDArray[np.float32]) -> tuple[Values, Values]:
        there = torch.ones(1, dtype=torch.bool)
        residuals = self.film.result_residuals(name, found, torch.from_numpy(result)[None], there)
        both = _log(torch.cat([residuals[name], residuals[f"{name}_error"]]))
        return both, residuals[f"{name}_tokens"][0].double().numpy()


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
    return Look(rows=rows, patterns=patterns, phases=phase, errors=errors_of(out), process=out.process.numpy())


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
    return [f"{level}: {kind}" for level in levels for kind in kinds]


def _used(window: Encoded, pattern: Pattern) -> Pattern:
    return tuple(m for m in PROCESS if m in pattern and m in window.present)


def _log(residuals: Tensor) -> Values:
    return np.asarray(np.log(residuals.double().numpy() + 1e-6))


def _converted(configuration: Mapping[str, Any], name: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(configuration.get(name), kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise DetectorError(f"the checkpoint's configuration of '{name}': {error}; train it again") from error


def _load(network: nn.Module, part: str, state: Mapping[str, npt.NDArray[Any]]) -> None:
    """Fill a network with the arrays of a part; raises `DetectorError` naming the first that does not fit."""
    wanted = network.state_dict()
    found = {name.removeprefix(f"{part}."): array for name, array in state.items() if name.startswith(f"{part}.")}
    for name, tensor in wanted.items():
        if name not in found:
            raise DetectorError(f"the checkpoint has no array '{part}.{name}'; train it again with this version")
        if found[name].shape != tuple(tensor.shape):
            raise DetectorError(
                f"the checkpoint's '{part}.{name}' has shape {found[name].shape}, this version wants "
                f"{tuple(tensor.shape)}; train it again"
            )
    network.load_state_dict({name: torch.from_numpy(found[name].copy()) for name in wanted})
