"""What is said about welds: of the next ones by `metadata`, of a recorded one by `describe`; who said it, and when."""

from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtWidgets import QLineEdit, QPushButton

from gui.theme import TOUCH_PX
from gui.weld_dialog import WeldDialog
from gui.weld_history import history_lines, label_words, when_words
from recordings.manifest import LabelEntry, Manifest, MetadataEntry
from recordings.weld_folder import store_manifest
from tests.gui.conftest import KEY, Screen, make_weld

UTC = "2026-03-01T09:00:00+00:00"


def manifest(**changes: Any) -> Manifest:
    metadata = {"part": "plate", "thickness_mm": 3.0, "list": [1]}
    plain: dict[str, Any] = {
        "key": KEY,
        "cell": "test",
        "session": "s",
        "state": "finalised",
        "streams": {},
        "metadata": metadata,
    }
    return Manifest(first_order=1, origin_ns=10**13, **(plain | changes))


def opened(screen: Screen) -> WeldDialog:
    dialog = screen.page.findChild(WeldDialog)
    assert dialog is not None
    return dialog


def type_over(qtbot, line: QLineEdit, text: str) -> None:
    line.selectAll()
    qtbot.keyClicks(line, text) if text else qtbot.keyClick(line, Qt.Key.Key_Delete)


def commands(screen: Screen, n: int) -> list[tuple[str, dict[str, Any]]]:
    screen.until(lambda: len(screen.cell.requests) >= n)
    return [(request.kind, request.data) for request in screen.cell.requests]


def test_the_next_welds_are_described_by_touching_the_weld(screen: Screen, qtbot):
    screen.show(metadata={"part": "plate", "program": "P-1", "thickness_mm": 2.5, "shift": "early", "checked": True})
    info = screen.page.weld_info
    qtbot.mouseClick(info, Qt.MouseButton.LeftButton, pos=info.rect().bottomLeft() + QPoint(20, -10))
    dialog = opened(screen)
    lines = dialog.next.lines
    assert {name: line.text() for name, line in lines.items() if line.text()} == {
        "part": "plate",
        "program": "P-1",
        "thickness_mm": "2.5",
        "shift": "early",
    }
    for control in (*lines.values(), *dialog.findChildren(QPushButton)):
        assert control.objectName()
        assert control.accessibleName()
        assert control.toolTip()
        if control.isVisible():
            assert control.height() >= TOUCH_PX
    type_over(qtbot, lines["part"], "bracket")
    type_over(qtbot, lines["thickness_mm"], "4,5")
    type_over(qtbot, lines["shift"], "")
    qtbot.keyClick(lines["part"], Qt.Key.Key_Return)
    assert commands(screen, 1) == [("metadata", {"part": "bracket", "thickness_mm": 4.5, "shift": ""})]


def test_a_recorded_weld_is_described_one_name_at_a_time(screen: Screen, qtbot, runtime_dir: Path):
    said = [MetadataEntry(name="part", value="bracket", by="Ben", utc=UTC)]
    labels = [LabelEntry(label=label, by="Ana", utc=UTC) for label in (0, 3)]
    store_manifest(runtime_dir, manifest(edits=said, labels=labels))
    weld = make_weld(path=str(runtime_dir), label=3)
    screen.show(metadata={"operator": "Cem"}, welds=[make_weld(key="newest", path="/nowhere"), weld])
    page = screen.page
    page.welds.table.cellClicked.emit(1, 0)
    screen.until(lambda: page._file[1] is not None)
    assert page.welds._said.text() == f"{KEY}: label 3 porosity by Ana, {when_words(UTC)} (before: 0 good)"
    qtbot.keyClick(screen.window, Qt.Key.Key_F5)
    dialog = opened(screen)
    lines = dialog.chosen.lines
    assert (lines["part"].text(), lines["thickness_mm"].text(), dialog.by.text()) == ("bracket", "3", "Cem")
    assert "list" not in lines
    assert f"{when_words(UTC)}  Ben  part: bracket" in dialog.history.toPlainText()
    type_over(qtbot, lines["material"], "S235")
    type_over(qtbot, lines["part"], "")
    store_manifest(runtime_dir, manifest(metadata={"part": "plate", "program": "P-7"}, edits=said))
    screen.until(lambda: lines["program"].text() == "P-7")
    assert (lines["material"].text(), lines["part"].text()) == ("S235", ""), "what is being typed stays"
    qtbot.keyClick(lines["material"], Qt.Key.Key_Return)
    changes = {"weld": KEY, "by": "Cem"}
    assert sorted(commands(screen, 2), key=str) == [
        ("describe", {"name": "material", "value": "S235"} | changes),
        ("describe", {"name": "part", "value": None} | changes),
    ]


def test_a_number_that_is_none_is_said_and_nothing_is_sent(screen: Screen, qtbot):
    screen.show()
    screen.window.action("part").trigger()
    dialog = opened(screen)
    type_over(qtbot, dialog.next.lines["thickness_mm"], "three")
    type_over(qtbot, dialog.next.lines["part"], "bracket")
    dialog.accept()
    assert "'three' is no number" in dialog.problem.text()
    assert dialog.isVisible()
    type_over(qtbot, dialog.next.lines["thickness_mm"], "")
    dialog.accept()
    assert commands(screen, 1) == [("metadata", {"part": "bracket"})]


def test_a_weld_that_lies_elsewhere_can_be_described_all_the_same(screen: Screen, qtbot):
    screen.show(welds=[make_weld(path="/on/another/host")])
    screen.window.action("describe").trigger()
    dialog = opened(screen)
    assert "cannot be read from here" in dialog.said.text()
    type_over(qtbot, dialog.chosen.lines["weld_id"], "A-17")
    dialog.accept()
    assert commands(screen, 1) == [("describe", {"weld": KEY, "name": "weld_id", "value": "A-17", "by": "screen"})]


def test_without_any_weld_only_the_next_ones_can_be_described(screen: Screen):
    screen.show(welds=[])
    assert not screen.window.action("describe").isEnabled()
    screen.window.action("part").trigger()
    dialog = opened(screen)
    chosen = dialog.findChild(QPushButton, "weld_chosen")
    assert chosen is not None
    assert not chosen.isEnabled()
    dialog.reject()


@pytest.mark.parametrize("damage", [b"{", b"", b'{"schema": 99}'])
def test_a_damaged_folder_is_no_trouble(screen: Screen, runtime_dir: Path, damage: bytes):
    store_manifest(runtime_dir, manifest(labels=[LabelEntry(label=1, by="Ana", utc=UTC)]))
    screen.show(welds=[make_weld(path=str(runtime_dir))])
    screen.until(lambda: "Ana" in screen.page.welds._said.text())
    (runtime_dir / "weld.json").write_bytes(damage)
    screen.until(lambda: screen.page.welds._said.text() == "")


def test_the_history_is_in_the_order_in_which_it_was_said():
    edits = [
        MetadataEntry(name="part", value="bracket", by="Ben", utc="2026-03-02T09:00:00+00:00"),
        MetadataEntry(name="notes", value=None, by="", utc="no time"),
    ]
    said = manifest(edits=edits, labels=[LabelEntry(label=-1, by="Ana", utc=UTC)])
    assert [line.split("  ", 1)[1] for line in history_lines(said)] == [
        "unknown  notes: taken away",
        "Ben  part: bracket",
        "Ana  label unknown",
    ]
    assert history_lines(said)[0].startswith("no time")
    assert label_words(manifest()) == ""
