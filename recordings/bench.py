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

from acquisition.packet import Event, Packet, Photo
from acquisition.transport import Subscriber
from recordings.loss import item_range
from recordings.reader import WeldReader
from recordings.recovery import recover
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
photo_delay_s = 0.5
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
class _Witness:
    """What a reader outside the capture process saw before the kill: per stream the last item's number and time."""

    last: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def note(self, packet: Packet) -> None:
        if isinstance(packet.payload, Event):
            self.seen.add(packet.payload.kind)
        elif not isinstance(packet.payload, Photo):
            first, count = item_range(packet)
            self.last[packet.stream] = (packet.order, first + count, packet.t_arrival_ns)


def survive(out: Path | None, trials: int) -> dict[str, Any]:
    """Kill the capture process at `trials` seeded instants, finalising included, and recover what it left.

    Returns:
        Trials, unreadable welds, the worst and mean loss per stream in seconds (last item seen by an outside witness
        against last item on disk), and in how many trials the reported loss was not the witnessed one.
    """
    base = Path(tempfile.mkdtemp(prefix="survive-", dir=out))
    draw = random.Random(1)
    losses: dict[str, list[float]] = {}
    unreadable: list[str] = []
    wrong: list[str] = []
    killed_open = 0
    for trial in range(trials):
        folder = base / f"{trial:03d}"
        folder.mkdir()
        after, span_s = _INSTANTS[trial % len(_INSTANTS)]
        witness = _kill_capture(folder, trial, after, draw.uniform(0.0, span_s))
        root = folder / "welds"
        reports = recover(root) if root.exists() and _any_weld(root) else []
        for report in reports:
            killed_open += 1
            _compare(Path(report.path), report, witness, losses, wrong)
        for weld in find_welds(root) if _any_weld(root) else []:
            problem = _unreadable(weld)
            if problem:
                unreadable.append(problem)
        shutil.rmtree(folder / "runtime", ignore_errors=True)
        print(f"{trial + 1} of {trials} killed", file=sys.stderr, flush=True)  # noqa: T201  # progress of a bench
    result = {
        "trials": trials,
        "welds_open_when_killed": killed_open,
        "unreadable": unreadable,
        "reported_loss_not_witnessed": wrong,
        "loss_s": {
            name: {"mean": round(sum(values) / len(values), 3), "worst": round(max(values), 3)}
            for name, values in losses.items()
        },
    }
    shutil.rmtree(base, ignore_errors=True)
    return result


def _any_weld(root: Path) -> bool:
    return any(root.rglob("weld.json"))


def _kill_capture(folder: Path, seed: int, after: str, delay_s: float) -> _Witness:
    """Start a capture process, wait for event `after`, wait `delay_s` more, kill it."""
    cell = folder / "cell.toml"
    cell.write_text(_SHORT_WELDS.format(seed=seed + 1), encoding="utf-8")
    runtime = Runtime(Path(tempfile.mkdtemp(prefix="w4m-")))
    arguments = ["--runtime", str(runtime.folder), "--cell", str(cell), "--root", str(folder / "welds"), "--no-judge"]
    process = subprocess.Popen(
        [sys.executable, str(APP), "capture", *arguments],
        env=os.environ | {"PYTHONPATH": str(APP.parent)},
        stdout=subprocess.DEVNULL,
    )
    witness = _Witness()
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


def _compare(weld: Path, report: Any, witness: _Witness, losses: dict[str, list[float]], wrong: list[str]) -> None:
    """Hold what is on disk, and what recovery says of it, against the witness."""
    reader = WeldReader(weld)
    last_order = reader.manifest.last_order or 0
    for name, info in reader.infos.items():
        if info.modality == "post_images" or name not in witness.last:
            continue
        order, seen, _ = witness.last[name]
        packets = reader.packets(video=info.modality == "video")
        ends = [sum(item_range(packet)) for packet in packets if packet.stream == name]
        on_disk = ends[-1] if ends else None
        if on_disk is None:
            continue
        closed = any(e.kind == "weld_close" and e.weld == reader.manifest.key for e in _events(reader))
        missing = 0 if closed else max(0, seen - on_disk)
        losses.setdefault(name, []).append(missing / info.rate_hz)
        reported = report.losses.get(name, {}).get("items", 0)
        # The witness may have missed, or be ahead by, what was on its way between two processes at the kill.
        tolerance = max(2, round(0.05 * info.rate_hz))
        if abs(reported - missing) > tolerance:
            wrong.append(f"{weld.name} {name}: reported {reported}, witnessed {missing} (order {order}, {last_order})")


def _events(reader: WeldReader) -> list[Event]:
    return [packet.payload for packet in reader.packets(video=False) if isinstance(packet.payload, Event)]


def _unreadable(weld: Path) -> str | None:
    try:
        count = sum(1 for _ in WeldReader(weld).packets())
    except (WeldError, OSError) as error:
        return f"{weld.name}: {error}"
    return None if count else f"{weld.name}: holds no packet"


BENCHES: Final[dict[str, Callable[[Path | None, int], dict[str, Any]]]] = {"survive": survive}
