"""Video and sound of a weld in one MP4, in step by cell time: H.264 as recorded, FLAC without loss.

FLAC because AAC would alter the samples, and ALAC plays in fewer players.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.stream import Stream

from acquisition.packet import SampleBlock, StreamInfo
from recordings.audio_writer import LAYOUTS
from recordings.export_source import TimedFrame, TimedPacket
from recordings.video_encoder import TIME_BASE

_US: Final = 1000
_STEP_NS: Final = 1_000_000
"""Where sound departs from its samples' count by more than this, a gap lies or the clock was changed."""


class _SoundTrack:
    """FLAC, run by unbroken run; between runs the track's time jumps, nothing is filled in."""

    def __init__(self, container: OutputContainer, info: StreamInfo) -> None:
        self._container = container
        self._info = info
        self._rate_hz = round(info.rate_hz)
        self._stream: AudioStream = container.add_stream("flac", rate=self._rate_hz, **self._form())
        self._context: AudioCodecContext = self._stream.codec_context
        self._context.open()
        self._rest: npt.NDArray[np.signedinteger[Any]] = np.zeros((0, len(info.channels)), info.dtype)
        self._at = 0  # where the next sample encoded belongs, samples
        self._end: int | None = None  # where the next sample taken belongs if nothing is missing
        self.error_ns = 0

    def _form(self) -> dict[str, Any]:
        wide = self._info.dtype != "int16"
        return {
            "layout": LAYOUTS[len(self._info.channels) - 1],
            "format": "s32" if wide else "s16",
            "options": {"strict": "experimental", **({"bits_per_raw_sample": "32"} if wide else {})},
        }

    def write(self, samples: npt.NDArray[np.signedinteger[Any]], t_ns: int) -> int:
        """Take a block that begins `t_ns` after the file; returns where it was put, microseconds."""
        wanted = t_ns * self._rate_hz // 10**9
        if self._end is None or abs(wanted - self._end) * 10**9 > _STEP_NS * self._rate_hz:
            begin = wanted if self._end is None else max(wanted, self._end)
            if begin != self._end:
                self._begin(begin)
        assert self._end is not None
        put = self._end
        self.error_ns = max(self.error_ns, abs(put * 10**9 // self._rate_hz - t_ns))
        self._end += len(samples)
        self._rest = np.concatenate([self._rest, samples])
        size = self._context.frame_size
        while len(self._rest) >= size:
            self._encode(self._rest[:size])
            self._rest = self._rest[size:]
        return put * 1_000_000 // self._rate_hz

    def _begin(self, at: int) -> None:
        """Begin another run: FLAC frames are of equal length but the last one, so it gets an encoder of its own."""
        if self._end is not None:
            self.close()
            self._context = AudioCodecContext.create("flac", "w")
            form = self._form()
            self._context.sample_rate, self._context.layout = self._rate_hz, form["layout"]
            self._context.format, self._context.options = form["format"], form["options"]
            self._context.open()
        self._at = self._end = at

    def _encode(self, samples: npt.NDArray[np.signedinteger[Any]]) -> None:
        flat = np.ascontiguousarray(samples, self._info.dtype).reshape(1, -1)
        form = self._form()
        frame = av.AudioFrame.from_ndarray(flat, format=form["format"], layout=form["layout"])
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._at
        self._at += len(samples)
        self._mux(self._context.encode(frame))

    def _mux(self, packets: "list[av.Packet[Any]]") -> None:
        for packet in packets:
            packet.stream = self._stream
            self._container.mux(packet)

    def close(self) -> None:
        """Encode what is left of the run."""
        if len(self._rest):
            self._encode(self._rest)
            self._rest = self._rest[:0]
        self._mux(self._context.encode(None))


class BundleMedia:
    """The MP4 of one weld.

    Attributes:
        error_ns: Largest distance of a block of sound from its cell time, by stream.
    """

    def __init__(self, path: Path, videos: Mapping[str, StreamInfo], sounds: Mapping[str, StreamInfo], t0_ns: int):
        """Open the file; `t0_ns` is the cell time at which it begins."""
        self._t0_ns = t0_ns
        self._container = av.open(str(path), "w", format="mp4", options={"strict": "experimental"})
        self._videos: dict[str, Stream] = {}
        self._last_us: dict[str, int] = {}
        for name, info in videos.items():
            stream = self._container.add_mux_stream(
                "h264", rate=round(info.rate_hz) or 30, width=info.width, height=info.height
            )
            stream.time_base = TIME_BASE
            self._videos[name] = stream
        self._sounds = {name: _SoundTrack(self._container, info) for name, info in sounds.items()}

    @property
    def error_ns(self) -> dict[str, int]:
        """Largest distance of a block of sound from its cell time, by stream."""
        return {name: track.error_ns for name, track in self._sounds.items()}

    def write_frame(self, item: TimedFrame) -> int:
        """Append a frame; returns its time in the file, microseconds."""
        frame, stream = item.frame, self._videos[item.frame.stream]
        at_us = max((item.t_ns - self._t0_ns) // _US, self._last_us.get(frame.stream, -1) + 1)
        self._last_us[frame.stream] = at_us
        packet = av.Packet(frame.data)
        packet.stream, packet.is_keyframe = stream, frame.keyframe
        packet.pts = packet.dts = at_us
        packet.time_base = TIME_BASE
        self._container.mux(packet)
        return at_us

    def write_block(self, item: TimedPacket, block: SampleBlock) -> int | None:
        """Append a block of sound; returns its time in the file, microseconds."""
        if not len(block.samples):
            return None
        return self._sounds[item.packet.stream].write(block.samples, int(item.t_ns[0]) - self._t0_ns)

    def close(self) -> None:
        """Write the rest of the sound and the file's index."""
        for track in self._sounds.values():
            track.close()
        self._container.close()

    def abandon(self) -> None:
        """Let go of the file, which is of no use."""
        self._container.close()
