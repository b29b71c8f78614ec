"""Follows a device's own item numbers and time stamps: over wraps, losses, restarts and misread values.

A single value that does not fit proves nothing: it may be a restart or one garbled digit. Such an item waits for the
next one, which goes on either from it or from what was before.
"""

from collections import Counter
from typing import Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

SLACK_ITEMS: Final = 16
SLACK_S: Final = 2.0
"""A number or time may be this far ahead of what the nominal rate or the elapsed time allow, before it is doubted."""

TWICE: Final = "a row twice"
ODD_NUMBER: Final = "a row number that does not fit"
ODD_TIME: Final = "a time stamp that does not fit"
"""What a device may send amiss; rows of the first two are left out, those of the last are kept."""


class DeviceCounter:
    """A device's counter made monotone over its wraps.

    Attributes:
        last: The newest count taken, without wraps, or None before the first.
        raw: The device's number for it.
    """

    def __init__(self, bits: tuple[int, ...] = (8, 16, 32)) -> None:
        """Begin before the first value.

        Args:
            bits: The widths that the counter may have; one is ruled out by a value that it cannot hold.
        """
        self._turns = tuple(1 << width for width in bits)
        self.raw = self._largest = 0
        self.last: int | None = None

    def unwrapped(self, raw: int, plausible: float) -> int:
        """The count that `raw` means, without taking it; below `last` if the device went back.

        Args:
            raw: The device's number.
            plausible: The largest step that a wrap may make; a longer one is no wrap.
        """
        if self.last is None:
            return raw
        if raw < self.raw:
            for turn in self._turns:
                if self._largest < turn and raw + turn - self.raw <= plausible:
                    return self.last + raw + turn - self.raw
        return self.last + raw - self.raw

    def take(self, raw: int, count: int) -> None:
        """Go on from `raw`, which means `count`."""
        self.raw = raw
        self._largest = max(self._largest, raw)
        self.last = count

    def follow(self, raw: int, plausible: float) -> int | None:
        """Take `raw` and give its count, or None (and take nothing) if the device began anew."""
        count = self.unwrapped(raw, plausible)
        if self.last is not None and count < self.last:
            return None
        self.take(raw, count)
        return count


class DeviceItem(NamedTuple, Generic[T]):
    """What came from a device: its raw item number and time (None where it sends none), and its arrival in ns."""

    content: T
    seq: int | None
    ticks: int | None
    arrival_ns: int


class PlacedItem(NamedTuple, Generic[T]):
    """An item with its number and time, free of wraps; `anew`: the device restarted, and this is its first item."""

    content: T
    number: int
    ticks: int
    arrival_ns: int
    anew: bool = False


class _Step(NamedTuple):
    """An item against the one before.

    Attributes:
        number: Its number without wraps.
        ticks: Its time without wraps.
        length: How far the numbers are apart, or the times where there are no numbers.
        number_fits: The number is ahead by a plausible step.
        time_fits: The time is not behind, and ahead by a plausible step at most.
        back: Number or time lie behind.
    """

    number: int
    ticks: int
    length: int
    number_fits: bool
    time_fits: bool
    back: bool

    @property
    def fits(self) -> bool:
        return self.number_fits and self.time_fits


