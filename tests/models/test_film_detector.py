"""Causal-FiLM as a detector: one window looks the same live and in replay, and what is not there says nothing."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import xxhash
from safetensors.numpy import load, save

from acquisition.packet import MODALITIES, Event
from models.checkpoint import ARRAYS, DESCRIPTION, Checkpoint, description_digest, load_checkpoint, save_checkpoint
from models.detector_contract import (
    PATTERNS,
    PHASES,
    PHOTOS,
    PROCESS,
    PROCESS_PATTERNS,
    DetectorError,
    Encoded,
    mask_to,
    running_maximum,
)
from models.evaluation import evaluate, noise_window
from models.film_detector import RESIDUALS, TOKENS, FilmDetector, look, token_names
from models.film_fitting import fill_weld_scales
from models.film_scores import STATISTICS, FilmScales
from models.judge import WeldJudge
from models.statistics import PARTS, EncodedWeld
from models.training import CACHE, calibrate, train
from models.weld_features import encoded_by, found_welds, windows_of
from recordings.verdict import Score, Verdict
from tests.models.films import good_welds, in_this_process, open_gate, tiny_file
from tests.models.welds import CELL, INFOS, REQUIRED, SPEC, fitted, weld_packets, write_weld

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def no_helpers() -> Iterator[None]:
    with in_this_process():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained run."""
    folder = tmp_path_factory.mktemp("film")
    data = good_welds(folder / "data")
    with open_gate():
        train("causal-film", data, folder / "run", config=tiny_file(folder))
    return folder / "run"


@pytest.fixture(scope="module")
def loaded(run: Path) -> Checkpoint:
    return load_checkpoint(run, SPEC)


def film_of(checkpoint: Checkpoint) -> FilmDetector:
    assert isinstance(checkpoint.detector, FilmDetector)
    return checkpoint.detector


def with_scales(found: FilmDetector, scales: FilmScales) -> FilmDetector:
    return FilmDetector(
        found.spec,
        found.inputs,
        found.film,
        errors=found.errors,
        plain=found.plain,
        bead=found.bead,
        scales=scales,
    )


def said(checkpoint: Checkpoint, seed: int = 900) -> list[Score | Verdict]:
    """Judge one weld, packet by packet."""
    judge: WeldJudge | None = None
    before = []
    found: list[Score | Verdict] = []
    for packet in weld_packets(seed):
        before.append(packet)
        event = packet.payload
        if judge is not None:
            found += judge.push(packet)
        elif isinstance(event, Event) and event.kind == "weld_open":
            judge = WeldJudge(checkpoint, event, INFOS, required=REQUIRED, cell=CELL, alpha=0.2)
            for early in before:
                found += judge.push(early)
    return found


def test_it_judges_the_same_weld_the_same_way_to_the_last_bit(run: Path, loaded: Checkpoint) -> None:
    first = said(loaded)
    torch.manual_seed(5)
    again = said(load_checkpoint(run))
    assert first == again
    scores = [item.score for item in first if isinstance(item, Score)]
    assert len(scores) > 3
    assert np.isfinite(scores).all()
    last = first[-1]
    assert isinstance(last, Verdict)
    assert last.stage == "consistency"
    assert last.score is not None
    assert set(last.contributions) == set(MODALITIES)


def test_loading_gives_one_thread(run: Path) -> None:
    torch.set_num_threads(2)
    load_checkpoint(run)
    assert torch.get_num_threads() == 1


