"""Re-timing: an old weld with clocks fitted to the whole of it, and with today's latencies; no raw byte is touched."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from acquisition.packet import CLOCKS_STREAM, ClockUpdate, Event, Packet, SampleBlock, StreamInfo, VideoFrame
from recordings.columns import clock_packet, sensor_packets
from recordings.reader import WeldReader
from sync.clock import ClockFit, ClockModel, ClockTable, device_time_ns, fit_stream

Int64s = npt.NDArray[np.int64]

_SEEN_IN: Final = {"current": "sensors", "light": "video", "sound": "audio"}
"""The modality that an arc edge's `source` names."""


class ResyncedReader(WeldReader):
    """A weld as `WeldReader` gives it, packet for packet, but re-timed.

    Every recorded clock change is replaced by the clock fitted to the whole recording (`fit_stream`), which so is in
    force from the first packet of each segment; arc edges move with the items in which they were seen. Where a device
    clock stepped within a segment, its next line comes into force with the next recorded change.

    Attributes:
        fits: The fitted clocks by stream, in order.
    """

    def __init__(self, folder: Path, latencies_ns: Mapping[str, int] | None = None) -> None:
        """Read the manifest and the indexes, and fit the clocks; no picture or sound is decoded.

        Args:
            folder: The weld folder.
            latencies_ns: Calibrated latency by stream name; streams that it lacks keep their recorded one.

        Raises:
            WeldError: The folder holds no readable weld, or one of a newer schema.
        """
        super().__init__(folder)
        recorded, given = self.infos, latencies_ns or {}
        self.infos = {
            name: replace(info, latency_ns=given.get(name, info.latency_ns)) for name, info in recorded.items()
        }
        stubs = {name: list(self._stubs(info)) for name, info in recorded.items() if info.modality != "post_images"}
        self._orders = {name: [packet.order for packet in packets] for name, packets in stubs.items()}
        self.fits = {name: _fit(recorded[name], packets) for name, packets in stubs.items()}
        self._times = {name: self._retimed(recorded[name], packets) for name, packets in stubs.items()}

    def placed(self, *, video: bool = True, since: int | None = None) -> Iterator[tuple[int, Packet]]:
        """Give every packet of the weld with its place, with fitted clocks in the place of the recorded ones.

        Args:
            video: Decode the video; without it its packets are left out.
            since: Begin at this place.

        Raises:
            WeldError: A file is damaged, or a finished weld lacks items that its tables list.
        """
        for place, packet in super().placed(video=video, since=since):
            payload = packet.payload
            if isinstance(payload, ClockUpdate):
                yield place, replace(packet, payload=self._fitted(packet.order, payload))
            elif isinstance(payload, Event):
                yield place, replace(packet, payload=self._moved(payload))
            else:
                yield place, packet

    def _fitted(self, order: int, update: ClockUpdate) -> ClockUpdate:
        """Return the fitted clock for the packets that a change recorded at `order` was made for."""
        model = self._model(order, update.of_stream, update.segment)
        return update if model is None else model.as_update(update.of_stream, update.segment)

    def _model(self, order: int, stream: str, segment: int) -> ClockModel | None:
        next_packet = bisect_right(self._orders.get(stream, []), order)
        fits = [fit for fit in self.fits.get(stream, []) if fit.segment == segment]
        begun = [fit.model for fit in fits if fit.first <= next_packet]
        return begun[-1] if begun else None

    def _moved(self, event: Event) -> Event:
        """Move an arc edge with the items it was seen in, and re-time the clock snapshot that a weld begins with."""
        source = event.data.get("trigger" if event.kind == "weld_open" else "source")
        if event.kind not in ("weld_open", "arc_on", "arc_off") or event.t_ns is None:
            return event
        data = dict(event.data)
        if "clocks" in data:
            data["clocks"] = [self._fitted_row(row) for row in data["clocks"]]
        moved_by = [
            _moved_by(*self._times[name], event.t_ns)
            for name, info in self.infos.items()
            if info.modality == _SEEN_IN.get(str(source)) and len(self._times[name][0])
        ]
        return replace(event, t_ns=event.t_ns + (moved_by[0] if moved_by else 0), data=data)

    def _fitted_row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        model = self._model(row["order"], row["of_stream"], row["segment"])
        return dict(row) | ({} if model is None else asdict(model))

    def _stubs(self, info: StreamInfo) -> Iterator[Packet]:
        """Give a stream's packets as its index knows them: every stamp and number, but no pixel and no sound."""
        if info.modality == "sensors":
            yield from sensor_packets(info, self.table(info.name).to_arrow())
            return
        table = self.table(info.name)
        if info.modality == "video":
            table = table.filter(pl.col("pts_us").is_not_null())
        nothing = np.zeros((), np.int16)
        for row in table.iter_rows(named=True):
            payload: VideoFrame | SampleBlock = VideoFrame(pixels=np.zeros((0, 0), np.uint8))
            if info.modality == "audio":
                samples = np.broadcast_to(nothing, (row["n"], 1))
                payload = SampleBlock(first_sample=row["first_sample"], rate_hz=info.rate_hz, samples=samples)
            keys = {name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
            yield Packet(stream=info.name, payload=payload, **keys)

    def _retimed(self, info: StreamInfo, packets: list[Packet]) -> tuple[Int64s, Int64s]:
        """Return the first item of every packet in recorded and in new cell time."""
        recorded, fitted = ClockTable(), ClockTable()
        rows = self.table(CLOCKS_STREAM).filter(pl.col("of_stream") == info.name).sort("order").to_dicts()
        changes = [clock_packet(row) for row in rows]
        old_ns, new_ns = [], []
        for packet in packets:
            while changes and changes[0].order < packet.order:
                order, update = changes[0].order, changes.pop(0).payload
                assert isinstance(update, ClockUpdate)
                recorded.apply(update)
                fitted.apply(self._fitted(order, update))
            old_ns.append(recorded.cell_time_ns(info, packet))
            new_ns.append(fitted.cell_time_ns(self.infos[info.name], packet))
        return np.array(old_ns, np.int64), np.array(new_ns, np.int64)


def _fit(info: StreamInfo, packets: list[Packet]) -> list[ClockFit]:
    """Fit the clocks of a stream; none where its packets tell no device time."""
    stamps = [device_time_ns(info, packet) for packet in packets]
    if len(stamps) < 2 or None in stamps:
        return []
    device_ns = np.array(stamps, np.int64)
    arrival_ns = np.array([packet.t_arrival_ns for packet in packets], np.int64)
    segment = np.array([packet.segment for packet in packets], np.int64)
    steps_ns = np.diff(device_ns)
    counted_only = info.device_clock == "samples" and not info.has_counter and (steps_ns > 0).any()
    step_ns = int(steps_ns[steps_ns > 0].min()) if counted_only else 0
    return fit_stream(device_ns, arrival_ns, segment, counted_step_ns=step_ns)


def _moved_by(old_ns: Int64s, new_ns: Int64s, t_ns: int) -> int:
    nearest = int(np.abs(old_ns - t_ns).argmin())
    return int(new_ns[nearest] - old_ns[nearest])
