"""Series: the cell-timed items of one stream, growing at one end and forgotten at the other.

A series keeps what windows are cut from, in the form they need it: frames already scaled, sound and rows as recorded.
It never looks at a clock itself; the caller gives every packet's cell times (`sync.clock.ClockTable.cell_times_ns`).
"""

from collections.abc import Iterable
from typing import Final, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from acquisition.packet import Packet, Photo, SampleBlock, SensorRows, StreamInfo, VideoFrame
from sync.sample import SampleSpec

_Scalar = TypeVar("_Scalar", bound=np.generic)
Int64s: TypeAlias = npt.NDArray[np.int64]

BEFORE_ALL: Final = -(2**63)
"""End of a series that has no item yet."""


class Column(Generic[_Scalar]):
    """An array that grows at its end and shrinks at its start in amortised constant time."""

    def __init__(self, dtype: npt.DTypeLike, shape: tuple[int, ...] = ()) -> None:
        self._data: npt.NDArray[_Scalar] = np.empty((64, *shape), dtype)
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def view(self) -> npt.NDArray[_Scalar]:
        """The items kept; valid until the next change."""
        return self._data[self._start : self._end]

    def extend(self, items: npt.NDArray[_Scalar]) -> None:
        """Append items along the first axis."""
        kept, n = len(self), len(items)
        if self._end + n > len(self._data):
            data = self._data
            if 2 * (kept + n) > len(data):
                data = np.empty((2 * (kept + n), *data.shape[1:]), data.dtype)
            data[:kept] = self.view.copy() if data is self._data else self.view
            self._data, self._start, self._end = data, 0, kept
        self._data[self._end : self._end + n] = items
        self._end += n

    def drop(self, n: int) -> None:
        """Forget the first `n` items."""
        self._start += n


class Series:
    """What all series share: time and order of every item.

    Attributes:
        info: The stream.
    """

    def __init__(self, info: StreamInfo) -> None:
        self.info = info
        self._t_ns: Column[np.int64] = Column(np.int64)
        self._orders: Column[np.int64] = Column(np.int64)
        self._last_ns = BEFORE_ALL

    @property
    def t_ns(self) -> Int64s:
        """Cell time of every item kept, never decreasing."""
        return self._t_ns.view

    @property
    def orders(self) -> Int64s:
        """`order` of the packet that brought each item."""
        return self._orders.view

    @property
    def period_ns(self) -> int:
        """Nominal time between items."""
        return round(1e9 / self.info.rate_hz)

    @property
    def end_ns(self) -> int:
        """Cell time up to which the series is known; `BEFORE_ALL` before the first item."""
        return self._last_ns

    def append(self, packet: Packet, t_ns: Int64s) -> None:
        """Take a packet of this stream.

        Args:
            packet: The packet.
            t_ns: Cell time of each of its items, `(items,)`.
        """
        if not len(t_ns):
            return
        # Stamps of some devices run backwards by a row or two; here time only ever stands still.
        t_ns = np.maximum.accumulate(np.maximum(t_ns, self._last_ns))
        self._t_ns.extend(t_ns)
        self._orders.extend(np.full(len(t_ns), packet.order, np.int64))
        self._last_ns = int(t_ns[-1])
        self._take(packet)

    def drop_before(self, t_ns: int) -> None:
        """Forget the items before `t_ns`."""
        n = int(np.searchsorted(self.t_ns, t_ns))
        if n:
            self._t_ns.drop(n)
            self._orders.drop(n)
            self._drop(n)

    def _take(self, packet: Packet) -> None:
        raise NotImplementedError

    def _drop(self, n: int) -> None:
        raise NotImplementedError


class VideoSeries(Series):
    """Frames, scaled on arrival to what a window holds: a hundredth of the memory, nothing left to do at the cut."""

    def __init__(self, info: StreamInfo, height: int, width: int) -> None:
        super().__init__(info)
        self._size = (width, height)
        self._frames: Column[np.uint8] = Column(np.uint8, (height, width))

    @property
    def frames(self) -> npt.NDArray[np.uint8]:
        """`(n, height, width)`."""
        return self._frames.view

    def _take(self, packet: Packet) -> None:
        assert isinstance(packet.payload, VideoFrame)
        image = Image.fromarray(packet.payload.pixels)
        # Area means; the integer part of the factor first, which is two and a half times faster.
        scaled = image.resize(self._size, Image.Resampling.BOX, reducing_gap=1.0)
        self._frames.extend(np.asarray(scaled)[np.newaxis])

    def _drop(self, n: int) -> None:
        self._frames.drop(n)