def test_the_floor_does_not_load_torch() -> None:
    modules = ", ".join(f"models.{name}" for name in ("detector", "judge", "training", "evaluation", "replaying"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_presence_pattern_is_finite_and_calibrated(loaded: Checkpoint) -> None:
    window = noise_window(SPEC)
    detector = loaded.detector
    photos = detector.encode_photos(window)
    for pattern in PATTERNS:
        assert np.isfinite(detector.weld_score([detector.encode_window(window)], photos, pattern))
        assert np.isfinite(loaded.calibrations[CELL].of(pattern)).all()
        assert loaded.calibrations[CELL].of(pattern).size == 8


@pytest.mark.parametrize("pattern", PROCESS_PATTERNS)
def test_what_is_not_there_says_nothing(loaded: Checkpoint, pattern: tuple[str, ...]) -> None:
    detector = film_of(loaded)
    masked = mask_to(noise_window(SPEC), pattern)
    other = noise_window(SPEC, seed=1)
    filled = replace(masked, **{m: getattr(other, m) for m in PROCESS if m not in pattern})
    if "sensors" not in pattern:
        filled.sensors[:] = np.nan
    whole = detector.encode_window(noise_window(SPEC))
    a, b = (detector.encode_window(w) for w in (masked, filled))
    assert a.present == b.present == pattern
    assert a.values.keys() == b.values.keys()
    for name, values in a.values.items():
        np.testing.assert_array_equal(b.values[name], values)
    assert detector.window_score(a, PROCESS) == detector.window_score(b, PROCESS)
    # The same window with everything, judged by this pattern only: other batches, so not to the last bit.
    phases = {m: whole.phases[m] for m in pattern}
    assert phases == a.phases
    assert detector.window_score(whole, pattern) == pytest.approx(detector.window_score(a, pattern), abs=1e-3)
    number = PROCESS_PATTERNS.index(pattern)
    for name in (RESIDUALS, TOKENS):
        np.testing.assert_allclose(whole.values[name][number], a.values[name][number], atol=1e-3)
    # And the same with photos, whose relation to the process is judged too.
    photos = detector.encode_photos(noise_window(SPEC))
    assert photos is not None
    for wanted in ((*pattern, PHOTOS), MODALITIES):
        scores = [detector.weld_score([window] * 4, photos, wanted) for window in (a, b)]
        assert np.isfinite(scores).all()
        assert scores[0] == scores[1]
        assert detector.disagreement([a], photos, wanted) == detector.disagreement([b], photos, wanted)
    scores = [detector.weld_score([window] * 4, photos, (*pattern, PHOTOS)) for window in (whole, a)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-2)


def test_a_phase_is_what_the_modalities_of_a_set_see(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    windows = detector.inputs.windows([noise_window(SPEC, index=i, seed=i) for i in range(6)])
    windows["phases"] = np.array([[0, 1, 2], [1, 0, 1], [1, 1, 2], [1, 1, 1], [0, -1, 1], [-1, 2, -1]])
    looked = look(detector.film, windows)
    seen = []
    for row, number, phase in zip(looked.rows, looked.patterns, looked.phases, strict=True):
        phases = {m: PHASES[p] for m, p in zip(PROCESS, windows["phases"][row], strict=True) if p >= 0}
        window = Encoded(index=row, present=tuple(phases), values={}, phases=phases)
        assert set(PROCESS_PATTERNS[number]) <= set(phases)
        assert PHASES[phase] == window.phase(PROCESS_PATTERNS[number])
        seen.append((row, number))
    assert len(set(seen)) == len(seen) == 4 * 7 + 3 + 1


def test_an_encoding_of_another_modality_never_reaches_a_score(loaded: Checkpoint) -> None:
    """Whatever is kept of a window beside its patterns, a score takes only what belongs to its own."""
    found = film_of(loaded)
    detector = with_scales(found, replace(found.scales, gain=np.ones_like(found.scales.gain)))
    window = detector.encode_window(noise_window(SPEC))
    photos = detector.encode_photos(noise_window(SPEC))
    assert photos is not None
    for number, pattern in enumerate(PROCESS_PATTERNS):
        values = {name: array.copy() for name, array in window.values.items()}
        for name in (RESIDUALS, TOKENS):
            values[name][np.arange(len(PROCESS_PATTERNS)) != number] = np.nan
        for m in set(PROCESS) - set(pattern):
            values[STATISTICS][PARTS[m]] = np.nan
        hidden = replace(window, values=values)
        for wanted in (pattern, (*pattern, PHOTOS)):
            score = detector.weld_score([window] * 3, photos, wanted)
            assert np.isfinite(score)
            assert detector.weld_score([hidden] * 3, photos, wanted) == score


def test_photos_that_are_not_there_say_nothing(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    sample, other = noise_window(SPEC), noise_window(SPEC, seed=1)
    one = replace(sample, post_images_mask=np.array([True, False]))
    filled = replace(one, post_images=np.stack([sample.post_images[0], other.post_images[1]]))
    turned = replace(one, post_images=sample.post_images[::-1].copy(), post_images_mask=np.array([False, True]))
    a, b, c, both = (detector.encode_photos(w) for w in (one, filled, turned, sample))
    assert a is not None
    assert b is not None
    assert c is not None
    assert both is not None
    for name, values in a.values.items():
        np.testing.assert_array_equal(b.values[name], values)
        np.testing.assert_allclose(c.values[name], values, atol=1e-3)
    assert not np.allclose(both.values[PHOTOS], a.values[PHOTOS], atol=1e-2)
    backwards = detector.encode_photos(replace(sample, post_images=sample.post_images[::-1].copy()))
    assert backwards is not None
    np.testing.assert_allclose(backwards.values[PHOTOS], both.values[PHOTOS], atol=1e-3)
    assert detector.encode_photos(replace(sample, post_images_mask=np.zeros(2, dtype=np.bool_))) is None


def test_photos_alone_are_judged_where_no_window_can_be(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    photos = detector.encode_photos(noise_window(SPEC))
    assert photos is not None
    silent = detector.encode_window(mask_to(noise_window(SPEC), ("audio",)))
    for windows in ([], [silent]):
        assert detector.weld_score(windows, photos, ("video", PHOTOS)) == detector.photo_score(photos)
        assert detector.disagreement(windows, photos, ("video", PHOTOS)) == {}
        assert np.isnan(detector.weld_score(windows, None, ("video", PHOTOS)))
    # A modality that was lost half-way is judged, and predicted from, as far as it goes.
    mixed = [silent, detector.encode_window(noise_window(SPEC)), silent]
    for pattern in PATTERNS:
        assert np.isfinite(detector.weld_score(mixed, photos, pattern))


def test_a_detector_without_photos_judges_the_process(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    state = {name: array for name, array in detector.state().items() if not name.startswith(("result.", "bead."))}
    blind = FilmDetector.from_state(SPEC, detector.configuration() | {"result": None}, state)
    assert blind.state().keys() == state.keys()
    window = noise_window(SPEC)
    assert blind.encode_photos(window) is None
    windows = [detector.encode_window(window)] * 4
    assert blind.consistency_score([window] * 4, window) == running_maximum(
        [detector.window_score(w, PROCESS) for w in windows]
    )


@pytest.mark.parametrize(("share", "gain"), [(0.5, 0.5), (-2.0, 0.0), (3.0, 1.0)])
def test_the_network_is_believed_as_far_as_it_is_right(loaded: Checkpoint, share: float, gain: float) -> None:
    """The gain is the share of its correction that good welds confirm which it never saw; from none to all of it."""
    found = film_of(loaded)
    scales = FilmScales.unit(found.film.config.result_tokens)
    detector = with_scales(found, scales)
    photos = detector.encode_photos(noise_window(SPEC))
    assert photos is not None
    number = PROCESS_PATTERNS.index(PROCESS)
    welds, results = [], []
    for seed in range(4):
        windows = [detector.encode_window(noise_window(SPEC, index=i, seed=10 * seed + i)) for i in range(3)]
        result = detector.predicted_result(windows, PROCESS) + share * detector.correction(windows, PROCESS)
        made = Encoded(index=-1, present=(PHOTOS,), values=photos.values | {PHOTOS: result})
        welds.append(EncodedWeld(key=f"w{seed}", session="s", label=0, windows=windows, photos=made))
        results.append(result)
    fill_weld_scales(detector, welds)
    assert scales.gain[number, 0] == pytest.approx(gain, abs=1e-3)
    # What is right about it is then predicted.
    for weld, result in zip(welds, results, strict=True):
        left = float(np.abs(result - detector.predicted_result(weld.windows, PROCESS)).max())
        correction = float(np.abs(detector.correction(weld.windows, PROCESS)).max())
        assert correction > 0.0
        assert left == pytest.approx(abs(share - gain) * correction, abs=1e-3 * correction)


def test_recorded_welds_score_as_single_windows_do(run: Path, loaded: Checkpoint, tmp_path: Path) -> None:
    write_weld(tmp_path / "data" / "w", weld_packets(901, key="w"), session="x")
    found = found_welds(tmp_path / "data")
    detector = film_of(loaded)
    lines: list[str] = []
    cached = [encoded_by(detector, found, tmp_path / CACHE, lines.append)[0] for _ in range(2)]
    assert len(lines) == 1
    _, windows, photos = windows_of(found[0].folder, SPEC)
    single = [detector.encode_window(w) for w in windows]
    bead = detector.encode_photos(photos)
    for pattern in PATTERNS:
        scores = [detector.weld_score(weld.windows, weld.photos, pattern) for weld in cached]
        assert scores[0] == scores[1]
        # Other batches, so not to the last bit; scales of a dozen welds that are all alike magnify that.
        assert scores[0] == pytest.approx(detector.weld_score(single, bead, pattern), abs=1e-2)


def test_it_tells_which_result_tokens_disagree(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    window = noise_window(SPEC)
    photos = detector.encode_photos(window)
    assert photos is not None
    found = detector.disagreement([detector.encode_window(window)], photos, MODALITIES)
    values = list(found.values())
    assert len(values) == detector.film.config.result_tokens
    assert values == sorted(values, reverse=True)
    assert detector.inputs.result is not None
    assert set(found) == set(token_names(detector.inputs.result.config))
    assert detector.disagreement([], photos, MODALITIES) == {}


def test_tokens_have_names(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    assert detector.inputs.result is not None
    config = detector.inputs.result.config
    for changed in (config, replace(config, bands=3), replace(config, widths=(8, 8)), replace(config, bands=1)):
        names = token_names(changed)
        assert len(set(names)) == len(names) == changed.tokens


def test_calibrate_and_evaluate_take_it(run: Path, tmp_path: Path) -> None:
    for seed in range(12):
        bad = seed % 2 == 1
        packets = weld_packets(600 + seed, key=f"t{seed:02d}", arc_s=3.0, fault=3.0 * bad, photo_fault=60.0 * bad)
        write_weld(tmp_path / "test" / f"t{seed:02d}", packets, session=f"x{seed // 4}", label=9 if bad else 0)
    for seed in range(2):
        packets = weld_packets(700 + seed, key=f"o{seed}", arc_s=3.0)
        write_weld(tmp_path / "other" / f"o{seed}", packets, session="other", cell="other")
    save_checkpoint(tmp_path / "floor", fitted(12, 12))
    (tmp_path / "run").mkdir()
    own = copied(run, tmp_path / "run")
    found = evaluate(own, tmp_path / "test", floor=tmp_path / "floor")
    floor = [row for row in found["rows"] if row["model"] == "statistics"]
    assert [row["modalities"] for row in floor] == [row["modalities"] for row in found["rows"][: len(floor)]]
    assert found["protocol"]["floor"].startswith("statistics")
    rows = {tuple(row["modalities"]): row for row in found["rows"] if row["model"] == "causal-film"}
    assert set(rows) == {MODALITIES, PROCESS, *((m,) for m in MODALITIES)}
    assert rows[PROCESS]["auroc"] > 0.9
    assert rows[PROCESS]["train_s"] > 0
    calibrate(own, tmp_path / "other")
    assert set(load_checkpoint(own).calibrations) == {CELL, "other"}


# -- the checkpoint ------------------------------------------------------------------------------------------------


def copied(run: Path, folder: Path) -> Path:
    for name in (ARRAYS, DESCRIPTION):
        (folder / name).write_bytes((run / name).read_bytes())
    return folder


def test_a_tampered_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    copied(run, tmp_path)
    data = bytearray((tmp_path / ARRAYS).read_bytes())
    data[-5] ^= 1
    (tmp_path / ARRAYS).write_bytes(data)
    with pytest.raises(DetectorError, match="does not belong"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"film": {"width": 64}}, "this version wants"),
        ({"film": {"width": "wide"}}, "configuration of 'film'"),
        ({"film": {"heads": 3}}, "configuration of 'film'"),
        ({"encoders": {"width": 32}}, "this version wants"),
    ],
)
def test_another_width_is_refused(run: Path, tmp_path: Path, change: dict[str, dict[str, object]], what: str) -> None:
    copied(run, tmp_path)
    description = msgspec.json.decode((tmp_path / DESCRIPTION).read_bytes())
    for part, values in change.items():
        description["configuration"][part] |= values
    description["digest"] = description_digest(description)
    (tmp_path / DESCRIPTION).write_bytes(msgspec.json.encode(description))
    with pytest.raises(DetectorError, match=what) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("film.sensors_mean", "no array 'film.sensors_mean'"),
        ("result.map_0", "no array 'result.map_0'"),
        ("encoders.video_encoder.", "no array 'encoders.video_encoder."),
        ("sensors.sd", "'sensors.sd' is missing"),
        ("errors.0.video.map", "'errors.0.video.map' has shape None"),
        ("plain.covariance", "'plain.covariance' has shape None"),
        ("bead.audio.ridge", "'bead.audio.ridge' has shape None"),
        ("bead.", "'bead.marginal.mean' has shape None"),
        ("scale.gain", "'scale.gain' has shape None"),
    ],
)
def test_a_missing_array_is_refused(run: Path, tmp_path: Path, name: str, what: str) -> None:
    copied(run, tmp_path)
    arrays = load((tmp_path / ARRAYS).read_bytes())
    left = {key: array for key, array in arrays.items() if not key.startswith(name)}
    assert len(left) < len(arrays)
    data = save(left)
    (tmp_path / ARRAYS).write_bytes(data)
    description = msgspec.json.decode((tmp_path / DESCRIPTION).read_bytes())
    description["arrays_digest"] = xxhash.xxh3_128_hexdigest(data)
    description["digest"] = description_digest(description)
    (tmp_path / DESCRIPTION).write_bytes(msgspec.json.encode(description))
    with pytest.raises(DetectorError, match=re.escape(what)) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_state_brings_everything_back(loaded: Checkpoint) -> None:
    detector = film_of(loaded)
    again = FilmDetector.from_state(SPEC, detector.configuration(), detector.state())
    state = again.state()
    assert state.keys() == detector.state().keys()
    for name, array in detector.state().items():
        np.testing.assert_array_equal(state[name], array)
    window = noise_window(SPEC)
    assert again.consistency_score([window], window) == detector.consistency_score([window], window)
