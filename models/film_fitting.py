"""What is usual among good welds: the last step of a training run, after the network.

Errors of prediction are fitted on the welds that the networks learned from, scales of scores on the validation welds.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.causal_film import CausalFilm
from models.detector_contract import PHASES, PROCESS_PATTERNS, DetectorError, running_maximum
from models.film_detector import AT_ONCE, RESIDUALS, FilmDetector, look
from models.film_errors import PARTS, ErrorModel, parts_of
from models.film_scores import KINDS, FilmScales, combined, fit_windows, mean_of_known, standardised, usual
from models.film_tokens import FrozenInputs, WeldTokens
from models.statistics import EncodedWeld
from sync.sample import SampleSpec


def fitted_detector(
    spec: SampleSpec,
    inputs: FrozenInputs,
    film: CausalFilm,
    fit: Sequence[WeldTokens],
    validation: Sequence[WeldTokens],
) -> FilmDetector:
    """Fit the errors on the welds of the fit, and all scales on those of the validation."""
    errors = _error_model(film, [weld for weld in fit if len(weld)])
    detector = FilmDetector(spec, inputs, film, errors, FilmScales.unit(film.config.result_tokens))
    encoded = [detector.encode_tokens(weld) for weld in validation if len(weld)]
    rows = [
        (number, PHASES.index(window.phase(pattern)), window.values[RESIDUALS][number])
        for weld in encoded
        for window in weld.windows
        for number, pattern in enumerate(PROCESS_PATTERNS)
        if set(pattern) <= set(window.present)
    ]
    scales = replace(detector.scales, **fit_windows(rows))
    photos = np.array([w.photos.values[RESIDUALS] for w in encoded if w.photos is not None]).reshape(-1, len(KINDS))
    scales = replace(scales, photo_residuals=usual(photos))
    means = np.array([mean_of_known(row) for row in standardised(photos, scales.photo_residuals)])
    scales = replace(scales, photo=usual(means[:, None])[0])
    fill_weld_scales(FilmDetector(spec, inputs, film, errors, scales), encoded)
    return FilmDetector(spec, inputs, film, errors, scales)


def _error_model(film: CausalFilm, welds: Sequence[WeldTokens]) -> ErrorModel:
    looks = []
    for weld in welds:
        for first in range(0, len(weld), AT_ONCE):
            looks.append(look(film, {n: a[first : first + AT_ONCE] for n, a in weld.windows.items()}))
    patterns = np.concatenate([one.patterns for one in looks])
    phases = np.concatenate([one.phases for one in looks])
    errors = {part: np.concatenate([one.errors[part] for one in looks]) for part in PARTS}
    missing = [pattern for n, pattern in enumerate(PROCESS_PATTERNS) if not (patterns == n).any()]
    if missing:
        raise DetectorError(
            f"no window of the good training welds has {' and '.join(missing[-1])} at once; record welds that have them"
        )
    numbers = range(len(PROCESS_PATTERNS))
    return ErrorModel.fit(
        {(n, part): errors[part][patterns == n] for n in numbers for part in parts_of(PROCESS_PATTERNS[n])},
        {n: phases[patterns == n] for n in numbers},
    )


def fill_weld_scales(detector: FilmDetector, encoded: Sequence[EncodedWeld]) -> None:
    """Fill in the scales of whole welds, one after the other: process, result, then their combination."""
    scales = detector.scales
    for number, pattern in enumerate(PROCESS_PATTERNS):
        scores = [running_maximum([detector.window_score(w, pattern) for w in weld.windows]) for weld in encoded]
        scales.process[number] = usual(np.array(scores)[:, None])[0]
        pairs = [
            (weld.windows, weld.photos)
            for weld in encoded
            if weld.photos is not None and any(set(pattern) <= set(w.present) for w in weld.windows)
        ]
        if not pairs:
            continue
        found = [detector.result_residuals(*pair, pattern) for pair in pairs]
        scales.tokens[number] = usual(np.array([distances for _, distances in found]))
        residuals = np.array([both for both, _ in found])
        scales.result_residuals[number] = usual(residuals)
        means = [mean_of_known(row) for row in standardised(residuals, scales.result_residuals[number])]
        scales.result[number] = usual(np.array(means)[:, None])[0]
        parts = [detector.whole_parts(*pair, pattern) for pair in pairs]
        whole = [combined(part) for part in parts if part is not None]
        scales.whole[number] = usual(np.array(whole)[:, None])[0]
