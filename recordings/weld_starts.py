"""Where a weld may begin: at a frame from which every camera's next one is coded as a keyframe."""

from collections import deque
from typing import Final

from acquisition.packet import Packet, VideoFrame

GOP: Final = 15
"""Most frames from one video keyframe to the next; a weld begins at a keyframe."""

_GOP_NS: Final = 500_000_000
"""Longest time from one keyframe to the next, for slow cameras."""


class WeldStarts:
    """Decides which frames are keyframes, and remembers where a weld may begin; owned by the ingest thread.

    That is where one camera begins a group of pictures (the others follow with their next frame), and anywhere while
    no camera delivers.

    Attributes:
        keyframe_order: Order of the newest frame that must be coded as a keyframe.
    """

    def __init__(self, reach_s: float) -> None:
        """Remember starts of the last `reach_s` seconds, and the one before them."""
        self.keyframe_order = 0
        self._reach_ns = round(reach_s * 1e9)
        self._starts: deque[tuple[int, int]] = deque()
        self._rates_hz: dict[str, float] = {}
        self._frames_since_key: dict[str, int] = {}
        self._key_due: set[str] = set()
        self._gop_ns: int | None = None

    @property
    def oldest_order(self) -> int:
        """Order of the oldest start that is remembered, 0 without one."""
        return self._starts[0][0] if self._starts else 0

    def add_camera(self, name: str, rate_hz: float) -> None:
        """Know one more camera, or one that has changed."""
        self._rates_hz[name] = rate_hz
        self._key_due.add(name)

    def interrupted(self, name: str) -> None:
        """A camera was lost or opened anew: its next frame can refer to none before it."""
        if name in self._rates_hz:
            self._key_due.add(name)

    def clear(self) -> None:
        """No weld may reach back any further than to the next packet."""
        self._starts.clear()

    def note(self, packet: Packet, t_ns: int) -> None:
        """Take note of a device packet whose last item is of cell time `t_ns`."""
        if isinstance(packet.payload, VideoFrame):
            possible = self._begins_gop(packet, t_ns)
        else:
            possible = self._rates_hz.keys() <= self._key_due
        if possible:
            self._starts.append((packet.order, t_ns))
        horizon_ns = packet.t_arrival_ns - self._reach_ns
        while len(self._starts) > 1 and self._starts[1][1] < horizon_ns:
            self._starts.popleft()

    def _begins_gop(self, packet: Packet, t_ns: int) -> bool:
        """Decide whether a frame must be coded as a keyframe; True when it is the first of all cameras to be one."""
        name, rate_hz = packet.stream, self._rates_hz[packet.stream]
        frames = self._frames_since_key.get(name, 0)
        next_ns = t_ns + (round(1e9 / rate_hz) if rate_hz else 0)
        first = self._gop_ns is None or frames >= GOP or next_ns - self._gop_ns > _GOP_NS + 1_000_000
        if first:
            self._gop_ns = t_ns
            self._key_due |= self._rates_hz.keys()
        if name in self._key_due:
            self._key_due.remove(name)
            self.keyframe_order = packet.order
            frames = 0
        self._frames_since_key[name] = frames + 1
        return first

    def at(self, t_ns: int) -> tuple[int, int] | None:
        """Order and cell time of the last start at or before `t_ns`, else of the oldest one; None without any."""
        found = self._starts[0] if self._starts else None
        for start in self._starts:
            if start[1] > t_ns:
                break
            found = start
        return found
