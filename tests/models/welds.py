"""A tiny welding cell for tests: packets of one weld, and a detector fitted on such welds."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from acquisition.packet import Event, Packet, Photo, SampleBlock, SensorRows, StreamInfo, VideoFrame
from models.checkpoint import Checkpoint, TrainingRecord
from models.conformal import Calibration
from models.statistics import EncodedWeld, StatisticsDetector, encode_photos, encode_window
from models.training import weld_scores
from recordings.manifest import LabelEntry, Manifest, StreamRecord
from recordings.video_encoder import VideoEncoder
from recordings.weld_writer import WeldWriter
from sync.sample import SampleSpec
from sync.windows import WindowCutter

SPEC = SampleSpec(
    window_s=2.0,
    frames=8,
    height=24,
    width=40,
    audio_rate_hz=8000,
    sensor_rows=40,
    photos=2,
    photo_height=30,
    photo_width=40,
)
CELL = "bench"
CHANNELS = ("pressure_bar", "co2_flow_l_min", "feed", "current_a", "wire_mm", "voltage_v")
INFOS = {
    "cam": StreamInfo(name="cam", modality="video", rate_hz=20, height=24, width=40, has_counter=True),
    "mic": StreamInfo(
        name="mic", modality="audio", rate_hz=8000, channels=("mono",), units=("",), dtype="int16", has_counter=True
    ),
    "plc": StreamInfo(name="plc", modality="sensors", rate_hz=50, channels=CHANNELS, units=("",) * 6, dtype="float64"),
    "bead": StreamInfo(name="bead", modality="post_images", rate_hz=0),
}
START_NS = 10**12
REQUIRED = {"process": ("video", "sensors"), "final": ("video", "sensors")}


def photo_bytes(seed: int, dark: float) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(120 - dark, 20, (30, 40, 3)), 0, 255).astype(np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def weld_packets(
    seed: int,
    *,
    key: str = "w1",
    fault: float = 0.0,
    photo_fault: float = 0.0,
    without: Sequence[str] = (),
    lose: dict[str, float] | None = None,
    arc_s: float = 5.0,
    first_order: int = 1,
    photos: int = 2,
    start_ns: int = START_NS,
) -> list[Packet]:
    """Packets of one weld in order: 0.5 s before the arc, `arc_s` of it, 2 s after, then photos.

    Args:
        fault: Added ripple of current, noise of the sound and flicker of the picture.
        photo_fault: Gray levels by which the bead is too dark.
        without: Streams that never deliver.
        lose: Seconds after arc-on at which a stream falls silent.
    """
    rng = np.random.default_rng(seed)
    lose = lose or {}
    on_ns = start_ns + 500_000_000
    off_ns = on_ns + round(arc_s * 1e9)
    timed: list[tuple[int, str, int, object]] = []
    level = rng.normal(0, 1, 4)

    def burns(t_ns: int) -> bool:
        return on_ns <= t_ns < off_ns

    for i in range(round((arc_s + 2.5) * 20)):
        t = start_ns + i * 50_000_000
        pixels = rng.integers(8, 12, (24, 40), dtype=np.uint8)
        if burns(t):
            pixels += np.uint8(np.clip(20 + 2 * level[0] + fault * rng.normal(0, 8), 0, 100))
            pixels[10:15, 15 : 22 + int(rng.integers(0, 3))] = 255
        timed.append((t, "cam", i, VideoFrame(pixels=pixels)))
    for i in range(round((arc_s + 2.5) * 50)):
        t = start_ns + i * 20_000_000
        row = np.array([5.0, 15 + level[1], 100, 0, 0, 0]) + rng.normal(0, 0.02, 6)
        row[4] = i * 2.0
        if burns(t):
            row[3] = 177 + level[2] + rng.normal(0, 6 + 12 * fault)
            row[5] = 25 + rng.normal(0, 0.4 + fault)
        rows = SensorRows(first_row=i, values=row[None], t_device_ns=None, t_arrival_ns=np.array([t], dtype=np.int64))
        timed.append((t, "plc", i, rows))
    for i in range(round((arc_s + 2.5) * 8000 / 800)):
        t = start_ns + (i + 1) * 100_000_000
        loud = (1500 + 100 * level[3]) * (1 + fault) if burns(t - 50_000_000) else 20
        samples = np.clip(rng.normal(0, loud, (800, 1)), -32768, 32767).astype(np.int16)
        timed.append((t, "mic", i, SampleBlock(first_sample=i * 800, rate_hz=8000, samples=samples)))
    end_ns = start_ns + round((arc_s + 2.5) * 1e9)
    opened = {"first_order": first_order, "pre_s": 0.5, "trigger": "current", "photos_expected": photos, "clocks": []}
    events = [
        (on_ns + 200_000_000, Event(kind="weld_open", weld=key, t_ns=on_ns, data=opened)),
        (on_ns + 200_000_001, Event(kind="arc_on", weld=key, t_ns=on_ns, data={"source": "current"})),
        (off_ns + 500_000_000, Event(kind="arc_off", weld=key, t_ns=off_ns, data={"source": "current"})),
    ]
    for i, (t, event) in enumerate(events):
        timed.append((t, "events", i, event))
    kept = [
        item
        for item in timed
        if item[1] not in without and (item[1] not in lose or item[0] < on_ns + lose[item[1]] * 1e9)
    ]
    kept.sort(key=lambda item: item[0])
    last = first_order + len(kept)
    kept.append((end_ns, "events", 3, Event(kind="weld_close", weld=key, t_ns=off_ns, data={"last_order": last})))
    for i in range(photos):
        photo = Photo(name=f"{i}.png", data=photo_bytes(seed * 10 + i, photo_fault), weld_hint=key)
        kept.append((end_ns + 10**9 * (i + 1), "bead", i, photo))
    done = Event(kind="photos_done", weld=key, t_ns=end_ns, data={"expected": photos, "received": photos})
    kept.append((end_ns + 10**10, "events", 4, done))
    return [
        Packet(stream=stream, seq=seq, t_arrival_ns=t, payload=payload, order=first_order + n)  # type: ignore[arg-type]
        for n, (t, stream, seq, payload) in enumerate(kept)
    ]


def encoded_weld(seed: int, **changes: object) -> EncodedWeld:
    cutter = WindowCutter(f"w{seed}", SPEC, INFOS)
    windows = []
    for packet in weld_packets(seed, key=f"w{seed}", **changes):  # type: ignore[arg-type]
        windows += [encode_window(sample) for sample in cutter.push(packet)]
    photos = encode_photos(cutter.photo_window())
    return EncodedWeld(key=f"w{seed}", session=f"s{seed % 6}", label=0, windows=windows, photos=photos)


def fitted(fit: int = 24, calibrate: int = 24) -> Checkpoint:
    welds = [encoded_weld(seed) for seed in range(100, 100 + fit + calibrate)]
    detector = StatisticsDetector.fit(SPEC, welds[:fit])
    scores = np.array([weld_scores(detector, w) for w in welds[fit:]]).reshape(calibrate, 15).T.copy()
    calibration = Calibration(
        cell=CELL,
        scores=scores,
        welds=tuple(w.key for w in welds[fit:]),
        sessions=tuple(w.session for w in welds[fit:]),
        utc="2026-01-01T00:00:00+00:00",
    )
    training = TrainingRecord(
        welds=[w.key for w in welds[:fit]], sessions=["s0"], held_out=[], digest="0", utc="2026-01-01T00:00:00+00:00"
    )
    return Checkpoint(detector=detector, training=training, calibrations={CELL: calibration}, digest="cafe0123")


def write_weld(
    folder: Path, packets: Sequence[Packet], *, session: str = "s0", label: int = 0, cell: str = CELL
) -> Manifest:
    """Record packets as a finalised weld folder, lossless."""
    opened = next(p.payload for p in packets if isinstance(p.payload, Event) and p.payload.kind == "weld_open")
    manifest = Manifest(
        key=opened.weld or "",
        cell=cell,
        session=session,
        state="open",
        streams={name: StreamRecord(info=info, files=[], codec="") for name, info in INFOS.items()},
        first_order=packets[0].order,
        origin_ns=packets[0].t_arrival_ns,
        arc_on_ns=opened.t_ns,
        labels=[LabelEntry(label=label, by="test", utc="2026-01-01T00:00:00+00:00")],
    )
    encoder = VideoEncoder(INFOS["cam"], lossless=True, first_arrival_ns=packets[0].t_arrival_ns)
    writer = WeldWriter(folder, manifest, {"cam": encoder})
    for packet in packets:
        for item in encoder.encode(packet) if packet.stream == "cam" else [packet]:
            writer.write(item)
        if isinstance(packet.payload, Event) and packet.payload.kind == "weld_close":
            manifest.last_order = int(packet.payload.data["last_order"])
    return writer.finalise()
