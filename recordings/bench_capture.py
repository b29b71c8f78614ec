"""`bench capture`: a whole cell of real devices without hardware, recorded for two minutes beside a screen.

Four network cameras over loopback (H.264, TCP + NUT), a microphone on a PulseAudio null sink, sensor boxes on ptys. All
go through the real drivers, capture process and screen. What it must show: nothing lost, and what it costs.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from acquisition.driver import DeviceError
from acquisition.simulated.cell import SimulatedCell
from acquisition.simulated.config import SimulationConfig
from recordings.bench_senders import FPS, free_port, make_clip
from recordings.supervisor import APP
from recordings.weld_folder import find_welds

_CHANNELS: Final = ("pressure_bar", "co2_flow_l_min", "feed", "current_a", "wire_mm", "voltage_v")
_STEADY: Final = (1.2, 14.0, 70.0, 175.0, 300.0, 24.5)
_HEIGHT, _WIDTH = 600, 960


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is captured.

    Attributes:
        cameras: Network cameras of 960 x 600 pixels at 30 frames a second.
        sound_hz: Sample rate of the microphone.
        boxes: Sensor boxes; each sends all six channels where there is one, else one or two.
        rows_hz: Rows per second of each.
        seconds: How long.
    """

    cameras: int = 4
    sound_hz: int = 192_000
    boxes: int = 6
    rows_hz: float = 1000.0
    seconds: float = 120.0


def bench_capture(load: Load, *, screen: bool = True) -> dict[str, Any]:
    """Record `load` and say what was lost, what it cost, and how late the screen was.

    Args:
        load: What is captured.
        screen: Draw it too, on an offscreen display.

    Returns:
        Per stream items sent, received, dropped and gaps; the processor time of each process over the measured time
        (1 is one core); the screen's own figures.

    Raises:
        DeviceError: A program that plays a device is missing, or one does not start.
    """
    for name in ("pulseaudio", "paplay"):
        if shutil.which(name) is None:
            raise DeviceError(f"{name} is not installed; install it (Debian: pulseaudio, pulseaudio-utils)")
    with tempfile.TemporaryDirectory(prefix="w4m-") as folder:
        return _Bench(load, Path(folder)).run(screen)


