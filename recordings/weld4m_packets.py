"""The manifest and the ordered packets of an imported weld: what the capture process would have made of it live."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, pairwise
from typing import Any, Final

from acquisition.packet import (
    EVENTS_STREAM,
    Event,
    Packet,
    SampleBlock,
    SensorRows,
    StreamInfo,
)
from recordings.manifest import LabelEntry, Manifest, StreamRecord
from recordings.utc import utc_now
from recordings.video_encoder import EncodedFrame
from recordings.weld4m_content import BLOCKS_PER_S, ORIGIN_NS, SENSORS, WeldContent, absent_modalities
from recordings.weld4m_flags import value_flags
from recordings.weld4m_tree import FoundWeld

CELL: Final = "imported"
VIDEO_FILE: Final = "camera.avi"

_FIRST_ORDER: Final = 1
_ON_KNOWN_NS: Final = 200_000_000
_OFF_KNOWN_NS: Final = 500_000_000
"""Live, an edge is known this long after it happened; the events take their places in the order accordingly."""


def weld_manifest(weld: FoundWeld, content: WeldContent, source: dict[str, Any]) -> Manifest:
    """Give the manifest that the weld begins with.

    Args:
        weld: The weld as it was found.
        content: What its files hold.
        source: What is recorded of each file that it was made from.
    """
    streams: dict[str, StreamRecord] = {}
    if (video := content.video) is not None:
        streams[video.info.name] = StreamRecord(
            info=video.info,
            files=[VIDEO_FILE, f"{video.info.name}.frames.arrow"],
            codec=video.codec,
            limited_range=video.limited_range,
        )
    if (sound := content.sound) is not None:
        streams[sound.info.name] = StreamRecord(info=sound.info, files=[], codec="flac")
    if content.sensors is not None:
        streams[SENSORS] = StreamRecord(info=content.infos[SENSORS], files=[], codec="arrow")
    if content.photos:
        info = StreamInfo(name="photos", modality="post_images", rate_hz=0.0)
        streams["photos"] = StreamRecord(info=info, files=[], codec="files")
    labels = []
    if weld.label_by is not None:
        now = utc_now()
        labels.append(LabelEntry(label=weld.label, by=weld.label_by, utc=now))
    return Manifest(
        key=weld.key,
        cell=CELL,
        session=weld.session,
        state="open",
        streams=streams,
        first_order=_FIRST_ORDER,
        origin_ns=ORIGIN_NS,
        labels=labels,
        metadata=_metadata(weld, content) | {"imported_from": source},
        source="imported",
        inferred=list(content.inferred),
    )


def _metadata(weld: FoundWeld, content: WeldContent) -> dict[str, Any]:
    """Give what the manifest's row says, and what was found in the files beside the samples themselves."""
    metadata: dict[str, Any] = dict(weld.metadata)
    if (sensors := content.sensors) is not None:
        found = {
            "started_local": sensors.started_local,
            "part": sensors.part,
            "value_flags": value_flags(sensors.values),
        }
        metadata = {name: value for name, value in found.items() if value} | metadata
        if content.feed_rows_per_s is not None:
            metadata |= {"feed_is_derived": True, "feed_rows_per_s": content.feed_rows_per_s}
    if content.offsets:
        metadata["import_offsets"] = {name: offset.as_json() for name, offset in content.offsets.items()}
    if absent := absent_modalities(weld):
        metadata["absent"] = absent
    if content.photos:
        metadata["photos"] = [
            {"name": one.photo.name, "taken_local": one.taken_local, "height": one.height, "width": one.width}
            | ({"original_xxh3": one.original} if one.original is not None else {})
            for one in content.photos
        ]
    return metadata


def weld_packets(weld: FoundWeld, content: WeldContent) -> Iterator[Packet | EncodedFrame]:
    """Give everything that is recorded of the weld by `order`; process packets by time, photos after the weld closed.

    The video's frames come without data: the file itself is put into the folder by the caller.
    """
    items: list[Packet | EncodedFrame] = [
        *_frames(content),
        *_blocks(content),
        *_rows(content),
        *_events(weld, content),
    ]
    items.sort(key=lambda item: item.t_arrival_ns)  # stable: at equal times in the order written above
    orders, events = count(_FIRST_ORDER), count(1)
    for item in items:
        yield _numbered(item, next(orders), events)
    last_order = next(orders)
    close = Event(kind="weld_close", weld=weld.key, t_ns=content.end_ns, data={"last_order": last_order})
    yield _numbered(_event(close, content.end_ns), last_order, events)
    for seq, found in enumerate(content.photos):
        yield Packet(stream="photos", seq=seq, t_arrival_ns=content.end_ns, payload=found.photo, order=next(orders))
    number = len(content.photos)
    done = Event(kind="photos_done", weld=weld.key, data={"expected": number, "received": number})
    yield _numbered(_event(done, content.end_ns), next(orders), events)


