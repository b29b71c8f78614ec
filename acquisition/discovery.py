"""What is plugged in or on the network, each as lines ready for a cell file, checked if asked (`device_check`).

Every search runs beside the others and is given up after some seconds; a package that is not installed is a comment.
"""

import importlib
import json
import sys
import threading
import time
import typing
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import av
import av.device
from serial.tools import list_ports

from acquisition import genicam
from acquisition.device_check import SECONDS, DeviceCheck, check_devices
from acquisition.driver import DeviceError, Driver
from acquisition.lsl import RESOLVE_S, SOUND_DTYPES
from acquisition.microphone import sound_inputs
from acquisition.packet import SENSOR_CHANNELS
from acquisition.registry import DRIVERS

Kind = Literal["camera", "microphone", "serial", "genicam", "lsl"]

MODALITIES: Final[dict[Kind, str]] = {"camera": "video", "microphone": "audio", "serial": "sensors", "genicam": "video"}
CAMERA_FORMATS: Final[dict[str, str]] = {"darwin": "avfoundation", "win32": "dshow"}
SEARCH_S: Final = 6.0
"""A search that takes longer is given up; its thread is left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """A device that is there.

    Attributes:
        kind: The driver that a cell file names for it.
        name: What the system calls it.
        settings: The driver's settings.
        modality: What it carries.
        stream: Name of its stream; empty for `camera`, `microphone` or `sensors`.
    """

    kind: Kind
    name: str
    settings: dict[str, Any]
    modality: str = ""
    stream: str = ""

    @property
    def carries(self) -> str:
        """The modality, by its kind where it was not given."""
        return self.modality or MODALITIES[self.kind]

    @property
    def stream_name(self) -> str:
        """The name of its stream in a cell file."""
        return self.stream or {"video": "camera", "audio": "microphone"}.get(self.carries, self.carries)

    @property
    def lines(self) -> list[str]:
        """A `[[stream]]` table for a cell file, line by line."""
        table = {"name": self.stream_name, "modality": self.carries, "driver": self.kind, **self.settings}
        # A JSON text, number or list of texts is a TOML one.
        values = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
        if "columns" in self.settings:
            values[-1] += "  # what each field is; '-' to ignore it"
        return [f"# {' '.join(self.name.split())}", "[[stream]]", *values]

    def driver(self) -> Driver:
        """A closed driver of the device."""
        module, _, name = DRIVERS[self.kind].partition(":")
        kind = getattr(importlib.import_module(module), name)
        config = typing.get_type_hints(kind.__init__)["config"]
        driver: Driver = kind(self.stream_name, config(**self.settings))
        return driver


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


def find_genicam_cameras() -> list[FoundDevice]:
    """List the GigE Vision cameras that answer; named by their MAC address, which stays theirs."""
    found = []
    for info in genicam.find_cameras():
        address = info.mac if info.mac.strip("0:") else info.ip
        name = f"{info.manufacturer or 'GigE Vision'} {info.model or 'camera'} at {info.ip}"
        found.append(FoundDevice(kind="genicam", name=name, settings={"camera": address, "fps": 25.0}))
    return found


def find_lsl_streams() -> list[FoundDevice]:
    """List the Lab Streaming Layer's streams of numbers; what each channel is, only the sender knows."""
    try:
        pylsl = importlib.import_module("pylsl")
    except (ImportError, OSError, RuntimeError) as error:
        raise DeviceError(f"LSL streams cannot be looked for ({error}); run: pip install pylsl") from error
    found = []
    for info in pylsl.resolve_streams(RESOLVE_S):
        dtype = pylsl.lib.fmt2npdtype[info.channel_format()]
        if dtype is None:  # texts: markers
            continue
        named = {"stream": info.name(), "type": info.type(), "source_id": info.source_id()}
        settings: dict[str, Any] = {key: text for key, text in named.items() if text and "'" not in text}
        if info.nominal_srate() <= 0:
            settings["rate_hz"] = 10.0
        sound = info.type().casefold() == "audio" and dtype.__name__ in SOUND_DTYPES
        if not sound:
            count = info.channel_count()
            settings["columns"] = [*SENSOR_CHANNELS[:count], *["-"] * (count - len(SENSOR_CHANNELS))]
        if named["stream"] or named["source_id"]:
            name = f"{info.name()} of {info.hostname()}"
            found.append(
                FoundDevice(kind="lsl", name=name, settings=settings, modality="audio" if sound else "sensors")
            )
    return sorted(found, key=lambda device: (device.name, str(device.settings)))


