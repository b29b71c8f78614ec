"""What is usual among good welds: the last step of a training run, after the network.

Errors of prediction and plain statistics are fitted on the welds that the networks learned from, scales of scores and
the gain of the network's correction on the validation welds.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from models.bead_model import Bead, BeadModel, arc_seconds
from models.causal_film import CausalFilm
from models.detector_contract import PHASES, PHOTOS, PROCESS, PROCESS_PATTERNS, DetectorError, Encoded, running_maximum
from models.film_detector import AT_ONCE, RESIDUALS, FilmDetector, look
from models.film_errors import ErrorModel
from models.film_scores import PHOTO_PARTS, FilmScales, combined, fit_windows, mean_of_known, standardised, usual
from models.film_tokens import FrozenInputs, WeldTokens
from models.plain_windows import PlainWindows
from models.result_tokens import ResultTokensConfig
from models.statistics import EncodedWeld
from sync.sample import SampleSpec

_ENOUGH: Final = 2500
"""Windows that errors are fitted on; more of the same welds hardly change 40 directions."""


def fitted_bead(welds: Sequence[WeldTokens], config: ResultTokensConfig, spec: SampleSpec) -> BeadModel:
    """Fit how beads follow from settings on good welds; those without photos or windows are passed over."""
    beads = [
        Bead(
            session=weld.session,
            statistics=weld.windows["statistics"],
            arc_s=arc_seconds(weld.windows["index"], spec),
            result=weld.result,
        )
        for weld in welds
        if weld.result is not None and len(weld)
    ]
    return BeadModel.fit(beads, config)


def fitted_detector(
    spec: SampleSpec,
    inputs: FrozenInputs,
    film: CausalFilm,
    bead: BeadModel | None,
    fit: Sequence[WeldTokens],
    validation: Sequence[WeldTokens],
) -> FilmDetector:
    """Fit errors and statistics on the welds of the fit, gain and all scales on those of the validation."""
    fit = [weld for weld in fit if len(weld)]
    errors = _error_model(film, fit)
    plain = PlainWindows.fit([weld.windows for weld in fit])
    scales = FilmScales.unit(film.config.result_tokens)
    detector = FilmDetector(spec, inputs, film, errors=errors, plain=plain, bead=bead, scales=scales)
    encoded = [detector.encode_tokens(weld) for weld in validation if len(weld)]
    rows = [
        (number, PHASES.index(window.phase(pattern)), window.values[RESIDUALS][number])
        for weld in encoded
        for window in weld.windows
        for number, pattern in enumerate(PROCESS_PATTERNS)
        if set(pattern) <= set(window.present)
    ]
    scales = replace(scales, **fit_windows(rows))
    photos = np.array([w.photos.values[RESIDUALS] for w in encoded if w.photos is not None])
    scales = replace(scales, photo_parts=usual(photos.reshape(-1, len(PHOTO_PARTS))))
    means = [mean_of_known(row) for row in standardised(photos.reshape(-1, len(PHOTO_PARTS)), scales.photo_parts)]
    scales = replace(scales, photo=usual(np.array(means)[:, None])[0])
    detector = FilmDetector(spec, inputs, film, errors=errors, plain=plain, bead=bead, scales=scales)
    fill_weld_scales(detector, encoded)
    return detector


def _error_model(film: CausalFilm, welds: Sequence[WeldTokens]) -> ErrorModel:
    every = max(1, sum(map(len, welds)) // _ENOUGH)
    looks = []
    for weld in welds:
        chosen = {n: a[::every] for n, a in weld.windows.items()}
        for first in range(0, len(chosen["index"]), AT_ONCE):
            looks.append(look(film, {n: a[first : first + AT_ONCE] for n, a in chosen.items()}))
    patterns = np.concatenate([one.patterns for one in looks])
    phases = np.concatenate([one.phases for one in looks])
    errors = {part: np.concatenate([one.errors[part] for one in looks]) for part in PROCESS}
    missing = [pattern for n, pattern in enumerate(PROCESS_PATTERNS) if not (patterns == n).any()]
    if missing:
        raise DetectorError(
            f"no window of the good training welds has {' and '.join(missing[-1])} at once; record welds that have them"
        )
    numbers = range(len(PROCESS_PATTERNS))
    return ErrorModel.fit(
        {(n, part): errors[part][patterns == n] for n in numbers for part in PROCESS_PATTERNS[n]},
        {n: phases[patterns == n] for n in numbers},
    )


def fill_weld_scales(detector: FilmDetector, encoded: Sequence[EncodedWeld]) -> None:
    """Fill in the scales of whole welds, one after the other: process, relation, then their combination."""
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
        if detector.bead is not None:
            scales.gain[number] = _gain(detector, pairs, number)
            scales.relation[number] = usual(np.array([detector.relation(*pair, pattern) for pair in pairs])[:, None])[0]
            scales.tokens[number] = usual(np.array([detector.token_distances(*pair, pattern) for pair in pairs]))
        parts = [detector.whole_parts(*pair, pattern) for pair in pairs]
        whole = [combined(part) for part in parts if part is not None]
        scales.whole[number] = usual(np.array(whole)[:, None])[0]


def _gain(detector: FilmDetector, pairs: Sequence[tuple[Sequence[Encoded], Encoded]], number: int) -> float:
    """Tell by least squares which share of the network's correction holds for welds that it never saw."""
    pattern = PROCESS_PATTERNS[number]
    detector.scales.gain[number] = 0.0
    products = squares = 0.0
    for windows, photos in pairs:
        left = photos.values[PHOTOS] - detector.predicted_result(windows, pattern)
        correction = detector.correction(windows, pattern)
        products += float((left * correction).sum())
        squares += float(np.square(correction).sum())
    return min(max(products / squares, 0.0), 1.0) if squares else 0.0
