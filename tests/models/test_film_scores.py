"""Distances of errors, and z-scores of good welds that are z-scores."""

from dataclasses import fields, replace

import numpy as np
import pytest

from models.causal_film import CausalFilmConfig
from models.detector_contract import PHASES, PROCESS_PATTERNS, DetectorError
from models.film_errors import ErrorModel, widths
from models.film_scores import (
    ENOUGH,
    PARTS,
    PHOTO_PARTS,
    RESTORED,
    STATISTICS,
    FilmScales,
    combined,
    fit_windows,
    group_scores,
    mean_of_known,
    standardised,
    usual,
    window_score,
)

CONFIG = CausalFilmConfig(width=32, video_width=16, audio_width=16)


def good_errors(seed: int, count: int = 900) -> tuple[dict[tuple[int, str], np.ndarray], dict[int, np.ndarray]]:
    """Errors with few strong and many weak directions, elsewhere and wider in the start."""
    rng = np.random.default_rng(seed)
    errors, phases = {}, {}
    for number, pattern in enumerate(PROCESS_PATTERNS):
        phases[number] = np.arange(count) % len(PHASES)
        for part in pattern:
            d = widths(CONFIG)[part]
            spread = 1.0 / np.arange(1, d + 1)
            start = (phases[number] == PHASES.index("start"))[:, None]
            errors[number, part] = rng.normal(size=(count, d)) * spread * (1 + start) + 3.0 * start
    return errors, phases


@pytest.fixture(scope="module")
def model() -> ErrorModel:
    return ErrorModel.fit(*good_errors(0))


def test_good_errors_are_near_and_odd_ones_far(model: ErrorModel) -> None:
    errors, phases = good_errors(1)
    for (number, part), table in errors.items():
        usual = model.distances(number, part, table, phases[number])
        assert abs(usual.mean()) < 0.6  # the logarithm of a mean of about 1, shrinkage aside
        assert abs(usual[phases[number] == 0].mean() - usual[phases[number] == 1].mean()) < 0.15
        odd = table + 4.0 * table.std(axis=0)
        assert model.distances(number, part, odd, phases[number]).min() > usual.mean()


def test_a_weak_direction_counts_like_a_strong_one(model: ErrorModel) -> None:
    errors, phases = good_errors(1)
    table, steady = errors[0, "video"], phases[0] == 1
    strong, weak = table[steady].copy(), table[steady].copy()
    strong[:, 0] += 6.0 * table[steady, 0].std()
    weak[:, 7] += 6.0 * table[steady, 7].std()
    far = [model.distances(0, "video", rows, phases[0][steady]).mean() for rows in (strong, weak)]
    assert far[0] == pytest.approx(far[1], abs=0.3)


def test_the_error_model_comes_back_or_is_refused(model: ErrorModel) -> None:
    errors, phases = good_errors(2, count=9)
    again = ErrorModel.from_state(model.state(), CONFIG)
    for (number, part), table in errors.items():
        one, other = (m.distances(number, part, table, phases[number]) for m in (model, again))
        np.testing.assert_array_equal(one, other)
    state = model.state()
    del state["errors.3.audio.map"]
    with pytest.raises(DetectorError, match=r"'errors\.3\.audio\.map' has shape None"):
        ErrorModel.from_state(state, CONFIG)


# -- z-scores ------------------------------------------------------------------------------------------------------

Row = tuple[int, int, np.ndarray]
SPREAD = np.geomspace(0.1, 5.0, len(PARTS))


def good_rows(seed: int, count: int = 200) -> list[Row]:
    """Log distances of windows of every pattern and phase, each part with a mean and spread of its own."""
    rng = np.random.default_rng(seed)
    return [
        (number, phase, rng.normal(size=len(PARTS)) * SPREAD + phase * np.arange(len(PARTS)))
        for number in range(len(PROCESS_PATTERNS))
        for phase in range(len(PHASES))
        for _ in range(count)
    ]


def scored(scales: FilmScales, rows: list[Row], number: int, phase: int) -> list[float]:
    return [window_score(scales, d, n, p) for n, p, d in rows if (n, p) == (number, phase)]


@pytest.fixture(scope="module")
def scales() -> FilmScales:
    return replace(FilmScales.unit(1), **fit_windows(good_rows(3)))


def test_scores_of_good_windows_are_z_scores(scales: FilmScales) -> None:
    rows = good_rows(3)
    for number in range(len(PROCESS_PATTERNS)):
        for phase in range(len(PHASES)):
            scores = scored(scales, rows, number, phase)
            assert np.mean(scores) == pytest.approx(0.0, abs=1e-9)
            assert np.std(scores) == pytest.approx(1.0, abs=1e-9)
            groups = [group_scores(scales, d, n, p) for n, p, d in rows if (n, p) == (number, phase)]
            z = standardised(np.array(groups), scales.groups[number, phase])
            np.testing.assert_allclose([z.mean(axis=0), z.std(axis=0)], [[0.0] * 3, [1.0] * 3], atol=1e-9)
    assert np.isnan(window_score(scales, np.full(len(PARTS), np.nan), 0, 0))


def test_groups_without_their_speaker_are_z_scores_too() -> None:
    """The mean of several parts varies less than one of them."""
    rows = [(n, p, np.where(np.isin(PARTS, ["video", "audio"]), d, np.nan)) for n, p, d in good_rows(7)]
    scales = replace(FilmScales.unit(1), **fit_windows(rows))
    z = standardised(np.array([group_scores(scales, d, n, p)[0] for n, p, d in rows]), scales.groups[0, 0, 0])
    assert np.std(z) == pytest.approx(1.0, abs=0.1)
    assert scales.groups[0, 0, 0, 1] == pytest.approx(0.5**0.5, abs=0.1)


