"""One cycle of the cell, rendered for its devices: the same code serves the live drivers and the offline welds."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import SENSOR_CHANNELS, Packet, Payload, Photo, SampleBlock, SensorRows, StreamInfo, VideoFrame
from acquisition.simulated.bead import Bead, lay_bead
from acquisition.simulated.causes import Floats
from acquisition.simulated.clocks import DeviceClock, Opening, sampling_jitter
from acquisition.simulated.config import SimulationConfig
from acquisition.simulated.devices import CAMERA, MICROPHONE, PHOTOS, SENSORS
from acquisition.simulated.disturbance import Mark, disturb, draw_traits
from acquisition.simulated.outlet import SATURATED
from acquisition.simulated.photos import Relief, paint_relief, render_photo
from acquisition.simulated.plan import WeldPlan
from acquisition.simulated.process import simulate_process
from acquisition.simulated.scene import Pixels, Scene
from acquisition.simulated.seeds import generator
from acquisition.simulated.sensors import UNITS, render_sensors
from acquisition.simulated.session import Nuisances
from acquisition.simulated.sound import render_sound
from acquisition.simulated.spatter import EXPOSURE_S, throw_spatter
from acquisition.simulated.video import plan_frames, render_frame

PHOTO_STEP_S: Final = 0.25
_FIRST_DAY: Final = datetime(2024, 1, 1, 6)


def stream_infos(config: SimulationConfig) -> dict[str, StreamInfo]:
    """Describe the four streams of the cell."""
    traits = {device: draw_traits(config, device) for device in (CAMERA, MICROPHONE, SENSORS)}
    return {
        CAMERA: StreamInfo(
            name=CAMERA,
            modality="video",
            rate_hz=config.fps,
            height=config.height,
            width=config.width,
            has_counter=traits[CAMERA].has_counter,
            device_clock=traits[CAMERA].device_clock,
        ),
        MICROPHONE: StreamInfo(
            name=MICROPHONE,
            modality="audio",
            rate_hz=config.audio_rate_hz,
            channels=("mono",),
            units=("",),
            dtype="int16",
            has_counter=traits[MICROPHONE].has_counter,
            device_clock=traits[MICROPHONE].device_clock,
        ),
        SENSORS: StreamInfo(
            name=SENSORS,
            modality="sensors",
            rate_hz=config.sensor_rate_hz,
            channels=SENSOR_CHANNELS,
            units=UNITS,
            dtype="float64",
            has_counter=traits[SENSORS].has_counter,
            device_clock=traits[SENSORS].device_clock,
        ),
        PHOTOS: StreamInfo(name=PHOTOS, modality="post_images", rate_hz=0.0),
    }


@functools.lru_cache(maxsize=2)
def session_scene(nuisances: Nuisances, session: int, height: int, width: int) -> Scene:
    """Draw a session's scene once for all its welds."""
    return Scene(nuisances, session, height, width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items of one device that fall into one cycle.

    Attributes:
        first: Number of the first one, counted from the start of the world.
        t_s: (n,) world time of each; of the last row where rows come together.
        due_s: (n,) world time at which each arrives.
        lost: (n,) which ones the device loses by itself.
        marks: Drawn faults by item, counted from `first`.
        resets: (world time, reading in ns) of each time that the device clock starts anew.
    """

    first: int
    t_s: Floats
    due_s: Floats
    lost: npt.NDArray[np.bool_]
    marks: Mapping[int, tuple[Mark, ...]] = field(default_factory=dict)
    resets: tuple[tuple[float, int], ...] = ()


class Take:
    """One weld with the idle time around it, at its place in the world; frames and photos are drawn when asked for."""

    def __init__(
        self,
        config: SimulationConfig,
        clocks: dict[str, DeviceClock],
        plan: WeldPlan,
        start_s: float,
        result: WeldPlan | None = None,
    ) -> None:
        """Run the hidden process and render sound and sensors (about 0.1 s for 25 s).

        Args:
            config: The cell's settings.
            clocks: Its device clocks.
            plan: The weld.
            start_s: World time at which its cycle begins.
            result: The weld whose bead the photos show; by default, `plan`'s own.
        """
        self.config, self.plan, self.start_s = config, plan, start_s
        self.result = plan if result is None else result
        self.process = simulate_process(plan)
        self.spatter = throw_spatter(self.process)
        self.items: dict[str, Items] = {}
        rows = config.rows_per_packet
        ends = {CAMERA: EXPOSURE_S, MICROPHONE: clocks[MICROPHONE].period_s, SENSORS: 0.0}
        for stream, clock in clocks.items():
            first = clock.first_item(start_s)
            n = clock.first_item(start_s + plan.duration_s) - first
            rng = generator(plan.seed, "device", stream)
            late_s = clock.latency_s + rng.gamma(2.0, 0.5 * clock.jitter_s, n)
            t_s: Floats = (first + np.arange(n, dtype=np.float64)) * clock.period_s
            if stream == SENSORS:
                row_period_s = clock.period_s / rows
                row_s: Floats = (first * rows + np.arange(n * rows, dtype=np.float64)) * row_period_s
                self.row_s = row_s + sampling_jitter(plan.seed, config.sensor_rate_hz, n * rows)
                t_s = self.row_s[rows - 1 :: rows]
            # A later item never overtakes an earlier one on its way.
            due_s = np.maximum.accumulate(t_s + ends[stream] + late_s)
            lost = rng.random(n) < config.drop_rate
            drawn = disturb(config, stream, plan, start_s, t_s, due_s)
            self.items[stream] = Items(
                first=first, t_s=t_s, due_s=drawn.due_s, lost=lost, marks=drawn.marks, resets=drawn.resets
            )
        self.photo_due_s = start_s + plan.arc_off_s + config.photo_delay_s + PHOTO_STEP_S * np.arange(config.photos)
        self.frames = plan_frames(self.process, self.items[CAMERA].t_s - start_s)
        self._rows = render_sensors(self.process, self.row_s - start_s, config.saturated_rows)
        if "clip" in config.fault_names:
            self._mark_saturated()
        blocks, step_s = self.items[MICROPHONE], clocks[MICROPHONE].period_s / config.block_samples
        self._sound = render_sound(
            self.process,
            float(blocks.t_s[0]) - start_s,
            step_s,
            blocks.t_s.size * config.block_samples,
            config.audio_rate_hz,
        )
        self._sound.flags.writeable = False
        self._rows.flags.writeable = False

    def _mark_saturated(self) -> None:
        """Let the truth know the rows before the arc that are saturated even without faults."""
        items, n = self.items[SENSORS], self.config.rows_per_packet
        marks = dict(items.marks)
        for row in np.flatnonzero((self._rows[:, [3, 5]] == [reading for _, reading in SATURATED]).any(axis=1)):
            j = int(row) // n
            marks[j] = (*marks.get(j, ()), Mark(kind="saturated"))
        self.items[SENSORS] = replace(items, marks=marks)

    def scene(self) -> Scene:
        """Return what the camera looks at."""
        c = self.config
        return session_scene(self.plan.nuisances, c.session, c.height, c.width)

    @functools.cached_property
    def relief(self) -> Relief:
        """The finished bead on its plate."""
        return paint_relief(self.bead, self.result)

    @functools.cached_property
    def bead(self) -> Bead:
        """The bead that the photos show."""
        if self.result is self.plan:
            return lay_bead(self.process, self.spatter)
        process = simulate_process(self.result)
        return lay_bead(process, throw_spatter(process))

    def frame(self, k: int) -> Pixels:
        """Draw camera item `k` (counted from the start of the world)."""
        return render_frame(self.scene(), self.frames, k - self.items[CAMERA].first, self.spatter)

    def times(self, stream: str, k: int, opening: Opening, number: int) -> Floats:
        """Return the world times of an item: one, or one per sensor row (a changed rate leaves rows on an even grid).

        Args:
            stream: Which device.
            k: Whose content it has, counted from the start of the world.
            opening: How the device was opened.
            number: Which item it is, counted from the opening.
        """
        j, n = k - self.items[stream].first, self.config.rows_per_packet
        if not opening.repaced(number):
            return self.row_s[j * n : (j + 1) * n] if stream == SENSORS else self.items[stream].t_s[j : j + 1]
        begin_s = opening.item_s(number)
        return begin_s + opening.paces[-1].period_s / n * np.arange(n if stream == SENSORS else 1, dtype=np.float64)

    def device_first(self, stream: str, number: int, t_s: float, opening: Opening) -> int:
        """Return the device's own number of the first frame, sample or row of item `number`, which happens at `t_s`."""
        if stream == MICROPHONE:
            jump_ns = opening.base_ns + opening.stepped_ns(t_s)
            return number * self.config.block_samples + jump_ns * self.config.audio_rate_hz // 1_000_000_000
        counted = number - opening.counted_from(number)
        return counted if stream == CAMERA else counted * self.config.rows_per_packet

    def packet(
        self,
        stream: str,
        k: int,
        opening: Opening,
        arrival_ns: int,
        pixels: Pixels | None = None,
        number: int | None = None,
    ) -> Packet:
        """Build the packet of an item of an opened device, as a faultless device sends it.

        Args:
            stream: Which device.
            k: Whose content it has, counted from the start of the world.
            opening: How the device was opened.
            arrival_ns: Cell time of its arrival.
            pixels: The frame, where it was drawn beforehand.
            number: Which item it is, counted from the opening; by default, the one that `k` says.
        """
        j, config = k - self.items[stream].first, self.config
        number = k - opening.first_item if number is None else number
        times_s = self.times(stream, k, opening, number)
        first = self.device_first(stream, number, float(times_s[-1]), opening)
        t_device_ns: int | None = opening.device_ns(float(times_s[-1]))
        payload: Payload
        if stream == CAMERA:
            payload = VideoFrame(pixels=self.frame(k) if pixels is None else pixels)
        elif stream == MICROPHONE:
            n, t_device_ns = config.block_samples, None
            samples = self._sound[j * n : (j + 1) * n, None]
            payload = SampleBlock(first_sample=first, rate_hz=config.audio_rate_hz, samples=samples)
        else:
            n = config.rows_per_packet
            payload = SensorRows(
                first_row=first,
                values=self._rows[j * n : (j + 1) * n],
                t_device_ns=np.array([opening.device_ns(float(t)) for t in times_s], np.int64),
                t_arrival_ns=np.full(n, arrival_ns, np.int64),
            )
        return Packet(
            stream=stream,
            seq=number - opening.counted_from(number),
            t_arrival_ns=arrival_ns,
            payload=payload,
            segment=opening.segment,
            t_device_ns=t_device_ns,
        )

    def photo(self, view: int) -> Photo:
        """Take the post-weld photo of a view (about 30 ms)."""
        taken = _FIRST_DAY + timedelta(days=self.config.session, seconds=float(self.photo_due_s[view]))
        name = f"{taken:%Y%m%d_%H%M%S}_{taken.microsecond // 1000:03d}.jpg"
        data = render_photo(self.relief, self.result, view, self.config.photo_height, self.config.photo_width)
        return Photo(name=name, data=data)


def photo_packet(take: Take, view: int, seq: int, segment: int, arrival_ns: int) -> Packet:
    """Build the packet of a take's photo."""
    return Packet(stream=PHOTOS, seq=seq, t_arrival_ns=arrival_ns, payload=take.photo(view), segment=segment)
