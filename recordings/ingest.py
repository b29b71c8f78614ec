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
    StreamInfo,
    VideoFrame,
    item_range,
)
from recordings.cell import Cell
from recordings.cell_clocks import CellClocks
from recordings.loss import ItemLoss, LossTracker
from recordings.stream_pace import StreamPace
from recordings.triggers import EXTERNAL, Signal, Triggers, ended_by
from recordings.weld_machine import WeldMachine
from recordings.weld_starts import WeldStarts
from sync.arc import SOURCES, frame_light
from sync.arc_watch import ArcWatch

log = logging.getLogger(__name__)

_RING_S: Final = 6.0
"""How far back a weld may begin before the packet that revealed it, beyond its pre-roll and `shortest_s`."""

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
        clock_faults: Unusable device stamps so far, per stream.
        welds: Welds not yet done, oldest first, by key.
        lost: Streams that are silent now, with the reason.
        armed: A trigger starts a weld.
        ignored_arcs: Arcs that were shorter than `shortest_s`.
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
        self._clocks = CellClocks()
        self._triggers = Triggers(cell)
        self._watch = ArcWatch({}, cell.arc)
        self._pace = StreamPace()
        self._starts = WeldStarts(cell.record.pre_s + cell.record.shortest_s + _RING_S)
        self._done: deque[WeldMachine] = deque(maxlen=50)
        self._changed: dict[str, StreamInfo] = {}
        self.infos: dict[str, StreamInfo] = {}
        self.losses: dict[str, LossTracker] = {}
        self.segments: dict[str, int] = {}
        self.clocks = self._clocks.table
        self.clock_faults = self._clocks.faults
        self.welds: dict[str, WeldMachine] = {}
        self.lost: dict[str, str] = {}
        self.armed = True
        self.ignored_arcs = 0
        for info in infos.values():
            self.add_stream(info)

    def add_stream(self, info: StreamInfo) -> str | None:
        """Announce a stream, at first and after each opening of its device; the cell file knows its latency.

        A weld's files hold one format per stream. A device that comes back in another one (frame size, rate, channels)
        while a weld is recorded is lost to that weld, and taken over after it.

        Returns:
            What is wrong with it for this cell, in one line, or None.
        """
        info = replace(info, latency_ns=self._cell.latency_ns(info.name))
        known = self.infos.get(info.name)
        if known is not None and _format(known) != _format(info):
            self._changed[info.name] = info
        else:
            self._changed.pop(info.name, None)
            self._take_over(info)
        return self._triggers.problem(info)

    def _take_over(self, info: StreamInfo) -> None:
        if self.infos.get(info.name) != info:
            self._watch.add_stream(info)
        self.infos[info.name] = info
        if info.modality == "video":
            self._starts.add_camera(info.name, info.rate_hz)
        if info.modality != "post_images":
            self.losses.setdefault(info.name, LossTracker(info))
        self._triggers.add_stream(info)

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
        loss = self.losses[packet.stream].observe(packet, end_ns, self._clocks.missed(packet.stream))
        if loss is not None:
            self._gap(packet.stream, loss, packet.t_arrival_ns, out)
        self._pace.note(
            packet.stream,
            end_ns=end_ns,
            arrival_ns=packet.t_arrival_ns,
            items=item_range(packet)[1],
            after_loss=loss is not None,
        )
        self.segments[packet.stream] = packet.segment
        for signal in self._signals(packet, end_ns):
            self._obey(signal, packet.t_arrival_ns, out)
        self._move_on(packet.t_arrival_ns, out)
        return out

    def tick(self, now_ns: int) -> list[Packet]:
        """Notice what did not happen (silent streams, photos that never came); call at least ten times a second."""
        out: list[Packet] = []
        for name in self._pace:
            rate_hz, last_ns = self.infos[name].rate_hz, self._pace.arrived_ns(name) or now_ns
            if name not in self.lost and now_ns - last_ns > 1e9 * max(0.5, 10 / rate_hz if rate_hz else 0.5):
                self.stream_lost(name, "silent", now_ns, out)
        self._move_on(now_ns, out)
        return out

    def stream_lost(self, name: str, reason: str, now_ns: int, out: list[Packet]) -> None:
        """Record that a stream fell silent or that its device died."""
        if name in self.lost:
            return
        self.lost[name] = reason
        self._starts.interrupted(name)
        if name in self.losses:
            self.losses[name].silence_reason = reason
        data = {"stream": name, "reason": reason}
        self._event(out, now_ns, "stream_lost", None, self._pace.arrived_ns(name), data)

    def stream_back(self, name: str, segment: int, now_ns: int, out: list[Packet]) -> None:
        """Record that a stream returned."""
        if self.lost.pop(name, None) is not None:
            self._event(out, now_ns, "stream_back", None, now_ns, {"stream": name, "segment": segment})

    # -- commands --------------------------------------------------------------------------------------------------

    def start_weld(self, now_ns: int) -> list[Packet]:
        """Start a weld by hand, armed or not."""
        out: list[Packet] = []
        self._begin(now_ns, "manual", now_ns, out)
        return out

    def trigger(self, now_ns: int, on: bool, by: str = "") -> list[Packet]:
        """Begin or end a weld on a message of `by`, as the external channel does."""
        out: list[Packet] = []
        if on:
            self._begin(now_ns, EXTERNAL, now_ns, out, by)
        else:
            self._end(now_ns, EXTERNAL, now_ns, out, by)
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
        for signal in self._triggers.finish():
            self._obey(signal, now_ns, out)
        out += self.stop_weld(now_ns, "shutdown")
        for weld in list(self.welds.values()):
            if weld.phase == "post-roll":
                self._close(weld, now_ns, out)
            if weld.phase == "photos":
                self._photos_done(weld, now_ns, out)
        return out

    @property
    def keyframe_order(self) -> int:
        """Order of the newest frame that must be coded as a keyframe."""
        return self._starts.keyframe_order

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
        name = packet.stream
        update, fault = self._clocks.observe(packet, self.infos[name], self.segments.get(name))
        if update is not None:
            made = self._own(CLOCKS_STREAM, packet.t_arrival_ns, update)
            self._clocks.remember(name, made)
            out.append(made)
        if fault is not None:
            data = {"stream": name, "segment": packet.segment, **asdict(fault)}
            self._event(out, packet.t_arrival_ns, "clock_fault", None, packet.t_arrival_ns, data)

    def _cell_time_ns(self, packet: Packet) -> int:
        """Cell time of the packet's last item."""
        return self.clocks.last_cell_time_ns(self.infos[packet.stream], packet)

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
        """Give up the packets that are overdue at the very end, where no later one can show that they are lost."""
        for name in self._pace:
            info = self.infos[name]
            overdue = self._pace.overdue(info, now_ns)
            if overdue:
                tracker = self.losses[name]
                loss = tracker.settle(tracker.end_ns + round(overdue * 1e9 / info.rate_hz))
                if loss is not None:
                    self._gap(name, loss, now_ns, out)

    # -- welds -----------------------------------------------------------------------------------------------------

    def _note_start(self, packet: Packet, t_ns: int) -> None:
        """Remember where a weld may begin, and the clocks since then."""
        if packet.segment != self.segments.get(packet.stream, packet.segment):
            self._starts.interrupted(packet.stream)
        self._starts.note(packet, t_ns)
        self._clocks.forget(packet.stream, self._starts.oldest_order)

    def _signals(self, packet: Packet, end_ns: int) -> list[Signal]:
        payload = packet.payload
        light = frame_light(payload.pixels) if isinstance(payload, VideoFrame) else None
        self._watch.take(packet, self.clocks, light)
        return self._triggers.take(packet, self.infos[packet.stream], self.clocks, end_ns, light)

    def _obey(self, signal: Signal, now_ns: int, out: list[Packet]) -> None:
        if signal.kind == "begin":
            self._begin(signal.t_ns, signal.source, now_ns, out)
        elif signal.kind == "end":
            self._end(signal.t_ns, signal.source, now_ns, out)
        else:
            self.ignored_arcs += 1
            data = {"source": signal.source, "seconds": signal.seconds, "reason": "shorter than shortest_s"}
            self._event(out, now_ns, "arc_ignored", None, signal.t_ns, data)

    def _begin(self, t_ns: int, source: str, now_ns: int, out: list[Packet], by: str = "") -> None:
        """Open a weld, unless one is welding or the cell is not armed; whatever is not obeyed is told."""
        weld = self.recording
        said = {"source": source} | ({"by": by} if by else {})
        if weld is not None and weld.phase == "welding":
            data = said | {"reason": "a weld is being recorded"}
            self._event(out, now_ns, "trigger_ignored", weld.key, t_ns, data)
        elif not self.armed and source != "manual":
            kind = "arc_ignored" if source in SOURCES else "trigger_ignored"
            self._event(out, now_ns, kind, None, t_ns, said | {"reason": "not armed"})
        else:
            self._open(t_ns, source, now_ns, out, by)

    def _end(self, t_ns: int, source: str, now_ns: int, out: list[Packet], by: str = "") -> None:
        """End the weld if it was begun by the same kind of trigger: an arc inside a manual weld does not end it."""
        weld = self.recording
        if weld is not None and weld.phase == "welding" and ended_by(weld.trigger) == ended_by(source):
            self._close_arc(weld, t_ns, source, now_ns, out, by)

    def _open(self, t_ns: int, source: str, now_ns: int, out: list[Packet], by: str = "") -> None:
        start_ns = t_ns - round(self._cell.record.pre_s * 1e9)
        first_order, origin_ns = self._starts.at(start_ns) or (self._order + 1, start_ns)
        has_photos = any(info.modality == "post_images" for info in self.infos.values())
        weld = WeldMachine(
            key=self._new_key(t_ns),
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
            for made in self._clocks.at(first_order)
        ]
        data = {
            "first_order": first_order,
            "origin_ns": origin_ns,
            "pre_s": self._cell.record.pre_s,
            "trigger": source,
            **({"by": by} if by else {}),
            "photos_expected": weld.photos_expected,
            "clocks": clocks,
        }
        self._event(out, now_ns, "weld_open", weld.key, t_ns, data)
        self._event(out, now_ns, "arc_on", weld.key, t_ns, {"source": source})

    def _new_key(self, t_ns: int) -> str:
        """Key of a weld that begins at `t_ns`; two hands in one millisecond make two welds."""
        utc_ns, known = self._utc_of(t_ns), {*self.welds, *(weld.key for weld in self._done)}
        while (key := weld_key(utc_ns)) in known:
            utc_ns += 1_000_000
        return key

    def _close_arc(
        self, weld: WeldMachine, t_ns: int, source: str, now_ns: int, out: list[Packet], by: str = ""
    ) -> None:
        weld.arc_off(t_ns)
        self._watch.edge(t_ns)
        data = {"source": source} | ({"by": by} if by else {})
        self._event(out, now_ns, "arc_off", weld.key, t_ns, data)

    def _move_on(self, now_ns: int, out: list[Packet]) -> None:
        if not self.welds:
            return
        slowest_ns = self._pace.slowest_ns(without=self.lost)
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