SEARCHES: Final[dict[Kind, Callable[[], list[FoundDevice]]]] = {
    "camera": find_cameras,
    "microphone": find_microphones,
    "serial": find_serial_ports,
    "genicam": find_genicam_cameras,
    "lsl": find_lsl_streams,
}


def list_devices(check: bool = False, seconds: float = SECONDS) -> list[dict[str, Any]]:
    """List everything that could be a stream of a cell.

    Args:
        check: Open each device and listen to it; microphones one after the other, as many are one sound card.
        seconds: How long to listen to each.

    Returns:
        Per device `kind`, `name`, `lines` (of a cell file, the outcome of a check as a comment first) and `problem`
        (one line, or None); of a checked one also `rate_hz`, `jitter_ms`, `jitter_p99_ms`, `drops`, `items`, `first_s`.
        What could not be looked for is an entry with a problem (None if only a package is missing) and no settings.
    """
    listed: list[dict[str, Any]] = []
    found: list[FoundDevice] = []
    names: Counter[str] = Counter()
    for kind, outcome in _searched().items():
        if isinstance(outcome, DeviceError):
            absent = isinstance(outcome.__cause__, ImportError)  # an optional package: nothing is wrong
            problem = None if absent else str(outcome)
            listed.append({"kind": kind, "name": "", "lines": [f"# {outcome}"], "problem": problem})
            continue
        for device in outcome:
            names[device.stream_name] += 1
            count = names[device.stream_name]
            found.append(replace(device, stream=f"{device.stream_name}-{count}") if count > 1 else device)
    checks = _checked(found, seconds) if check else [None] * len(found)
    for device, checked in zip(found, checks, strict=True):
        entry: dict[str, Any] = {"kind": device.kind, "name": device.name, "lines": [*device.lines, ""]}
        entry["problem"] = None if checked is None else checked.problem
        if checked is not None:
            entry["lines"].insert(0, f"# {checked.line}")
            entry |= figures(checked)
        listed.append(entry)
    return listed


def figures(checked: DeviceCheck) -> dict[str, Any]:
    """What was measured, for programs; None is what could not be."""
    return {
        key: getattr(checked, key) for key in ("rate_hz", "jitter_ms", "jitter_p99_ms", "drops", "items", "first_s")
    }


def check_streams(drivers: dict[str, Driver], seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Check the closed drivers of a cell's streams, by name and all at once; entries as of `list_devices`."""
    checks = check_devices([[driver] for driver in drivers.values()], seconds)
    return [
        {
            "kind": "stream",
            "name": name,
            "lines": [f"{name}: {checked.line}"],
            "problem": checked.problem,
            **figures(checked),
        }
        for name, (checked,) in zip(drivers, checks, strict=True)
    ]


def _searched() -> dict[Kind, list[FoundDevice] | DeviceError]:
    """Run all searches beside each other; what each found, or why it could not."""
    outcomes: dict[Kind, list[FoundDevice] | DeviceError] = {
        kind: DeviceError(f"looking for {kind} devices took over {SEARCH_S:g} s; unplug what hangs and look again")
        for kind in SEARCHES
    }
    end_s = time.monotonic() + SEARCH_S

    def run(kind: Kind) -> None:
        try:
            outcomes[kind] = SEARCHES[kind]()
        except DeviceError as error:
            outcomes[kind] = error
        except Exception as error:  # libraries of devices fail in any way, and the other searches go on
            what = f"{type(error).__name__}: {error}"
            outcomes[kind] = DeviceError(f"looking for {kind} devices failed ({what}); look again")

    threads = [threading.Thread(target=run, args=(kind,), name=f"find-{kind}", daemon=True) for kind in SEARCHES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return dict(outcomes)


def _checked(found: list[FoundDevice], seconds: float) -> list[DeviceCheck]:
    microphones = [index for index, device in enumerate(found) if device.kind == "microphone"]
    others = [[index] for index in range(len(found)) if index not in microphones]
    lanes = [lane for lane in (microphones, *others) if lane]
    checks = check_devices([[found[index].driver() for index in lane] for lane in lanes], seconds)
    outcome = {i: one for lane, row in zip(lanes, checks, strict=True) for i, one in zip(lane, row, strict=True)}
    return [outcome[index] for index in range(len(found))]
