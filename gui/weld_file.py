"""What the folder of the chosen weld says about it: read by a thread of its own, again whenever it changes."""

import logging
import threading
from pathlib import Path
from typing import Final

from PySide6.QtCore import QObject, Signal

from recordings.manifest import Manifest
from recordings.weld_folder import MANIFEST, WeldError, load_manifest

log = logging.getLogger(__name__)

_EVERY_S: Final = 0.5


class WeldFile(QObject):
    """Watches one weld folder at a time.

    Signals:
        read: The weld's manifest, new or changed: path of its folder, `Manifest`, or None where it cannot be read
            (it lies on another host, or is being begun).
    """

    read = Signal(str, object)

    def __init__(self, parent: QObject) -> None:
        """Start the thread; nothing is watched yet."""
        super().__init__(parent)
        self._path = ""
        self._changed = threading.Event()
        self._stop = False
        self._thread = threading.Thread(target=self._watch, name="gui-weld-file", daemon=True)
        self._thread.start()

    def watch(self, path: str) -> None:
        """Watch this folder from now on; `""` for none."""
        if path != self._path:
            self._path = path
            self._changed.set()

    def close(self) -> None:
        """Stop watching."""
        self._stop = True
        self._changed.set()
        self._thread.join(2.0)

    def _watch(self) -> None:
        watched, stamp = "", 0
        while not self._stop:
            path = self._path
            now = _stamp(path)
            if (path, now) != (watched, stamp):
                watched, stamp = path, now
                self.read.emit(path, _load(path) if now else None)
            self._changed.wait(_EVERY_S)
            self._changed.clear()


def _stamp(path: str) -> int:
    """Give what changes with the file: its time, 0 without a file."""
    try:
        return (Path(path) / MANIFEST).stat().st_mtime_ns if path else 0
    except OSError:
        return 0


def _load(path: str) -> Manifest | None:
    try:
        return load_manifest(Path(path))
    except WeldError as error:
        log.info("%s", error)
        return None
