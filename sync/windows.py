"""Windows of a weld: the one fold from packets to `Weld4MSample`, used live, in replay and for training.

What a window holds, and after which packet it is complete, follows from the sequence of packets alone. No timer and no
batching has a say, so a replay gives the same bytes as the live run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from acquisition.packet import ClockUpdate, Event, Packet, Photo, StreamInfo
from sync.alignment import cut, photo_sample
from sync.clock import ClockTable
from sync.resampling import look_ahead_ns
from sync.sample import SampleSpec, Weld4MSample
from sync.series import BEFORE_ALL, PhotoSeries, Series, end_of, make_series

_KEPT_NS: Final = 10_000_000_000
"""History kept beyond a window while arc-off is unknown: the last window reaches back from it, and it is told late."""

_FILTER_NS: Final = 1_000_000_000
"""History kept beyond one window afterwards, for the resampling filter."""


class WindowError(ValueError):
    """Packets were pushed out of order; the message names both orders."""


@dataclass(frozen=True, slots=True)
class _Jump:
    """Orders that were never pushed, noticed at a packet that arrived at `t_arrival_ns`."""

    t_arrival_ns: int
    missing: int


class WindowCutter:
    """Cuts the windows of one weld while its packets come in; owned by one thread.

    Push the clock snapshot, then every published packet from the weld's first order on, in order: those of all streams,
    `clocks` and `events` included, whoever they concern. Windows start at arc-on, one every `hop_s`; the last one ends
    `tail_s` after arc-off. A window comes out as soon as every stream has reached its end, or a recorded arrival lies
    `max_lateness_s` past it.

    Attributes:
        weld: Weld key.
        spec: What the windows look like.
        arc_on_ns: Arc-on of the weld, or None.
        arc_off_ns: Arc-off of the weld, or None.
        finished: The last window has come out.
    """

    def __init__(self, weld: str, spec: SampleSpec, infos: Mapping[str, StreamInfo], label: int = -1) -> None:
        """Prepare for a weld.

        Args:
            weld: Weld key.
            spec: What the windows look like.
            infos: The cell's streams by name.
            label: Class of the weld, -1 for unknown.
        """
        self.weld = weld
        self.spec = spec
        self.arc_on_ns: int | None = None
        self.arc_off_ns: int | None = None
        self.finished = False
        self._label = label
        self._infos = dict(infos)
        self._clocks = ClockTable()
        made = {name: make_series(info, spec) for name, info in infos.items()}
        self._series: dict[str, Series] = {name: one for name, one in made.items() if one is not None}
        self._look_ahead_ns = {
            name: look_ahead_ns(info, spec.audio_rate_hz) if info.modality == "audio" else 0
            for name, info in infos.items()
        }
        self._photos = PhotoSeries(weld)
        self._window_ns = round(spec.window_s * 1e9)
        self._hop_ns = round(spec.hop_s * 1e9)
        self._lateness_ns = round(spec.max_lateness_s * 1e9)
        self._end_ns: int | None = None
        self._cut_to_ns: int | None = None
        self._count = 0
        self._order: int | None = None
        self._begun = (0, 0)
        self._jumps: list[_Jump] = []
        self._forgot_ns = BEFORE_ALL
        self._closed = False

    @property
    def photos(self) -> list[Photo]:
        """The weld's photos so far."""
        return list(self._photos.photos)

    def push(self, packet: Packet) -> list[Weld4MSample]:
        """Take the next packet; returns the windows it completes, oldest first.

        Raises:
            WindowError: The packet's order is not above the last one's.
            AlignmentError: A stream cannot be cut to the spec.
        """
        self._follow(packet)
        payload = packet.payload
        if isinstance(payload, ClockUpdate):
            self._clocks.apply(payload)
        elif isinstance(payload, Event):
            self._happen(payload)
        elif isinstance(payload, Photo):
            self._photos.append(payload)
        elif not self.finished and packet.stream in self._series:
            times_ns = self._clocks.cell_times_ns(self._infos[packet.stream], packet)
            self._series[packet.stream].append(packet, times_ns)
        windows = self._ready(packet)
        self._forget(packet.t_arrival_ns)
        return windows

    def photo_window(self) -> Weld4MSample:
        """Make the photo-only sample of the weld (index -1) from the photos so far; any view makes them present."""
        images, mask = photo_sample(self._photos.photos, self.spec)
        start_ns = self.arc_on_ns or 0
        empty = cut((), start_ns, (self.arc_off_ns or start_ns), self.spec, weld=self.weld, index=-1, label=self._label)
        present = ("post_images",) if mask.any() else ()
        return replace(empty, post_images=images, post_images_mask=mask, present=present)

    def _follow(self, packet: Packet) -> None:
        """Keep count of the orders; the clock snapshot stands before the weld and may come from any time."""
        if self._order is None:
            if not isinstance(packet.payload, ClockUpdate):
                self._order = packet.order
                self._begun = (packet.order, packet.t_arrival_ns)
            return
        if packet.order <= self._order:
            raise WindowError(
                f"weld {self.weld}: packet {packet.order} of '{packet.stream}' came after packet {self._order}; "
                "push every packet once, by ascending order"
            )
        if packet.order > self._order + 1 and not self._closed:
            self._jumps.append(_Jump(packet.t_arrival_ns, packet.order - self._order - 1))
        self._order = packet.order

    def _happen(self, event: Event) -> None:
        if event.weld != self.weld:
            return
        if event.kind == "weld_open":
            order, t_arrival_ns = self._begun
            late = order - int(event.data.get("first_order", order))
            if late > 0:
                self._jumps.append(_Jump(t_arrival_ns, late))
        elif event.kind == "arc_on" and self.arc_on_ns is None:
            self.arc_on_ns = event.t_ns
        elif event.kind == "arc_off" and self.arc_off_ns is None and event.t_ns is not None:
            self.arc_off_ns = event.t_ns
            self._end_ns = event.t_ns + round(self.spec.tail_s * 1e9)
        elif event.kind == "weld_close":
            self._closed = True
        elif event.kind == "photo":
            self._photos.assign(str(event.data.get("name")))

    def _ready(self, packet: Packet) -> list[Weld4MSample]:
        windows: list[Weld4MSample] = []
        if self.arc_on_ns is None or self.finished:
            return windows
        if self._closed and self._end_ns is None:
            # Capture ended inside the arc: the weld is what was recorded of it.
            self._end_ns = max(self.arc_on_ns, end_of(self._series.values()))
        while not self.finished:
            t1_ns = self._next_start_ns + self._window_ns
            last = self._end_ns is not None and t1_ns > self._end_ns
            if last:
                assert self._end_ns is not None
                t1_ns = self._end_ns
                if t1_ns == self._cut_to_ns:
                    self.finished = True
                    break
            if not (self._closed or self._complete(t1_ns, packet)):
                break
            windows.append(self._cut(t1_ns, packet))
            self.finished = last
        return windows

    @property
    def _next_start_ns(self) -> int:
        assert self.arc_on_ns is not None
        return self.arc_on_ns + self._count * self._hop_ns

    def _complete(self, t1_ns: int, packet: Packet) -> bool:
        if packet.t_arrival_ns > t1_ns + self._lateness_ns:
            return True
        return bool(self._series) and all(
            one.end_ns >= t1_ns + self._look_ahead_ns[name] for name, one in self._series.items()
        )

    def _cut(self, t1_ns: int, packet: Packet) -> Weld4MSample:
        t0_ns = t1_ns - self._window_ns
        window = cut(
            self._series.values(),
            t0_ns,
            t1_ns,
            self.spec,
            weld=self.weld,
            index=self._count,
            label=self._label,
            # What was lost before the window began cannot have belonged to it: nothing arrives before it is measured.
            missing=sum(jump.missing for jump in self._jumps if jump.t_arrival_ns >= t0_ns),
            closed_by_order=packet.order,
            closed_by_arrival_ns=packet.t_arrival_ns,
        )
        self._count += 1
        self._cut_to_ns = t1_ns
        return window

    def _forget(self, now_ns: int) -> None:
        """Once a second, drop what no later window can need."""
        if now_ns - self._forgot_ns < 10**9:
            return
        self._forgot_ns = now_ns
        if self.finished:
            keep_ns = now_ns
        elif self._end_ns is not None and self.arc_on_ns is not None:
            keep_ns = min(self._next_start_ns, self._end_ns - self._window_ns) - _FILTER_NS
        else:
            keep_ns = now_ns - self._window_ns - _KEPT_NS
        for one in self._series.values():
            one.drop_before(keep_ns)
