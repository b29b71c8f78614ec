"""The MP4 of one video stream of one weld: fragmented while it is recorded, an ordinary MP4 once it is closed."""

from pathlib import Path
from typing import Final

import av
from av.container import OutputContainer

from acquisition.packet import StreamInfo
from recordings.video_encoder import TIME_BASE, EncodedFrame
from recordings.weld_folder import RecordingError

MP4_OPTIONS: Final = {"movflags": "hybrid_fragmented", "frag_duration": "250000", "flush_packets": "1"}
"""A fragment every 250 ms, handed to the system at once, so a kill costs what is in memory: one fragment.
On closing, the index of the whole file goes to its end first and then 8 bytes at its head hide the fragments."""


class VideoWriter:
    """Writes encoded frames, times relative to the weld's first one.

    Attributes:
        path: The MP4, created with the first frame.
    """

    def __init__(self, path: Path, info: StreamInfo, extradata: bytes) -> None:
        self.path = path
        self._info = info
        self._extradata = extradata
        self._container: OutputContainer | None = None
        self._first_pts_us = 0
        self._muxed_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """Encoded bytes that the muxer still holds in memory."""
        if self._container is None:
            return 0
        try:
            return max(0, self._muxed_bytes - self.path.stat().st_size)
        except OSError:
            return self._muxed_bytes

    def write(self, frame: EncodedFrame) -> int:
        """Append one frame and return its time in the file, microseconds.

        Raises:
            RecordingError: The first frame is no keyframe.
            OSError: The file cannot be written (FFmpeg's errors are OSErrors or `av.FFmpegError`).
        """
        data = frame.data
        if self._container is None:
            if not frame.keyframe:
                raise RecordingError(f"{self.path}: order {frame.order} is no keyframe; begin the weld at a keyframe")
            self._container = av.open(str(self.path), "w", format="mp4", options=MP4_OPTIONS)
            self._container.add_mux_stream(
                "h264", rate=round(self._info.rate_hz) or 30, width=self._info.width, height=self._info.height
            ).time_base = TIME_BASE
            self._first_pts_us = frame.pts_us
            # The muxer takes the parameter sets for the file's head from the first frame.
            data = self._extradata + data
        packet = av.Packet(data)
        packet.stream = self._container.streams[0]
        packet.pts = packet.dts = frame.pts_us - self._first_pts_us
        packet.time_base = TIME_BASE
        packet.duration = round(1e6 / (self._info.rate_hz or 30))
        packet.is_keyframe = frame.keyframe
        self._container.mux(packet)
        self._muxed_bytes += len(data)
        return frame.pts_us - self._first_pts_us

    def close(self) -> None:
        """Write the index of the whole file."""
        if self._container is not None:
            container, self._container = self._container, None
            container.close()
