"""Gray frames to H.264, one frame in, one encoded frame out; every weld that overlaps shares the same encoder."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
from av.codec.context import Flags
from av.video.frame import PictureType
from av.video.reformatter import ColorRange

from acquisition.packet import Packet, StreamInfo, VideoFrame
from recordings.weld_folder import RecordingError

TIME_BASE: Final = Fraction(1, 1_000_000)
KEYFRAME_EVERY: Final = 15
"""Frames from keyframe to keyframe: what a weld's pre-roll may be longer, and what a random access decodes at most."""

CODEC: Final = "h264"
CODEC_LOSSLESS: Final = "h264-lossless"
"""`StreamRecord.codec` of the two kinds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFrame:
    """One frame as it goes into the ring and into every open weld.

    Attributes:
        stream: Stream name.
        order: `order` of the frame's packet.
        segment: Its segment.
        seq: Its device item number.
        t_device_ns: Its device time, or None.
        t_arrival_ns: Its arrival.
        pts_us: Microseconds of arrival since the encoder began, strictly increasing.
        keyframe: A weld's video can begin here.
        data: H.264, Annex B, without parameter sets (those are `VideoEncoder.extradata`).
    """

    stream: str
    order: int
    segment: int
    seq: int
    t_device_ns: int | None
    t_arrival_ns: int
    pts_us: int
    keyframe: bool
    data: bytes


class VideoEncoder:
    """The encoder of one video stream; runs from the first frame on, weld or no weld.

    x264 ultrafast, zero latency, no B-frames, a keyframe every 15 frames, one thread; gray, tagged full range (an
    untagged file comes back up to 20 levels off in other players). Lossless is the same with qp 0.

    Attributes:
        info: The stream.
        codec: `StreamRecord.codec` of what it makes.
        extradata: The parameter sets, for the head of a file.
    """

    def __init__(self, info: StreamInfo, *, lossless: bool = False, first_arrival_ns: int | None = None) -> None:
        self.info = info
        self.codec = CODEC_LOSSLESS if lossless else CODEC
        self._origin_ns = first_arrival_ns
        self._pts_us = -1
        self._force = False
        context = av.VideoCodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = info.width, info.height, "gray"
        context.time_base = TIME_BASE
        context.framerate = Fraction(info.rate_hz or 30).limit_denominator(1000)
        context.gop_size, context.max_b_frames, context.thread_count = KEYFRAME_EVERY, 0, 1
        context.color_range = ColorRange.JPEG
        context.flags |= Flags.global_header
        context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "forced-idr": "1",
            **({"qp": "0"} if lossless else {"crf": "23"}),
        }
        try:
            context.open()
        except av.FFmpegError as error:
            raise RecordingError(
                f"{info.name}: cannot encode {info.width} x {info.height} gray at {info.rate_hz} Hz ({error}); "
                "choose another frame size"
            ) from error
        self._context = context
        self.extradata = context.extradata or b""

    def force_keyframe(self) -> None:
        """Make the next frame a keyframe."""
        self._force = True

    def encode(self, packet: Packet) -> list[EncodedFrame]:
        """Encode one frame; always one in, one out.

        Raises:
            RecordingError: It is no frame of this stream's size.
        """
        frame = packet.payload
        expected = (self.info.height, self.info.width)
        if not isinstance(frame, VideoFrame) or frame.pixels.shape != expected:
            got = frame.pixels.shape if isinstance(frame, VideoFrame) else type(frame).__name__
            raise RecordingError(
                f"{self.info.name}: got {got} instead of a frame of {expected}; re-open the camera with a fixed size"
            )
        if self._origin_ns is None:
            self._origin_ns = packet.t_arrival_ns
        self._pts_us = max(self._pts_us + 1, (packet.t_arrival_ns - self._origin_ns) // 1000)
        picture = av.VideoFrame.from_ndarray(frame.pixels, format="gray")
        picture.pts, picture.time_base = self._pts_us, TIME_BASE
        picture.color_range = ColorRange.JPEG
        if self._force:
            picture.pict_type = PictureType.I
            self._force = False
        return [
            EncodedFrame(
                stream=packet.stream,
                order=packet.order,
                segment=packet.segment,
                seq=packet.seq,
                t_device_ns=packet.t_device_ns,
                t_arrival_ns=packet.t_arrival_ns,
                pts_us=self._pts_us,
                keyframe=encoded.is_keyframe,
                data=bytes(encoded),
            )
            for encoded in self._context.encode(picture)
        ]
