"""Ingest: the one place where packets of all devices become one ordered history of the cell.

A plain object, driven by `push` and `tick`: the capture process runs it on live devices, `simulate` runs it as fast as
it can. Everything it decides (clocks, gaps, arc edges, welds, photos) is itself a packet with its own `order`.
"""

import logging
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Final

from acquisition.packet import (
    CLOCKS_STREAM,
    EVENTS_STREAM,
    ClockUpdate,
    Event,
    Packet,
    Photo,
    SampleBlock,
    SensorRows,
    StreamInfo,
    VideoFrame,
    item_range,
)
from recordings.cell import Cell
from recordings.loss import ItemLoss, LossTracker
from recordings.weld_machine import WeldMachine
from sync.arc import ArcDetector, ArcEdge, block_sound_level, frame_light
from sync.arc_watch import ArcWatch
from sync.clock import ClockTable, CountedClock, Missed, StreamClock, observe_packet, stream_clock

log = logging.getLogger(__name__)

GOP: Final = 15
"""Most frames from one video keyframe to the next; a weld begins at a keyframe."""

_GOP_NS: Final = 500_000_000
"""Longest time from one keyframe to the next, for slow cameras."""

OVERDUE_NS: Final = 20_000_000
"""At the end, an item is lost once it is this late, or twice as late as any item of its stream before."""

_RING_S: Final = 6.0
"""How far back a weld may begin before the packet that revealed it, beyond its pre-roll."""


_KEY: Final = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z-\d{3}")
"""What `weld_key` makes."""


