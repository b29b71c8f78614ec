"""How far another host's monotonic clock is from this one's, measured over the control connection (Cristian, 1989)."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from acquisition.keys import ClientKeys
from acquisition.transport import PING, ControlClient
from acquisition.wire import TransportError

BURST: Final = 8
EVERY_S: Final = 2.0
KEPT_BURSTS: Final = 8
DRIFT_PPM: Final = 100
"""How fast two quartz clocks may part at most; an old measurement is the less certain for it."""
_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One exchange: `offset_ns` is their clock minus ours, at our time `at_ns`, wrong by `bound_ns` at most."""

    at_ns: int
    offset_ns: int
    bound_ns: int

    def bound_at_ns(self, now_ns: int) -> int:
        """Bound of the error now, after the clocks have drifted apart."""
        return self.bound_ns + max(0, now_ns - self.at_ns) * DRIFT_PPM // 10**6


def round_trip(sent_ns: int, received_ns: int, answered_ns: int, back_ns: int) -> RoundTrip:
    """Offset from the four stamps of an exchange: ours, theirs, theirs, ours (NTP, RFC 5905, section 8)."""
    travelled_ns = max(0, (back_ns - sent_ns) - (answered_ns - received_ns))
    offset_ns = ((received_ns - sent_ns) + (answered_ns - back_ns)) // 2
    return RoundTrip(at_ns=back_ns, offset_ns=offset_ns, bound_ns=(travelled_ns + 1) // 2)


class ClockProbe:
    """Measures the cell's clock from another host: bursts of 8 round trips every 2 s, on its own thread and socket.

    The quickest round trip of a burst counts; of the last bursts, the one whose error is bounded closest now. Where the
    newest contradicts older ones (the cell's host was restarted), these are forgotten.
    """

    def __init__(self, control_endpoint: str, keys: ClientKeys | None = None) -> None:
        """Start measuring against the control server at `control_endpoint`."""
        self._endpoint = control_endpoint
        self._keys = keys
        self._bursts: deque[RoundTrip] = deque(maxlen=KEPT_BURSTS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="clock-probe", daemon=True)
        self._thread.start()

    @property
    def offset_ns(self) -> int | None:
        """Cell clock minus this host's monotonic clock; None until the cell answered."""
        best = self._best()
        return best.offset_ns if best else None

    @property
    def sigma_ns(self) -> int | None:
        """How wrong the offset may be: half the round trip, and what the clocks may have drifted since; or None."""
        best = self._best()
        return best.bound_at_ns(time.monotonic_ns()) if best else None

    def now_ns(self) -> int | None:
        """Cell clock now; None until the cell answered."""
        best = self._best()
        return time.monotonic_ns() + best.offset_ns if best else None

    def _best(self) -> RoundTrip | None:
        now_ns = time.monotonic_ns()
        return min(tuple(self._bursts), key=lambda burst: burst.bound_at_ns(now_ns), default=None)

    def take(self, burst: list[RoundTrip]) -> None:
        """Keep the quickest exchange of a burst, and of the former ones those that agree with it."""
        newest = min(burst, key=lambda trip: trip.bound_ns)
        for old in tuple(self._bursts):
            if abs(old.offset_ns - newest.offset_ns) > old.bound_at_ns(newest.at_ns) + newest.bound_ns:
                self._bursts.remove(old)
        self._bursts.append(newest)

    def _measure(self) -> None:
        client = ControlClient(self._endpoint, self._keys)
        while not self._stop.is_set():
            burst = []
            try:
                for _ in range(BURST):
                    sent_ns = time.monotonic_ns()
                    reply = client.request(PING, timeout_s=_TIMEOUT_S)
                    back_ns = time.monotonic_ns()
                    if reply.ok:
                        stamps = int(reply.data["received_ns"]), int(reply.data["sent_ns"])
                        burst.append(round_trip(sent_ns, *stamps, back_ns))
            except (TransportError, KeyError, TypeError, ValueError):
                pass  # the connection itself says what is wrong with it; the clock is asked for again
            if burst:
                self.take(burst)
            self._stop.wait(EVERY_S)
        client.close()

    def close(self) -> None:
        """Stop measuring."""
        self._stop.set()
        self._thread.join(_TIMEOUT_S + 1.0)
