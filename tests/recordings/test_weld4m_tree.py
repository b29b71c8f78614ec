"""Finding welds in what users have: trees, flat folders, single welds, manifests; and what must be refused."""

from pathlib import Path

import pytest

from recordings.weld4m_tree import FoundWeld, SourceError, find_welds

ID = "03-22-23-0041-06"


def touch(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(source: Path) -> dict[str, FoundWeld]:
    return {weld.key: weld for weld in find_welds(source).welds}


def test_a_tree_with_equal_ids_in_two_folders(tmp_path):
    for directory in ("good_run_1", "overlap run 2"):
        for ending in ("avi", "flac", "csv"):
            touch(tmp_path / directory / ID / f"{ID}.{ending}")
    touch(tmp_path / "good_run_1" / ID / "images" / "20230322_101500_123.jpg")
    touch(tmp_path / "good_run_1" / ID / "images" / "249 (11).jpg")
    touch(tmp_path / "good_run_1" / ID / "images" / "._249 (11).jpg")
    welds = found(tmp_path)
    assert list(welds) == [f"good_run_1/{ID}", f"overlap run 2/{ID}"]
    weld = welds[f"good_run_1/{ID}"]
    assert set(weld.files) == {"video", "audio", "sensors"}
    assert [p.name for p in weld.photos] == ["20230322_101500_123.jpg", "249 (11).jpg"]
    assert (weld.session, weld.date, weld.label, weld.label_by) == ("good_run_1", "2023-03-22", 6, "id")
    assert weld.problems == ()


def test_one_weld_by_its_folder_or_by_one_of_its_files(tmp_path):
    video = touch(tmp_path / "run" / ID / f"{ID}.avi")
    touch(tmp_path / "run" / ID / f"{ID}.csv")
    touch(tmp_path / "run" / "03-22-23-0042-06" / "03-22-23-0042-06.csv")
    assert list(found(tmp_path / "run" / ID)) == [f"run/{ID}"]
    assert {key: set(w.files) for key, w in found(video).items()} == {f"run/{ID}": {"video", "sensors"}}


def test_a_flat_folder_takes_the_class_from_the_id_and_never_from_the_name(tmp_path):
    flat = tmp_path / "flat"
    touch(flat / f"good_weld_{ID}.AVI")
    touch(flat / f"overlap_{ID}.csv")
    touch(flat / "porosity_trial.csv")
    touch(flat / ".hidden.csv")
    welds = found(flat)
    assert {key: (w.label, w.label_by, w.date) for key, w in welds.items()} == {
        f"flat/{ID}": (6, "id", "2023-03-22"),
        "flat/porosity_trial": (-1, None, "undated"),
    }
    assert set(welds[f"flat/{ID}"].files) == {"video", "sensors"}


def manifest(root: Path, *rows: str, names: str = "CATEGORY,THICKNESS_MM,DIRECTORY,SUBDIRS,SPLIT") -> None:
    touch(root / "manifest.csv", "\ufeff" + "\r\n".join([names, *rows]) + "\r\n")


@pytest.mark.parametrize(
    ("category", "label"),
    [
        ("Good", 0),
        ("Excessive Penetration", 1),
        ("Burn-Through", 2),
        ("Porosity w/ Excessive Penetration", 4),
        ("porosity_w_excessive_penetration", 4),
        ("porosity_w-ep", 4),
        ("Lack of Fusion", 7),
        ("warping weld", 10),
        ("Crater Cracks", 11),
    ],
)
def test_the_manifest_names_the_class(tmp_path, category, label):
    name = f"03-22-23-0041-{label:02}"
    touch(tmp_path / "run" / name / f"{name}.csv")
    manifest(tmp_path, f"{category},3,run,run/{name},TEST")
    weld = found(tmp_path)[f"run/{name}"]
    assert (weld.label, weld.label_by) == (label, "manifest")
    assert weld.problems == ()
    assert weld.metadata["thickness_mm"] == 3.0
    assert weld.metadata["split"] == "TEST"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["Good,3,run,run/{id},TEST"], "says good (00), the id ends in overlap (06)"),
        (["Goodish,3,run,run/{id},TEST"], "gives the category 'Goodish'"),
        ([",3,run,run/{id},TEST"], "gives the category ''"),
        (["Overlap,3,run,run/{id},TEST", "Overlap,4,run,run/{id},TEST"], "(THICKNESS_MM: '3' and '4')"),
        (["Overlap,3,5,run,run/{id},TEST"], "more than the 5 fields"),
    ],
)
def test_a_contested_class_is_a_problem_and_never_guessed(tmp_path, rows, said):
    touch(tmp_path / "run" / ID / f"{ID}.csv")
    manifest(tmp_path, *(row.format(id=ID) for row in rows))
    weld = found(tmp_path)[f"run/{ID}"]
    assert weld.label == -1
    assert len(weld.problems) == 1
    assert said in weld.problems[0]


