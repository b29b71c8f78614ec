"""Real counterparts of the device drivers: a network camera, a sound server and serial lines, all on this machine.

Each can die the way the real one does. The camera runs in a process of its own (`python -m
tests.acquisition.counterparts ...`), so that it can be killed or frozen. Times are `time.monotonic_ns`, which on Linux
all processes share.
"""

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt

PATIENCE_S: Final = 10.0
"""How long a counterpart may take to come up; only a broken one takes as long."""

ROOT: Final = Path(__file__).resolve().parents[2]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Poll `condition` until it holds; fail with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s in vain: {what}")
        pause.wait(0.005)


def program(name: str) -> str:
    """Path of a program that the tests need; fails, and never skips, where it is missing."""
    found = shutil.which(name)
    if found is None:
        raise AssertionError(f"{name} is not installed; 'make test' installs it (packages.txt)")
    return found


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Process:
    """A child process that can be killed, frozen and thawed."""

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._child = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait(self, timeout_s: float) -> int:
        return self._child.wait(timeout_s)

    def kill(self) -> None:
        if self.running:
            self._child.kill()
        self._child.wait(PATIENCE_S)

    def freeze(self) -> None:
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._child.send_signal(signal.SIGCONT)


class NetworkCamera:
    """A camera that sends H.264 (lossless, full range) over TCP + NUT to one reader, from before it is asked to.

    The frame shown at cell time t is `frames[(t - start_ns) * fps]`; before `start_ns` the first one, afterwards the
    last. Its own clock, the one it stamps with, runs `drift_ppm` faster and begins at 0 when the reader comes.
    """

    def __init__(
        self, folder: Path, frames: npt.NDArray[np.uint8], fps: float = 30.0, drift_ppm: float = 0.0, port: int = 0
    ) -> None:
        self.port = port or free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"
        self._file = folder / f"camera-{self.port}.npy"
        self._settings = (str(fps), str(drift_ppm))
        self._process: _Process | None = None
        np.save(self._file, frames)

    def start(self, start_ns: int | None = None) -> None:
        """Start the camera; its pictures begin to change at `start_ns` (None: with its first frame)."""
        self._process = _Process(
            [
                *(sys.executable, "-m", "tests.acquisition.counterparts"),
                *(str(self._file), str(self.port), *self._settings, str(start_ns or 0)),
            ]
        )
        wait_until(lambda: _listens(self.port) or not self.process.running, "the camera listens")

    @property
    def process(self) -> _Process:
        assert self._process is not None, "the camera was not started"
        return self._process

    def kill(self) -> None:
        """Pull the plug."""
        if self._process is not None:
            self._process.kill()