class AudioSeries(Series):
    """Sound samples, numbered by the device; `runs` changes where the numbers jump or a new segment begins."""

    def __init__(self, info: StreamInfo) -> None:
        super().__init__(info)
        self._samples: Column[np.generic] = Column(info.dtype, (len(info.channels) or 1,))
        self._numbers: Column[np.int64] = Column(np.int64)
        self._runs: Column[np.int64] = Column(np.int64)
        self._run = 0
        self._next: tuple[int, int] | None = None

    @property
    def samples(self) -> npt.NDArray[np.generic]:
        """`(n, channels)` in the dtype of the stream."""
        return self._samples.view

    @property
    def numbers(self) -> Int64s:
        """The device's number of every sample."""
        return self._numbers.view

    @property
    def runs(self) -> Int64s:
        """Number of the unbroken run that every sample belongs to."""
        return self._runs.view

    @property
    def end_ns(self) -> int:
        """Cell time of the end of the last sample."""
        return self._last_ns if self._last_ns == BEFORE_ALL else self._last_ns + self.period_ns

    def _take(self, packet: Packet) -> None:
        block = packet.payload
        assert isinstance(block, SampleBlock)
        n = len(block.samples)
        if self._next != (packet.segment, block.first_sample):
            self._run += 1
        self._next = (packet.segment, block.first_sample + n)
        self._samples.extend(block.samples)
        self._numbers.extend(np.arange(block.first_sample, block.first_sample + n, dtype=np.int64))
        self._runs.extend(np.full(n, self._run, np.int64))

    def _drop(self, n: int) -> None:
        self._samples.drop(n)
        self._numbers.drop(n)
        self._runs.drop(n)


class SensorSeries(Series):
    """Sensor rows in the channels and units of the stream; NaN = not measured."""

    def __init__(self, info: StreamInfo) -> None:
        super().__init__(info)
        self._values: Column[np.float64] = Column(np.float64, (len(info.channels),))

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """`(n, channels)`."""
        return self._values.view

    def _take(self, packet: Packet) -> None:
        assert isinstance(packet.payload, SensorRows)
        self._values.extend(packet.payload.values)

    def _drop(self, n: int) -> None:
        self._values.drop(n)


class PhotoSeries:
    """The photos of one weld among all that arrive: the photo names it, or a `photo` event before or after it does."""

    _WAITING: Final = 16

    def __init__(self, weld: str) -> None:
        self.photos: list[Photo] = []
        self._weld = weld
        self._waiting: list[Photo] = []
        self._promised: list[str] = []

    def append(self, photo: Photo) -> None:
        """Take a photo that arrived."""
        if photo.weld_hint == self._weld or photo.name in self._promised:
            self.photos.append(photo)
        else:
            self._waiting = [*self._waiting[1 - self._WAITING :], photo]

    def assign(self, name: str) -> None:
        """Take note that the photo called `name` was given to this weld."""
        if any(photo.name == name for photo in self.photos):
            return
        for photo in reversed(self._waiting):
            if photo.name == name:
                self._waiting.remove(photo)
                self.photos.append(photo)
                return
        self._promised.append(name)


def make_series(info: StreamInfo, spec: SampleSpec) -> Series | None:
    """Make the series of a stream; None for photos, which have no time axis."""
    if info.modality == "video":
        return VideoSeries(info, spec.height, spec.width)
    if info.modality == "audio":
        return AudioSeries(info)
    return SensorSeries(info) if info.modality == "sensors" else None


def end_of(series: Iterable[Series]) -> int:
    """Cell time up to which any of the series is known."""
    return max((one.end_ns for one in series), default=BEFORE_ALL)
