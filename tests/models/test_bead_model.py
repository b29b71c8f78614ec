"""The bead that settings lead to: power laws are found, and a bead of other settings stands out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from models.bead_model import KINDS, Bead, BeadModel, arc_seconds, kind_of
from models.detector_contract import PROCESS, PROCESS_PATTERNS, DetectorError, Pattern
from models.result_tokens import ResultTokensConfig
from models.statistics import NAMES, PARTS, WIDTH
from tests.models.welds import SPEC

CONFIG = ResultTokensConfig(widths=(4,), words=4, bands=1, width=6, directions=2)
KEPT = np.arange(CONFIG.width) < np.array(CONFIG.kept)[:, None]
CURRENT = PARTS["sensors"].start + NAMES["sensors"].index("current_a.level")
VOLTAGE = PARTS["sensors"].start + NAMES["sensors"].index("voltage_v.level")
_RNG = np.random.default_rng(12)
POWERS = _RNG.normal(size=(3, int(KEPT.sum())))
"""Exponents of current, voltage and time in the power laws of the tokens."""
LOOKS = {m: _RNG.normal(size=(2, len(NAMES[m]))) for m in ("video", "audio")}
"""How picture and sound follow from current and voltage."""


def bead(seed: int, *, session: str = "", windows: int = 10, off: npt.NDArray[np.float64] | float = 0.0) -> Bead:
    """A good weld with settings of its own; its tokens are powers of them, and a little noise.

    Args:
        off: Added to the settings, in standard deviations.
    """
    rng = np.random.default_rng(seed)
    setting = rng.uniform(-1.7, 1.7, 3) + off
    current, voltage, time = np.exp(np.log([170.0, 24.0, 12.0]) + np.array([0.15, 0.06, 0.2]) * setting)
    statistics = rng.normal(size=(windows, WIDTH))
    for m, looks in LOOKS.items():
        statistics[:, PARTS[m]] = setting[:2] @ looks + 0.3 * rng.normal(size=(windows, len(NAMES[m])))
    statistics[:, CURRENT] = current + rng.normal(0.0, 2.0, windows)
    statistics[:, VOLTAGE] = voltage + rng.normal(0.0, 0.1, windows)
    result = np.zeros(KEPT.shape, dtype=np.float32)
    geometry = np.exp(0.15 * setting @ POWERS)
    result[KEPT] = (geometry - 1.0) / 0.2 + rng.normal(0.0, 0.3, POWERS.shape[1])
    return Bead(session=session or f"s{seed % 12}", statistics=statistics, arc_s=float(time), result=result)


@pytest.fixture(scope="module")
def model() -> BeadModel:
    return BeadModel.fit([bead(seed) for seed in range(240)], CONFIG)


@pytest.fixture(scope="module")
def unseen() -> list[Bead]:
    return [bead(seed) for seed in range(1000, 1060)]


def left_of(model: BeadModel, weld: Bead, used: Pattern) -> npt.NDArray[np.float32]:
    return weld.result - model.predict(weld.statistics, weld.arc_s, used)


def relation(model: BeadModel, weld: Bead, used: Pattern) -> float:
    return model.distance_left(left_of(model, weld, used), used) - model.distance(weld.result)


@pytest.mark.parametrize(
    ("used", "share"), [(("sensors",), 0.85), (PROCESS, 0.85), (("video",), 0.8), (("audio",), 0.8)]
)
def test_a_bead_that_follows_power_laws_is_predicted(
    model: BeadModel, unseen: list[Bead], used: Pattern, share: float
) -> None:
    wanted = np.array([weld.result[KEPT] for weld in unseen])
    left = np.array([left_of(model, weld, used)[KEPT] for weld in unseen])
    explained = 1.0 - np.square(left).sum(axis=0) / np.square(wanted - wanted.mean(axis=0)).sum(axis=0)
    assert np.median(explained) > share
    assert model.predict(unseen[0].statistics, unseen[0].arc_s, used).dtype == np.float32


@pytest.mark.parametrize("used", PROCESS_PATTERNS)
def test_a_bead_of_other_settings_stands_out(model: BeadModel, unseen: list[Bead], used: Pattern) -> None:
    swapped = [replace(weld, result=other.result) for weld, other in zip(unseen, unseen[1:] + unseen[:1], strict=True)]
    right, wrong = ([relation(model, weld, used) for weld in welds] for welds in (unseen, swapped))
    larger = np.greater.outer(wrong, right).mean()
    assert larger > 0.9
    # By itself each of these beads is a good one: the very same ones, dealt to other welds.
    assert sorted(model.distance(weld.result) for weld in swapped) == sorted(
        model.distance(weld.result) for weld in unseen
    )


def test_a_bead_that_is_odd_by_itself_is_far_in_both(model: BeadModel, unseen: list[Bead]) -> None:
    rng = np.random.default_rng(0)
    odd = [replace(weld, result=weld.result + np.where(KEPT, rng.normal(0, 20, KEPT.shape), 0)) for weld in unseen]
    for usual, other in zip(unseen, odd, strict=True):
        assert model.distance(other.result) > model.distance(usual.result) + 1.0
    far = [model.distance_left(left_of(model, weld, PROCESS), PROCESS) for weld in odd]
    assert min(far) > max(model.distance_left(left_of(model, weld, PROCESS), PROCESS) for weld in unseen)


# -- what is not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf, 1e9])
@pytest.mark.parametrize("used", PROCESS_PATTERNS)
def test_modalities_that_are_not_used_never_count(model: BeadModel, used: Pattern, fill: float) -> None:
    weld = bead(1000)
    filled = weld.statistics.copy()
    for m in set(PROCESS) - set(used):
        filled[:, PARTS[m]] = fill
    found = model.predict(filled, weld.arc_s, used)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, model.predict(weld.statistics, weld.arc_s, used))


@pytest.mark.parametrize(
    ("used", "kind"),
    [
        (("sensors",), "sensors"),
        (("video", "sensors"), "sensors"),
        (PROCESS, "sensors"),
        (("audio",), "audio"),
        (("video",), "video"),
        (("video", "audio"), "video+audio"),
    ],
)
def test_sensors_hold_the_settings(used: Pattern, kind: str) -> None:
    assert kind_of(used) == kind
    assert kind in KINDS


@pytest.mark.parametrize("used", PROCESS_PATTERNS)
@pytest.mark.parametrize("windows", [0, 1, 2, 3])
def test_few_windows_are_enough(model: BeadModel, used: Pattern, windows: int) -> None:
    weld = bead(1001, windows=10)
    found = model.predict(weld.statistics[:windows], weld.arc_s, used)
    assert found.shape == KEPT.shape
    assert np.isfinite(found).all()
    assert not found[~KEPT].any()
    if windows:
        whole = model.predict(weld.statistics, weld.arc_s, used)
        assert np.abs(found - whole).mean() < 0.5


def test_a_value_that_was_never_measured_says_nothing(model: BeadModel) -> None:
    weld = bead(1002, off=np.array([2.5, 0.0, 0.0]))
    usual = model.predict(weld.statistics, weld.arc_s, ("sensors",))
    statistics = weld.statistics.copy()
    statistics[:, CURRENT] = np.nan
    without = model.predict(statistics, weld.arc_s, ("sensors",))
    assert np.isfinite(without).all()
    assert np.abs(without - usual).max() > 0.5
    # Its place is taken by the mean of good welds, whatever the current was.
    np.testing.assert_array_equal(
        model.predict(np.where(np.arange(WIDTH) == VOLTAGE, statistics, np.nan), weld.arc_s, ("sensors",)), without
    )
    # A single window that has it is enough, and one that has not does not count.
    statistics[4, CURRENT] = weld.statistics[:, CURRENT].mean()
    np.testing.assert_allclose(model.predict(statistics, weld.arc_s, ("sensors",)), usual, atol=0.2)


def test_the_ends_of_a_weld_are_left_out_where_it_is_long_enough(model: BeadModel) -> None:
    weld = bead(1003)
    for used in PROCESS_PATTERNS:
        ends = weld.statistics.copy()
        ends[[0, 1, -2, -1]] = 1e3
        usual = model.predict(weld.statistics, weld.arc_s, used)
        np.testing.assert_array_equal(model.predict(ends, weld.arc_s, used), usual)
        short = ends[:4]
        assert (model.predict(short, weld.arc_s, used) != model.predict(weld.statistics[:4], weld.arc_s, used)).any()


@pytest.mark.parametrize("used", PROCESS_PATTERNS)
def test_it_does_not_predict_beyond_what_good_welds_ever_were(model: BeadModel, used: Pattern) -> None:
    def at(value: float) -> npt.NDArray[np.float32]:
        return model.predict(np.full((8, WIDTH), value), 1e3 * value, used)

    assert np.abs(at(1e6)).max() < 60.0
    np.testing.assert_array_equal(at(1e6), at(1e9))


def test_a_modality_that_no_weld_has_leaves_the_others(unseen: list[Bead]) -> None:
    beads = [bead(seed) for seed in range(40)]
    for weld in beads:
        weld.statistics[:, PARTS["audio"]] = np.nan
    model = BeadModel.fit(beads, CONFIG)
    found = [model.predict(unseen[0].statistics, unseen[0].arc_s, used) for used in PROCESS_PATTERNS]
    assert np.isfinite(found).all()


def test_how_long_an_arc_burned() -> None:
    assert arc_seconds(np.array([], dtype=np.int64), SPEC) == 0.0
    assert arc_seconds(np.array([0]), SPEC) == SPEC.window_s
    assert arc_seconds(np.array([5, 7, 2]), SPEC) == 7 * SPEC.hop_s + SPEC.window_s


# -- the fit -------------------------------------------------------------------------------------------------------


def of_sessions(seed: int, count: int, sessions: Sequence[str]) -> list[Bead]:
    """Welds of sessions that have one setting each, and whose photos are taken in another light each."""
    rng = np.random.default_rng(seed)
    found = []
    for session in sessions:
        weld, light = bead(int(rng.integers(10**6))), np.zeros(KEPT.shape)
        light[KEPT] = 2.0 * rng.normal(size=2) @ POWERS[:2, ::-1]
        for _ in range(count):
            noise = np.where(KEPT, rng.normal(0, 0.3, KEPT.shape), 0)
            found.append(replace(weld, session=session, result=(weld.result + light + noise).astype(np.float32)))
    return found


def test_what_is_left_is_measured_on_sessions_that_were_not_fitted_on() -> None:
    beads = of_sessions(0, 12, [f"s{i}" for i in range(15)])
    model = BeadModel.fit(beads, CONFIG)
    fresh = of_sessions(1, 2, [f"t{i}" for i in range(15)])
    # Folds of single welds have seen the light of every session.
    dealt = BeadModel.fit([replace(weld, session=f"d{i % 5}") for i, weld in enumerate(beads)], CONFIG)
    for used in (("sensors",), ("video",)):
        typical, blind = (
            np.median([m.distance_left(left_of(m, weld, used), used) for weld in fresh]) for m in (model, dealt)
        )
        assert abs(typical) < 1.0  # the logarithm of about one
        assert blind > typical + 0.5


def test_one_session_is_dealt_weld_by_weld(unseen: list[Bead]) -> None:
    several, one = (BeadModel.fit([bead(seed, session=s) for seed in range(40)], CONFIG) for s in ("", "s0"))
    for used in PROCESS_PATTERNS:
        left = left_of(one, unseen[0], used)
        np.testing.assert_array_equal(left, left_of(several, unseen[0], used))
        assert one.distance_left(left, used) == pytest.approx(several.distance_left(left, used), abs=0.5)


def test_too_few_beads_are_refused() -> None:
    for count in (0, 1, 9):
        with pytest.raises(
            DetectorError, match=rf"^{count} good training welds have both photos and windows; at least 10"
        ):
            BeadModel.fit([bead(seed) for seed in range(count)], CONFIG)


def test_the_state_brings_it_back_to_the_last_bit(model: BeadModel, unseen: list[Bead]) -> None:
    state = model.state()
    assert all(array.dtype == np.float32 for array in state.values())
    again = BeadModel(state, CONFIG)
    assert again.state().keys() == state.keys()
    for used in PROCESS_PATTERNS:
        left = left_of(model, unseen[0], used)
        np.testing.assert_array_equal(left_of(again, unseen[0], used), left)
        assert again.distance_left(left, used) == model.distance_left(left, used)
    assert again.distance(unseen[0].result) == model.distance(unseen[0].result)


def test_an_odd_state_is_refused(model: BeadModel) -> None:
    arrays = model.state()
    assert all(name.startswith("bead.") for name in arrays)
    assert len(arrays) == 2 + 4 + 5 * len(KINDS)
    for name, array in arrays.items():
        for odd in (None, array[:-1], array[None]):
            other = {key: value for key, value in arrays.items() if key != name} | ({} if odd is None else {name: odd})
            with pytest.raises(DetectorError, match=r"' has shape .*, wanted .*; train it again") as caught:
                BeadModel(other, CONFIG)
            assert f"'{name}'" in str(caught.value)
            assert "\n" not in str(caught.value)
    with pytest.raises(DetectorError, match=r"'bead\.marginal\.mean' has shape \(36,\), wanted \(40,\)"):
        BeadModel(arrays, replace(CONFIG, bands=2))