def weld_key(utc_ns: int) -> str:
    """Weld key of a weld that began at `utc_ns`: sortable, unique to the millisecond, safe as a folder name."""
    moment = datetime.fromtimestamp(utc_ns // 10**9, tz=UTC)
    return f"{moment:%Y-%m-%dT%H%M%S}Z-{utc_ns // 10**6 % 1000:03d}"


def _format(info: StreamInfo) -> tuple[object, ...]:
    """What must not change within the files of one weld."""
    return info.modality, info.rate_hz, info.channels, info.dtype, info.height, info.width, info.device_clock


def clock_snapshot(weld_open: Event) -> list[Packet]:
    """Give the clocks in force at a weld's first packet, which its `weld_open` carries, as the packets they were."""
    packets = []
    for clock in weld_open.data.get("clocks", ()):
        stamps = {name: clock[name] for name in ("order", "seq", "t_arrival_ns")}
        update = ClockUpdate(**{name: value for name, value in clock.items() if name not in stamps})
        packets.append(Packet(stream=CLOCKS_STREAM, payload=update, **stamps))
    return packets


class Ingest:
    """Orders, times and cuts; owned by one thread.

    Attributes:
        infos: Streams by name.
        losses: Loss tracker per device stream.
        segments: Newest segment per device stream.
        clocks: Online clocks in force.
        welds: Welds not yet done, oldest first, by key.
        lost: Streams that are silent now, with the reason.
        clock_faults: Unusable device stamps so far, per stream.
        armed: A trigger starts a weld.
        keyframe_order: Order of the newest frame that must be coded as a keyframe.
    """

    def __init__(self, cell: Cell, infos: Mapping[str, StreamInfo], utc_of: Callable[[int], int]) -> None:
        """Begin with an empty history.

        Args:
            cell: The cell file.
            infos: Descriptions of the opened streams.
            utc_of: UTC (ns) of a cell time; only names welds, never times data.
        """
        self._cell = cell
        self._utc_of = utc_of
        self._order = 0
        self._own_seq = {CLOCKS_STREAM: 0, EVENTS_STREAM: 0}
        self._online: dict[str, StreamClock | None] = {}
        self._arc = ArcDetector(cell.arc)
        self._watch = ArcWatch({}, cell.arc)
        self._channels: dict[str, tuple[int, int]] = {}
        self._starts: deque[tuple[int, int]] = deque()
        self._frames_since_key: dict[str, int] = {}
        self._key_due: set[str] = set()
        self._gop_ns: int | None = None
        self._clock_history: dict[str, deque[Packet]] = {}
        self._reached_ns: dict[str, int] = {}
        self._last_arrival_ns: dict[str, int] = {}
        self._latest_ns: dict[str, int] = {}
        self._longest_ns: dict[str, int] = {}
        self._packet_items: dict[str, int] = {}
        self._done: deque[WeldMachine] = deque(maxlen=50)
        self._changed: dict[str, StreamInfo] = {}
        self.infos: dict[str, StreamInfo] = {}
        self.losses: dict[str, LossTracker] = {}
        self.segments: dict[str, int] = {}
        self.clocks = ClockTable()
        self.welds: dict[str, WeldMachine] = {}
        self.lost: dict[str, str] = {}
        self.clock_faults: dict[str, int] = {}
        self.armed = True
        self.keyframe_order = 0
        for info in infos.values():
            self.add_stream(info)

    def add_stream(self, info: StreamInfo) -> None:
        """Announce a stream, at first and after each opening of its device; the cell file knows its latency.

        A weld's files hold one format per stream. A device that comes back in another one (frame size, rate, channels)
        while a weld is recorded is lost to that weld, and taken over after it.
        """
        info = replace(info, latency_ns=self._cell.latency_ns(info.name))
        known = self.infos.get(info.name)
        if known is not None and _format(known) != _format(info):
            self._changed[info.name] = info
        else:
            self._changed.pop(info.name, None)
            self._take_over(info)

    def _take_over(self, info: StreamInfo) -> None:
        if self.infos.get(info.name) != info:
            self._watch.add_stream(info)
        self.infos[info.name] = info
        if info.modality == "video":
            self._key_due.add(info.name)
        if info.modality != "post_images":
            self.losses.setdefault(info.name, LossTracker(info))
        if info.modality == "sensors" and {"current_a", "voltage_v"} <= set(info.channels):
            self._channels[info.name] = (info.channels.index("current_a"), info.channels.index("voltage_v"))

    # -- the way in ------------------------------------------------------------------------------------------------

    def push(self, packet: Packet) -> list[Packet]:
        """Take one device packet; returns it with its `order`, and all packets that follow from it, in order."""
        out: list[Packet] = []
        if isinstance(packet.payload, Photo):
            self._take_photo(packet, out)
            return out
        if packet.stream in self._changed and not self._change(packet, out):
            return out
        self.stream_back(packet.stream, packet.segment, packet.t_arrival_ns, out)
        self._observe_clock(packet, out)
        packet = replace(packet, order=self._next_order())
        out.append(packet)
        end_ns = self._cell_time_ns(packet)
        self._note_start(packet, end_ns)
        loss = self.losses[packet.stream].observe(packet, end_ns, self._missed(packet.stream))
        if loss is not None:
            self._gap(packet.stream, loss, packet.t_arrival_ns, out)
        self._reached_ns[packet.stream] = max(end_ns, self._reached_ns.get(packet.stream, end_ns))
        if loss is None:
            since_ns = packet.t_arrival_ns - self._last_arrival_ns.get(packet.stream, packet.t_arrival_ns)
            self._longest_ns[packet.stream] = max(since_ns, self._longest_ns.get(packet.stream, 0))
        self._last_arrival_ns[packet.stream] = packet.t_arrival_ns
        self._latest_ns[packet.stream] = max(packet.t_arrival_ns - end_ns, self._latest_ns.get(packet.stream, 0))
        self._packet_items[packet.stream] = item_range(packet)[1]
        self.segments[packet.stream] = packet.segment
        for edge in self._edges(packet, end_ns):
            self._arc_edge(edge, packet.t_arrival_ns, out)
        self._move_on(packet.t_arrival_ns, out)
        return out

    def tick(self, now_ns: int) -> list[Packet]:
        """Notice what did not happen (silent streams, photos that never came); call at least ten times a second."""
        out: list[Packet] = []
        for name, last_ns in self._last_arrival_ns.items():
            rate_hz = self.infos[name].rate_hz
            if name not in self.lost and now_ns - last_ns > 1e9 * max(0.5, 10 / rate_hz if rate_hz else 0.5):
                self.stream_lost(name, "silent", now_ns, out)
        self._move_on(now_ns, out)
        return out

    def stream_lost(self, name: str, reason: str, now_ns: int, out: list[Packet]) -> None:
        """Record that a stream fell silent or that its device died."""
        if name in self.lost:
            return
        self.lost[name] = reason
        if self.infos[name].modality == "video":
            self._key_due.add(name)
        if name in self.losses:
            self.losses[name].silence_reason = reason
        self._event(
            out, now_ns, "stream_lost", None, self._last_arrival_ns.get(name), {"stream": name, "reason": reason}
        )

    def stream_back(self, name: str, segment: int, now_ns: int, out: list[Packet]) -> None:
        """Record that a stream returned."""
        if self.lost.pop(name, None) is not None:
            self._event(out, now_ns, "stream_back", None, now_ns, {"stream": name, "segment": segment})

    # -- commands --------------------------------------------------------------------------------------------------

    def start_weld(self, now_ns: int) -> list[Packet]:
        """Start a weld by hand; nothing happens while one is being recorded."""
        out: list[Packet] = []
        if self.recording is None:
            self._open(now_ns, "manual", now_ns, out)
        return out

    def stop_weld(self, now_ns: int, source: str = "manual") -> list[Packet]:
        """End the weld that is being recorded, by hand or because of `source`."""
        out: list[Packet] = []
        weld = self.recording
        if weld is not None and weld.phase == "welding":
            self._close_arc(weld, now_ns, source, now_ns, out)
        return out

    def mark(self, now_ns: int, note: str) -> list[Packet]:
        """Put a mark into the weld being recorded (or just into the history)."""
        out: list[Packet] = []
        weld = self.recording
        self._event(out, now_ns, "mark", weld.key if weld else None, now_ns, {"note": note})
        return out

    def finish(self, now_ns: int) -> list[Packet]:
        """End everything now, because the capture process stops; a burning arc is cut off (source `shutdown`)."""
        out: list[Packet] = []
        self._settle_ends(now_ns, out)
        out += self.stop_weld(now_ns, "shutdown")
        for weld in list(self.welds.values()):
            if weld.phase == "post-roll":
                self._close(weld, now_ns, out)
            if weld.phase == "photos":
                self._photos_done(weld, now_ns, out)
        return out

    @property
    def recording(self) -> WeldMachine | None:
        """The weld whose packets are being written now (the newest), or None."""
        for weld in reversed(self.welds.values()):
            if weld.phase in ("welding", "post-roll"):
                return weld
        return None

    # -- time ------------------------------------------------------------------------------------------------------

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _own(self, stream: str, now_ns: int, payload: ClockUpdate | Event) -> Packet:
        self._own_seq[stream] += 1
        return Packet(
            stream=stream, seq=self._own_seq[stream], t_arrival_ns=now_ns, payload=payload, order=self._next_order()
        )

    def _event(
        self, out: list[Packet], now_ns: int, kind: str, weld: str | None, t_ns: int | None, data: dict[str, Any]
    ) -> None:
        out.append(self._own(EVENTS_STREAM, now_ns, Event(kind=kind, weld=weld, t_ns=t_ns, data=data)))

    def _observe_clock(self, packet: Packet, out: list[Packet]) -> None:
        info = self.infos[packet.stream]
        former = self._online.get(packet.stream)
        if packet.stream not in self._online or packet.segment != self.segments.get(packet.stream):
            self._online[packet.stream] = stream_clock(info, packet.segment, former)
        clock = self._online[packet.stream]
        if clock is None:
            return
        before = sum(clock.faults.values())
        update = observe_packet(clock, info, packet)
        met = sum(clock.faults.values()) - before
        self.clock_faults[packet.stream] = self.clock_faults.get(packet.stream, 0) + met
        if update is not None:
            self.clocks.apply(update)
            made = self._own(CLOCKS_STREAM, packet.t_arrival_ns, update)
            self._clock_history.setdefault(packet.stream, deque()).append(made)
            out.append(made)
        if clock.fault is not None:
            data = {"stream": packet.stream, "segment": packet.segment, **asdict(clock.fault)}
            self._event(out, packet.t_arrival_ns, "clock_fault", None, packet.t_arrival_ns, data)

    def _missed(self, stream: str) -> Missed | None:
        """What the stream's newest packet showed to be missing, where only the driver counts."""
        clock = self._online.get(stream)
        return clock.missed if isinstance(clock, CountedClock) else None

    def _cell_time_ns(self, packet: Packet) -> int:
        """Cell time of the packet's last item."""
        return self.clocks.last_cell_time_ns(self.infos[packet.stream], packet)

    def _clocks_at(self, order: int) -> list[Packet]:
        """The clock changes in force at `order`: per stream the newest one below it."""
        below = [[made for made in history if made.order < order] for history in self._clock_history.values()]
        return sorted((made[-1] for made in below if made), key=lambda made: made.order)

    def _change(self, packet: Packet, out: list[Packet]) -> bool:
        """Take a stream over in its new format, unless a weld is recorded in the old one."""
        name = packet.stream
        info, old = self._changed[name], self.losses[name]
        if self.recording is not None:
            size = f"{info.width} x {info.height} at " if info.modality == "video" else ""
            what = f"came back in another format ({size}{info.rate_hz:g} Hz); recorded again after this weld"
            self.stream_lost(name, what, packet.t_arrival_ns, out)
            return False
        loss = old.settle(packet.t_arrival_ns)
        if loss is not None:
            self._gap(name, loss, packet.t_arrival_ns, out)
        self.losses[name] = LossTracker(info)
        self.losses[name].received, self.losses[name].dropped = old.received, old.dropped
        self._starts.clear()  # no weld may reach back into the old format
        self._take_over(self._changed.pop(name))
        return True

    # -- losses ----------------------------------------------------------------------------------------------------

    def _gap(self, stream: str, loss: ItemLoss, now_ns: int, out: list[Packet]) -> None:
        rate_hz = self.infos[stream].rate_hz
        data = {
            "stream": stream,
            "first": loss.first,
            "missing": loss.missing,
            "segment": loss.segment,
            "seconds": loss.missing / rate_hz if rate_hz else 0.0,
            "reason": loss.reason,
            "exact": loss.exact,
        }
        self._event(out, now_ns, "gap", None, loss.t_ns, data)

    def _settle_ends(self, now_ns: int, out: list[Packet]) -> None:
        """Give up the packets that are overdue at the very end, where no later one can show that they are lost.

        A stream whose items come unevenly is given as long as it ever took, and a quarter more.
        """
        for name, reached_ns in self._reached_ns.items():
            if now_ns - self._last_arrival_ns[name] < max(OVERDUE_NS, 1.25 * self._longest_ns.get(name, 0)):
                continue
            rate_hz, n = self.infos[name].rate_hz, self._packet_items[name]
            late_ns = self.infos[name].latency_ns + max(OVERDUE_NS, 2 * self._latest_ns[name])
            overdue = int((now_ns - late_ns - reached_ns) * rate_hz / 1e9 / n) if rate_hz and n else 0
            if overdue > 0:
                tracker = self.losses[name]
                loss = tracker.settle(tracker.end_ns + round(overdue * n * 1e9 / rate_hz))
                if loss is not None:
                    self._gap(name, loss, now_ns, out)

    # -- welds -----------------------------------------------------------------------------------------------------

    def _note_start(self, packet: Packet, t_ns: int) -> None:
        """Remember where a weld may begin: where the next frame of every camera is a keyframe.

        That is where one camera begins a group of pictures (the others follow with their next frame), and anywhere
        while no camera delivers.
        """
        if isinstance(packet.payload, VideoFrame):
            possible = self._begins_gop(packet, t_ns)
        else:
            possible = all(name in self._key_due for name, info in self.infos.items() if info.modality == "video")
        if possible:
            self._starts.append((packet.order, t_ns))
        horizon_ns = packet.t_arrival_ns - round((self._cell.record.pre_s + _RING_S) * 1e9)
        while len(self._starts) > 1 and self._starts[1][1] < horizon_ns:
            self._starts.popleft()
        history = self._clock_history.get(packet.stream, deque())
        while len(history) > 1 and self._starts and history[1].order < self._starts[0][0]:
            history.popleft()

    def _begins_gop(self, packet: Packet, t_ns: int) -> bool:
        """Decide whether a frame must be coded as a keyframe; True when it is the first of all cameras to be one."""
        name, rate_hz = packet.stream, self.infos[packet.stream].rate_hz
        if packet.segment != self.segments.get(name, packet.segment):
            self._key_due.add(name)
        frames = self._frames_since_key.get(name, 0)
        next_ns = t_ns + (round(1e9 / rate_hz) if rate_hz else 0)
        first = self._gop_ns is None or frames >= GOP or next_ns - self._gop_ns > _GOP_NS + 1_000_000
        if first:
            self._gop_ns = t_ns
            self._key_due |= {info.name for info in self.infos.values() if info.modality == "video"}
        if name in self._key_due:
            self._key_due.remove(name)
            self.keyframe_order = packet.order
            frames = 0
        self._frames_since_key[name] = frames + 1
        return first

    def _start_at(self, t_ns: int) -> tuple[int, int]:
        """Order and cell time of the last possible start at or before `t_ns`; the oldest if none is old enough."""
        found = self._starts[0] if self._starts else (self._order + 1, t_ns)
        for start in self._starts:
            if start[1] > t_ns:
                break
            found = start
        return found

    def _edges(self, packet: Packet, end_ns: int) -> list[ArcEdge]:
        payload = packet.payload
        light = frame_light(payload.pixels) if isinstance(payload, VideoFrame) else None
        self._watch.take(packet, self.clocks, light)
        if isinstance(payload, SensorRows) and packet.stream in self._channels:
            current, voltage = self._channels[packet.stream]
            t_ns = self.clocks.cell_times_ns(self.infos[packet.stream], packet)
            return self._arc.sensors(t_ns, payload.values[:, current], payload.values[:, voltage])
        if light is not None:
            return self._arc.light(end_ns, light)
        if isinstance(payload, SampleBlock):
            return self._arc.sound(end_ns, block_sound_level(payload.samples, payload.rate_hz))
        return []

    def _arc_edge(self, edge: ArcEdge, now_ns: int, out: list[Packet]) -> None:
        weld = self.recording
        if edge.kind == "arc_on":
            if self.armed and (weld is None or weld.phase == "post-roll"):
                self._open(edge.t_ns, edge.source, now_ns, out)
        elif weld is not None and weld.phase == "welding" and weld.trigger != "manual":
            self._close_arc(weld, edge.t_ns, edge.source, now_ns, out)

    def _open(self, t_ns: int, source: str, now_ns: int, out: list[Packet]) -> None:
        first_order, origin_ns = self._start_at(t_ns - round(self._cell.record.pre_s * 1e9))
        has_photos = any(info.modality == "post_images" for info in self.infos.values())
        weld = WeldMachine(
            key=weld_key(self._utc_of(t_ns)),
            first_order=first_order,
            opened_ns=t_ns,
            arc_on_ns=t_ns,
            trigger=source,
            post_s=self._cell.record.post_s,
            longest_s=self._cell.record.longest_s,
            photos_expected=self._cell.judge.photos_expected if has_photos else 0,
            photo_wait_s=self._cell.judge.photo_wait_s,
        )
        self.welds[weld.key] = weld
        self._watch.edge(t_ns)
        clocks = [
            {"order": made.order, "seq": made.seq, "t_arrival_ns": made.t_arrival_ns} | asdict(made.payload)
            for made in self._clocks_at(first_order)
        ]
        data = {
            "first_order": first_order,
            "origin_ns": origin_ns,
            "pre_s": self._cell.record.pre_s,
            "trigger": source,
            "photos_expected": weld.photos_expected,
            "clocks": clocks,
        }
        self._event(out, now_ns, "weld_open", weld.key, t_ns, data)
        self._event(out, now_ns, "arc_on", weld.key, t_ns, {"source": source})

    def _close_arc(self, weld: WeldMachine, t_ns: int, source: str, now_ns: int, out: list[Packet]) -> None:
        weld.arc_off(t_ns)
        self._watch.edge(t_ns)
        self._event(out, now_ns, "arc_off", weld.key, t_ns, {"source": source})

    def _move_on(self, now_ns: int, out: list[Packet]) -> None:
        if not self.welds:
            return
        live = [t for name, t in self._reached_ns.items() if name not in self.lost]
        slowest_ns = min(live) if live else 0
        for weld in list(self.welds.values()):
            if weld.too_long(now_ns):
                self._close_arc(weld, now_ns, "longest_s", now_ns, out)
            if weld.complete(slowest_ns, now_ns):
                self._close(weld, now_ns, out)
            if weld.photos_over(now_ns):
                self._photos_done(weld, now_ns, out)

    def _close(self, weld: WeldMachine, now_ns: int, out: list[Packet]) -> None:
        for name in self.lost:
            loss = self.losses[name].settle(now_ns) if name in self.losses else None
            if loss is not None:
                self._gap(name, loss, now_ns, out)
        offsets = self._watch.residuals(weld.arc_on_ns, weld.arc_off_ns)
        if offsets:
            self._event(out, now_ns, "sync", weld.key, weld.arc_off_ns, {"offsets": offsets})
        weld.close(self._order + 1, now_ns)
        self._event(out, now_ns, "weld_close", weld.key, weld.arc_off_ns, {"last_order": weld.last_order})

    def _photos_done(self, weld: WeldMachine, now_ns: int, out: list[Packet]) -> None:
        weld.phase = "done"
        data = {"expected": weld.photos_expected, "received": len(weld.photos)}
        self._event(out, now_ns, "photos_done", weld.key, now_ns, data)
        self._done.append(self.welds.pop(weld.key))

    def _take_photo(self, packet: Packet, out: list[Packet]) -> None:
        """Give a photo to the weld it names, else to the oldest that expects one; otherwise it stays unassigned.

        A photo that names a weld which is not remembered any more keeps its name and is no other weld's.
        """
        photo = packet.payload
        assert isinstance(photo, Photo)
        waiting = [w for w in self.welds.values() if w.phase == "photos" and len(w.photos) < w.photos_expected]
        named = [w for w in (*self.welds.values(), *self._done) if photo.weld_hint == w.key]
        early = [w for w in self.welds.values() if w.phase == "post-roll"]
        foreign = _KEY.fullmatch(photo.weld_hint or "") is not None
        candidates = named or ([] if foreign else waiting or early)
        weld = candidates[0] if candidates else None
        key = weld.key if weld else photo.weld_hint if foreign else None
        out.append(replace(packet, order=self._next_order(), payload=replace(photo, weld_hint=key)))
        if weld is not None:
            weld.photos.append(photo.name)
            if weld.phase == "done":
                data = {"expected": weld.photos_expected, "received": len(weld.photos)}
                self._event(out, packet.t_arrival_ns, "photos_done", weld.key, packet.t_arrival_ns, data)
        self._move_on(packet.t_arrival_ns, out)
