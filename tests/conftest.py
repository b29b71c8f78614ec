"""What every test may rely on: no window on the screen, nobody's home folder touched, nothing left running."""

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

# Before anything imports Qt: the tests draw into memory.
os.environ["QT_QPA_PLATFORM"] = "offscreen"

# Settings, recordings and sockets of the tests, and of the processes that they start, stay out of the user's folders.
# The path is short because an ipc socket's path must fit into 107 bytes.
_HOME: Final = Path(tempfile.mkdtemp(prefix="w4m-", dir="/tmp" if Path("/tmp").is_dir() else None))
for _variable, _folder in (
    ("XDG_DATA_HOME", "d"),
    ("XDG_CONFIG_HOME", "c"),
    ("XDG_STATE_HOME", "s"),
    ("XDG_RUNTIME_DIR", "r"),
):
    (_HOME / _folder).mkdir(mode=0o700)
    os.environ[_variable] = str(_HOME / _folder)

SETTLE_S: Final = 2.0
"""A thread or process that was told to stop gets this long to be gone."""


def pytest_unconfigure() -> None:
    """Remove the folders of the session."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """Give a private folder (mode 0700) whose path is short enough for ipc sockets."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir=_HOME))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def real_weld() -> Path:
    """Give the folder of real recordings, which are not part of the project."""
    named = os.environ.get("WELD4M_REAL_WELD")
    if not named:
        pytest.skip("needs real recordings: set WELD4M_REAL_WELD to the folder that holds overlap_03-22-23-0041-06.avi")
    folder = Path(named)
    if not (folder / "overlap_03-22-23-0041-06.avi").is_file():
        pytest.fail(f"WELD4M_REAL_WELD={named} holds no overlap_03-22-23-0041-06.avi; correct or unset it")
    return folder


def living_threads() -> set[threading.Thread]:
    """List the threads that a test must end: neither those made by native callbacks nor pyzmq's one-per-process one."""
    return {
        thread
        for thread in threading.enumerate()
        if not isinstance(thread, threading._DummyThread)
        and not type(thread).__module__.startswith("zmq.utils.garbage")
    }


def living_children() -> dict[int, str]:
    """List child processes with their command lines, but for multiprocessing's own two servants."""
    if not Path("/proc/self/stat").exists():
        return {child.pid: child.name for child in multiprocessing.active_children() if child.pid is not None}
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (OSError, ValueError, IndexError):
            continue  # it ended while we looked
        if parent == os.getpid() and not any(own in command for own in ("resource_tracker", "forkserver")):
            found[int(folder.name)] = command or "(ended, but nobody waited for it)"
    return found


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Fail a test that leaves a thread or a child process behind (after napari's dangling-thread check)."""
    threads, children = living_threads(), living_children()
    yield
    deadline = time.monotonic() + SETTLE_S
    for thread in living_threads() - threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in living_threads() - threads]
    waiting = threading.Event()
    while (orphans := {pid: name for pid, name in living_children().items() if pid not in children}) and (
        time.monotonic() < deadline
    ):
        multiprocessing.active_children()  # takes the exit status of finished ones
        waiting.wait(0.02)
    for pid in orphans:
        _end(pid)
    if left or orphans:
        pytest.fail(f"left running: threads {left}, processes {orphans}; stop and join them in the test")


def _end(pid: int) -> None:
    try:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
