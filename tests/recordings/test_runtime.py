import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recordings import runtime
from recordings.runtime import AlreadyRunningError, Runtime, default_runtime

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from recordings.runtime import Runtime
held = Runtime(Path(sys.argv[1])).hold("capture")
print("held", flush=True)
sys.stdin.read()
"""


def test_the_folder_is_private(runtime_dir):
    folder = runtime_dir / "cell"
    folder.mkdir(mode=0o755)
    place = Runtime(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (place.data, place.control) == (f"ipc://{folder}/data", f"ipc://{folder}/control")


def test_locks_exclude_each_other_by_role(runtime_dir):
    place = Runtime(runtime_dir)
    assert place.holder("capture") is None
    with place.hold("capture"), place.hold("detector"):
        with pytest.raises(AlreadyRunningError, match="a capture process already runs"):
            Runtime(runtime_dir).hold("capture")
        assert place.holder("capture") == place.holder("detector") == os.getpid()
    assert place.holder("capture") is None
    place.hold("capture").close()


def test_a_lock_dies_with_its_process(runtime_dir):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(runtime_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        place = Runtime(runtime_dir)
        assert place.holder("capture") == process.pid
        with pytest.raises(AlreadyRunningError):
            place.hold("capture")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert place.holder("capture") is None
        with place.hold("capture"):
            assert place.holder("capture") == os.getpid()


def test_asking_for_the_holder_keeps_nobody_from_starting(runtime_dir, monkeypatch):
    """Whoever asks has the lock for a moment; `hold` outlasts that."""
    place = Runtime(runtime_dir)
    asking = place.hold("capture")
    tried = threading.Event()
    attempt = runtime._try_lock

    def watched(handle):
        got = attempt(handle)
        tried.set()
        return got

    monkeypatch.setattr(runtime, "_try_lock", watched)
    monkeypatch.setattr(runtime, "_ASKED_S", 10.0)

    def release():
        assert tried.wait(10)
        asking.close()

    thread = threading.Thread(target=release)
    thread.start()
    with place.hold("capture"):
        thread.join(10)
        assert place.holder("capture") == os.getpid()


@pytest.mark.parametrize("name", ["x" * 110, "ü" * 55])
def test_a_path_too_long_for_a_socket_is_refused(runtime_dir, name):
    """Bytes count, and nothing is made."""
    with pytest.raises(AlreadyRunningError, match="too long for a socket path; give a shorter one"):
        Runtime(runtime_dir / name)
    assert not (runtime_dir / name).exists()


def test_the_default_folder_always_fits(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_runtime("cell 1/2") == tmp_path / "weld-4m" / "cell_1_2"
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    assert not default_runtime("cell").is_relative_to(deep)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    assert default_runtime("cell").name == "cell"


def test_a_folder_of_somebody_else_is_refused(runtime_dir, monkeypatch):
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(AlreadyRunningError, match="belongs to another user"):
        Runtime(runtime_dir)
