"""The FLAC of one sound stream of one weld."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeAlias

import av
import numpy as np
import numpy.typing as npt
from av.audio.codeccontext import AudioCodecContext
from av.container import OutputContainer

from acquisition.packet import StreamInfo
from recordings.weld_folder import RecordingError

Samples: TypeAlias = npt.NDArray[np.int16] | npt.NDArray[np.int32]

LAYOUTS: Final = ("mono", "stereo", "3.0", "quad", "5.0", "5.1", "6.1", "7.1")
"""What FLAC calls one to eight channels; it has no more."""


class AudioWriter:
    """Writes samples one after the other, losslessly; gaps are the block index's business, not silence.

    int16 becomes 16-bit FLAC. int32 becomes 32-bit FLAC, for a 24-bit device may put its bits at either end.

    Attributes:
        path: The FLAC file, created with the first samples.
    """

    def __init__(self, path: Path, info: StreamInfo) -> None:
        self.path = path
        self._info = info
        self._layout = LAYOUTS[len(info.channels) - 1]
        self._container: OutputContainer | None = None
        self._context: AudioCodecContext | None = None
        self._rest: list[npt.NDArray[np.signedinteger[Any]]] = []
        self._buffered = 0
        self._written = 0

    @property
    def buffered_bytes(self) -> int:
        """Samples that do not fill a FLAC frame yet, in bytes."""
        return sum(block.nbytes for block in self._rest)

    def write(self, samples: Samples) -> None:
        """Append samples, `(n, channels)` of the stream's dtype.

        Raises:
            RecordingError: They are of another type or number of channels.
            OSError: The file cannot be written (FFmpeg's errors are OSErrors or `av.FFmpegError`).
        """
        if samples.shape[1:] != (len(self._info.channels),) or samples.dtype != self._info.dtype:
            raise RecordingError(
                f"{self.path}: got {samples.dtype} {samples.shape} instead of {self._info.dtype} "
                f"(n, {len(self._info.channels)}); re-open the microphone with a fixed format"
            )
        if self._container is None:
            self._open()
        assert self._context is not None
        # A copy: the driver may fill its buffer again before the frame is full.
        self._rest.append(samples.copy())
        self._buffered += len(samples)
        size = self._context.frame_size
        if self._buffered >= size:
            joined: npt.NDArray[np.signedinteger[Any]] = np.concatenate(self._rest)
            whole = len(joined) - len(joined) % size
            for start in range(0, whole, size):
                self._encode(joined[start : start + size])
            self._rest, self._buffered = [joined[whole:]], len(joined) - whole

    def _open(self) -> None:
        self._container = av.open(str(self.path), "w", format="flac", options={"flush_packets": "1"})
        options = {} if self._info.dtype == "int16" else {"strict": "experimental", "bits_per_raw_sample": "32"}
        stream = self._container.add_stream(
            "flac",
            rate=round(self._info.rate_hz),
            layout=self._layout,
            format="s16" if self._info.dtype == "int16" else "s32",
            options=options,
        )
        self._context = stream.codec_context
        self._context.open()

    def _encode(self, samples: npt.NDArray[np.signedinteger[Any]]) -> None:
        assert self._context is not None
        rate_hz = round(self._info.rate_hz)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples, self._info.dtype).reshape(1, -1),
            format=self._context.format.name,
            layout=self._layout,
        )
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, self._written, Fraction(1, rate_hz)
        self._written += len(samples)
        self._mux(self._context.encode(frame))

    def _mux(self, packets: "list[av.Packet[Any]]") -> None:
        assert self._container is not None
        for packet in packets:
            packet.stream = self._container.streams[0]
            self._container.mux(packet)

    def close(self) -> None:
        """Write the rest of the samples and complete the file's head (length, checksum)."""
        if self._container is None or self._context is None:
            return
        container = self._container
        try:
            if self._buffered:
                self._encode(np.concatenate(self._rest))
            self._mux(self._context.encode(None))
        finally:
            self._rest, self._buffered = [], 0
            self._container = self._context = None
            container.close()