def _numbered(item: Packet | EncodedFrame, order: int, events: Iterator[int]) -> Packet | EncodedFrame:
    return replace(item, order=order, seq=next(events)) if item.stream == EVENTS_STREAM else replace(item, order=order)


def _event(event: Event, known_ns: int) -> Packet:
    return Packet(stream=EVENTS_STREAM, seq=0, t_arrival_ns=known_ns, payload=event)


def _frames(content: WeldContent) -> Iterator[EncodedFrame]:
    if (video := content.video) is None:
        return
    for number, t_ns, pts_us in zip(video.frames.tolist(), video.frame_ns.tolist(), video.pts_us.tolist(), strict=True):
        yield EncodedFrame(
            stream=video.info.name,
            order=0,
            segment=0,
            seq=number,
            t_device_ns=t_ns,
            t_arrival_ns=content.start_ns[video.info.name] + t_ns,
            pts_us=pts_us,
            keyframe=False,
            data=b"",
        )


def _blocks(content: WeldContent) -> Iterator[Packet]:
    if (sound := content.sound) is None:
        return
    rate_hz = sound.info.rate_hz
    size = round(rate_hz / BLOCKS_PER_S)
    for seq, first in enumerate(range(0, len(sound.samples), size)):
        samples = sound.samples[first : first + size]
        t_ns = content.start_ns[sound.info.name] + round(
            first / rate_hz * 1e9
        )  # without a device clock a block begins at its arrival
        block = SampleBlock(first_sample=first, rate_hz=rate_hz, samples=samples)
        yield Packet(stream=sound.info.name, seq=seq, t_arrival_ns=t_ns, payload=block)


def _rows(content: WeldContent) -> Iterator[Packet]:
    if (sensors := content.sensors) is None:
        return
    for i, t_ns in enumerate(content.row_ns.tolist()):
        rows = SensorRows(
            first_row=i,
            values=sensors.values[i : i + 1],
            t_device_ns=None if sensors.t_ns is None else sensors.t_ns[i : i + 1],
            t_arrival_ns=content.row_ns[i : i + 1],
        )
        device_ns = None if sensors.t_ns is None else int(sensors.t_ns[i])
        yield Packet(stream="sensors", seq=i, t_arrival_ns=t_ns, payload=rows, t_device_ns=device_ns)


def _events(weld: FoundWeld, content: WeldContent) -> Iterator[Packet]:
    """Give the weld's opening, its arc edges and its gaps, each at the time at which it would have been known."""
    arc = content.arc
    trigger, opened_ns, known_ns = ("manual", ORIGIN_NS, ORIGIN_NS)
    if arc is not None:
        trigger, opened_ns, known_ns = arc.source, arc.on_ns, min(arc.on_ns + _ON_KNOWN_NS, content.end_ns)
    data = {
        "first_order": _FIRST_ORDER,
        "origin_ns": ORIGIN_NS,
        "pre_s": (opened_ns - ORIGIN_NS) / 1e9,
        "trigger": trigger,
        "photos_expected": len(content.photos),
        "clocks": [],
    }
    yield _event(Event(kind="weld_open", weld=weld.key, t_ns=opened_ns, data=data), known_ns)
    if arc is not None:
        source = {"source": arc.source}
        yield _event(Event(kind="arc_on", weld=weld.key, t_ns=arc.on_ns, data=source), known_ns)
        off_known_ns = min(arc.off_ns + _OFF_KNOWN_NS, content.end_ns)
        yield _event(Event(kind="arc_off", weld=weld.key, t_ns=arc.off_ns, data=source), off_known_ns)
    if (video := content.video) is not None:
        bounds = [-1, *video.frames.tolist(), video.declared]
        for before, after in pairwise(bounds):
            if after - before > 1:
                yield _gap(content, video.info, before + 1, after - before - 1)
    if (sound := content.sound) is not None and len(sound.samples) < sound.declared:
        yield _gap(content, sound.info, len(sound.samples), sound.declared - len(sound.samples))


def _gap(content: WeldContent, info: StreamInfo, first: int, missing: int) -> Packet:
    seconds = missing / info.rate_hz
    t_ns = content.start_ns[info.name] + round(first / info.rate_hz * 1e9)
    data = {"stream": info.name, "first": first, "missing": missing, "seconds": seconds, "reason": "unreadable"}
    known_ns = min(t_ns + round(seconds * 1e9), content.end_ns)
    return _event(Event(kind="gap", t_ns=t_ns, data={**data, "exact": True, "segment": 0}), known_ns)
