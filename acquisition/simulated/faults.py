"""Faults that can be injected into a running simulated cell: pulled plugs, silence, lost items, jumping clocks."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

AMOUNTS: Final = {"kill": 15.0, "freeze": 3.0, "drop": 10.0, "clock-step": 0.5}
"""Fault kinds with their default amounts: seconds unplugged, seconds silent, items lost, seconds jumped."""

_SPEC: Final = re.compile(r"(?P<kind>[^:]+):(?P<stream>[^@:]+)@(?P<at>[^:]+)(?::(?P<amount>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injected fault.

    Attributes:
        kind: A key of `AMOUNTS`.
        stream: The stream it hits.
        at_s: World time.
        amount: Seconds, or items for `drop`.
    """

    kind: str
    stream: str
    at_s: float
    amount: float


def parse_fault(spec: str, streams: Collection[str]) -> Fault:
    """Read `KIND:STREAM@SECONDS[:AMOUNT]`.

    Raises:
        ValueError: The specification is wrong; one line says how to write it.
    """
    form = f"write {'|'.join(AMOUNTS)}:STREAM@SECONDS[:AMOUNT], for example kill:microphone@40"
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise ValueError(f"fault {spec!r} is not understood: {form}")
    kind, stream = match["kind"], match["stream"]
    if kind not in AMOUNTS:
        raise ValueError(f"fault {spec!r}: unknown kind {kind!r}: {form}")
    if stream not in streams:
        raise ValueError(f"fault {spec!r}: unknown stream {stream!r}: use one of {', '.join(streams)}")
    try:
        at_s, amount = float(match["at"]), float(match["amount"] or AMOUNTS[kind])
    except ValueError:
        raise ValueError(f"fault {spec!r}: seconds and amount must be numbers: {form}") from None
    if not 0 <= at_s < 1e9 or not 0 < abs(amount) < 1e6 or (amount < 0 and kind != "clock-step"):
        raise ValueError(f"fault {spec!r}: seconds must be at least 0 and the amount above 0: {form}")
    return Fault(kind=kind, stream=stream, at_s=at_s, amount=amount)
