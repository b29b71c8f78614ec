"""Network cameras of every kind that the driver knows, on this machine: TCP, UDP, HTTP and RTSP, each a process.

Every picture says in black and white blocks which picture it is and when it was sent (`time.monotonic_ns`, which on
Linux all processes share); its number is the time since a common epoch in frames, so that numbers go on over a restart
and their jump is exactly what was lost.
"""

import argparse
import http.server
import io
import select
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
import PIL.Image

from tests.acquisition.counterparts import _listens, _Process, free_port, wait_until

BLOCK: Final = 8
BITS: Final = 96
"""64 bits of time (ns), 32 bits of number."""
URLS: Final = {
    "tcp": "tcp://127.0.0.1:{}",
    "udp": "udp://127.0.0.1:{}",
    "http-mjpeg": "http://127.0.0.1:{}/video.mjpg",
    "http-ts": "http://127.0.0.1:{}/video.ts",
    "rtsp": "rtsp://127.0.0.1:{}/weld",
}
NOISE: Final = np.random.default_rng(0)
TICK: Final = Fraction(1, 90_000)
SDP: Final = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=weld\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\na=control:*\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)


def draw(number: int, time_ns: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw a picture that says its number and time, `(height, width)` uint8."""
    bits = np.array([value >> shift & 1 for value, n in ((time_ns, 64), (number, 32)) for shift in range(n)], np.uint8)
    blocks = np.zeros(height // BLOCK * (width // BLOCK), np.uint8)
    blocks[:BITS] = bits
    blocks = blocks.reshape(height // BLOCK, width // BLOCK) * np.uint8(150) + np.uint8(25)
    picture: npt.NDArray[np.uint8] = np.kron(blocks, np.ones((BLOCK, BLOCK), np.uint8))
    return picture


def read(pixels: npt.NDArray[np.uint8]) -> tuple[int, int]:
    """Number of a picture and when it was sent (ns), also after a lossy codec."""
    centres = pixels[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK].ravel()[:BITS] > 130
    time_ns, number = (
        sum(int(bit) << shift for shift, bit in enumerate(part)) for part in (centres[:64], centres[64:])
    )
    return number, time_ns


class CameraProcess:
    """A camera of one protocol in a process of its own, to be killed, frozen and started again on the same port."""

    def __init__(self, protocol: str, *settings: str) -> None:
        self.port = free_port()
        self.url = URLS[protocol].format(self.port)
        self._arguments = [protocol, str(self.port), "--epoch", str(time.monotonic_ns()), *settings]
        self._process: _Process | None = None

    def start(self) -> int:
        """Start the camera; returns the time (`time.monotonic_ns`) from which it can be seen."""
        self._process = _Process([sys.executable, "-m", "tests.hotplug.camera_counterparts", *self._arguments])
        wait_until(lambda: _listens(self.port) or not self.process.running, "the camera listens")
        return time.monotonic_ns()

    @property
    def process(self) -> _Process:
        assert self._process is not None, "the camera was not started"
        return self._process

    def thaw(self) -> int:
        """Let a frozen camera go on; returns the time from which its new reader can be served."""
        self.process.thaw()
        wait_until(lambda: _listens(self.port), "the camera listens again")
        return time.monotonic_ns()

    def kill(self) -> None:
        """Pull the plug."""
        if self._process is not None:
            self._process.kill()


class _Camera:
    """What all cameras share: pictures at their pace, and an encoder that keeps none of them back."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.port: int = arguments.port
        self._settings = arguments
        self._first_ns = 0

    def pictures(self) -> Iterator[av.VideoFrame]:
        """Yield frames at the set rate; `resize_s` after the first they are twice as high and wide."""
        fps, epoch_ns, begin_ns = self._settings.fps, self._settings.epoch, time.monotonic_ns()
        number, pause = int((begin_ns - epoch_ns) * fps / 1e9), threading.Event()
        while True:
            pause.wait(max(0.0, (epoch_ns + number * 1e9 / fps - time.monotonic_ns()) / 1e9))
            now_ns = time.monotonic_ns()
            height, width = self._settings.size
            self._first_ns = self._first_ns or now_ns
            if 0 < self._settings.resize_s < (now_ns - self._first_ns) / 1e9:
                height, width = 2 * height, 2 * width
            luma = draw(number, now_ns, height, width)
            luma += NOISE.integers(0, self._settings.noise + 1, luma.shape, np.uint8)
            chroma = np.full((height // 2, width), 128, np.uint8)
            frame = av.VideoFrame.from_ndarray(np.concatenate([luma, chroma]), format="yuv420p")
            frame.color_range = 2
            frame.pts, frame.time_base = (now_ns - begin_ns) * TICK.denominator // 10**9, TICK
            yield frame
            number = max(number + 1, int((time.monotonic_ns() - epoch_ns) * fps / 1e9))  # what it was late for is lost

    def send(self, container: Any, gone: Callable[[], bool] = lambda: False) -> None:
        """Send pictures as H.264 into an output until its reader is gone."""
        options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "10", "g": str(self._settings.gop), "bf": "0"}
        stream = container.add_stream("libx264", options=options)
        stream.height, stream.width = self._settings.size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = stream.time_base = TICK  # else stamps are rounded to frame periods
        stream.codec_context.color_range = 2
        stream.codec_context.open()  # else the first picture waits for it
        for frame in self.pictures():
            if gone():
                return
            container.mux(stream.encode(frame))


def _tcp(camera: _Camera) -> None:
    while True:
        try:
            with av.open(f"tcp://127.0.0.1:{camera.port}?listen=1&tcp_nodelay=1", "w", format="nut") as container:
                camera.send(container)
        except (av.error.FFmpegError, OSError):
            continue  # the reader went; the next one is waited for


def _udp(camera: _Camera) -> None:
    # A datagram per picture would be too large, and a datagram that nobody takes comes back as an error.
    url = f"udp://127.0.0.1:{camera.port}?pkt_size=1316&connect=0"
    with (
        av.open(url, "w", format="mpegts", options={"omit_video_pes_length": "0"}) as container,
        socket.create_server(("127.0.0.1", camera.port)),  # says that it sends from now on
    ):
        camera.send(container)


def _http(camera: _Camera) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            try:
                (self._parts if self.path.endswith("mjpg") else self._endless)()
            except (OSError, av.error.FFmpegError):
                return  # the reader went

        def _parts(self) -> None:
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=weld")
            self.end_headers()
            for frame in camera.pictures():
                data = io.BytesIO()
                PIL.Image.fromarray(frame.to_ndarray(format="gray")).save(data, "JPEG")
                head = f"--weld\r\nContent-Type: image/jpeg\r\nContent-Length: {data.tell()}\r\n\r\n"
                self.wfile.write(head.encode() + data.getvalue() + b"\r\n")

        def _endless(self) -> None:
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            with av.open(self.wfile, "w", format="mpegts", options={"omit_video_pes_length": "0"}) as container:
                camera.send(container)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    http.server.ThreadingHTTPServer(("127.0.0.1", camera.port), Handler).serve_forever()


class _RtspSession(socketserver.StreamRequestHandler):
    """One reader of an RTSP camera (RFC 2326): answers its requests; media by FFmpeg's RTP muxer, reports included."""

    camera: _Camera

    def handle(self) -> None:
        self.gone = threading.Event()
        self.line = threading.Lock()
        sender: threading.Thread | None = None
        try:
            while request := self._request():
                method, headers = request
                answer = "\r\n"
                if method == "DESCRIBE":
                    answer = f"Content-Type: application/sdp\r\nContent-Length: {len(SDP)}\r\n\r\n{SDP}"
                elif method == "SETUP":
                    transport = headers["transport"].split(",")[0]
                    answer = f"Transport: {transport}\r\n\r\n"
                    sender = threading.Thread(target=self._send, args=(transport,), daemon=True)
                elif method == "OPTIONS":
                    answer = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n\r\n"
                head = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1;timeout=4\r\n"
                with self.line:
                    self.wfile.write((head + answer).encode())
                if method == "PLAY" and sender is not None:
                    sender.start()
                if method == "TEARDOWN":
                    break
        except OSError:
            pass  # the reader went
        finally:
            self.gone.set()

    def _request(self) -> tuple[str, dict[str, str]] | None:
        """Read one request; receiver reports that come interleaved are passed over."""
        while (first := self.rfile.read(1)) == b"$":
            self.rfile.read(int.from_bytes(self.rfile.read(3)[1:], "big"))
        if not first:
            return None
        method = (first + self.rfile.readline()).decode().split(" ")[0]
        headers = {}
        while line := self.rfile.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return method, headers

    def _send(self, transport: str) -> None:
        pairs = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for one in pairs:
            one.bind(("127.0.0.1", 0))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)  # a keyframe comes at once
        rtp, rtcp = (int(one.getsockname()[1]) for one in pairs)
        if "interleaved" in transport:
            threading.Thread(target=self._relay, args=(pairs,), daemon=True).start()
        else:
            for one in pairs:
                one.close()
            rtp, rtcp = (int(port) for port in transport.partition("client_port=")[2].split(";")[0].split("-"))
        url = f"rtp://127.0.0.1:{rtp}?rtcpport={rtcp}&pkt_size=1200"
        with av.open(url, "w", format="rtp") as container:
            self.camera.send(container, self.gone.is_set)

    def _relay(self, pairs: list[socket.socket]) -> None:
        """Put the datagrams of a muxer into the connection (RFC 2326, 10.12)."""
        while not self.gone.is_set():
            for one in select.select(pairs, [], [], 1.0)[0]:
                data = one.recv(65_536)
                with self.line:
                    self.wfile.write(b"$" + bytes([pairs.index(one)]) + len(data).to_bytes(2, "big") + data)


def _rtsp(camera: _Camera) -> None:
    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    _RtspSession.camera = camera
    Server(("127.0.0.1", camera.port), _RtspSession).serve_forever()


KINDS: Final = {"tcp": _tcp, "udp": _udp, "http-mjpeg": _http, "http-ts": _http, "rtsp": _rtsp}

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    parser = argparse.ArgumentParser()
    parser.add_argument("protocol", choices=KINDS)
    parser.add_argument("port", type=int)
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 160))
    parser.add_argument("--gop", type=int, default=15)
    parser.add_argument("--noise", type=int, default=0)
    parser.add_argument("--resize-s", type=float, default=0.0)
    chosen = parser.parse_args()
    KINDS[chosen.protocol](_Camera(chosen))
