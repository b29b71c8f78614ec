"""A GenICam camera over GigE Vision as a stream of gray frames, without a vendor's library (`viva-genicam`).

The camera stamps every frame and numbers it, so its time is its own and every loss is located. A frame that lacks
packets is not delivered: it is a jump of `seq`, like one that never came.
"""

import importlib
import logging
import re
import time
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from acquisition.device_count import DeviceCounter
from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.frame_times import RATE_TOLERANCE, FrameTimes
from acquisition.packet import Packet, StreamInfo, VideoFrame

log = logging.getLogger(__name__)

DISCOVER_MS: Final = 400
FIRST_FRAME_S: Final = 1.5
POLL_MS: Final = 100
HEARTBEAT_MS: Final = 1000
"""A camera that was cut off stays reserved for its old session for this long; the standard's 3 s are our whole goal."""

HEARTBEAT, SERIAL, TICK_FREQUENCY = 0x0938, 0x00D8, 0x093C
"""Bootstrap registers that every GigE Vision camera has (GigE Vision 1.2, 18)."""

INSTALL: Final = "run: pip install viva-genicam"
MONO: Final = re.compile(r"Mono(8|10|12|14|16)(p|Packed)?$")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenicamConfig:
    """Settings of a GigE Vision camera; what is left out stays as the camera has it.

    Attributes:
        camera: Its IP address, MAC address or serial number; empty for the only one on the network.
        fps: Frames per second.
        exposure_us: Exposure time in microseconds.
        gain: Gain, in dB or the camera's own steps.
        pixel_format: `Mono8`, or a deeper `Mono` format, whose upper 8 bits are kept.
        features: Further GenICam features by name, set first: `{ Width = 960, Height = 600, OffsetX = 0 }`.
        packet_size: Bytes per network packet, at most the MTU of the whole way; 0 for the camera's own.
        stale_s: The camera is lost, and looked for again, after this long without a whole frame.
    """

    camera: str = ""
    fps: float = 30.0
    exposure_us: float | None = None
    gain: float | None = None
    pixel_format: str = "Mono8"
    features: dict[str, str | bool | int | float] = field(default_factory=dict)
    packet_size: int = 0
    stale_s: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no camera could satisfy."""
        if not (0 < self.fps <= 100_000 and 0 < self.stale_s <= 3600):
            raise ValueError(f"fps ({self.fps}) and stale_s ({self.stale_s}) must be positive, not endless")
        if self.stale_s * self.fps < 2:
            raise ValueError(f"stale_s is {self.stale_s}; at {self.fps:g} fps give at least {2 / self.fps:g}")
        if self.exposure_us is not None and not 0 < self.exposure_us < 1e9:
            raise ValueError(f"exposure_us is {self.exposure_us}; give microseconds above 0, or leave it out")
        if self.packet_size and not 576 <= self.packet_size <= 16_000:
            raise ValueError(f"packet_size is {self.packet_size}; give 576 to 16000 bytes, or 0 for the camera's own")
        if not MONO.match(self.pixel_format):
            raise ValueError(f"pixel_format '{self.pixel_format}' is not gray; use Mono8 (or Mono10, Mono12, Mono16)")

    @property
    def shift(self) -> int:
        """Bits that a pixel has beyond eight."""
        found = MONO.match(self.pixel_format)
        assert found is not None
        return int(found[1]) - 8


class BlockCounter(DeviceCounter):
    """GigE Vision block ids made monotone: 16 bits, of which 0 is left out (65535 is followed by 1), or 64 bits."""

    def __init__(self) -> None:
        """Begin before the first frame."""
        super().__init__(())
        self._turns = (0xFFFF,)

    def number(self, block_id: int, plausible: float) -> int | None:
        """Number of a frame, or None if the camera began anew; `plausible` as in `unwrapped`."""
        return self.follow(block_id - 1, plausible)


def find_cameras(name: str = "") -> list[Any]:
    """List the GigE Vision cameras that answer, those of this host's loopback included (takes 0.4 s).

    Args:
        name: IP address, MAC address or serial number of the one to find; empty for all.

    Raises:
        DeviceError: `viva-genicam` is missing, or the network cannot be searched.
    """
    viva = _library("cameras")
    try:
        found = list(viva.discover(timeout_ms=DISCOVER_MS, all=True))
    except viva.GenicamError as error:
        raise DeviceError(f"GigE Vision cameras cannot be searched ({error}); check the network") from error
    wanted = name.casefold()
    return [info for info in found if wanted in ("", info.ip, info.mac.casefold()) or _serial(viva, info) == wanted]


def _library(what: str) -> Any:
    try:
        return importlib.import_module("viva_genicam")
    except ImportError as error:
        raise DeviceError(f"GigE Vision {what} cannot be read without viva-genicam; {INSTALL}") from error


def _serial(viva: Any, info: Any) -> str:
    """Serial number of a camera in lower case, asked without claiming it; empty where it does not say."""
    try:
        with viva.connect_gige(info, monitor=True) as camera:
            register: bytes = camera.read_register(SERIAL, 16)
    except viva.GenicamError:
        return ""
    return register.partition(b"\0")[0].decode(errors="replace").casefold()


class GenicamCamera(ThreadedDriver):
    """A GigE Vision camera as a stream of gray frames.

    Attributes:
        incomplete: Frames left out because packets of them were lost, over all openings; each is a jump of `seq`.
        frame_times: True rate and odd stamps since the camera was opened.
    """

    def __init__(self, name: str, config: GenicamConfig) -> None:
        """Prepare the camera; touches no network."""
        super().__init__(name)
        self.config = config
        self.incomplete = 0
        self.frame_times = FrameTimes(f"genicam {name}", config.fps)
        self._viva: Any = None
        self._camera: Any = None
        self._frames: Any = None
        self._first: tuple[Any, int] | None = None
        self._tick_hz = 1_000_000_000
        self._incomplete_said = False

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"genicam {self.name}: {self.config.camera or 'the camera'} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        """Find the camera, claim it, set it up, and wait for a first frame, which alone proves that it films."""
        self._viva = _library(f"camera {self.name}")
        self._incomplete_said = False
        found = find_cameras(self.config.camera)
        if not found:
            raise self._error("does not answer", "check its power, cable and address; `app.py devices` lists cameras")
        if len(found) > 1:
            names = ", ".join(info.ip for info in found)
            raise self._error(f"could be one of {names}", "name one by camera = ... in the cell file")
        try:
            self._open_stream(found[0])
            self._first = self._next_frame(FIRST_FRAME_S)
        except self._viva.GenicamError as error:
            self._disconnect()
            raise self._error(f"cannot be opened ({error})", "close other programs that use it") from error
        except BaseException:
            self._disconnect()
            raise
        frame = self._first[0]
        self.frame_times = FrameTimes(f"genicam {self.name}", self.config.fps)
        return StreamInfo(
            name=self.name,
            modality="video",
            rate_hz=self.config.fps,
            channels=("gray",),
            units=("",),
            height=frame.height,
            width=frame.width,
            has_counter=True,
            device_clock="stamps" if frame.ts_dev else "none",
        )

    def _open_stream(self, info: Any) -> None:
        self._camera = self._viva.connect_gige(info)
        self._tick_hz = int.from_bytes(self._camera.read_register(TICK_FREQUENCY, 8), "big") or 1_000_000_000
        self._camera.write_register(HEARTBEAT, HEARTBEAT_MS.to_bytes(4, "big"))
        self._set_up()
        self._frames = self._camera.stream(packet_size=self.config.packet_size or None, deliver_incomplete=True)
        self._frames.__enter__()  # starts the acquisition

    def _set_up(self) -> None:
        """Apply the settings; the camera's own words say what it refuses."""
        config, camera = self.config, self._camera
        for feature, value in config.features.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            self._apply(feature, value, camera.set, feature, text)
        self._apply("pixel_format", config.pixel_format, camera.set_enum, "PixelFormat", config.pixel_format)
        if config.exposure_us is not None:
            self._apply("exposure_us", config.exposure_us, camera.set_exposure_time, config.exposure_us)
        if config.gain is not None:
            self._apply("gain", config.gain, camera.set_gain, config.gain)
        self._apply("fps", config.fps, camera.set_frame_rate, config.fps)
        for setting, wanted, read in (
            ("exposure_us", config.exposure_us, camera.exposure_time),
            ("fps", config.fps, camera.frame_rate),
        ):
            if wanted is not None and abs((taken := read()) - wanted) > RATE_TOLERANCE * wanted:
                raise self._error(f"made {setting} {taken:g} of {wanted:g}", f"correct {setting} in the cell file")

    def _apply(self, setting: str, value: object, apply: Any, *arguments: object) -> None:
        try:
            apply(*arguments)
        except self._viva.GenApiError as error:
            raise self._error(f"refuses {setting} = {value} ({error})", "correct it in the cell file") from error

    def _next_frame(self, patience_s: float) -> tuple[Any, int]:
        """Wait for a whole frame; give it with its arrival (ns).

        Raises:
            DeviceError: None came in time.
        """
        begin_ns, cut = time.monotonic_ns(), 0
        while not self._is_closing():
            try:
                frame = self._frames.next_frame(timeout_ms=POLL_MS)
            except self._viva.TransportError as error:
                if "timeout" not in str(error):
                    raise self._error(f"broke off ({error})", "check its power and cable") from error
                frame = None
            arrival_ns = time.monotonic_ns()
            if frame is not None and frame.is_complete:
                return frame, arrival_ns
            if frame is not None:
                cut += 1
                self._count_incomplete()
            if arrival_ns - begin_ns > patience_s * 1e9:
                break
        if cut:
            fix = "set packet_size to the network's MTU and raise its receive buffers"
            raise self._error(f"sent no whole frame for {patience_s:g} s, but {cut} that lack packets", fix)
        raise self._error(f"sent no frame for {patience_s:g} s", "check its power, cable and trigger")

    def _count_incomplete(self) -> None:
        """Count a frame left out; the first of this opening is logged."""
        if not self._incomplete_said:
            fix = "check cable and network; such frames are left out and located"
            log.warning("%s", self._error("sent a frame that lacks packets", fix))
        self._incomplete_said = True
        self.incomplete += 1

    def _run(self) -> None:
        assert self._first is not None
        counter, begin, last_ns = BlockCounter(), None, 0
        frame, arrival_ns = self._first
        self._first = None
        while not self._stop.is_set():
            # No more than four times the frames of the time that passed: a number far behind is no wrap.
            plausible = 64 + 4 * self.config.fps * (arrival_ns - (last_ns or arrival_ns)) / 1e9
            last, number = counter.last, counter.number(frame.block_id, plausible)
            if number is None or number == last:
                raise self._error("does not number its frames one after the other", "it is opened again")
            begin = number if begin is None else begin
            t_device_ns = None if self.info.device_clock == "none" else self._device_ns(frame)
            self.frame_times.observe(t_device_ns, arrival_ns)
            last_ns = arrival_ns
            self._put(
                Packet(
                    stream=self.name,
                    seq=number - begin,
                    t_device_ns=t_device_ns,
                    t_arrival_ns=arrival_ns,
                    payload=VideoFrame(pixels=self._pixels(frame)),
                )
            )
            try:
                frame, arrival_ns = self._next_frame(self.config.stale_s)
            except DeviceError:
                if self._stop.is_set():
                    return
                raise

    def _device_ns(self, frame: Any) -> int | None:
        return None if frame.ts_dev is None else int(frame.ts_dev) * 1_000_000_000 // self._tick_hz

    def _pixels(self, frame: Any) -> npt.NDArray[np.uint8]:
        """The frame, `(height, width)` uint8."""
        if frame.pixel_format != self.config.pixel_format:
            raise self._error(f"sends {frame.pixel_format}", f"it is opened again as {self.config.pixel_format}")
        if (frame.height, frame.width) != (self.info.height, self.info.width):
            was, now = f"{self.info.width}x{self.info.height}", f"{frame.width}x{frame.height}"
            raise self._error(f"changed its picture from {was} to {now}", "it is opened again")
        pixels = np.asarray(frame.to_numpy())
        return (pixels >> self.config.shift).astype(np.uint8) if self.config.shift else pixels.astype(np.uint8)

    def _disconnect(self) -> None:
        """Let go of the stream and the camera; half a second at most where it does not answer."""
        self._first = None
        for device in (self._frames, self._camera):
            if device is not None:
                try:
                    device.close()
                except self._viva.GenicamError as error:
                    log.info("genicam %s: closing: %s", self.name, error)
        self._frames = self._camera = None
