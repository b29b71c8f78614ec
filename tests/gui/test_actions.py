"""One table of keys: no key twice, every row reachable by menu, key and control."""

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QAbstractButton, QComboBox, QLineEdit, QMenu, QScrollBar, QToolButton, QWidget

from gui.actions import ACTIONS
from gui.theme import TOUCH_PX
from tests.gui.conftest import Screen


def test_names_and_keys_are_unique():
    assert len({spec.name for spec in ACTIONS}) == len(ACTIONS)
    keys = [QKeySequence(spec.key).toString() for spec in ACTIONS]
    assert all(keys)
    assert len(set(keys)) == len(keys)


def test_every_row_has_a_menu_entry_and_a_control(screen: Screen):
    in_menus = {a.objectName() for menu in screen.window.menuBar().findChildren(QMenu) for a in menu.actions()}
    for spec in ACTIONS:
        assert spec.name in in_menus
        action = screen.window.action(spec.name)
        assert action.shortcut() == QKeySequence(spec.key)
        assert f"({spec.key})" in action.toolTip()
        assert screen.window.findChild(QWidget, spec.control) is not None, spec.control


def test_every_control_is_named_explained_and_big_enough(screen: Screen):
    screen.show(simulated=True)
    controls = [
        widget
        for kind in (QAbstractButton, QComboBox, QLineEdit)
        for widget in screen.page.findChildren(kind)
        if not isinstance(widget.parent(), QComboBox | QScrollBar) and widget.objectName() != "qt_toolbar_ext_button"
    ]
    assert len(controls) > 10
    for widget in controls:
        if type(widget) is QAbstractButton:
            continue  # the corner of a table
        assert widget.objectName(), widget
        assert widget.accessibleName(), widget.objectName()
        assert widget.toolTip(), widget.objectName()
        if widget.isVisible():
            assert widget.height() >= TOUCH_PX, widget.objectName()
        if isinstance(widget, QToolButton):
            assert widget.defaultAction().shortcut().toString() in widget.toolTip()


def test_keys_are_typed_into_a_focused_line_instead_of_acting(screen: Screen, qtbot):
    screen.show()
    note = screen.page.bar.note
    screen.window.activateWindow()
    note.setFocus()
    qtbot.keyClicks(note, "3 pm")
    assert note.text() == "3 pm"
    assert not screen.window.action("freeze").isChecked()
    qtbot.keyClick(note, Qt.Key.Key_Return)
    screen.until(lambda: any(r.kind == "metadata" for r in screen.cell.requests))
    assert [r.kind for r in screen.cell.requests] == ["metadata"]
    assert screen.cell.requests[0].data == {"notes": "3 pm"}
