"""What can go wrong with the simulated devices: faults drawn for a session or weld, and faults injected on demand."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from acquisition.simulated.devices import CAMERA, DEVICES, MICROPHONE, SENSORS

DRAWN_FAULTS: Final[dict[str, str]] = {
    "offset": "device clocks count from other moments: sound 1.0-1.6 s before the sensors, video within 0.1 s of them",
    "rate": "the camera delivers 30.0-31.2 frames for each 31 that it claims",
    "no-counter": "one device numbers nothing: its driver counts what comes, and losses leave no jump",
    "no-clock": "camera or sensors send no stamps",
    "wrap": "camera and sensors count in 8 or 16 bit, and their drivers undo the wraps",
    "ms-stamps": "sensor stamps are rounded to milliseconds",
    "bad-stamps": "0.1-1 % of the stamps of camera and sensors repeat the one before, or step back by 1-40 ms",
    "clock-reset": "the clock of camera or sensors starts anew during the weld, while its counter goes on",
    "drop": "0.1-1 % of frames and rows are lost, one by one and in bursts of 3-30 (of 1 s at most)",
    "dup": "0.1-1 % of frames and rows come twice, with the same number and stamp",
    "stall": "now and then frames and rows wait for 0.05-0.4 s and come all at once",
    "gap": "0-3 times a weld, whole blocks of 10-200 ms of sound are lost",
    "xrun": "0-3 times a weld, 1-3 blocks of sound are lost and the next one says so (overflow)",
    "clip": "0-3 stretches of sound are overdriven by 54 dB; 0-3 sensor rows read 819.03 A and 81.9 V during the arc",
    "hold": "0-3 times a weld, 3-30 sensor rows (of 1 s at most) repeat the one before",
}
"""Drawn faults of `SimulationConfig.faults`, one line each."""

_EVERY: Final = tuple(DEVICES)
_CLOCKED: Final = (CAMERA, MICROPHONE, SENSORS)
_STAMPED: Final = (CAMERA, SENSORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultKind:
    """One kind of injected fault.

    Attributes:
        amount: Amount where none is given.
        devices: Devices that it can hit.
        does: What it does, in one line; N stands for the amount.
        signed: The amount may be negative.
    """

    amount: float
    devices: tuple[str, ...]
    does: str
    signed: bool = False


INJECTED_FAULTS: Final[dict[str, FaultKind]] = {
    "kill": FaultKind(amount=15, devices=_EVERY, does="unplugged for N s; comes back as a new segment"),
    "freeze": FaultKind(amount=3, devices=_EVERY, does="silent for N s; the counter goes on"),
    "drop": FaultKind(amount=10, devices=_EVERY, does="N items are lost; the counter goes on"),
    "clock-step": FaultKind(amount=0.5, devices=_CLOCKED, does="the device clock jumps by N s", signed=True),
    "dup": FaultKind(amount=10, devices=_CLOCKED, does="N items come twice"),
    "stall": FaultKind(amount=1, devices=_CLOCKED, does="items wait for up to N s, then come all at once"),
    "reset": FaultKind(amount=1, devices=_CLOCKED, does="counter back to 0, clock to N s, without a new segment"),
    "rate": FaultKind(amount=1, devices=_CLOCKED, does="N % more items a second from then on", signed=True),
    "clip": FaultKind(amount=1, devices=_CLOCKED, does="values at the end of the scale for N s"),
    "hold": FaultKind(amount=1, devices=_CLOCKED, does="the last value or picture, over and over, for N s"),
    "stuck-clock": FaultKind(amount=1, devices=_STAMPED, does="stamps stand still for N s"),
    "garbage": FaultKind(amount=3, devices=_CLOCKED, does="N items of noise, or of NaN from sensors"),
    "xrun": FaultKind(amount=1, devices=(MICROPHONE,), does="N blocks are lost, and the next one says so (overflow)"),
}
"""Kinds of `--inject`."""

FORM: Final = "KIND:STREAM@SECONDS[:AMOUNT]"
FAULTS_HELP: Final = f"Device faults: none, all, or a comma list of {', '.join(DRAWN_FAULTS)}."
INJECT_HELP: Final = f"Disturb a simulated stream: {FORM}; " + "; ".join(
    f"{name}: {kind.does} (N = {kind.amount:g})" for name, kind in INJECTED_FAULTS.items()
)

_SPEC: Final = re.compile(r"(?P<kind>[^:]+):(?P<stream>[^@:]+)@(?P<at>[^:]+)(?::(?P<amount>.+))?")
_SLOWEST_PERCENT: Final = 50.0


def fault_names(text: str) -> frozenset[str]:
    """Read a choice of drawn faults: `none`, `all`, or names of `DRAWN_FAULTS` separated by commas.

    Raises:
        ValueError: A name is unknown; one line lists them all.
    """
    if text in ("none", "all"):
        return frozenset(DRAWN_FAULTS if text == "all" else ())
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in DRAWN_FAULTS:
            raise ValueError(
                f"faults {text!r}: {name!r} is unknown: use none, all, or some of {','.join(DRAWN_FAULTS)}"
            )
    return frozenset(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One injected fault.

    Attributes:
        kind: A key of `INJECTED_FAULTS`.
        stream: The stream it hits.
        at_s: World time.
        amount: What N stands for in the kind's line.
    """

    kind: str
    stream: str
    at_s: float
    amount: float


def parse_fault(spec: str, devices: Mapping[str, str]) -> Fault:
    """Read `KIND:STREAM@SECONDS[:AMOUNT]`.

    Args:
        spec: The specification.
        devices: The device behind each stream.

    Raises:
        ValueError: The specification is wrong; one line says how to write it.
    """
    form = f"write {FORM}, for example kill:microphone@40"
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise ValueError(f"fault {spec!r} is not understood: {form}")
    name, stream = match["kind"], match["stream"]
    kind = INJECTED_FAULTS.get(name)
    if kind is None:
        raise ValueError(f"fault {spec!r}: unknown kind {name!r}: use one of {', '.join(INJECTED_FAULTS)}")
    if stream not in devices:
        raise ValueError(f"fault {spec!r}: unknown stream {stream!r}: use one of {', '.join(devices)}")
    if devices[stream] not in kind.devices:
        fitting = ", ".join(other for other, device in devices.items() if device in kind.devices)
        raise ValueError(f"fault {spec!r}: {name} does not fit the {devices[stream]}: use one of {fitting}")
    try:
        at_s, amount = float(match["at"]), float(match["amount"] or kind.amount)
    except ValueError:
        raise ValueError(f"fault {spec!r}: seconds and amount must be numbers: {form}") from None
    if not 0 <= at_s < 1e9 or not 0 < abs(amount) < 1e6 or (amount < 0 and not kind.signed):
        raise ValueError(f"fault {spec!r}: seconds must be at least 0 and the amount above 0: {form}")
    if name == "rate" and amount <= -_SLOWEST_PERCENT:
        raise ValueError(f"fault {spec!r}: a rate cannot fall by {-amount:g} %: give less than {_SLOWEST_PERCENT:g}")
    return Fault(kind=name, stream=stream, at_s=at_s, amount=amount)
