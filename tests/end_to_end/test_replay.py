"""`replay` of what the processes recorded, and of a real weld, through the same path as live."""

from pathlib import Path

import pytest

from tests.end_to_end.processes import app

pytestmark = pytest.mark.end_to_end


def test_a_weld_replayed_from_a_lossless_recording_gets_the_scores_it_got_live(runs):
    run = runs["plain"]
    place = run.place
    replayed = app(
        "replay",
        "--headless",
        "--json",
        "--cell",
        str(place.cell),
        "--checkpoint",
        str(place.checkpoint),
        str(run.weld),
    )
    assert replayed.code == 0, replayed.err
    again, live = replayed.result, run.finished.result["welds"][-1]
    assert again["windows"] >= 2
    assert again["against_live"] == {"equal": again["windows"], "different": 0, "missing": 0}
    (weld,) = again["welds"]
    for name in ("key", "stage", "verdict", "reason", "score", "p_value", "arc_on_s", "arc_off_s", "present"):
        assert weld[name] == live[name], name


def test_a_part_of_a_weld_gets_the_scores_of_its_windows_and_no_verdict(runs):
    run = runs["plain"]
    arguments = [
        "replay",
        "--headless",
        "--json",
        "--cell",
        str(run.place.cell),
        "--checkpoint",
        str(run.place.checkpoint),
    ]
    whole = app(*arguments, str(run.weld)).result
    first = whole["scores"][1]
    part = app(*arguments, "--from", str(first["t0_s"] - 0.01), "--speed", "50", str(run.weld))
    assert part.code == 0, part.err
    assert [row["window"] for row in part.result["scores"]] == [row["window"] for row in whole["scores"][1:]]
    assert [row["score"] for row in part.result["scores"]] == [row["score"] for row in whole["scores"][1:]]
    assert part.result["against_live"]["different"] == part.result["against_live"]["missing"] == 0
    assert part.result["welds"][0]["verdict"] == "NO DATA"


@pytest.fixture(scope="module")
def imported(real_weld, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    done = app("import", "--json", str(real_weld), str(root))
    assert done.code == 0, done.err
    assert done.result["skipped"] == []
    (manifest,) = (path for path in root.rglob("weld.json") if path.parent.name == "03-22-23-0041-06")
    return Path(manifest.parent)


def test_a_real_weld_is_verified_with_the_edges_that_each_stream_sees(imported):
    verified = app("verify", "--json", str(imported))
    assert verified.code == 0, verified.err
    (weld,) = verified.result["welds"]
    assert (weld["ok"], weld["state"], weld["losses"], weld["problems"]) == (True, "finalised", {}, [])
    assert weld["sync"]["camera"]["arc_on_s"] == pytest.approx(5.7, abs=0.2)
    assert weld["sync"]["camera"]["arc_off_s"] == pytest.approx(16.45, abs=0.4)
    assert set(weld["sync"]) == {"camera", "sensors"}


def test_a_real_weld_gets_a_score_for_every_window_and_no_verdict(imported):
    replayed = app("replay", "--headless", "--json", str(imported))
    assert replayed.code == 0, replayed.err
    result = replayed.result
    (weld,) = result["welds"]
    assert weld["arc_on_s"] == pytest.approx(5.7, abs=0.2)
    assert weld["arc_off_s"] == pytest.approx(16.45, abs=0.4)
    assert weld["present"] == ["video", "sensors"]
    assert weld["absent"] == ["audio", "post_images"]
    assert any("sensor times" in line for line in weld["inferred"])
    # Windows of 4 s every 1 s from arc-on, and a last one that ends 1 s after arc-off.
    length_s = weld["arc_off_s"] + 1 - weld["arc_on_s"]
    assert result["windows"] == len(result["scores"]) == int(length_s - 4) + 2
    assert [row["window"] for row in result["scores"]] == [*range(result["windows"])]
    assert weld["verdict"] == "NO DATA"
    assert "not calibrated" in weld["reason"]
    assert result["speed_x_realtime"] > 1
