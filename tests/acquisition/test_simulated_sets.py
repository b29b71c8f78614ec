"""Test-only sets and recipe pools: what is swapped or silent, what stays good, and that ordinary welds never change."""

import hashlib
import io
import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from acquisition.simulated.causes import CLASS_LABELS
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.recipes import BANDS, JOINTS, PLATES_MM, RecipePool, current_range_a, pool_of, recipe_name
from acquisition.simulated.session import draw_recipe
from acquisition.simulated.sets import SET_CLASSES, SWAP_MARGIN, TestSet, implied_widths_mm
from acquisition.simulated.weld import SimulatedWeld, simulated_weld
from recordings.cell import load_cell
from recordings.simulate import SimulationError, plan, write_weld
from recordings.weld_folder import load_manifest

SMALL = SimulationConfig(height=75, width=120, photo_height=150, photo_width=200, arc_s=6.0)
# Coarse process, for those who look at many photos.
PHOTOS = replace(SMALL, fps=1.0, audio_rate_hz=1000, block_s=1.0, photo_height=300, photo_width=400)
SESSIONS = range(100, 140)


@cache
def weld(session: int, name: TestSet = "", weld_class: str = "good", config: SimulationConfig = SMALL) -> SimulatedWeld:
    return simulated_weld(
        replace(config, session=session), weld_class=weld_class, seed=session, start_ns=10**12, set=name
    )


def process_digest(made: SimulatedWeld) -> str:
    """Hash all that camera, microphone and sensors deliver, with its times."""
    digest = hashlib.sha256()
    for packet in made.packets():
        if packet.stream == "photos":
            continue
        digest.update(repr((packet.stream, packet.seq, packet.t_arrival_ns, packet.t_device_ns)).encode())
        payload: Any = packet.payload
        for name in ("pixels", "samples", "values"):
            if hasattr(payload, name):
                digest.update(np.ascontiguousarray(getattr(payload, name)).tobytes())
    return digest.hexdigest()


def photos(made: SimulatedWeld) -> list[bytes]:
    return [made.take.photo(view).data for view in range(5)]


def gray(made: SimulatedWeld, view: int = 0) -> np.ndarray:
    with Image.open(io.BytesIO(made.take.photo(view).data)) as photo:
        return np.asarray(photo.convert("L"), np.float64)


def photo_statistics(made: SimulatedWeld) -> list[float]:
    """Level, contrast, dark and bright share, fine texture: what a look at photos alone could go by."""
    pixels = gray(made)
    middle = np.median(pixels[pixels > 25])
    texture = np.abs(np.diff(pixels, axis=1)).mean() / middle
    return [pixels.mean(), pixels.std(), (pixels < 25).mean(), (pixels > 2 * middle).mean(), texture]


# -- ordinary welds ------------------------------------------------------------------------------------------------


def test_ordinary_welds_are_those_of_before_sets_existed():
    made = simulated_weld(replace(SMALL, session=1), seed=1, start_ns=10**12)
    packets: list[Any] = list(made.device_packets("sensors"))
    rows = np.concatenate([p.payload.values for p in packets])  # rounded: equal on any machine
    assert (
        hashlib.sha256(rows.tobytes()).hexdigest() == "8d9cec483a2b917c8317bfceae6d2cee7627d8d5093c3c74c571e84eec65fadf"
    )
    levels = [float(gray(made, view).mean()) for view in range(5)]
    assert levels == pytest.approx([43.731, 43.568, 41.025, 36.469, 69.136], abs=0.02)
    assert made.truth["set"] == ""
    assert made.truth["photos_show"] is None
    drawn = [draw_recipe(SimulationConfig(session=s)).current_a for s in range(1, 6)]
    assert drawn == [246.3120973423908, 216.02739447539713, 285.9708815911183, 190.48125494182023, 156.13461954734476]


# -- recipe pools --------------------------------------------------------------------------------------------------


def test_pools_share_no_recipe_and_each_covers_plates_joints_and_bands():
    drawn = {
        pool: [draw_recipe(SimulationConfig(session=s, recipe_pool=pool)) for s in range(150)]
        for pool in ("all", "train", "test")
    }
    names = {pool: {r.name for r in recipes} for pool, recipes in drawn.items()}
    assert not names["train"] & names["test"]
    assert names["train"] | names["test"] == names["all"]
    assert len(names["all"]) == len(PLATES_MM) * len(JOINTS) * len(BANDS)
    assert (len(names["train"]), len(names["test"])) == (10, 8)
    for pool in ("train", "test"):
        for plate in PLATES_MM:
            assert {r.joint for r in drawn[pool] if r.plate_mm == plate} == set(JOINTS)
        assert {name.split("-")[2] for name in names[pool]} == set(BANDS)