def test_a_window_is_the_mean_of_its_groups() -> None:
    """Predicted from others, restored, plain statistics; one part speaks for its group where it is known."""
    unit = FilmScales.unit(1)
    z = dict.fromkeys(PARTS, 0.0) | {"video": 1.0, "audio": 3.0, "sensors": 7.0, STATISTICS: 4.0}
    z |= {"restored_video": 5.0, "restored_audio": 1.0, "restored_sensors": 8.0}
    assert group_scores(unit, np.array([*z.values()]), 0, 0).tolist() == [7.0, 1.0, 4.0]
    assert window_score(unit, np.array([*z.values()]), 0, 0) == pytest.approx(4.0)
    z |= dict.fromkeys(("sensors", "restored_sensors"), np.nan)
    assert group_scores(unit, np.array([*z.values()]), 0, 0).tolist() == [2.0, 1.0, 4.0]
    z |= dict.fromkeys(("audio", "restored_audio"), np.nan)
    assert group_scores(unit, np.array([*z.values()]), 0, 0).tolist() == [1.0, 5.0, 4.0]
    z |= dict.fromkeys(RESTORED, np.nan)
    np.testing.assert_array_equal(group_scores(unit, np.array([*z.values()]), 0, 0), [1.0, np.nan, 4.0])
    assert window_score(unit, np.array([*z.values()]), 0, 0) == pytest.approx(2.5)


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_each_part_can_raise_the_score_where_nothing_else_speaks(scales: FilmScales, part: int) -> None:
    for number, phase, distances in good_rows(5, count=2):
        alone = np.where((np.arange(len(PARTS)) == part) | (np.array(PARTS) == STATISTICS), distances, np.nan)
        odd = alone.copy()
        odd[part] += 30.0 * SPREAD[part]
        assert window_score(scales, odd, number, phase) > window_score(scales, alone, number, phase) + 3.0


def test_a_rare_phase_takes_the_scale_of_all_phases() -> None:
    rows = [row for row in good_rows(3) if row[0] == 0]
    some = [row for row in rows if row[1] == 0] + [row for row in rows if row[1] == 1][: ENOUGH - 1]
    found = fit_windows(some)
    np.testing.assert_allclose(found["distances"][0, 1], usual(np.array([row[2] for row in some])))
    np.testing.assert_array_equal(found["distances"][0, 1], found["distances"][0, 2])
    assert (found["distances"][0, 0] != found["distances"][0, 1]).all()
    # Nothing was there to learn from.
    np.testing.assert_array_equal(found["window"][1:], FilmScales.unit(1).window[1:])


def test_mean_and_sd_of_what_is_known() -> None:
    table = np.array([[1.0, np.nan, 2.0], [3.0, 5.0, 2.0], [np.nan, np.inf, 2.0]])
    np.testing.assert_allclose(usual(table), [[2.0, 1.0], [0.0, 1.0], [2.0, 1e-6]])
    assert mean_of_known(np.array([np.nan, 1.0, 3.0])) == 2.0
    assert np.isnan(mean_of_known(np.array([np.nan])))
    np.testing.assert_allclose(standardised(np.array([4.0, np.nan]), np.array([[2.0, 4.0], [0.0, 1.0]])), [0.5, np.nan])


def test_one_large_part_counts_alone_and_several_add_up() -> None:
    assert combined(np.array([4.0, 0.0, 0.0])) > combined(np.array([1.5, 1.5, 0.0]))
    assert (
        combined(np.array([2.0, 2.0, 2.0])) > combined(np.array([2.0, 2.0, 0.0])) > combined(np.array([2.0, 0.0, 0.0]))
    )
    assert np.isfinite(combined(np.array([60.0, -60.0, 0.0])))


# -- the checkpoint ------------------------------------------------------------------------------------------------


def test_unit_scales_change_nothing() -> None:
    unit = FilmScales.unit(12)
    for item in fields(FilmScales):
        array = getattr(unit, item.name)
        if item.name == "gain":
            assert array.shape == (len(PROCESS_PATTERNS), 1)
            assert not array.any()  # the network corrects nothing yet
        else:
            values = np.arange(array.size // 2, dtype=np.float64).reshape(array.shape[:-1])
            np.testing.assert_array_equal(standardised(values, array), values)
    assert unit.tokens.shape == (len(PROCESS_PATTERNS), 12, 2)
    assert unit.photo_parts.shape == (len(PHOTO_PARTS), 2)
    unit.gain[0] = 1.0  # each has arrays of its own
    unit.distances[0] = 7.0
    assert not FilmScales.unit(12).gain.any()


def test_the_scales_come_back_or_are_refused() -> None:
    rng = np.random.default_rng(6)
    unit = FilmScales.unit(12)
    filled = FilmScales(**{f.name: rng.normal(size=getattr(unit, f.name).shape) for f in fields(FilmScales)})
    again = FilmScales.from_state(filled.state(), 12)
    for item in fields(FilmScales):
        np.testing.assert_array_equal(getattr(again, item.name), getattr(filled, item.name))
    for name, array in filled.state().items():
        for odd in (None, array[..., :0]):
            state = {key: value for key, value in filled.state().items() if key != name}
            state |= {} if odd is None else {name: odd}
            with pytest.raises(DetectorError, match=rf"'{name}' has shape .*, wanted .*; train it again") as caught:
                FilmScales.from_state(state, 12)
            assert "\n" not in str(caught.value)
    with pytest.raises(DetectorError, match=r"'scale\.tokens' has shape \(7, 12, 2\), wanted \(7, 13, 2\)"):
        FilmScales.from_state(filled.state(), 13)
