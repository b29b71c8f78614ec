"""Splits keep whole what belongs together, and the audit names what does not; no weld is read here but in the end."""

import json
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.detector_contract import DetectorError
from models.evaluation import evaluate
from models.split_audit import Leak, audit, counts
from models.split_command import commands
from models.split_groups import PARTS
from models.splits import (
    KINDS,
    PRETRAIN,
    Kind,
    Split,
    load_split,
    make_split,
    recipe_of,
    save_split,
    select,
    split_or_name,
)
from models.training import calibrate, train, training_welds
from models.weld_features import FoundWeld
from recordings.manifest import LabelEntry, MetadataEntry
from tests.models.made_welds import NOW, made_weld, weld4m_shaped
from tests.models.welds import CELL, weld_packets, write_weld


@pytest.fixture(scope="module")
def weld4m() -> list[FoundWeld]:
    return weld4m_shaped()


def cell(sessions: int = 20, each: int = 12, recipes: int = 5) -> list[FoundWeld]:
    """A cell whose sessions hold good and bad welds of one recipe, and some unlabelled ones and test sets."""
    welds = []
    for s in range(sessions):
        for n in range(each):
            label = (0, 0, 0, 3, 9, 5)[n % 6] if n < each - 1 else -1
            welds.append(made_weld(f"k{s:02d}-{n:02d}", f"s{s}", label, recipe=f"r{s % recipes}"))
    welds += [made_weld(f"set-{n}", f"x{n // 2}", 0, set="swap", recipe="r0") for n in range(4)]
    return welds + [made_weld(f"u{n}", "unlabelled", -1, recipe="r1") for n in range(3)]


def kinds_of(leaks: list[Leak], *, grave: bool = True) -> list[str]:
    return [leak.kind for leak in leaks if leak.grave == grave]


def relabelled(weld: FoundWeld, label: int) -> FoundWeld:
    labels = [*weld.manifest.labels, LabelEntry(label=label, by="Ana", utc=NOW)]
    return replace(weld, manifest=msgspec.structs.replace(weld.manifest, labels=labels))


@pytest.mark.parametrize("kind", ["session-disjoint", "recipe-disjoint", "supervised"])
def test_whole_groups_and_no_leak(kind: Kind) -> None:
    welds = cell()
    split = make_split(welds, kind, seed=5)
    assert kinds_of(audit(split, welds)) == []
    manifests = {w.manifest.key: w.manifest for w in welds}
    part_of = split.part_of()
    assert sorted([*part_of, *(left.key for left in split.left_out)]) == sorted(manifests)
    held: dict[str, set[str]] = defaultdict(set)
    for key, part in part_of.items():
        m = manifests[key]
        held[(recipe_of(m) or "") if kind == "recipe-disjoint" else m.session].add(
            "train" if part == PRETRAIN else part
        )
        assert (m.label < 0) == (part == PRETRAIN)
        assert part == "test" or "set" not in m.metadata
        assert part != "train" or kind == "supervised" or m.label == 0
    assert all(len(parts) == 1 for parts in held.values())
    assert all(split.parts[part] for part in PARTS)


def test_shares_come_close_and_what_is_missed_is_said(weld4m: list[FoundWeld]) -> None:
    split = make_split(weld4m, "supervised", seed=1)
    label_of = {w.manifest.key: w.manifest.label for w in weld4m}
    total = Counter(label_of.values())
    shares = [
        abs(sum(label_of[k] == c for k in split.parts[part]) / total[c] - wanted)
        for part, wanted in zip(PARTS, (0.6, 0.2, 0.2), strict=True)
        for c in total
    ]
    assert max(shares) == pytest.approx(split.deviation, abs=1e-6)
    assert split.deviation < 0.08  # whole folders of 160 welds in nine: a ninth of a class is 0.11
    assert all(any(label_of[k] == c for k in split.parts["train"]) for c in range(12))
    assert split.notes == []
    few = [w for w in weld4m if w.manifest.label in (0, 4)]
    assert "10 of 12 classes" in make_split(few, "supervised").notes[0]


def test_only_keys_and_contents_count(weld4m: list[FoundWeld]) -> None:
    welds = cell()
    moved = [replace(w, folder=Path(f"/elsewhere/{i}")) for i, w in enumerate(welds)]
    random.Random(3).shuffle(moved)
    for kind in ("session-disjoint", "supervised"):
        assert make_split(moved, kind, seed=2) == make_split(welds, kind, seed=2)
    drawn = {tuple(make_split(welds, "session-disjoint", seed=seed).parts["train"]) for seed in range(4)}
    assert len(drawn) > 1


def test_copies_of_one_weld_stay_together() -> None:
    welds = cell()
    welds += [made_weld(f"copy-{n}", f"c{n}", 0, sound=f"sound of k{n:02d}-00", recipe="r9") for n in range(8)]
    split = make_split(welds, "session-disjoint", seed=0)
    part_of = split.part_of()
    assert all(part_of[f"copy-{n}"] == part_of[f"k{n:02d}-00"] for n in range(8))
    assert kinds_of(audit(split, welds)) == []