def test_a_pool_keeps_the_sessions_whose_recipe_it_holds():
    for session in range(30):
        free = draw_recipe(SimulationConfig(session=session))
        assert draw_recipe(SimulationConfig(session=session, recipe_pool=pool_of(free.name))) == free


def test_a_weld_keeps_its_session_s_recipe_name_at_the_edge_of_a_band():
    low, high = current_range_a(7.0)
    edge = low + (high - low) / 3
    config = replace(SMALL, plate_mm=7.0, joint="butt", current_a=edge + 0.01)
    currents = [simulated_weld(config, seed=s).truth["recipe"] for s in range(8)]
    assert {r["name"] for r in currents} == {recipe_name(7.0, "butt", edge + 0.01)} == {"7mm-butt-mid"}
    assert min(r["current_a"] for r in currents) < edge


def test_a_pool_without_the_demanded_recipe_is_refused():
    name = recipe_name(7.0, "butt", 177.0)
    other: RecipePool = "train" if pool_of(name) == "test" else "test"
    with pytest.raises(ValueError, match=f"recipe_pool '{other}' holds no recipe with plate_mm 7.0"):
        SimulationConfig(plate_mm=7.0, joint="butt", current_a=177.0, recipe_pool=other)
    with pytest.raises(ValueError, match="use all, train or test"):
        SimulationConfig(recipe_pool="validation")  # type: ignore[arg-type]


# -- swap ----------------------------------------------------------------------------------------------------------


def test_a_swap_s_process_is_that_of_a_good_weld_and_its_photos_are_not():
    good, swap = weld(3), weld(3, "swap")
    assert process_digest(swap) == process_digest(good)
    assert photos(swap) != photos(good)
    assert swap.truth["label"] == 0
    assert swap.truth["set"] == "swap"
    assert swap.truth["photos_show"]["class"] == "good"
    assert json.loads(json.dumps(swap.truth)) == swap.truth


def test_a_swapped_bead_is_one_that_the_process_cannot_have_laid():
    for session in SESSIONS:
        good, swap = weld(session, config=PHOTOS), weld(session, "swap", config=PHOTOS)
        narrowest, widest = implied_widths_mm(good.take.plan.recipe)
        own, foreign = good.take.bead.width_mm.mean(), swap.take.bead.width_mm.mean()
        # The mean width of these short beads wanders by about 2 % about the recipe's.
        assert narrowest * (1.0 - SWAP_MARGIN) < own < widest * (1.0 + SWAP_MARGIN)
        assert not narrowest <= foreign <= widest
        assert swap.truth["photos_show"]["recipe"]["name"] != swap.truth["recipe"]["name"]


def test_swapped_photos_alone_look_good():
    good = np.array([photo_statistics(weld(s, config=PHOTOS)) for s in SESSIONS])
    swap = np.array([photo_statistics(weld(s, "swap", config=PHOTOS)) for s in SESSIONS])
    assert np.all(np.abs(swap.mean(axis=0) - good.mean(axis=0)) < 0.5 * good.std(axis=0))
    inside = (swap >= good.min(axis=0)) & (swap <= good.max(axis=0))
    assert inside.mean() > 0.95
    # Extreme beads would show: no swap lies farther out than the good welds do, by and large.
    widths = [
        np.array([weld(s, name, config=PHOTOS).take.bead.width_mm.mean() for s in SESSIONS]) for name in ("", "swap")
    ]
    assert widths[1].std() < 1.3 * widths[0].std()
    assert widths[0].min() * 0.97 < widths[1].min()
    assert widths[1].max() < widths[0].max() * 1.03


def test_a_swap_is_photographed_in_its_own_session_s_light():
    def plate(made: SimulatedWeld) -> float:
        return float(np.median(gray(made)[95:105, 100:300]))  # plate below the bead

    swaps = [weld(s, "swap", config=PHOTOS) for s in SESSIONS]
    flat = [made for made in swaps if made.take.result.recipe.joint != "fillet"]  # a fillet turns the plate to the lamp
    lights = [made.take.plan.nuisances.photo_light for made in flat]
    assert len(flat) > 15
    assert np.corrcoef(lights, [plate(made) for made in flat])[0, 1] > 0.98


def test_swaps_stay_within_the_recipe_pool():
    for session in range(200, 215):
        made = weld(session, "swap", config=replace(PHOTOS, recipe_pool="test"))
        assert pool_of(made.take.plan.recipe.name) == pool_of(made.take.result.recipe.name) == "test"


