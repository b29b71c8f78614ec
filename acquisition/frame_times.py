"""What the times of a video stream say of it: its true rate, stamps that cannot be, and its sender's UTC."""

import logging
import statistics
import struct
import time
from typing import Any, Final

import av

log = logging.getLogger(__name__)

RATE_SPAN_S: Final = 5.0
RATE_TOLERANCE: Final = 0.02
JUMP_NS: Final = 1_000_000_000
"""A stamp this far from where the one before and the arrivals put it: the sender's clock was set, or it restarted."""
LATENCY_FRAMES: Final = 64


def sender_utc_ns(packet: "av.Packet[Any]") -> int | None:
    """UTC (ns) at which the sender stamped an RTP packet, by its last RTCP sender report (RFC 3550, 6.4.1), or None."""
    if not packet.has_sidedata("prft"):
        return None
    (utc_us,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))  # AVProducerReferenceTime.wallclock
    return int(utc_us) * 1000


class FrameTimes:
    """Watches the frames of one segment; everything is counted, and said once.

    Attributes:
        odd: How many stamps were `missing`, `repeated`, `backwards`, or `jumped` (by more than a second).
        rate_hz: Frames per second as they arrived, once measured over 5 s; else 0.
    """

    def __init__(self, title: str, nominal_hz: float) -> None:
        """Begin a segment of the camera `title`, set to `nominal_hz` (0: any rate will do)."""
        self.odd = {"missing": 0, "repeated": 0, "backwards": 0, "jumped": 0}
        self.rate_hz = 0.0
        self._title = title
        self._nominal_hz = nominal_hz
        self._stamped = False
        self._first_ns: int | None = None
        self._frames = 0
        self._last: tuple[int, int] | None = None

    def observe(self, t_device_ns: int | None, t_arrival_ns: int) -> None:
        """Look at one frame, in the order of delivery."""
        self._measure(t_arrival_ns)
        if t_device_ns is None:
            if self._stamped:
                self._count("missing", "")
            return
        self._stamped = True
        if self._last is not None:
            step_ns = t_device_ns - self._last[0]
            if abs(step_ns - (t_arrival_ns - self._last[1])) > JUMP_NS:
                self._count("jumped", f" (by {step_ns / 1e9:+.1f} s: was its clock set, or did it restart?)")
            elif step_ns == 0:
                self._count("repeated", "")
            elif step_ns < 0:
                self._count("backwards", f" (by {step_ns / 1e6:.0f} ms)")
        self._last = (t_device_ns, t_arrival_ns)

    def _count(self, what: str, detail: str) -> None:
        self.odd[what] += 1
        if self.odd[what] == 1:
            log.warning("%s: a stamp %s%s; counted from now on, check the sender", self._title, _SAID[what], detail)

    def _measure(self, t_arrival_ns: int) -> None:
        if self._first_ns is None:
            self._first_ns = t_arrival_ns
            return
        self._frames += 1
        span_s = (t_arrival_ns - self._first_ns) / 1e9
        if self.rate_hz or span_s < RATE_SPAN_S:
            return
        self.rate_hz = self._frames / span_s
        if self._nominal_hz and abs(self.rate_hz / self._nominal_hz - 1) > RATE_TOLERANCE:
            log.warning(
                "%s: sends %.1f frames per second, not %g; set fps = %.1f in the cell file",
                *(self._title, self.rate_hz, self._nominal_hz, self.rate_hz),
            )


_SAID: Final = {"missing": "is missing", "repeated": "repeats", "backwards": "runs backwards", "jumped": "jumped"}


class SenderClock:
    """The UTC of an RTP sender, as its first report in a segment gives it.

    Attributes:
        offset_ns: UTC minus the stream's own stamp; constant over the segment, so that its times never step.
        moved_ns: How far the newest report's UTC has left that: the drift of the sender's media clock against its UTC,
            or a step of the latter.
        latency_ns: Median of arrival (this host's UTC) minus stamp over the first frames, or None yet. It holds the
            network, the demuxer and what the two hosts' clocks disagree by, so it bounds the latency from above only
            where both are synchronised (PTP, NTP).
    """

    def __init__(self, title: str, stamp_ns: int, utc_ns: int) -> None:
        """Take the relation from the first frame of a segment."""
        self.offset_ns = utc_ns - stamp_ns
        self.moved_ns = 0
        self.latency_ns: int | None = None
        self._title = title
        self._late_ns: list[int] = []
        self._stepped = False

    def observe(self, stamp_ns: int, utc_ns: int | None, t_arrival_ns: int) -> int:
        """Look at one frame; returns its time in the sender's UTC (ns), by the first report."""
        device_ns = stamp_ns + self.offset_ns
        if utc_ns is not None:
            self.moved_ns = utc_ns - device_ns
            if abs(self.moved_ns) > JUMP_NS and not self._stepped:
                self._stepped = True
                log.warning(
                    "%s: the sender's UTC moved by %+.1f s against its own stamps, which go on as they began; "
                    "synchronise the camera (NTP, PTP)",
                    *(self._title, self.moved_ns / 1e9),
                )
        if self.latency_ns is None:
            self._late_ns.append(time.time_ns() - time.monotonic_ns() + t_arrival_ns - device_ns)
            if len(self._late_ns) >= LATENCY_FRAMES:
                self.latency_ns = round(statistics.median(self._late_ns))
                self._late_ns.clear()
                log.info(
                    "%s: times are the sender's UTC; frames arrive %.1f ms after it (as far as both clocks agree)",
                    *(self._title, self.latency_ns / 1e6),
                )
        return device_ns