class DeviceSequence(Generic[T]):
    """Puts the items of one device in their places.

    What does not fit waits for the next item. If that goes on from it, the device restarted (number or time lie behind)
    or much was lost; if not, an odd number is left out as misread, and an odd time is passed on as it came, for the
    clock to judge. An item without a readable time gets the one before.

    Attributes:
        faults: How often something was amiss, by `TWICE`, `ODD_NUMBER`, `ODD_TIME`.
    """

    def __init__(
        self,
        rate_hz: float,
        tick_ns: int,
        seq_bits: tuple[int, ...] = (8, 16, 32),
        tick_bits: tuple[int, ...] = (16, 32),
    ) -> None:
        """Begin before the first item.

        Args:
            rate_hz: Nominal items per second.
            tick_ns: Nanoseconds per unit of the device's time; 0 where it sends none.
            seq_bits: Widths that the item counter may have.
            tick_bits: Widths that the time counter may have; empty if it never wraps.
        """
        self._rate_hz = rate_hz
        self._tick_ns = max(tick_ns, 1)
        self._bits = seq_bits, tick_bits
        self.faults: Counter[str] = Counter()
        self.restart()

    def restart(self) -> None:
        """Forget all items; the faults stay counted."""
        self._seq, self._time = DeviceCounter(self._bits[0]), DeviceCounter(self._bits[1])
        self._next = 0
        self._taken_ns = 0
        self._held: DeviceItem[T] | None = None

    def skip(self) -> None:
        """Count an item that could not be read, for devices that do not number theirs."""
        self._next += 1

    def push(self, item: DeviceItem[T]) -> list[PlacedItem[T]]:
        """Take an item; give those that have their place now: none while it waits, two when one had waited."""
        held, step = self._held, self._step(item)
        if item.seq is not None and (step.length == 0 or (held is not None and item.seq == held.seq)):
            self.faults[TWICE] += 1
            return []
        self._held = None
        if held is None:
            return self._taken(item, step)
        held_step, after_held = self._step(held), self._step_from(held, item)
        nearer = after_held.length < step.length and not held_step.number_fits
        if after_held.fits and (nearer or not step.fits):
            first = self._accept(held, held_step)
            return [first, self._accept(item, self._step(item))]
        return [*self._released(held, held_step), *self._taken(item, self._step(item))]

    def _taken(self, item: DeviceItem[T], step: _Step) -> list[PlacedItem[T]]:
        """Accept an item that fits, or let it wait."""
        if step.fits:
            return [self._accept(item, step)]
        self._held = item
        return []

    def _released(self, held: DeviceItem[T], step: _Step) -> list[PlacedItem[T]]:
        """Give an item that nothing went on from its place if only its time is odd; that time is not gone on from."""
        if not step.number_fits:
            self.faults[ODD_NUMBER] += 1
            return []
        return [self._accept(held._replace(ticks=None), step)]

    def _accept(self, item: DeviceItem[T], step: _Step) -> PlacedItem[T]:
        """Go on from an item; one that lies behind begins anew, unless its time is not gone on from."""
        anew = step.back and not (item.ticks is None and step.number_fits)
        if anew:
            self.restart()
            step = self._step(item)
        if not step.time_fits:
            self.faults[ODD_TIME] += 1
        if item.seq is not None:
            self._seq.take(item.seq, step.number)
        if item.ticks is not None:
            self._time.take(item.ticks, step.ticks)
        self._next = step.number + 1
        self._taken_ns = item.arrival_ns
        return PlacedItem(item.content, step.number, step.ticks, item.arrival_ns, anew)

    def _step_from(self, before: DeviceItem[T], item: DeviceItem[T]) -> _Step:
        """Compare an item with one that waits, as if that were the first of all."""
        trial: DeviceSequence[T] = DeviceSequence(self._rate_hz, self._tick_ns, *self._bits)
        trial._accept(before, trial._step(before))
        return trial._step(item)

    def _step(self, item: DeviceItem[T]) -> _Step:
        """Compare an item with the last one accepted."""
        elapsed_s = (item.arrival_ns - self._taken_ns) / 1e9
        ticks, time_step, time_fits = self._time.last or 0, 0, True
        if item.ticks is not None:
            longest = (SLACK_S + 2 * elapsed_s) * 1e9 / self._tick_ns
            ticks = self._time.unwrapped(item.ticks, longest)
            if self._time.last is not None:
                time_step = ticks - self._time.last
                time_fits = 0 <= time_step <= longest
        if item.seq is None:
            return _Step(self._next, ticks, time_step, True, time_fits, time_step < 0)
        longest = SLACK_ITEMS + 4 * elapsed_s * self._rate_hz
        number = self._seq.unwrapped(item.seq, longest)
        if self._seq.last is None:
            return _Step(number, ticks, 1, True, time_fits, time_step < 0)
        length = number - self._seq.last
        if length == 0 and time_step != 0:
            return _Step(number, ticks, -1, False, time_fits, time_step < 0)  # the same number at another time
        return _Step(number, ticks, length, 0 <= length <= longest, time_fits, length < 0 or time_step < 0)