def test_the_supplied_split_keeps_only_good_welds_in_train(weld4m: list[FoundWeld]) -> None:
    wrong = next(w for w in weld4m if w.manifest.metadata["split"] == "TRAIN")
    changed = [relabelled(w, 3) if w is wrong else w for w in weld4m]
    split = make_split(changed, "supplied")
    assert {part: len(keys) for part, keys in split.parts.items()} == {
        "train": 575,
        "val": 1732,
        "test": 1732,
        "pretrain": 0,
    }
    assert [(left.key, left.reason) for left in split.left_out] == [
        (wrong.manifest.key, "porosity, and train takes good welds only, in train")
    ]
    edit = MetadataEntry(name="split", value="TEST", by="Ana", utc=NOW)
    edited = replace(wrong, manifest=msgspec.structs.replace(wrong.manifest, edits=[edit]))
    again = make_split([edited, *(w for w in weld4m if w is not wrong)], "supplied")
    assert again.part_of()[wrong.manifest.key] == "test"


def test_the_audit_says_that_the_supplied_split_of_weld4m_leaks(weld4m: list[FoundWeld]) -> None:
    leaks = audit(make_split(weld4m, "supplied"), weld4m)
    session = next(leak for leak in leaks if leak.kind == "session")
    assert session.grave
    assert len(session.names) > 210
    assert session.what == f"{len(session.names)} of 236 sessions lie in more than one part"
    label = next(leak for leak in leaks if leak.kind == "label")
    assert "100% of 236 sessions hold one class only" in label.what
    assert "a sample-level split leaks" in label.what
    assert {leak.names[0] for leak in leaks if leak.kind == "metadata"} == {"category", "key"}
    disjoint = make_split(weld4m, "session-disjoint")
    assert kinds_of(audit(disjoint, weld4m)) == []


def test_every_leak_is_named() -> None:
    welds = [
        made_weld("a", "s1", 0, photo="p1", part="plate", operator="Ana"),
        made_weld("b", "s1", 4, photo="p2", part="plate", operator="Ana"),
        made_weld("c", "s2", 0, sound="sound of a", recipe="r"),
        made_weld("d", "s3", -1, photo="p1", recipe="r"),
        made_weld("e", "s4", 0, set="swap"),
        made_weld("f", "s5", 0, part="plate", operator="Ana"),
        made_weld("g", "s6", 0),
        made_weld("h", "s7", 0),
        made_weld("h", "s7", 0, folder="/elsewhere/h"),
    ]
    parts = {"train": ["a", "b", "e", "g"], "val": ["c", "d", "gone"], "test": ["f", "g", "h"], PRETRAIN: []}
    split = Split(
        kind="recipe-disjoint",
        seed=0,
        fractions=(0.6, 0.2, 0.2),
        parts=parts,
        left_out=[],
        deviation=0.0,
        notes=[],
        welds="",
    )
    leaks = audit(split, welds, fitted=["a", "c"], calibrated=["h"])
    assert {leak.kind: leak.names for leak in leaks if leak.grave} == {
        "absent": ["gone"],
        "copy": ["a", "c"],
        "photo": ["a", "d"],
        "recipe": ["part=plate"],
        "defective": ["b"],
        "unlabelled": ["d"],
        "test set": ["e"],
        "calibration": ["h"],
        "fitted": ["c"],
        "key": ["g"],
    }
    assert {leak.kind: leak.names for leak in leaks if not leak.grave} == {
        "key": ["h"],
        "day": ["day 0, part plate, operator Ana"],
        "label": ["s2", "s4", "s5", "s6", "s7"],
    }
    welds[5] = made_weld("f", "s1", 0)
    assert "session" in kinds_of(audit(split, welds))
    assert "changed" in kinds_of(
        audit(make_split(cell(), "supervised"), [*cell()[1:], made_weld("k00-00", "s0", 0, sound="x")])
    )
    fresh = audit(make_split(cell(), "supervised"), [*cell(), made_weld("later", "s0", 0)])
    assert next(leak for leak in fresh if leak.kind == "new").names == ["later"]


def test_counts_of_classes_and_sessions(weld4m: list[FoundWeld]) -> None:
    found = counts(make_split(weld4m, "supplied"), weld4m)
    assert found["classes"]["good"]["train"]["welds"] == 576
    assert sum(parts["test"]["welds"] for parts in found["classes"].values()) == 1732
    assert len(found["sessions"]) == 236
    assert sum(n for held in found["sessions"].values() for n in held["classes"].values()) == 4040


def test_recipes_from_whatever_is_known() -> None:
    a = made_weld("a", "s", 0, weld_type="Butt", thickness_mm=3.0, current_a=170, category="Good").manifest
    b = made_weld("b", "s", 0, weld_type="butt ", thickness_mm="3", current_a=170.0).manifest
    assert recipe_of(a) == recipe_of(b) == "weld_type=butt, thickness_mm=3, current_a=170"
    assert recipe_of(made_weld("c", "s", 0, part="P", program=7).manifest) == "part=p, program=7"
    assert recipe_of(made_weld("d", "s", 0, recipe="fillet").manifest) == "fillet"
    assert recipe_of(made_weld("e", "s", 0, notes="x").manifest) is None