def test_a_cell_with_one_recipe_cannot_swap():
    config = replace(SMALL, plate_mm=7.0, joint="plate", travel_mm_s=5.0, current_a=177.0)
    with pytest.raises(ValueError, match="swap needs recipes with other beads: leave plate_mm"):
        simulated_weld(config, set="swap")


# -- one part at fault ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weld_class", SET_CLASSES["silent_part"])
def test_a_cause_in_the_part_leaves_the_process_alone_and_spoils_the_bead(weld_class):
    for session in (5, 6, 7):
        good, silent = weld(session), weld(session, "silent_part", weld_class)
        assert process_digest(silent) == process_digest(good)
        assert silent.truth["label"] == CLASS_LABELS[weld_class]
        assert silent.truth["causes"]
        assert photos(silent) != photos(good)
        if weld_class == "porosity":
            assert len(good.take.bead.pits) == 0
            assert len(silent.take.bead.pits) > 3
        else:
            beside = np.abs(silent.take.bead.offset_mm) > 2.5
            assert beside.sum() > 50
            assert np.all(silent.take.bead.width_mm[beside] < 0.9 * good.take.bead.width_mm[beside])


@pytest.mark.parametrize("weld_class", SET_CLASSES["process_only"])
def test_a_disturbed_process_may_leave_the_bead_of_a_good_weld(weld_class):
    good, disturbed = weld(8), weld(8, "process_only", weld_class)
    assert photos(disturbed) == photos(good)
    assert process_digest(disturbed) == process_digest(weld(8, "", weld_class)) != process_digest(good)
    assert disturbed.truth["photos_show"]["class"] == "good"
    assert photos(weld(8, "", weld_class)) != photos(good)


@pytest.mark.parametrize(
    ("name", "weld_class", "said"),
    [
        ("swap", "porosity", "set swap is not made of class 'porosity': use good"),
        ("silent_part", "spatter", "use porosity, lack_of_fusion"),
        ("process_only", "good", "set process_only is not made of class 'good'"),
        ("mixed", "good", "set 'mixed' is unknown: use one of swap, silent_part, process_only"),
    ],
)
def test_a_set_that_cannot_be_made_is_refused(name, weld_class, said):
    with pytest.raises(ValueError, match=said):
        simulated_weld(SMALL, weld_class=weld_class, set=name)
    with pytest.raises(SimulationError):
        plan(2, [weld_class], (0.5, 1.0), 1, 2, set=name)


# -- written welds -------------------------------------------------------------------------------------------------


def test_sets_are_planned_with_all_their_classes():
    orders = plan(4, [], (0.5, 1.0), 1, 2, set="silent_part", recipes="test")
    assert [o.weld_class for o in orders] == ["porosity", "lack_of_fusion"] * 2
    assert {(o.set, o.recipes) for o in orders} == {("silent_part", "test")}
    assert [o.weld_class for o in plan(2, [], (0.5, 1.0), 1, 2)] == ["good", "good"]
    ordinary = plan(4, ["good"], (0.5, 1.0), 1, 2)
    assert [(o.session, o.seed) for o in ordinary] == [(o.session, o.seed) for o in orders]
    with pytest.raises(SimulationError, match="there is no class 'undercut'"):
        plan(1, ["undercut"], (0.5, 1.0), 1, 1)
    with pytest.raises(SimulationError, match="recipes 'old': use all, train or test"):
        plan(1, [], (0.5, 1.0), 1, 1, recipes="old")  # type: ignore[arg-type]


def test_a_written_weld_carries_its_set_and_recipe(tmp_path):
    cell = replace(load_cell(None), simulation=SMALL)
    order = plan(1, [], (0.5, 1.0), 7, 1, set="swap", recipes="test")[0]
    folder = write_weld(order, cell, tmp_path)
    manifest = load_manifest(folder)
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    assert manifest.label == 0
    assert manifest.metadata["set"] == truth["set"] == "swap"
    assert manifest.metadata["recipe"] == truth["recipe"]["name"]
    assert pool_of(truth["recipe"]["name"]) == "test"
    ordinary = load_manifest(write_weld(plan(1, [], (0.5, 1.0), 8, 1)[0], cell, tmp_path))
    assert "set" not in ordinary.metadata


def test_a_set_that_the_cell_cannot_make_names_the_weld(tmp_path):
    cell = replace(load_cell(None), simulation=replace(SMALL, plate_mm=7.0, current_a=177.0, travel_mm_s=5.0))
    with pytest.raises(SimulationError, match="session 1000 weld 0: swap needs recipes"):
        write_weld(plan(1, [], (0.5, 1.0), 1, 1, set="swap")[0], cell, tmp_path)