def _listens(port: int) -> bool:
    """Whether somebody listens on the TCP port, or serves a reader already (found without being one)."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[1] == wanted and line.split()[3] in ("0A", "01") for line in lines)


def _send(file: str, port: str, fps_text: str, drift_text: str, start_text: str) -> None:
    """Be a network camera until the reader goes or somebody kills this process."""
    frames = np.load(file, mmap_mode="r")
    fps, drift, start_ns = float(fps_text), float(drift_text) * 1e-6, int(start_text)
    with av.open(f"tcp://127.0.0.1:{port}?listen=1&tcp_nodelay=1", "w", format="nut") as container:
        options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "0", "g": "15", "bf": "0"}
        stream = container.add_stream("libx264", rate=round(fps), options=options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1_000_000)
        stream.codec_context.color_range = 2
        begin_ns = time.monotonic_ns()
        start_ns = start_ns or begin_ns
        chroma = np.full((frames.shape[1] // 2, frames.shape[2]), 128, np.uint8)
        pause = threading.Event()
        for number in range(10**9):
            due_ns = begin_ns + round(number * 1e9 / fps)
            pause.wait(max(0.0, (due_ns - time.monotonic_ns()) / 1e9))
            now_ns = time.monotonic_ns()
            shown = min(max(int((now_ns - start_ns) * fps / 1e9), 0), len(frames) - 1)
            frame = av.VideoFrame.from_ndarray(np.concatenate([frames[shown], chroma]), format="yuv420p")
            frame.color_range = 2
            frame.pts, frame.time_base = round((now_ns - begin_ns) * (1 + drift) / 1000), Fraction(1, 1_000_000)
            for packet in stream.encode(frame):
                container.mux(packet)


class SoundServer:
    """A PulseAudio server with one null sink whose monitor is PortAudio's device `pulse`.

    `environment` must be in force in every process that is to use it. The sink renders every 50 ms (`norewinds`), not
    every 2 s as it would otherwise.
    """

    SINK: Final = "weld"

    def __init__(self, folder: Path, rate_hz: int = 48_000) -> None:
        self._folder, self._rate_hz = folder, rate_hz
        self._socket = folder / "pulse" / "native"
        self._process: _Process | None = None
        self.environment = {
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder / "pulse"),
            "PULSE_SERVER": f"unix:{self._socket}",
            "HOME": str(folder),
        }

    @property
    def process(self) -> _Process:
        assert self._process is not None, "the sound server was not started"
        return self._process

    def start(self) -> None:
        """Start the server (also again, after it was killed)."""
        shutil.rmtree(self._folder / "pulse", ignore_errors=True)
        self._process = _Process(
            [
                *(program("pulseaudio"), "-n", "--exit-idle-time=-1", "--daemonize=no", "--use-pid-file=no"),
                *("-L", f"module-null-sink sink_name={self.SINK} rate={self._rate_hz} norewinds=1"),
                *("-L", f"module-native-protocol-unix auth-anonymous=1 socket={self._socket}"),
            ],
            self.environment,
        )
        wait_until(self._answers, "the sound server answers")

    def _answers(self) -> bool:
        assert self.process.running, "pulseaudio ended at once; run it by hand to see why"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def play(self, samples: npt.NDArray[np.int16]) -> subprocess.Popen[bytes]:
        """Play mono sound into the sink in real time, beginning 0 to 10 ms (under load 80) after this call.

        The second of buffer keeps a busy machine from tearing holes into the sound. Wait for the process returned.
        """
        file = self._folder / "sound.raw"
        file.write_bytes(np.ascontiguousarray(samples, "<i2").tobytes())
        return subprocess.Popen(
            [
                *(program("paplay"), "--raw", "--format=s16le", "--channels=1", f"--rate={self._rate_hz}"),
                *("--latency-msec=1000", f"--device={self.SINK}", str(file)),
            ],
            env={**os.environ, **self.environment},
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Kill the server, as a crash would."""
        if self._process is not None:
            self._process.kill()


class Pty:
    """A serial line without a cable: write to it as the device; `path` is the port to open."""

    def __init__(self) -> None:
        self._device, self._port = pty.openpty()
        tty.setraw(self._port)
        self.path = os.ttyname(self._port)

    def write(self, data: bytes) -> None:
        """Send bytes as the device."""
        os.write(self._device, data)

    def unplug(self) -> None:
        """Pull the device; may be called twice."""
        for descriptor in (self._device, self._port):
            if descriptor >= 0:
                os.close(descriptor)
        self._device = self._port = -1


class SerialCable:
    """A serial line by socat: two ports joined at `port` (for the driver) and a far end that `write` uses."""

    def __init__(self, folder: Path) -> None:
        self.port = folder / "port"
        self._far = folder / "far"
        self._process: _Process | None = None
        self._descriptor = -1

    def plug(self) -> None:
        """Join the two ends (also again, after `unplug`)."""
        self._process = _Process(
            [program("socat"), f"pty,raw,echo=0,link={self.port}", f"pty,raw,echo=0,link={self._far}"]
        )
        wait_until(lambda: self.port.exists() and self._far.exists(), "socat made both ends")
        self._descriptor = os.open(self._far, os.O_WRONLY | os.O_NOCTTY)

    def write(self, data: bytes) -> None:
        """Send bytes as the device."""
        os.write(self._descriptor, data)

    def unplug(self) -> None:
        """Kill the cable; may be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._process is not None:
            self._process.kill()
            self._process = None
        for link in (self.port, self._far):
            link.unlink(missing_ok=True)


if __name__ == "__main__":
    _send(*sys.argv[1:])
