"""`Weld4MSample`: the one sample contract of live judging, replay and training."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import xxhash

from acquisition.packet import SENSOR_CHANNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """What a detector wants to see; stored in its checkpoint, which refuses another.

    Attributes:
        window_s: Window length.
        hop_s: Distance between window starts.
        frames: T, video frames per window.
        height: H of the video in the sample, pixels.
        width: W of the video in the sample, pixels.
        audio_rate_hz: Sample rate of the sound in the sample.
        audio_channels: C.
        sensor_rows: S, grid points of the sensors per window.
        photos: N, post-weld photos at most.
        photo_height: Height of a photo in the sample, pixels.
        photo_width: Width of a photo in the sample, pixels.
        tail_s: The last window ends this long after arc-off.
        max_gap_periods: Interpolation crosses gaps of at most this many nominal periods.
        max_lateness_s: A window closes when a recorded arrival is this far past its end, whoever is missing.
    """

    window_s: float = 4.0
    hop_s: float = 1.0
    frames: int = 16
    height: int = 96
    width: int = 160
    audio_rate_hz: int = 16_000
    audio_channels: int = 1
    sensor_rows: int = 128
    photos: int = 5
    photo_height: int = 120
    photo_width: int = 160
    tail_s: float = 1.0
    max_gap_periods: float = 3.0
    max_lateness_s: float = 0.5

    @property
    def audio_length(self) -> int:
        """L, sound samples per window."""
        return round(self.window_s * self.audio_rate_hz)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weld4MSample:
    """One window of one weld (B = 1 without the batch axis). Contents under a false mask are zero and mean nothing.

    Attributes:
        weld: Weld key.
        index: Window index within the weld, or -1 for a photo-only sample.
        t0_ns: Cell time of the window's start.
        duration_ns: Window length.
        spec: The spec it was cut to.
        video: `(T, 1, H, W)` uint8, full range.
        video_mask: `(T,)` bool.
        audio: `(C, L)` int16 or int32, as recorded.
        audio_mask: `(L,)` bool.
        sensors: `(S, 6)` float64 in the units of the cell file; channel order `SENSOR_CHANNELS`.
        sensors_mask: `(S, 6)` bool.
        post_images: `(N, 3, h, w)` uint8.
        post_images_mask: `(N,)` bool.
        label: 0-11, or -1 for unknown.
        present: Modalities that cover at least 90 % of the window.
        orders: First and last `order` used, per stream name.
        missing: Packets of the window that were lost in transport (not at the device).
        closed_by_order: `order` of the packet that completed the window.
        closed_by_arrival_ns: Recorded arrival of that packet.
    """

    weld: str
    index: int
    t0_ns: int
    duration_ns: int
    spec: SampleSpec
    video: npt.NDArray[np.uint8]
    video_mask: npt.NDArray[np.bool_]
    audio: npt.NDArray[np.int16] | npt.NDArray[np.int32]
    audio_mask: npt.NDArray[np.bool_]
    sensors: npt.NDArray[np.float64]
    sensors_mask: npt.NDArray[np.bool_]
    post_images: npt.NDArray[np.uint8]
    post_images_mask: npt.NDArray[np.bool_]
    label: int = -1
    present: tuple[str, ...] = ()
    orders: dict[str, tuple[int, int]] = field(default_factory=dict)
    missing: int = 0
    closed_by_order: int = 0
    closed_by_arrival_ns: int = 0

    def digest(self) -> str:
        """Hash every array, mask and stamp (XXH3-128 hex): equal digests mean byte-equal windows."""
        h = xxhash.xxh3_128()
        h.update(repr((self.weld, self.index, self.t0_ns, self.duration_ns, self.spec, self.present)).encode())
        h.update(repr((sorted(self.orders.items()), self.label)).encode())
        for name in (
            "video",
            "video_mask",
            "audio",
            "audio_mask",
            "sensors",
            "sensors_mask",
            "post_images",
            "post_images_mask",
        ):
            array = np.ascontiguousarray(getattr(self, name))
            h.update(repr((name, array.dtype.str, array.shape)).encode())
            h.update(array.tobytes())
        return h.hexdigest()


CHANNEL_INDEX = {name: i for i, name in enumerate(SENSOR_CHANNELS)}
"""Column of each sensor channel in `Weld4MSample.sensors`."""
