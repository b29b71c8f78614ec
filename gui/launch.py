"""Starting the screen: one application, one window, a report at the end."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from acquisition.keys import ClientKeys
from gui.cell_link import CellLink
from gui.main_window import MainWindow

log = logging.getLogger(__name__)

_CHECKOUT: Final = Path(__file__).resolve().parent.parent


def run_gui(
    *,
    data_endpoint: str,
    control_endpoint: str,
    keys: ClientKeys | None = None,
    supervise: Callable[[], str | None] | None = None,
    on_first_window: Callable[[float], None] | None = None,
    for_s: float | None = None,
    report: Path | None = None,
    devices_command: Sequence[str] | None = None,
    argv: Sequence[str] = ("weld-4m",),
) -> int:
    """Show the live page until its window is closed; returns the exit status.

    Args:
        data_endpoint: Where the capture process publishes; it may appear later.
        control_endpoint: Where the capture process takes commands; it may appear later.
        keys: To attach with, for a cell on another host; its devices cannot be listed from here.
        supervise: Called once a second and must be quick; restarts what died, gives a line to show or None.
        on_first_window: Called when the window has been painted first, with the seconds since the process started.
        for_s: Close after this many seconds.
        report: File for the figures of this run as JSON (capture to screen in ms, seconds to the first window).
        devices_command: Program and arguments that list devices; by default this application's own command.
        argv: Arguments for Qt.
    """
    app = QApplication.instance() or QApplication(list(argv))
    assert isinstance(app, QApplication)
    app.setApplicationName("weld-4m")
    link = CellLink(data_endpoint, control_endpoint, keys)
    own_command = (sys.executable, str(_CHECKOUT / "app.py"), "devices") if keys is None else ()
    command = devices_command or own_command
    window = MainWindow(link, supervise=supervise, devices_command=command)
    figures: dict[str, object] = {"first_window_s": None}

    def painted() -> None:
        seconds = _process_age_s()
        figures["first_window_s"] = round(seconds, 3)
        log.info("first window after %.2f s", seconds)
        if on_first_window is not None:
            on_first_window(seconds)

    window.page.painted.connect(painted)
    hooks = report_exceptions(window)

    def quit_soon(*_: object) -> None:
        # Asked for through the event loop: a loop that has not begun yet would forget it.
        QTimer.singleShot(0, lambda: app.exit(0))

    old_signals = {kind: signal.signal(kind, quit_soon) for kind in (signal.SIGINT, signal.SIGTERM)}
    window.appear()
    if for_s is not None:
        QTimer.singleShot(round(for_s * 1000), lambda: app.exit(0))
    began_s, began_cpu_s = time.monotonic(), time.process_time()
    try:
        status = app.exec()
    finally:
        window.shut()
        sys.excepthook, threading.excepthook = hooks
        for kind, handler in old_signals.items():
            signal.signal(kind, handler)
    figures["capture_to_screen"] = window.page.capture_to_screen_ms()
    figures["pictures"] = window.page.camera.drawn
    figures["messages_lost"] = link.lost
    figures["cpu_share"] = round((time.process_time() - began_cpu_s) / max(1e-9, time.monotonic() - began_s), 3)
    log.info("screen: %s", json.dumps(figures))
    if report is not None:
        report.write_text(json.dumps(figures) + "\n")
    window.hide()
    window.deleteLater()
    app.processEvents()
    return status


def report_exceptions(window: MainWindow) -> tuple[Callable[..., object], Callable[..., object]]:
    """Send exceptions that nobody caught to the log and to the screen, which stays up; returns the former hooks."""
    former = sys.excepthook, threading.excepthook

    def hook(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        log.error("unexpected error in the screen", exc_info=(kind, error or kind(), trace))
        window.trouble.emit(f"unexpected error in the screen: {kind.__name__}: {error}; see the log")

    sys.excepthook = hook
    threading.excepthook = lambda args: hook(args.exc_type, args.exc_value, args.exc_traceback)
    return former


def _process_age_s() -> float:
    """Seconds since this process was started, imports included; since Python's clock started where that is unknown."""
    try:
        after_boot_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return time.process_time()
