"""A simulated weld played out of real devices: what the cell does is known, how it reaches the app is real.

Pictures are put before a network camera, sound is played into a sound server, rows are written into a serial line and
photos are put into a folder, each stream shifted by a known time. What was given when is kept, as it really happened:
a busy machine may give a picture late, and that lateness is not the app's.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.signal

from acquisition.packet import SENSOR_CHANNELS, Photo, SampleBlock, SensorRows, VideoFrame
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.weld import SimulatedWeld, simulated_weld
from sync.arc import frame_light
from tests.acquisition.counterparts import NetworkCamera, SerialCable, SoundServer, program

FPS: Final = 30
PICTURE_HZ: Final = 15
"""What is before the camera changes at half its rate, so that it films every picture."""
SOUND_HZ: Final = 48_000
ROW_HZ: Final = 100
ROW_NS: Final = 10**9 // ROW_HZ
LEAD_ROWS: Final = 60
"""A weld begins this many rows after it is asked for, so that every stream can still be early."""


class Weld:
    """One good simulated weld as plain arrays, with its truth; times count from the start of its cycle.

    It is the first whose arc begins and ends with a bright picture: a fading one leaves open when the arc is seen.

    Attributes:
        arc_rows: First and last sensor row with an arc.
        arc_pictures: First and last picture with an arc.
        arc_ns: When the arc is struck and goes out.
    """

    def __init__(self, *, arc_s: float) -> None:
        config = SimulationConfig(
            seed=3,
            nuisance=0.0,
            saturated_rows=0.0,
            idle_s=3.05,
            arc_s=arc_s,
            tail_s=3.5,
            gap_s=0.0,
            fps=PICTURE_HZ,
            height=120,
            width=192,
            audio_rate_hz=SOUND_HZ,
            sensor_rate_hz=ROW_HZ,
            photos=2,
            photo_height=120,
            photo_width=160,
            photo_delay_s=2.2,
        )
        for seed in range(1, 100):
            self._take(simulated_weld(config, seed=seed))
            light = np.array([frame_light(picture) for picture in self.pictures])
            lit = np.flatnonzero(light > 0)
            self.arc_pictures = int(lit[0]), int(lit[-1])
            if min(light[lit[0]], light[lit[-1]]) > 0.3 * np.quantile(light, 0.9):
                return
        raise AssertionError("no simulated weld has clear edges")

    def _take(self, weld: SimulatedWeld) -> None:
        pictures, sound, rows, photos = [], [], [], []
        for packet in weld.packets():
            payload = packet.payload
            if isinstance(payload, VideoFrame):
                pictures.append(payload.pixels)
            elif isinstance(payload, SampleBlock):
                sound.append(payload.samples[:, 0])
            elif isinstance(payload, SensorRows):
                rows.append(payload.values)
            elif isinstance(payload, Photo):
                photos.append((packet.t_arrival_ns, payload))
        self.pictures, self.photos = np.stack(pictures), photos
        self.sound = np.concatenate(sound).astype(np.int16)
        self.rows = np.concatenate(rows)
        current_a, voltage_v = (self.rows[:, SENSOR_CHANNELS.index(name)] for name in ("current_a", "voltage_v"))
        burning = np.flatnonzero((current_a > 5) & (voltage_v > 5))
        self.arc_rows = int(burning[0]), int(burning[-1])
        self.arc_ns = int(weld.truth["arc_on_ns"]), int(weld.truth["arc_off_ns"])


class Listener:
    """Hears what the sound server plays, by the server's own recorder: neither PortAudio nor anything of the app."""

    def __init__(self, server: SoundServer) -> None:
        self._chunks: list[tuple[int, bytes]] = []
        self._process = subprocess.Popen(
            [
                *(program("parec"), "--raw", "--format=s16le", "--channels=1", f"--rate={SOUND_HZ}"),
                *("--latency-msec=20", f"--device={server.SINK}.monitor"),
            ],
            env={**os.environ, **server.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._thread = threading.Thread(target=self._listen, name="listener")
        self._thread.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), 65_536):
            self._chunks.append((time.monotonic_ns(), data))

    def close(self) -> None:
        """Stop listening."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def heard_ns(self, sound: npt.NDArray[np.int16]) -> int:
        """Moment at which `sound` began to be heard: its place by correlation, timed by the least late delivery."""
        counts = np.cumsum([len(data) // 2 for _, data in self._chunks])
        begin_ns = min(
            stamp - int(count) * 10**9 // SOUND_HZ for (stamp, _), count in zip(self._chunks, counts, strict=True)
        )
        heard = np.frombuffer(b"".join(data for _, data in self._chunks), "<i2")
        return begin_ns + find_sound(heard, sound) * 10**9 // SOUND_HZ


def find_sound(heard: npt.NDArray[np.int16], sound: npt.NDArray[np.int16]) -> int:
    """Sample of `heard` at which `sound` begins."""
    return int(np.argmax(scipy.signal.correlate(heard.astype(float), sound.astype(float), "valid", method="fft")))


class SimulatedDevices:
    """All devices of a cell; idle until `play` lets the weld happen.

    Attributes:
        start_ns: Moment at which the weld's cycle begins for the sensors; the truth's times count from here.
    """

    def __init__(self, weld: Weld, folder: Path, *, video_late_s: float, sound_late_s: float) -> None:
        self.weld = weld
        self.sound = SoundServer(folder, SOUND_HZ)
        self.cable = SerialCable(folder)
        self.camera = NetworkCamera(folder, weld.pictures[:1], FPS)
        self.photos = folder / "photos"
        self.start_ns = 0
        self._shown_ns: dict[int, int] = {}
        self._film = np.load(folder / f"camera-{self.camera.port}.npy", mmap_mode="r+")
        self._video_late_ns, self._sound_late_ns = round(video_late_s * 1e9), round(sound_late_s * 1e9)
        self._wanted, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="devices")
        self._player: subprocess.Popen[bytes] | None = None
        self._listener: Listener | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "SimulatedDevices":
        """Start everything but the sensor rows."""
        try:
            self.photos.mkdir()
            self.sound.start()
            self.cable.plug()
            self.camera.start()
            self._listener = Listener(self.sound)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._end()

    def _end(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        if self._player is not None:
            self._player.kill()
            self._player.wait()
        if self._listener is not None:
            self._listener.close()
        self.camera.kill()
        self.cable.unplug()
        self.sound.kill()

    def send_rows(self) -> None:
        """Switch the sensors on, once somebody reads them."""
        self._thread.start()

    def play(self) -> None:
        """Let the weld happen."""
        self._wanted.set()

    def shown_ns(self, picture: int) -> int:
        """Moment at which a picture (or, had it to be left out, the next one) was put before the camera."""
        return next(t_ns for number, t_ns in self._shown_ns.items() if number >= picture)

    def heard_ns(self) -> int:
        """Moment at which the weld's sound really began; ends the listening."""
        assert self._player is not None, f"the sound was never played: {self._error}"
        assert self._player.wait(10) == 0, "paplay failed"
        assert self._listener is not None
        self._listener.close()
        listener, self._listener = self._listener, None
        return listener.heard_ns(self.weld.sound)

    def _run(self) -> None:
        try:
            self._give()
        except BaseException as error:
            self._error = error
            raise

    def _give(self) -> None:
        """Write a row every 10 ms, and beside it whatever else is due."""
        begin_ns, first, shown = time.monotonic_ns(), -1, 0
        due: list[tuple[int, Callable[[], None]]] = []
        for number in range(10**9):
            if self._stop.wait(max(0.0, (begin_ns + number * ROW_NS - time.monotonic_ns()) / 1e9)):
                return
            if first < 0 and self._wanted.is_set():
                first = number + LEAD_ROWS
                self.start_ns = begin_ns + first * ROW_NS
                due = [(self.start_ns + t_ns, self._photo(photo)) for t_ns, photo in self.weld.photos]
                due.append((self.start_ns + self._sound_late_ns, self._play_sound))
            row = min(max(number - first, 0), len(self.weld.rows) - 1) if first >= 0 else 0
            self._write_row(number, row)
            now_ns = time.monotonic_ns()
            picture = (now_ns - self.start_ns - self._video_late_ns) * PICTURE_HZ // 10**9 if first >= 0 else 0
            picture = min(max(picture, 0), len(self.weld.pictures) - 1)
            if picture != shown:
                self._film[0] = self.weld.pictures[picture]
                self._shown_ns[picture], shown = now_ns, picture
            for t_ns, act in [item for item in due if item[0] <= now_ns]:
                due.remove((t_ns, act))
                act()

    def _write_row(self, number: int, row: int) -> None:
        values = ",".join(f"{value:.3f}" for value in self.weld.rows[row])
        self.cable.write(f"{number},{5_000 + number * ROW_NS // 10**6},{values}\r\n".encode())

    def _play_sound(self) -> None:
        self._player = self.sound.play(self.weld.sound)

    def _photo(self, photo: Photo) -> Callable[[], None]:
        def take() -> None:
            (self.photos / photo.name).write_bytes(photo.data)

        return take
