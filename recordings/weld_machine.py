"""The state machine of one weld: welding, post-roll, photos, done. Many may live at once; each knows only itself."""

from dataclasses import dataclass, field
from typing import Literal

Phase = Literal["welding", "post-roll", "photos", "done"]


@dataclass(slots=True, kw_only=True)
class WeldMachine:
    """One weld from trigger to its last photo; told what happens, it says when the weld moves on.

    Attributes:
        key: Weld key.
        first_order: First packet of the weld.
        opened_ns: Cell time of the (back-dated) trigger.
        trigger: What started it (`current`, `light`, `sound`, `external`, `manual`).
        post_s: T2.
        longest_s: The weld is closed after this long at most.
        photos_expected: Photos to wait for.
        photo_wait_s: How long to wait for them after closing.
        phase: Where it stands.
        arc_on_ns: Arc-on edge.
        arc_off_ns: Arc-off edge, or None while the arc burns.
        closed_ns: Recorded arrival at which the weld closed.
        last_order: Last process packet.
        photos: Names of the photos received.
    """

    key: str
    first_order: int
    opened_ns: int
    trigger: str
    post_s: float
    longest_s: float
    photos_expected: int
    photo_wait_s: float
    phase: Phase = "welding"
    arc_on_ns: int = 0
    arc_off_ns: int | None = None
    closed_ns: int = 0
    last_order: int | None = None
    photos: list[str] = field(default_factory=list)

    LATENESS_S = 0.7
    """A silent stream is waited for this long past the post-roll; longer than any window's `max_lateness_s`."""

    def arc_off(self, t_ns: int) -> None:
        """The arc went out at `t_ns`: post-roll begins."""
        self.arc_off_ns = t_ns
        self.phase = "post-roll"

    def too_long(self, arrival_ns: int) -> bool:
        """True when the arc has burnt for `longest_s`: the weld must be ended."""
        return self.phase == "welding" and arrival_ns - self.opened_ns > self.longest_s * 1e9

    def complete(self, slowest_ns: int, arrival_ns: int) -> bool:
        """True when the post-roll is over: every live stream has passed its end, or it is late enough.

        Args:
            slowest_ns: Cell time reached by the slowest live stream.
            arrival_ns: Arrival time of the packet at hand.
        """
        if self.phase != "post-roll" or self.arc_off_ns is None:
            return False
        end_ns = self.arc_off_ns + round(self.post_s * 1e9)
        return slowest_ns > end_ns or arrival_ns > end_ns + round(self.LATENESS_S * 1e9)

    def close(self, last_order: int, arrival_ns: int) -> None:
        """The last process packet was taken; photos are waited for from now on."""
        self.last_order = last_order
        self.closed_ns = arrival_ns
        self.phase = "photos"

    def photos_over(self, arrival_ns: int) -> bool:
        """True when all expected photos are here or none is waited for any longer."""
        if self.phase != "photos":
            return False
        if len(self.photos) >= self.photos_expected:
            return True
        return arrival_ns - self.closed_ns > self.photo_wait_s * 1e9
