"""Where the processes of one cell meet: a private folder with sockets and locks."""

import os
import re
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import IO, Any, Final

_LONGEST_SOCKET_PATH: Final = 107

_ASKED_S: Final = 0.2
"""Somebody who asks for the `holder` has the lock for a moment; that must not keep the role's process from starting."""


class AlreadyRunningError(Exception):
    """Another process holds the role; the message names cell, role and next step."""


def default_runtime(cell: str) -> Path:
    """The runtime folder of a cell, short enough for a socket path."""
    name = re.sub(r"[^\w-]", "_", cell)
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    private = Path(given) / "weld-4m" / name
    if Path(given).is_dir() and given and len(os.fsencode(private / "control")) <= _LONGEST_SOCKET_PATH:
        return private
    return Path(tempfile.gettempdir()) / f"weld-4m-{user}" / name


class Runtime:
    """A runtime folder; made private (0700) on first use.

    Attributes:
        folder: The folder.
        data: Endpoint on which capture publishes.
        control: Endpoint on which capture takes commands.
        summary: File that capture writes its summary to when it ends.
    """

    def __init__(self, folder: Path) -> None:
        """Use `folder`, making it if needed.

        Raises:
            AlreadyRunningError: It belongs to somebody else, or no socket fits into it.
        """
        if sys.platform != "win32" and len(os.fsencode(folder / "control")) > _LONGEST_SOCKET_PATH:
            raise AlreadyRunningError(f"{folder} is too long for a socket path; give a shorter one with --runtime")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise AlreadyRunningError(f"{folder} belongs to another user; give another one with --runtime")
        folder.chmod(0o700)
        self.folder = folder
        self.summary = folder / "summary.json"
        if sys.platform == "win32":
            port = 20_000 + zlib.crc32(str(folder).encode()) % 20_000
            self.data, self.control = (f"tcp://127.0.0.1:{port + i}" for i in range(2))
        else:
            self.data, self.control = (f"ipc://{folder / name}" for name in ("data", "control"))

    def hold(self, role: str) -> IO[Any]:
        """Take the lock of `role` (`capture`, `detector`) until the returned file is closed or this process dies.

        Raises:
            AlreadyRunningError: Another living process holds it.
        """
        handle = (self.folder / f"{role}.lock").open("a+")
        deadline = time.monotonic() + _ASKED_S
        while not (locked := _try_lock(handle)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not locked:
            handle.close()
            raise AlreadyRunningError(
                f"a {role} process already runs for {self.folder.name}; attach with `run` or stop it first"
            )
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        return handle

    def holder(self, role: str) -> int | None:
        """Process id of the living holder of `role`, or None."""
        path = self.folder / f"{role}.lock"
        if not path.exists():
            return None
        with path.open("a+") as handle:
            if _try_lock(handle):
                return None
            handle.seek(0)
            text = handle.read().strip()
        return int(text) if text.isdigit() else -1


def _try_lock(handle: IO[Any]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