def test_what_no_split_can_be_made_of() -> None:
    one = [made_weld(f"k{n}", "s", 0) for n in range(5)]
    for kind, line in (
        ("session-disjoint", "hang together in one group"),
        ("recipe-disjoint", "hang together in one group"),
        ("supplied", "no weld's metadata name a split"),
        ("by weld", "unknown; use one of supplied"),
    ):
        with pytest.raises(DetectorError, match=line):
            make_split(one, kind)  # type: ignore[arg-type]
    with pytest.raises(DetectorError, match="add up to 1"):
        make_split(one, "supervised", fractions=(0.5, 0.5, 0.5))
    with pytest.raises(DetectorError, match="no weld is left for train"):
        make_split([made_weld(f"k{n}", f"s{n}", 3) for n in range(5)], "session-disjoint")


def test_a_file_of_a_split(tmp_path: Path) -> None:
    welds = cell()
    split = make_split(welds, "session-disjoint", seed=4)
    path = tmp_path / "new" / "split.json"
    save_split(split, path)
    assert load_split(path) == split == split_or_name(str(path))
    assert split_or_name("TEST") == "TEST"
    gone = [w for w in welds if w.manifest.key != split.parts["train"][0]]
    with pytest.raises(DetectorError, match=f"1 of {len(split.parts['train'])} welds of 'train' are not there: k"):
        select(split, gone, "train")
    assert len(select(split, gone, "train", absent_ok=True)) == len(split.parts["train"]) - 1
    with pytest.raises(DetectorError, match="no part 'dev'"):
        select(split, welds, "dev")
    for text, line in (('{"schema": 99}', "newer than 1"), ("{}", "is no split"), ("x", "is no split")):
        path.write_text(text)
        with pytest.raises(DetectorError, match=line):
            load_split(path)
    with pytest.raises(DetectorError, match="make one with"):
        split_or_name(str(tmp_path / "absent"))


def test_any_numbers_of_welds_and_groups_are_shared_out_whole() -> None:
    rng = np.random.default_rng(0)
    for trial in range(12):
        welds = [
            made_weld(f"k{n}", f"s{rng.integers(0, 12)}", int(rng.integers(-1, 12)), sound=f"c{rng.integers(0, 200)}")
            for n in range(int(rng.integers(20, 80)))
        ]
        for kind in KINDS[1::2]:
            try:
                split = make_split(welds, kind, seed=trial)
            except DetectorError:
                continue
            assert kinds_of(audit(split, welds)) == []


def run(*arguments: object) -> tuple[int, str]:
    app = typer.Typer()
    app.add_typer(commands)
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout


def test_commands_and_what_uses_their_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    data, file, folder = tmp_path / "data", tmp_path / "split.json", tmp_path / "run"
    for n, label in enumerate((0, 0, 0, 0, 3, 3)):
        packets = weld_packets(n, key=f"n{n}", arc_s=2.0, fault=0.6 * bool(label))
        write_weld(data / f"n{n}", packets, session=f"s{n}", label=label)
    code, out = run(
        *("split", data, "--kind", "session-disjoint", "--seed", 1, "--fractions", 0.5, 0.25, 0.25),
        *("--out", file, "--json"),
    )
    found = json.loads(out)
    assert (code, found["deviation"], found["unreadable"]) == (0, 0.0, [])
    assert found["parts"] == {"train": 2, "val": 2, "test": 2, "pretrain": 0}
    split = load_split(file)
    assert [w.manifest.key for w in training_welds(data, split)] == split.parts["train"]
    with pytest.raises(DetectorError, match="1 good training welds have windows; at least 10"):
        train("statistics", data, tmp_path / "few", split=split)

    save_checkpoint(folder, checkpoint)
    calibrate(folder, data, split=split)
    (calibrated,) = load_checkpoint(folder).calibrations[CELL].welds
    assert calibrated in split.parts["val"]
    judged = evaluate(folder, data, split=split)
    assert judged["protocol"]["welds"] == 2
    assert judged["protocol"]["split"] == "test of a session-disjoint split, seed 1"
    code, out = run("audit", file, "--data", data, "--run", folder)
    assert (code, "no leak found" in out) == (0, True)

    parts = {**split.parts, "val": [], "test": sorted([*split.parts["test"], calibrated])}
    save_split(msgspec.structs.replace(split, parts=parts), file)
    code, out = run("audit", file, "--data", data, "--run", folder)
    assert code == 3
    assert f"LEAK calibration: 1 welds of test: a model was calibrated on them (1: {calibrated})" in out


def test_an_unreadable_weld_is_a_loss(tmp_path: Path) -> None:
    for n in range(4):
        write_weld(tmp_path / "d" / f"w{n}", weld_packets(n, key=f"w{n}", arc_s=0.5), session=f"s{n}")
    (tmp_path / "d" / "w3" / "weld.json").write_text("{")
    code, out = run("split", tmp_path / "d", "--kind", "supervised", "--out", tmp_path / "s.json", "--json")
    assert code == 3
    assert [Path(u["path"]).name for u in json.loads(out)["unreadable"]] == ["w3"]