class _Bench:
    """One run; everything it starts ends with it."""

    def __init__(self, load: Load, folder: Path) -> None:
        self.load, self.folder = load, folder
        self.environment = os.environ | {
            "XDG_RUNTIME_DIR": str(folder),
            "PULSE_RUNTIME_PATH": str(folder / "pulse"),
            "PULSE_SERVER": f"unix:{folder / 'pulse' / 'native'}",
            "HOME": str(folder),
            "PYTHONPATH": str(APP.parent),
            "QT_QPA_PLATFORM": "offscreen",
        }
        self.children: list[subprocess.Popen[bytes]] = []

    def run(self, screen: bool) -> dict[str, Any]:
        """Start the devices, capture, stop them."""
        try:
            plans, ports = self._plans()
            self._sound_server()
            senders = [
                self._start(
                    [sys.executable, "-m", "recordings.bench_senders", str(plan)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=ports,
                )
                for plan in plans
            ]
            self._await(lambda: all(map(_listens, self.ports)), senders[0], "a camera")
            runtime = ["--runtime", str(self.folder / "run")]
            seconds = str(self.load.seconds)
            capture = self._start(
                [
                    *(sys.executable, str(APP), "record", "--cell", str(self.folder / "cell.toml"), *runtime),
                    *("--out", str(self.folder / "welds"), "--for", seconds, "--json"),
                ],
                stdout=subprocess.PIPE,
            )
            report = self.folder / "screen.json"
            looking = None
            if screen:
                self._await(lambda: (self.folder / "run" / "data").exists(), capture, "the capture process")
                look = ["screen", *runtime, "--for", seconds, "--report", str(report)]
                looking = self._start([sys.executable, str(APP), *look])
            cpu: dict[str, float] = {}
            while capture.poll() is None:
                cpu |= _processor_s({child.pid for child in self.children})
                time.sleep(0.25)
            said = capture.stdout.read() if capture.stdout else b""
            if not said:
                raise DeviceError(f"the capture process ended with code {capture.returncode}; see its messages above")
            if looking is not None:
                looking.wait(30)
            sent: dict[str, Any] = {}
            for sender in senders:
                sent |= json.loads(sender.communicate(b"")[0] or b"{}")
            figures = json.loads(report.read_text(encoding="utf-8")) if report.exists() else None
            return self._result(json.loads(said), sent, cpu, figures)
        finally:
            for child in self.children:
                child.kill()
                child.wait()

    def _start(self, command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(command, cwd=APP.parent, env=self.environment, **options)
        self.children.append(child)
        return child

    def _await(self, done: Callable[[], bool], child: "subprocess.Popen[bytes]", what: str) -> None:
        deadline = time.monotonic() + 20
        while not done():
            if time.monotonic() > deadline or child.poll() is not None:
                raise DeviceError(f"{what} does not start; run its command by hand to see why")
            time.sleep(0.02)

    def _sound_server(self) -> None:
        socket = self.folder / "pulse" / "native"
        server = self._start(
            [
                *("pulseaudio", "-n", "--exit-idle-time=-1", "--daemonize=no", "--use-pid-file=no"),
                *("-L", f"module-null-sink sink_name=weld rate={self.load.sound_hz} norewinds=1"),
                *("-L", f"module-native-protocol-unix auth-anonymous=1 socket={socket}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._await(socket.exists, server, "the sound server")

    def _plans(self) -> tuple[list[Path], list[int]]:
        """Make the material and the cell file; returns the senders' plans and the far ends of the serial lines.

        A sender per camera: waiting for its reader, FFmpeg stops every thread of its process.
        """
        load, folder = self.load, self.folder
        clip = folder / "clip.nut"
        make_clip(clip, _pictures(), _HEIGHT, _WIDTH)
        sound = folder / "sound.raw"
        noise = np.random.default_rng(1).normal(0.0, 800.0, load.sound_hz * 10)
        sound.write_bytes(noise.astype("<i2").tobytes())
        ports = [pty.openpty() for _ in range(load.boxes)]
        for far, near in ports:
            os.set_blocking(far, False)
            tty.setraw(near)
        names = [os.ttyname(near) for _, near in ports]
        for _, near in ports:
            os.close(near)  # the far end sees by that when a driver opens the port
        groups = _share(load.boxes)
        self.ports = cameras = [free_port() for _ in range(load.cameras)]
        plans: list[dict[str, Any]] = [{"clip": str(clip), "port": port} for port in cameras]
        rest = {
            "boxes": [(far, _values(group), load.rows_hz) for (far, _), group in zip(ports, groups, strict=True)],
            "sound": str(sound),
            "rate_hz": load.sound_hz,
        }
        lines = ['name = "bench"', "[judge]", "photos_expected = 0", 'required_process = ["video"]']
        lines += ['required_final = ["video"]']
        for number, port in enumerate(cameras):
            lines += _stream(f"camera{number}", "video", "camera", f'url = "tcp://127.0.0.1:{port}"', 'format = "nut"')
            lines += [f"fps = {FPS}.0"]
        lines += _stream("microphone", "audio", "microphone", 'device = "pulse"', f"rate_hz = {load.sound_hz}")
        lines += [f"block = {load.sound_hz // 100}"]
        for number, (name, group) in enumerate(zip(names, groups, strict=True)):
            columns = json.dumps(["seq", "device_us", *group])
            lines += _stream(f"sensors{number}", "sensors", "serial", f'port = "{name}"')
            lines += [f"rate_hz = {load.rows_hz}", f"columns = {columns}"]
        (folder / "cell.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        paths = [folder / f"plan{number}.json" for number in range(len(plans) + 1)]
        for path, plan in zip(paths, [*plans, rest], strict=True):
            path.write_text(json.dumps(plan), encoding="utf-8")
        return paths, [far for far, _ in ports]

    def _result(
        self, summary: dict[str, Any], sent: dict[str, Any], cpu: dict[str, float], screen: dict[str, Any] | None
    ) -> dict[str, Any]:
        streams = {
            name: {key: stream[key] for key in ("received", "dropped", "gaps", "rate_hz", "clock")}
            for name, stream in summary["streams"].items()
        }
        return {
            "load": {name: getattr(self.load, name) for name in ("cameras", "sound_hz", "boxes", "rows_hz", "seconds")},
            "dropped": sum(stream["dropped"] for stream in streams.values()),
            "streams": streams,
            "senders": sent,
            "welds": [
                {"key": weld["key"], "problem": weld["problem"], "complete": weld["complete"]}
                for weld in summary["welds"]
            ],
            "recorded_mb": round(sum(_size(weld) for weld in _welds(self.folder / "welds")) / 1e6, 1),
            "cores": {name: round(used / self.load.seconds, 3) for name, used in sorted(cpu.items())},
            "screen": screen,
        }


def _stream(name: str, modality: str, driver: str, *settings: str) -> list[str]:
    return ["[[stream]]", f'name = "{name}"', f'modality = "{modality}"', f'driver = "{driver}"', *settings]


def _pictures() -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Ten seconds of a simulated arc."""
    cell = SimulatedCell(SimulationConfig(classes=("good",), idle_s=0.5, arc_s=12.0, fps=float(FPS)))
    take = cell.take(0)
    first = take.items["camera"].first + FPS
    return (take.frame(first + k) for k in range(10 * FPS))


def _share(boxes: int) -> list[tuple[str, ...]]:
    """Which channels each box sends; current and voltage stay together, for they trigger."""
    if boxes == 1:
        return [_CHANNELS]
    groups: list[tuple[str, ...]] = [("current_a", "voltage_v")]
    groups += [(name,) for name in _CHANNELS if name not in groups[0]]
    return [groups[i] if i < len(groups) else ("feed",) for i in range(boxes)]


def _values(channels: tuple[str, ...]) -> list[str]:
    """Ten seconds of rows of an arc that always burns."""
    draw = np.random.default_rng(2)
    steady = [_STEADY[_CHANNELS.index(name)] for name in channels]
    rows = np.array(steady) * (1 + 0.03 * draw.standard_normal((1000, len(channels))))
    return [",".join(f"{value:.3f}" for value in row) for row in rows]


def _processor_s(pids: set[int]) -> dict[str, float]:
    """Processor seconds so far of the children and theirs, by what they are."""
    used: dict[str, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        own = int(stat.parent.name)
        if (own not in pids and int(fields[1]) not in pids) or not command[0]:
            continue
        words = [word.decode(errors="replace") for word in command]
        name = next((word for word in words if word in ("capture", "record", "screen")), Path(words[0]).name)
        name = "senders" if "recordings.bench_senders" in words else name
        used[name] = used.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def _listens(port: int) -> bool:
    """Whether somebody listens on a port of this host (looked up: a connection would use up its only reader)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def _welds(root: Path) -> list[Path]:
    return find_welds(root) if root.exists() and any(root.rglob("weld.json")) else []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The result for a human."""
    for name, stream in result["streams"].items():
        yield f"{name}: {stream['received']} received ({stream['rate_hz']:g} per second), {stream['dropped']} dropped"
    yield f"cores used: {', '.join(f'{name} {share:.2f}' for name, share in result['cores'].items())}"
    screen = result["screen"]
    if screen and screen["capture_to_screen"]:
        yield "capture to screen: " + ", ".join(f"{name} {ms} ms" for name, ms in screen["capture_to_screen"].items())
    yield f"{result['dropped']} dropped in all; {len(result['welds'])} weld(s), {result['recorded_mb']} MB recorded"
