"""The window: menus from the table of actions, the live page, the timers, and the link to the cell."""

from collections.abc import Callable, Sequence
from typing import Final

from PySide6.QtCore import QByteArray, QCoreApplication, QSettings, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QCloseEvent
from PySide6.QtWidgets import QApplication, QMainWindow, QMessageBox

from acquisition.transport import Reply
from gui.actions import ACTIONS, MENUS, make_actions
from gui.cell_link import CellLink
from gui.devices_dialog import DevicesDialog
from gui.live_page import LivePage
from gui.theme import DARK, LIGHT, apply_theme
from gui.weld_file import WeldFile

TICK_MS: Final = 66
SUPERVISE_MS: Final = 1000


class MainWindow(QMainWindow):
    """Owns the page, the link and the timers; `shut` ends all three.

    Signals:
        trouble: Something went wrong in this process (one line); may be emitted from any thread.
    """

    trouble = Signal(str)

    def __init__(
        self,
        link: CellLink,
        *,
        supervise: Callable[[], str | None] | None = None,
        devices_command: Sequence[str] = (),
        settings: QSettings | None = None,
    ) -> None:
        """Build the window.

        Args:
            link: The connection to the cell; closed by `shut`.
            supervise: Called once a second; restarts what died and gives a line to show, or None.
            devices_command: Program and arguments that list devices as lines of a cell file.
            settings: Where the choice of colours is kept.
        """
        super().__init__()
        self.setObjectName("main_window")
        self.setWindowTitle(self.tr("Weld-4M"))
        self.actions_by_name = make_actions(self)
        self.page = LivePage(self.actions_by_name)
        self.setCentralWidget(self.page)
        self.page.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.page.setFocus()
        self.resize(1600, 960)
        self.setMinimumSize(1200, 720)
        self._link = link
        self._weld_file = WeldFile(self)
        self._supervise = supervise
        self._devices_command = tuple(devices_command)
        self._settings = settings if settings is not None else QSettings("weld-4m", "screen")
        self._make_menus()
        self._connect()
        self._tick = self._timer(TICK_MS, self._on_tick)
        self._watch = self._timer(SUPERVISE_MS, self._on_watch)

    def _timer(self, every_ms: int, slot: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setInterval(every_ms)
        timer.timeout.connect(slot)
        timer.start()
        return timer

    def _make_menus(self) -> None:
        for name in MENUS:
            menu = self.menuBar().addMenu(QCoreApplication.translate("Menus", name))
            menu.setObjectName(f"menu_{name.lower()}")
            menu.setToolTipsVisible(True)
            for spec in ACTIONS:
                if spec.menu == name:
                    menu.addAction(self.actions_by_name[spec.name])

    def _connect(self) -> None:
        page, link, actions = self.page, self._link, self.actions_by_name
        page.camera.cell_now_ns = link.cell_now_ns
        page.lateness_s = page.camera.lateness_s = link.lateness_s
        link.frame.connect(page.on_frame)
        link.packet.connect(page.on_packet)
        link.message.connect(page.on_message)
        link.answered.connect(self._on_answer)
        link.failed.connect(page.fail)
        self.trouble.connect(page.fail)
        page.command.connect(link.send)
        page.weld_chosen.connect(self._weld_file.watch)
        self._weld_file.read.connect(page.on_weld_file)
        page.painted.connect(lambda: QTimer.singleShot(0, page.camera.prepare))
        actions["devices"].triggered.connect(self._show_devices)
        actions["devices"].setEnabled(bool(self._devices_command))
        actions["full_screen"].toggled.connect(self._fill_screen)
        light = self._settings.value("light", "false") == "true"
        actions["light"].setChecked(light)
        self._choose_theme(light)
        actions["light"].toggled.connect(self._choose_theme)

    def _on_answer(self, kind: str, reply: Reply) -> None:
        self.page.on_answer(kind, reply)

    def _on_tick(self) -> None:
        self._link.drain()  # should the descriptor ever have missed something
        self.page.lost_messages = self._link.lost
        self.page.tick()

    def _on_watch(self) -> None:
        line = (self._supervise() if self._supervise else None) or self._link.problem
        if line:
            self.page.fail(line)

    def _choose_theme(self, light: bool) -> None:
        app = QApplication.instance()
        if isinstance(app, QApplication):
            apply_theme(app, LIGHT if light else DARK)
        self._settings.setValue("light", "true" if light else "false")

    def appear(self) -> None:
        """Show the window where it was last; the first time, as large as the screen."""
        geometry = self._settings.value("geometry")
        if not isinstance(geometry, QByteArray) or not self.restoreGeometry(geometry):
            # Both, for without a window manager nobody would make a maximised window any larger.
            self.setGeometry(self.screen().availableGeometry())
            self.setWindowState(Qt.WindowState.WindowMaximized)
        self.show()

    def _fill_screen(self, full: bool) -> None:
        self.setWindowState(
            self.windowState() | Qt.WindowState.WindowFullScreen
            if full
            else self.windowState() & ~Qt.WindowState.WindowFullScreen
        )

    def _show_devices(self) -> None:
        DevicesDialog(self._devices_command, self).show()

    def action(self, name: str) -> QAction:
        """Give the action of a name in the table."""
        return self.actions_by_name[name]

    def closeEvent(self, event: QCloseEvent) -> None:
        """Ask once before the window, and capture on this host with it, goes while a weld is being recorded."""
        if self.page.recording and self.isVisible() and not self._link.remote:
            answer = QMessageBox.question(
                self,
                self.tr("A weld is being recorded"),
                self.tr("Close the screen? The weld is finished and kept first."),
            )
            if answer is not QMessageBox.StandardButton.Yes:
                event.ignore()
                return
        self.shut()
        event.accept()

    def shut(self) -> None:
        """Stop the timers and the link; may be called twice."""
        self._settings.setValue("geometry", self.saveGeometry())
        self._tick.stop()
        self._watch.stop()
        self._weld_file.close()
        self._link.close()
