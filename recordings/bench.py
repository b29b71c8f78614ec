"""Measurements of the recordings room; run by `python app.py bench NAME`, never in tests."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from acquisition.packet import Event, Packet, Photo, item_range
from acquisition.transport import Subscriber
from recordings.manifest import Manifest
from recordings.reader import WeldReader
from recordings.recovery import RecoveryReport, recover
from recordings.runtime import Runtime
from recordings.supervisor import APP
from recordings.weld_folder import WeldError, find_welds

_SHORT_WELDS: Final = """
name = "survive"
[record]
pre_s = 0.5
[judge]
photos_expected = 2
photo_wait_s = 2.0
[simulation]
seed = {seed}
classes = ["good"]
idle_s = 1.5
arc_s = 2.5
tail_s = 3.0
gap_s = 1.0
photos = 2
photo_delay_s = 1.0
[[stream]]
name = "camera"
modality = "video"
driver = "simulated"
[[stream]]
name = "microphone"
modality = "audio"
driver = "simulated"
[[stream]]
name = "sensors"
modality = "sensors"
driver = "simulated"
[[stream]]
name = "photos"
modality = "post_images"
driver = "simulated"
"""

_INSTANTS: Final = (("weld_open", 0.3), ("arc_on", 3.5), ("arc_off", 2.5), ("weld_close", 1.0), ("photos_done", 0.25))
"""Event after which the kill comes, and how many seconds after it at most."""


@dataclass
class Witness:
    """What a reader outside the capture process saw before the kill.

    Attributes:
        packets: Per stream the order, first item and end (item after the last one) of every packet.
        seen: Kinds of the events.
    """

    packets: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def note(self, packet: Packet) -> None:
        """Take note of a packet."""
        if isinstance(packet.payload, Event):
            self.seen.add(packet.payload.kind)
        elif not isinstance(packet.payload, Photo):
            first, count = item_range(packet)
            self.packets.setdefault(packet.stream, []).append((packet.order, first, first + count))

    def span(self, stream: str, manifest: Manifest) -> tuple[int, int]:
        """First item and end of what was seen of a stream's part in a weld."""
        last_order = manifest.last_order or sys.maxsize
        mine = [p for p in self.packets.get(stream, ()) if manifest.first_order <= p[0] <= last_order]
        return (mine[0][1], mine[-1][2]) if mine else (0, 0)


def survive(out: Path | None, trials: int) -> dict[str, Any]:
    """Kill the capture process at `trials` seeded instants, finalising included, and recover what it left.

    Returns:
        Trials, unreadable welds, the worst and mean loss per stream in seconds (last item seen by an outside witness
        against last item on disk), and in how many trials the reported loss was not the witnessed one.
    """
    with tempfile.TemporaryDirectory(prefix="survive-", dir=out) as base:
        return _survive(Path(base), trials)


def _survive(base: Path, trials: int) -> dict[str, Any]:
    draw = random.Random(1)
    losses: dict[str, list[float]] = {}
    unreadable: list[str] = []
    wrong: list[str] = []
    killed_open = 0
    for trial in range(trials):
        folder = base / f"{trial:03d}"
        folder.mkdir()
        after, span_s = _INSTANTS[trial % len(_INSTANTS)]
        cell = folder / "cell.toml"
        cell.write_text(_SHORT_WELDS.format(seed=trial + 1), encoding="utf-8")
        witness = kill_capture(cell, folder / "welds", after, draw.uniform(0.0, span_s))
        root = folder / "welds"
        reports = recover(root) if root.exists() and _any_weld(root) else []
        for report in reports:
            killed_open += 1
            for name, (lost_s, problem) in compare(report, witness).items():
                losses.setdefault(name, []).append(lost_s)
                wrong += [f"{report.path.name} {name}: {problem}"] if problem else []
        for weld in find_welds(root) if _any_weld(root) else []:
            unreadable += _unreadable(weld)
        print(f"{trial + 1} of {trials} killed", file=sys.stderr, flush=True)  # noqa: T201  # progress of a bench
    return {
        "trials": trials,
        "welds_open_when_killed": killed_open,
        "unreadable": unreadable,
        "reported_loss_not_witnessed": wrong,
        "loss_s": {
            name: {"mean": round(sum(values) / len(values), 3), "worst": round(max(values), 3)}
            for name, values in losses.items()
        },
    }


def _any_weld(root: Path) -> bool:
    return any(root.rglob("weld.json"))


def kill_capture(cell: Path, root: Path, after: str, delay_s: float) -> Witness:
    """Start a capture process that records under `root`, wait for event `after`, wait `delay_s` more, kill it."""
    runtime = Runtime(Path(tempfile.mkdtemp(prefix="w4m-")))
    arguments = ["--runtime", str(runtime.folder), "--cell", str(cell), "--root", str(root), "--no-judge"]
    process = subprocess.Popen(
        [sys.executable, str(APP), "capture", *arguments],
        env=os.environ | {"PYTHONPATH": str(APP.parent)},
        stdout=subprocess.DEVNULL,
    )
    witness = Witness()
    reader = Subscriber(runtime.data)
    try:
        deadline = time.monotonic() + 60
        kill_at = None
        while time.monotonic() < (kill_at or deadline):
            message = reader.receive(0.005)
            if isinstance(message, Packet):
                witness.note(message)
            if kill_at is None and after in witness.seen:
                kill_at = time.monotonic() + delay_s
        process.send_signal(signal.SIGKILL)
        process.wait()
        while isinstance(message := reader.receive(0.1), Packet | tuple):
            if isinstance(message, Packet):
                witness.note(message)
    finally:
        process.kill()
        process.wait()
        reader.close()
        shutil.rmtree(runtime.folder, ignore_errors=True)
    return witness


def compare(report: RecoveryReport, witness: Witness) -> dict[str, tuple[float, str | None]]:
    """Hold what is on disk, and what recovery says of it, against the witness.

    Returns:
        Per stream the loss in seconds, witnessed or reported, whichever is larger, and how the two contradict each
        other (None where they do not).
    """
    reader = WeldReader(report.path)
    found: dict[str, tuple[float, str | None]] = {}
    on_disk = {p.stream: sum(item_range(p)) for p in reader.packets() if p.stream in witness.packets}
    for name in witness.packets.keys() & reader.infos.keys():
        rate_hz = reader.infos[name].rate_hz
        first, end = witness.span(name, reader.manifest)
        missing = max(0, end - on_disk.get(name, first))
        reported = report.losses[name]["items"] if name in report.losses else 0
        # A packet is published just before it is marked as received; what then was on its way to the witness is lost.
        differs = not missing - max(1, 0.03 * rate_hz) <= reported <= missing + 2 + 0.3 * rate_hz
        lost_s = max(missing, reported) / rate_hz
        found[name] = lost_s, f"reported {reported}, witnessed {missing}" if differs else None
    return found


def _unreadable(weld: Path) -> list[str]:
    try:
        count = sum(1 for _ in WeldReader(weld).packets())
    except (WeldError, OSError) as error:
        return [f"{weld.name}: {error}"]
    return [] if count else [f"{weld.name}: holds no packet"]


BENCHES: Final[dict[str, Callable[[Path | None, int], dict[str, Any]]]] = {"survive": survive}
