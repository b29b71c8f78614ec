"""Devices for `bench capture`, in a process of its own: network cameras, a sound player and serial sensor boxes.

`python -m recordings.bench_senders PLAN.json` sends until its standard input is closed, then prints what it sent. What
it sends was made beforehand, so that it takes little of the processor that is measured.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

FPS: Final = 30
_CLIP_FRAMES: Final = 300
_MICROSECOND: Final = Fraction(1, 1_000_000)


def make_clip(path: Path, frames: Iterable[np.ndarray[Any, np.dtype[np.uint8]]], height: int, width: int) -> None:
    """Encode a clip as a camera would: H.264, full range, one keyframe in half a second, no B frames."""
    with av.open(str(path), "w", format="nut") as container:
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": "23", "g": "15", "bf": "0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.color_range = 2
        chroma = np.full((height // 2, width), 128, np.uint8)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.concatenate([pixels, chroma]), format="yuv420p")
            frame.color_range, frame.pts, frame.time_base = 2, number, Fraction(1, FPS)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Sender(threading.Thread):
    """Sends at absolute deadlines until told to stop, and counts what it sent."""

    def __init__(self, name: str, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.stop, self.sent, self.late_s = stop, 0, 0.0

    def wait(self, due_s: float) -> bool:
        """Wait for a deadline; False when it is time to stop."""
        self.late_s = max(self.late_s, time.monotonic() - due_s)
        return not self.stop.wait(max(0.0, due_s - time.monotonic()))


class _Camera(_Sender):
    """A clip over and over on TCP + NUT, each frame stamped with the camera's own running time."""

    def __init__(self, clip: Path, port: int, stop: threading.Event) -> None:
        super().__init__(f"camera-{port}", stop)
        self.clip, self.port = clip, port

    def run(self) -> None:
        """Send to the one reader until it goes."""
        with av.open(str(self.clip), "r") as source:
            template = source.streams.video[0]
            packets = [packet for packet in source.demux(template) if packet.size]
            url = f"tcp://127.0.0.1:{self.port}?listen=1&tcp_nodelay=1"
            # The reader goes first, and then there is nothing left to close in order.
            with contextlib.suppress(av.error.FFmpegError), av.open(url, "w", format="nut") as container:
                stream = container.add_stream_from_template(template)
                stream.time_base = _MICROSECOND
                began_s = time.monotonic()
                while self.wait(began_s + self.sent / FPS):
                    packet = packets[self.sent % len(packets)]
                    packet.stream, packet.time_base = stream, _MICROSECOND
                    packet.pts = packet.dts = self.sent * 1_000_000 // FPS
                    container.mux(packet)
                    self.sent += 1


class _Box(_Sender):
    """A sensor box on a pty: a line of counter, own time and values every millisecond, a few at a time."""

    def __init__(self, descriptor: int, values: list[bytes], rate_hz: float, stop: threading.Event) -> None:
        super().__init__(f"box-{descriptor}", stop)
        self.descriptor, self.values, self.rate_hz = descriptor, values, rate_hz
        self.blocked = 0

    def run(self) -> None:
        """Begin when somebody opens the port, and send until told to stop; a box does not wait for its reader."""
        hung_up = select.poll()
        hung_up.register(self.descriptor, select.POLLHUP)
        while hung_up.poll(0):
            if self.stop.wait(0.01):
                return
        began_s, together, rest = time.monotonic(), max(1, round(self.rate_hz / 100)), b""
        while self.wait(began_s + self.sent / self.rate_hz):
            lines = []
            for number in range(self.sent, self.sent + together):
                values = self.values[number % len(self.values)]
                lines.append(b"%d,%d,%b\n" % (number, number * 1_000_000 // round(self.rate_hz), values))
            self.sent += together
            if rest:
                self.blocked += together  # as in a UART, what finds no room is lost
                lines = []
            try:
                data = rest + b"".join(lines)
                rest = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                self.blocked += together if lines else 0
            except OSError:
                return


def _play(sound: Path, rate_hz: int, stop: threading.Event) -> None:
    """Play a recording over and over into the null sink."""
    command = ["paplay", "--raw", "--format=s16le", "--channels=1", f"--rate={rate_hz}", "--latency-msec=1000"]
    while not stop.is_set():
        player = subprocess.Popen([*command, str(sound)], stderr=subprocess.DEVNULL)
        while player.poll() is None and not stop.wait(0.2):
            pass
        player.kill()
        player.wait()


def send(plan: dict[str, Any]) -> dict[str, Any]:
    """Send everything in `plan` until standard input is closed.

    Args:
        plan: `clip` and `port` of a camera; or `boxes` (open file descriptor, values and rate of every sensor box),
            `sound` (file) and `rate_hz`.

    Returns:
        Items sent and the worst lateness of the sender itself, per device.
    """
    stop = threading.Event()
    senders: list[_Sender] = [_Camera(Path(plan["clip"]), plan["port"], stop)] if "clip" in plan else []
    for descriptor, values, rate_hz in plan.get("boxes", ()):
        senders.append(_Box(descriptor, [text.encode() for text in values], rate_hz, stop))
    threads: list[threading.Thread] = [*senders]
    if "sound" in plan:
        threads.append(threading.Thread(target=_play, args=(Path(plan["sound"]), plan["rate_hz"], stop), daemon=True))
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join(2.0)
    return {
        sender.name: {
            "sent": sender.sent,
            "late_ms": round(1e3 * sender.late_s, 1),
            "not_taken": sender.blocked if isinstance(sender, _Box) else 0,
        }
        for sender in senders
    }


if __name__ == "__main__":
    json.dump(send(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), sys.stdout)
