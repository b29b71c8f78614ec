"""When the windows of a recorded weld closed, and when each of its items was measured, without decoding anything.

What a window holds follows from the sequence of all packets. So it is the fold itself (`WindowCutter`) that is run here
over everything but pixels, sound samples and photos; see `models.weld_windows` for what is cut from its result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from acquisition.packet import ClockUpdate, Packet, Photo, SampleBlock, VideoFrame
from recordings.manifest import Manifest, StreamRecord
from recordings.reader import WeldReader
from recordings.weld_folder import WeldError
from sync.sample import SampleSpec, Weld4MSample
from sync.series import BEFORE_ALL
from sync.windows import WindowCutter

Int64s = npt.NDArray[np.int64]
NUMBER: Final = (1, 4)
"""Height and width of a frame while it is not decoded: its four pixels can hold its place in the index."""
LONGEST_BLOCK_S: Final = 60.0
"""No microphone delivers more at once; what a table claims is not believed."""
_KEYS: Final = ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The packets of one stream, in the order of the fold and of its table.

    Attributes:
        record: The stream.
        table: Its table.
        orders: `(n,)` order of each packet, ascending.
        ends_ns: `(n,)` cell time of the last item up to and with each packet, never decreasing.
        clocks: `(n,)` which of the weld's clock changes was in force for each, -1 for none.
    """

    record: StreamRecord
    table: pa.Table
    orders: Int64s
    ends_ns: Int64s
    clocks: Int64s

    def between(self, t0_ns: int, t1_ns: int, last_order: int) -> range:
        """Give the packets that reach into a span and had come by `last_order`, and one more on either side."""
        a = max(0, int(np.searchsorted(self.ends_ns, t0_ns)) - 1)
        b = min(int(np.searchsorted(self.ends_ns, t1_ns, "right")) + 2, len(self.orders))
        return range(a, max(a, min(b, int(np.searchsorted(self.orders, last_order, "right")))))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedWeld:
    """What the fold of a weld tells.

    Attributes:
        manifest: The weld's manifest.
        items: What windows are cut from, by stream in the order of the cell file: the first camera, the first
            microphone, all sensors.
        updates: The weld's clock changes, in order.
        windows: Every window, with its stamps and nothing in it.
        photos: The weld's photos; in the place of the picture stands the name of its file.
        arc_on_ns: Arc-on, or None.
        arc_off_ns: Arc-off, or None.
    """

    manifest: Manifest
    items: dict[str, Items]
    updates: list[ClockUpdate]
    windows: list[Weld4MSample]
    photos: list[Photo]
    arc_on_ns: int | None
    arc_off_ns: int | None

    @property
    def nbytes(self) -> int:
        """Memory that it holds, roughly."""
        return 400 * len(self.updates) + sum(i.table.nbytes + 24 * len(i.orders) for i in self.items.values())


def fold_weld(folder: Path, spec: SampleSpec) -> FoldedWeld:
    """Fold a weld as `windows_of` does.

    Raises:
        WeldError: It cannot be read.
        WindowError: Its packets are out of order.
    """
    reader = _Skeleton(folder)
    fold = _Fold(reader, spec)
    windows: list[Weld4MSample] = []
    last_order = 0
    for packet in reader.packets():
        if packet.order <= last_order and fold.finished:
            continue  # added after a restart, whose orders begin anew
        windows += fold.push(packet)
        last_order = packet.order
    items: dict[str, Items] = {}
    for name, taken in fold.taken.items():
        record = reader.manifest.streams[name]
        modality = record.info.modality
        if modality == "sensors" or all(one.record.info.modality != modality for one in items.values()):
            orders, ends_ns, clocks = np.array(taken, np.int64).reshape(-1, 3).T.copy()
            table = reader.packet_table(record)
            items[name] = Items(record=record, table=table, orders=orders, ends_ns=ends_ns, clocks=clocks)
    return FoldedWeld(
        manifest=reader.manifest,
        items=items,
        updates=fold.updates,
        windows=windows,
        photos=fold.photos,
        arc_on_ns=fold.arc_on_ns,
        arc_off_ns=fold.arc_off_ns,
    )


class _Skeleton(WeldReader):
    """A weld without pixels, sound samples and photos; everything else is as recorded."""

    def packet_table(self, record: StreamRecord) -> pa.Table:
        """Return the table of a stream, without the gaps of a frame index."""
        table = self._stream_table(record)
        return table.filter(table["pts_us"].is_valid()) if record.info.modality == "video" else table

    def pictures(self, stream: str, since: int | None = None) -> Iterator[Packet]:
        """Give every frame of the index from order `since` on, black."""
        blank = VideoFrame(pixels=np.zeros(NUMBER, np.uint8))
        for row in self.packet_table(self.manifest.streams[stream]).to_pylist():
            if since is None or row["order"] >= since:
                yield Packet(stream=stream, payload=blank, **{name: row[name] for name in _KEYS})

    def _sound(self, record: StreamRecord, since: int | None = None) -> Iterator[Packet]:
        """Give every block as silence."""
        for row in self._stream_table(record).to_pylist():
            if since is not None and row["order"] < since:
                continue
            if not 0 <= row["n"] <= LONGEST_BLOCK_S * record.info.rate_hz:
                raise WeldError(f"{self.folder}: '{record.info.name}' has a block of {row['n']} samples; run verify")
            samples = np.zeros((row["n"], len(record.info.channels)), record.info.dtype)
            block = SampleBlock(first_sample=row["first_sample"], rate_hz=record.info.rate_hz, samples=samples)
            yield Packet(stream=record.info.name, payload=block, **{name: row[name] for name in _KEYS})

    def _photo_packets(self, record: StreamRecord, *, data: bool = True) -> Iterator[Packet]:
        """Give every photo with the name of its file as its data."""
        for row in self._stream_table(record).to_pylist():
            name = row["file"].encode() if data else b""
            photo = Photo(name=row["name"], data=name, weld_hint=row["weld_hint"], view=row["view"])
            yield Packet(stream=record.info.name, payload=photo, **{name: row[name] for name in _KEYS})


class _Fold(WindowCutter):
    """The fold of a weld that tells when its windows close and cuts none of them.

    Attributes:
        updates: Clock changes so far.
        taken: Order, end and clock of every packet so far, by stream.
    """

    def __init__(self, reader: _Skeleton, spec: SampleSpec) -> None:
        manifest, (height, width) = reader.manifest, NUMBER
        super().__init__(manifest.key, replace(spec, height=height, width=width), reader.infos, manifest.label)
        self.updates: list[ClockUpdate] = []
        self.taken: dict[str, list[tuple[int, int, int]]] = {name: [] for name in self._series}
        self._in_force: dict[str, int] = {}

    def push(self, packet: Packet) -> list[Weld4MSample]:
        """Take the next packet; returns the windows that it completes, empty ones."""
        taken = packet.stream in self._series and not self.finished
        windows = super().push(packet)
        if isinstance(packet.payload, ClockUpdate):
            self._in_force[packet.payload.of_stream] = len(self.updates)
            self.updates.append(packet.payload)
        elif taken:
            one = self._series[packet.stream]
            end_ns = one.end_ns
            if one.info.modality == "audio" and end_ns != BEFORE_ALL:
                end_ns -= one.period_ns
            self.taken[packet.stream].append((packet.order, end_ns, self._in_force.get(packet.stream, -1)))
        return windows

    def _cut(self, t1_ns: int, packet: Packet) -> Weld4MSample:
        series, self._series = self._series, {}
        try:
            return super()._cut(t1_ns, packet)
        finally:
            self._series = series
