"""What is plugged in: cameras, microphones and serial ports, each as lines ready for a cell file."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import av
import av.device
from serial.tools import list_ports

from acquisition.camera import Camera, CameraConfig
from acquisition.driver import DeviceError, Driver
from acquisition.microphone import Microphone, MicrophoneConfig, sound_inputs
from acquisition.packet import SENSOR_CHANNELS
from acquisition.serial_sensors import SerialConfig, SerialSensors

Kind = Literal["camera", "microphone", "serial"]

MODALITIES: Final[dict[Kind, str]] = {"camera": "video", "microphone": "audio", "serial": "sensors"}
CAMERA_FORMATS: Final[dict[str, str]] = {"darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """A device that is plugged in.

    Attributes:
        kind: The driver that a cell file names for it.
        name: What the system calls it.
        settings: The driver's settings.
    """

    kind: Kind
    name: str
    settings: dict[str, Any]

    @property
    def lines(self) -> list[str]:
        """A `[[stream]]` table for a cell file, line by line."""
        stream = MODALITIES[self.kind] if self.kind == "serial" else self.kind
        table = {"name": stream, "modality": MODALITIES[self.kind], "driver": self.kind, **self.settings}
        # A JSON text, number or list of texts is a TOML one.
        values = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
        if self.kind == "serial":
            values[-1] += "  # what each field of a line is; '-' to ignore it"
        return [f"# {' '.join(self.name.split())}", "[[stream]]", *values]

    def driver(self) -> Driver:
        """A closed driver of the device."""
        if self.kind == "camera":
            return Camera(self.kind, CameraConfig(**self.settings))
        if self.kind == "microphone":
            return Microphone(self.kind, MicrophoneConfig(**self.settings))
        return SerialSensors(self.kind, SerialConfig(**self.settings))

    def problem(self) -> str | None:
        """Open the device for a moment; say in one line why it does not open, or None."""
        driver = self.driver()
        try:
            driver.open()
        except DeviceError as error:
            return str(error)
        finally:
            driver.close()
        return None


def find_cameras() -> list[FoundDevice]:
    """List the cameras that FFmpeg can open on this system."""
    if sys.platform == "linux":
        found = []
        for device in sorted(Path("/dev").glob("video*"), key=lambda path: (len(path.name), path.name)):
            label = Path("/sys/class/video4linux", device.name, "name")
            name = label.read_text(encoding="utf-8", errors="replace").strip() if label.is_file() else device.name
            found.append(FoundDevice(kind="camera", name=name, settings=_camera(str(device), "v4l2")))
        return found
    kind = CAMERA_FORMATS.get(sys.platform, "")
    try:
        devices = av.device.enumerate_input_devices(kind) if kind else []
    except (av.error.FFmpegError, ValueError) as error:
        raise DeviceError(f"{kind} cannot list its cameras ({error}); name the camera's url yourself") from error
    return [
        FoundDevice(
            kind="camera",
            name=device.description or device.name,
            settings=_camera(f"video={device.name}" if kind == "dshow" else device.name, kind),
        )
        for device in devices
        if "video" in device.media_types or not device.media_types
    ]


def _camera(url: str, kind: str) -> dict[str, Any]:
    return {"url": url, "format": kind, "fps": 30.0}


def find_microphones() -> list[FoundDevice]:
    """List PortAudio's inputs; raises `DeviceError` where it is missing or hangs."""
    return [
        FoundDevice(kind="microphone", name=name, settings={"device": name, "rate_hz": rate_hz, "channels": 1})
        for name, rate_hz in sound_inputs()
    ]


def find_serial_ports() -> list[FoundDevice]:
    """List the serial ports; which columns a device sends, only its owner knows."""
    return [
        FoundDevice(
            kind="serial",
            name=port.device if port.description in (None, "", "n/a") else port.description,
            settings={"port": port.device, "baud": 115_200, "columns": SENSOR_CHANNELS},
        )
        for port in sorted(list_ports.comports())
    ]


def list_devices(check: bool = False) -> list[dict[str, Any]]:
    """List everything that could be a stream of a cell.

    Args:
        check: Open each device for a moment.

    Returns:
        Per device `kind`, `name`, `lines` (of a cell file, the outcome of a check as a comment first) and `problem`
        (one line, or None). What could not be looked for at all is an entry with a problem and no settings.
    """
    listed: list[dict[str, Any]] = []
    searches: dict[Kind, Callable[[], list[FoundDevice]]] = {
        "camera": find_cameras,
        "microphone": find_microphones,
        "serial": find_serial_ports,
    }
    for kind, search in searches.items():
        try:
            found = search()
        except DeviceError as error:
            listed.append({"kind": kind, "name": "", "lines": [f"# {error}"], "problem": str(error)})
            continue
        for device in found:
            problem = device.problem() if check else None
            outcome = [f"# {problem or 'opens'}"] if check else []
            listed.append(
                {"kind": kind, "name": device.name, "lines": [*outcome, *device.lines, ""], "problem": problem}
            )
    return listed
