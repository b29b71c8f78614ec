"""Windows of one recorded weld in any order, each the same bytes as `WindowCutter` gives live and in replay.

The fold of the weld (`models.weld_fold`) says when each window closed and when each item was measured. A window is then
cut, by the one function that cuts them all, from the few items that reach into it, the only ones that are decoded.
"""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from acquisition.packet import Packet, SampleBlock, VideoFrame
from models.weld_fold import NUMBER, Int64s, Items, fold_weld
from recordings.columns import sensor_packets
from recordings.random_access import FrameAccess, SoundAccess
from recordings.weld_folder import WeldError, data_file, member
from sync.alignment import cut, photo_sample
from sync.clock import ClockTable
from sync.sample import SampleSpec, Weld4MSample
from sync.series import Series, VideoSeries, make_series

_AROUND_NS: Final = 1_000_000_000
"""Sound on either side of a window that its resampling filter may reach: as much as the fold keeps live."""


class WeldWindows:
    """The windows of one weld; its files are opened with the first one and stay open until `close`. One thread.

    Attributes:
        folder: The weld folder.
        spec: What windows are cut to.
        fold: What the fold tells.
    """

    def __init__(self, folder: Path, spec: SampleSpec) -> None:
        """Fold the weld.

        Raises:
            WeldError: It cannot be read.
            WindowError: Its packets are out of order.
        """
        self.folder = folder
        self.spec = spec
        self.fold = fold_weld(folder, spec)
        self._small = replace(spec, height=NUMBER[0], width=NUMBER[1])
        self._frames: FrameAccess | None = None
        self._sound: SoundAccess | None = None
        self._photos: Weld4MSample | None = None

    def __len__(self) -> int:
        return len(self.fold.windows)

    def close(self) -> None:
        """Close the files; the next window opens them again."""
        for medium in (self._frames, self._sound):
            if medium is not None:
                medium.close()

    def window(self, index: int) -> Weld4MSample:
        """Cut window `index`, its photos masked.

        Raises:
            WeldError: What it needs cannot be read.
            AlignmentError: A stream cannot be cut to the spec.
        """
        return self._cut(self.fold.windows[index])

    def arc(self) -> Weld4MSample:
        """Cut one sample of the whole arc: T frames and S rows spread over it, its sound masked after arc-off.

        Raises:
            WeldError: What it needs cannot be read, there is no arc, or it is longer than the sound of the spec.
            AlignmentError: A stream cannot be cut to the spec.
        """
        fold = self.fold
        if fold.arc_on_ns is None or not fold.windows:
            raise WeldError(f"{self.folder}: has no arc; leave this weld out")
        last = fold.windows[-1]
        off_ns = last.t0_ns + last.duration_ns if fold.arc_off_ns is None else fold.arc_off_ns
        length_s = (off_ns - fold.arc_on_ns) / 1e9
        if length_s > self.spec.window_s:
            raise WeldError(
                f"{self.folder}: its arc of {length_s:.2f} s is longer than the {self.spec.window_s:g} s of sound in "
                "the sample; cut arcs to a spec with a longer window_s"
            )
        sample = self._cut(replace(last, index=0, t0_ns=fold.arc_on_ns, duration_ns=off_ns - fold.arc_on_ns, missing=0))
        sounding = round(length_s * self.spec.audio_rate_hz)
        audio, mask = sample.audio.copy(), sample.audio_mask.copy()
        audio[:, sounding:], mask[sounding:] = 0, False
        present = tuple(m for m in sample.present if m != "audio")
        if np.count_nonzero(mask) >= 0.9 * sounding:
            present = tuple(m for m in ("video", "audio", "sensors") if m in (*present, "audio"))
        return replace(sample, audio=audio, audio_mask=mask, present=present)

    def photos(self) -> Weld4MSample:
        """Make the photo-only sample of the weld, as `WindowCutter.photo_window` does; decoded once.

        Raises:
            WeldError: A photo's file cannot be read.
        """
        if self._photos is None:
            fold = self.fold
            start_ns = fold.arc_on_ns or 0
            images, mask = photo_sample([replace(p, data=self._file(p.data.decode())) for p in fold.photos], self.spec)
            empty = cut(
                (),
                start_ns,
                fold.arc_off_ns or start_ns,
                self.spec,
                weld=fold.manifest.key,
                index=-1,
                label=fold.manifest.label,
            )
            present = ("post_images",) if mask.any() else ()
            self._photos = replace(empty, post_images=images, post_images_mask=mask, present=present)
        return self._photos

    def _file(self, name: str) -> bytes:
        path = member(self.folder, name)
        try:
            return path.read_bytes()
        except OSError as error:
            raise WeldError(f"{path}: {error.strerror}; restore it from a copy") from error

    def _cut(self, stamps: Weld4MSample) -> Weld4MSample:
        """Cut a window from the items that reach into it; its frames are their numbers first."""
        t0_ns, t1_ns = stamps.t0_ns, stamps.t0_ns + stamps.duration_ns
        series = [self._series(items, t0_ns, t1_ns, stamps.closed_by_order) for items in self.fold.items.values()]
        sample = cut(
            series,
            t0_ns,
            t1_ns,
            self._small,
            weld=stamps.weld,
            index=stamps.index,
            label=stamps.label,
            missing=stamps.missing,
            closed_by_order=stamps.closed_by_order,
            closed_by_arrival_ns=stamps.closed_by_arrival_ns,
        )
        numbers = np.ascontiguousarray(sample.video[sample.video_mask]).view("<u4").ravel()
        video = np.zeros((self.spec.frames, 1, self.spec.height, self.spec.width), np.uint8)
        if len(numbers):
            video[sample.video_mask, 0] = self._pictures(numbers.tolist())
        return replace(sample, spec=self.spec, video=video)

    def _pictures(self, numbers: list[int]) -> npt.NDArray[np.uint8]:
        """Decode frames and scale them as `VideoSeries` does, `(n, height, width)`."""
        items = next(i for i in self.fold.items.values() if i.record.info.modality == "video")
        if self._frames is None:
            pts_us = _column(items, "pts_us").tolist()
            self._frames = FrameAccess(data_file(self.folder, items.record), items.record, pts_us)
        decoded = self._frames.read(numbers)
        scaled = VideoSeries(items.record.info, self.spec.height, self.spec.width)
        for t_ns, pixels in enumerate(decoded.values()):
            packet = Packet(stream=items.record.info.name, seq=0, t_arrival_ns=0, payload=VideoFrame(pixels=pixels))
            scaled.append(packet, np.array([t_ns]))
        place = {number: i for i, number in enumerate(decoded)}
        return scaled.frames[[place[number] for number in numbers]]

    def _series(self, items: Items, t0_ns: int, t1_ns: int, last_order: int) -> Series:
        """Make the series of a stream around a window, with the times that the whole one has."""
        info = items.record.info
        series = make_series(info, self._small)
        assert series is not None
        reach_ns = round((self.spec.max_gap_periods + 1) * series.period_ns)
        if info.modality == "audio":
            reach_ns = reach_ns if info.rate_hz == self.spec.audio_rate_hz else max(reach_ns, _AROUND_NS)
            t1_ns = max(t1_ns, t0_ns + round(self.spec.window_s * 1e9))
        span = items.between(t0_ns - reach_ns, t1_ns + reach_ns, last_order)
        if info.modality == "video":
            return _Numbers(items, span)
        packets = self._blocks(items, span) if info.modality == "audio" else _rows(items, span)
        for k, packet in zip(span, packets, strict=True):
            clocks = ClockTable()
            if items.clocks[k] >= 0:
                clocks.apply(self.fold.updates[items.clocks[k]])
            times_ns = clocks.cell_times_ns(info, packet)
            series.append(packet, np.maximum(times_ns, items.ends_ns[k - 1]) if k else times_ns)
        return series

    def _blocks(self, items: Items, span: range) -> list[Packet]:
        """Read the sound blocks of a span in one go."""
        if not span:
            return []
        if self._sound is None:
            self._sound = SoundAccess(data_file(self.folder, items.record), items.record)
        start = int(np.sum(_column(items, "n")[: span.start]))
        rows = items.table.slice(span.start, len(span)).to_pylist()
        ends = np.cumsum([start, *(row["n"] for row in rows)]).tolist()
        samples = self._sound.read(start, ends[-1])
        info = items.record.info
        packets = []
        for row, (a, b) in zip(rows, pairwise(ends), strict=True):
            block = SampleBlock(
                first_sample=row["first_sample"], rate_hz=info.rate_hz, samples=samples[a - start : b - start]
            )
            keys = {name: row[name] for name in ("order", "segment", "seq", "t_device_ns", "t_arrival_ns")}
            packets.append(Packet(stream=info.name, payload=block, **keys))
        return packets


class _Numbers(VideoSeries):
    """A span of frames, each its place in the index."""

    def __init__(self, items: Items, span: range) -> None:
        super().__init__(items.record.info, *NUMBER)
        part = slice(span.start, span.stop)
        self._t_ns.extend(items.ends_ns[part])
        self._orders.extend(items.orders[part])
        self._frames.extend(np.array(span, "<u4").view(np.uint8).reshape(-1, *NUMBER))


def _column(items: Items, name: str) -> Int64s:
    return np.asarray(items.table[name].combine_chunks().to_numpy(zero_copy_only=False), np.int64)


def _rows(items: Items, span: range) -> list[Packet]:
    """Give the packets of sensor rows of a span."""
    orders = _column(items, "order")
    bounds = np.append(np.flatnonzero(np.r_[True, orders[1:] != orders[:-1]]), len(orders))
    a, b = int(bounds[span.start]), int(bounds[span.stop])
    return list(sensor_packets(items.record.info, items.table.slice(a, b - a)))
