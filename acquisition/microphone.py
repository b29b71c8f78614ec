"""A microphone by PortAudio: blocks of raw samples, counted from the opening, stamped first thing in the callback.

The stamp of a block is the host's monotonic clock; the time axis is the cumulative sample count. PortAudio's own
capture time steps with the wall clock and is far off after opening, so it is kept as a record only.
"""

import atexit
import importlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from acquisition.driver import DeviceError, ThreadedDriver
from acquisition.packet import Packet, SampleBlock, StreamInfo

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 1.5
CLOSE_TIMEOUT_S: Final = 0.7
FIRST_BLOCK_S: Final = 5.0
"""A sound server may need 2 s to deliver its first block (PulseAudio's null sink does)."""


class _PortAudio:
    """The process's one PortAudio.

    Opening and closing hang for as long as the sound server is frozen, so each call runs in a thread that can be
    abandoned, one at a time. A restarted server or a new device is seen only after initialising again, which ends
    every stream of the process; so that is done only when no stream is open.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._streams = 0
        self._left_to_exit = False

    def open(self, start: Callable[[Any], Any]) -> Any:
        """Call `start(sounddevice)`, which opens and starts a stream; raises TimeoutError while PortAudio hangs."""

        def run() -> Any:
            stream = start(self._refreshed())
            self._streams += 1
            return stream

        return self._bounded(run, OPEN_TIMEOUT_S, too_late=self._release)

    def close(self, stream: Any) -> None:
        """Close a stream; raises TimeoutError while PortAudio hangs (it is closed once PortAudio comes back)."""
        self._bounded(lambda: self._release(stream), CLOSE_TIMEOUT_S)

    def inputs(self) -> list[Any]:
        """List the inputs as sounddevice describes them; raises TimeoutError while PortAudio hangs."""
        found: list[Any] = self._bounded(lambda: _inputs(self._refreshed()), OPEN_TIMEOUT_S)
        return found

    def _refreshed(self) -> Any:
        """The sounddevice module, having looked for devices anew if that harms no stream."""
        sound = importlib.import_module("sounddevice")  # late, for it looks for devices when it is imported
        if not self._left_to_exit:
            # Its handler would hang at the end of the process if the server is frozen then.
            atexit.unregister(sound._exit_handler)
            self._left_to_exit = True
        if self._streams == 0:
            sound._terminate()
            sound._initialize()
        return sound

    def _release(self, stream: Any) -> None:
        try:
            stream.abort(ignore_errors=True)
            stream.close(ignore_errors=True)
        finally:
            self._streams -= 1

    def _bounded(self, call: Callable[[], Any], timeout_s: float, too_late: Callable[[Any], None] | None = None) -> Any:
        """Wait at most `timeout_s` for `call`; a result that comes later is handed to `too_late`."""
        answer: Future[Any] = Future()

        def run() -> None:
            if not self._turn.acquire(timeout=timeout_s):
                answer.set_exception(TimeoutError())
                return
            try:
                answer.set_result(call())
            except Exception as error:
                answer.set_exception(error)
            finally:
                self._turn.release()

        threading.Thread(target=run, name="portaudio-call", daemon=True).start()
        try:
            return answer.result(timeout_s)
        except TimeoutError:
            if too_late is not None:
                answer.add_done_callback(lambda late: late.exception() or too_late(late.result()))
            raise


def _inputs(sound: Any) -> list[Any]:
    return [device for device in sound.query_devices() if device["max_input_channels"] > 0]


_PORT_AUDIO: Final = _PortAudio()


def sound_inputs() -> list[tuple[str, int]]:
    """List the sound inputs of this machine: name and usual sample rate.

    Raises:
        DeviceError: PortAudio is missing or hangs.
    """
    try:
        return [(device["name"], round(device["default_samplerate"])) for device in _PORT_AUDIO.inputs()]
    except TimeoutError:
        raise DeviceError("PortAudio does not answer; the sound server hangs; restart it") from None
    except (ImportError, OSError) as error:
        raise DeviceError(f"PortAudio cannot be loaded ({error}); install it (Debian: libportaudio2)") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrophoneConfig:
    """Settings of a microphone.

    Attributes:
        device: Part of the input's name; empty for the system's default input.
        rate_hz: Sample rate.
        channels: Number of channels.
        block: Samples per block.
        dtype: Sample type, `int16` or `int32`.
    """

    device: str = ""
    rate_hz: int = 48_000
    channels: int = 1
    block: int = 480
    dtype: Literal["int16", "int32"] = "int16"

    def __post_init__(self) -> None:
        """Refuse what no device could satisfy."""
        for name in ("rate_hz", "channels", "block"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def silence_s(self) -> float:
        """A microphone without a block for this long has fallen silent."""
        return max(0.5, 10 * self.block / self.rate_hz)


class _Block(NamedTuple):
    """What the callback hands over."""

    t_ns: int
    samples: bytes
    t_adc_s: float
    overflow: bool


class Microphone(ThreadedDriver):
    """A PortAudio input as a stream of sample blocks."""

    def __init__(self, name: str, config: MicrophoneConfig) -> None:
        """Prepare the microphone; touches no device."""
        super().__init__(name)
        self.config = config
        self._stream: Any = None
        self._blocks: queue.SimpleQueue[_Block] = queue.SimpleQueue()
        self._first: _Block | None = None

    def _error(self, what: str, fix: str) -> DeviceError:
        return DeviceError(f"microphone {self.name}: {self.config.device or 'the default input'} {what}; {fix}")

    def _connect(self) -> StreamInfo:
        """Open the input and wait for its first block, which alone proves that it runs."""
        self._blocks = queue.SimpleQueue()
        try:
            self._stream = _PORT_AUDIO.open(self._start)
        except TimeoutError:
            raise self._error("does not answer", "the sound server hangs; restart it") from None
        except (ImportError, OSError) as error:
            raise self._error(
                f"cannot be used without PortAudio ({error})", "install it (Debian: libportaudio2)"
            ) from error
        except (ValueError, RuntimeError) as error:
            raise self._error(f"cannot be used ({error})", "check device and rate_hz in the cell file") from error
        self._first = self._next_block(FIRST_BLOCK_S)
        if self._first is None:
            self._disconnect()
            raise self._error("was opened but delivers nothing", "check the sound server or choose another device")
        channels = ("mono",) if self.config.channels == 1 else tuple(f"ch{i}" for i in range(self.config.channels))
        return StreamInfo(
            name=self.name,
            modality="audio",
            rate_hz=float(self.config.rate_hz),
            channels=channels,
            units=("",) * len(channels),
            dtype=self.config.dtype,
            device_clock="samples",
        )

    def _start(self, sound: Any) -> Any:
        """Open and start the stream (in PortAudio's thread)."""
        blocks = self._blocks  # bound here: a stream that was abandoned keeps its own queue

        def callback(samples: Any, _count: int, times: Any, status: Any) -> None:
            stamp_ns = time.monotonic_ns()
            blocks.put(_Block(stamp_ns, bytes(samples), times.inputBufferAdcTime, bool(status.input_overflow)))

        config = self.config
        try:
            stream = sound.RawInputStream(
                samplerate=config.rate_hz,
                blocksize=config.block,
                device=self._device(sound),
                channels=config.channels,
                dtype=config.dtype,
                latency="low",
                callback=callback,
            )
            try:
                stream.start()
            except sound.PortAudioError:
                stream.close(ignore_errors=True)
                raise
        except sound.PortAudioError as error:
            raise RuntimeError(error.args[0]) from error
        return stream

    def _device(self, sound: Any) -> int | None:
        """Index of the input named by the configuration; an exact name wins, then the first that contains it."""
        wanted = self.config.device.casefold()
        inputs = _inputs(sound)
        if not inputs:
            raise ValueError("there is no sound input at all")
        if not wanted:
            return None
        for fits in (lambda name: name == wanted, lambda name: wanted in name):
            for device in inputs:
                if fits(device["name"].casefold()):
                    return int(device["index"])
        raise ValueError(f"no input has that name; there are: {', '.join(device['name'] for device in inputs)}")

    def _next_block(self, timeout_s: float) -> _Block | None:
        """Wait for the callback's next block; None when the time is up or the driver is being closed."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                return self._blocks.get(timeout=min(0.1, left))
            except queue.Empty:
                if self._is_closing():
                    return None
        return None

    def _run(self) -> None:
        config = self.config
        count, seq, before_ns = 0, 0, 0
        block, self._first = self._first, None
        while not self._stop.is_set():
            if block is None:
                if not self._stop.is_set():
                    raise self._error(f"fell silent for {config.silence_s:g} s", "check the plug or the sound server")
                return
            samples = np.frombuffer(block.samples, config.dtype).reshape(-1, config.channels)
            if block.overflow and before_ns:
                # The device does not say how many samples it lost; the clock does, to within its jitter.
                count += max(0, round((block.t_ns - before_ns) * config.rate_hz / 1e9) - len(samples))
            before_ns = block.t_ns
            self._put(
                Packet(
                    stream=self.name,
                    seq=seq,
                    t_arrival_ns=block.t_ns,
                    payload=SampleBlock(
                        first_sample=count,
                        rate_hz=float(config.rate_hz),
                        samples=samples,
                        t_adc_ns=round(block.t_adc_s * 1e9),
                        overflow=block.overflow,
                    ),
                )
            )
            count += len(samples)
            seq += 1
            block = self._next_block(config.silence_s)

    def _disconnect(self) -> None:
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            _PORT_AUDIO.close(stream)
        except TimeoutError:
            log.warning(
                "%s", self._error("cannot be closed while the sound server hangs", "it will be once it answers")
            )