def test_subdirs_that_hold_the_id_alone_or_more_folders(tmp_path):
    other = "03-22-23-0042-06"
    for name in (ID, other):
        touch(tmp_path / "run" / name / f"{name}.csv")
    manifest(tmp_path, f"Overlap,3,run,{ID},TEST", f"Overlap,3,run,.\\data\\run\\{other}\\,VAL")
    assert [weld.label_by for weld in found(tmp_path).values()] == ["manifest", "manifest"]


def test_an_unknown_class_is_a_problem_and_never_good(tmp_path):
    touch(tmp_path / "run" / ID / f"{ID}.csv")
    touch(tmp_path / "run" / "03-22-23-0041-12" / "03-22-23-0041-12.csv")
    manifest(tmp_path, f"Goodish,3,run,run/{ID},TEST")
    welds = found(tmp_path)
    assert all(weld.label == -1 for weld in welds.values())
    assert "'Goodish'" in welds[f"run/{ID}"].problems[0]
    assert "class 12" in welds["run/03-22-23-0041-12"].problems[0]


def test_links_out_of_the_source_are_refused(tmp_path):
    outside = touch(tmp_path / "secret.csv")
    source = tmp_path / "source"
    touch(source / "run" / "a.csv")
    (source / "run" / f"{ID}.csv").symlink_to(outside)
    (source / "run" / "inside-01-01-23-0001-00.csv").symlink_to(source / "run" / "a.csv")
    (source / "linked").symlink_to(tmp_path)
    welds = found(source)
    assert set(welds) == {"run/a", f"run/{ID}", "run/01-01-23-0001-00"}
    assert "link out of" in welds[f"run/{ID}"].problems[0]
    assert welds["run/01-01-23-0001-00"].problems == ()


@pytest.mark.parametrize("directory", ["two\nlines", "bell\a", "c:"])
def test_names_that_are_no_folder_names_everywhere(tmp_path, directory):
    touch(tmp_path / directory / ID / f"{ID}.csv")
    (weld,) = find_welds(tmp_path).welds
    assert "rename it" in weld.problems[0]
    assert "\n" not in weld.problems[0]


def test_two_files_for_one_weld_are_a_problem(tmp_path):
    touch(tmp_path / f"a_{ID}.csv")
    touch(tmp_path / f"b_{ID}.csv")
    (weld,) = find_welds(tmp_path).welds
    assert "claim the same weld" in weld.problems[0]


def test_sources_that_cannot_be_used(tmp_path):
    with pytest.raises(SourceError, match="no such file or folder"):
        find_welds(tmp_path / "absent")
    with pytest.raises(SourceError, match=r"no \.avi, \.flac or \.csv"):
        find_welds(tmp_path)
    touch(tmp_path / "run" / ID / f"{ID}.csv")
    manifest(tmp_path, "Good", names="CATEGORY")
    with pytest.raises(SourceError, match="no column SUBDIRS"):
        find_welds(tmp_path)
    manifest(tmp_path, "Good,run", names="CATEGORY,SUBDIRS")
    touch(tmp_path / "MANIFEST.csv")
    with pytest.raises(SourceError, match="both claim to be the manifest"):
        find_welds(tmp_path)
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / "MANIFEST.csv").write_text("CATEGORY,SUBDIRS\n" + "x" * 200_000)
    with pytest.raises(SourceError, match=r"line 2: field larger than"):
        find_welds(tmp_path)
    with (tmp_path / "MANIFEST.csv").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(SourceError, match="at most"):
        find_welds(tmp_path)
