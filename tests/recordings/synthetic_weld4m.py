"""A small Weld-4M tree with every irregularity that the real data set and its users' disks have, and what to expect.

Media are tiny: 64 x 48 video at 10 (or 30, 31) frames per second, six seconds, an arc in the middle. Every stream shows
the arc; where it lies in the file is the stream's own start.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

HEADER = "Pressure,CO2 Weld Flow,Feed,Primary Weld Current,Wire Consumed,Secondary Weld Voltage"
TIMED = f"Date,Time,Part No,{HEADER},Remarks "
MANIFEST = (
    "CATEGORY,WELD_TYPE,THICKNESS_MM,STEEL_TYPE,SAMPLES,CURRENT_A,VOLTAGE_V,GAS_BAR,ROBOT_SPEED_CPM,"
    "DIRECTORY,SUBDIRS,SPLIT"
)
SOUND_HZ = 16_000
SECONDS = 6.0
ARC_S = (1.95, 4.49)
ROWS_HZ = 9.0


def make_video(path: Path, *, rate_hz: int = 10, leads_s: float = 0.0, seconds: float = SECONDS) -> None:
    """Write gray MPEG-4 in limited range; the arc comes `leads_s` early."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=rate_hz)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate_hz)
        for i in range(round(seconds * rate_hz)):
            pixels = np.full((96, 96), 128, np.uint8)
            pixels[:64] = 16 + np.random.default_rng(i).integers(0, 60, (64, 96))
            if ARC_S[0] - leads_s <= i / rate_hz < ARC_S[1] - leads_s:
                pixels[10:40, 20:60] = 235
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_sound(path: Path, *, leads_s: float = 0.0, seconds: float = SECONDS, loud: float = 3000.0) -> np.ndarray:
    """Write 16 kHz mono FLAC, silence but for the arc; returns the samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * SOUND_HZ)) / SOUND_HZ
    level = np.where((t >= ARC_S[0] - leads_s) & (t < ARC_S[1] - leads_s), loud, 3)
    samples = (np.random.default_rng(1).normal(size=len(t)) * level).astype(np.int16)
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SOUND_HZ, layout="mono", format="s16")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SOUND_HZ, Fraction(1, SOUND_HZ), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return samples


def sensor_values(*, seconds: float = SECONDS, arc: bool = True) -> np.ndarray:
    """Rows `(n, 6)`: held pressure, negative flow, feed = wire over whole seconds, a saturated row before the arc."""
    n = round(seconds * ROWS_HZ)
    t = np.arange(n) / ROWS_HZ
    values = np.zeros((n, 6))
    burning = (t >= ARC_S[0]) & (t < ARC_S[1]) & arc
    since = np.maximum(t - ARC_S[0], 0.0)  # current rises in 30 ms, voltage falls in 80 ms
    values[:, 0] = 3.4 + 0.01 * (t // 1)
    values[:, 1] = np.where(burning, 14.2, -0.04)
    values[:, 3] = np.where(burning, 177.5 * (1 - np.exp(-since / 0.03)), 0.0)
    values[:, 4] = np.round(7.21 + 60 * t, 2)
    values[:, 2] = np.round(values[:, 4] / np.maximum(1, np.ceil(t + 0.3)), 2)
    values[:, 5] = np.where(burning, 24.7 + 15.3 * np.exp(-since / 0.08), 0.0)
    dying = (t >= ARC_S[1]) & arc
    values[dying, 3] = 177.5 * np.exp(-(t[dying] - ARC_S[1]) / 0.05)
    values[1, 3], values[1, 5] = 819.03, 81.9
    return values


def make_sensors(
    path: Path, *, timed: bool = False, times: list[str] | None = None, seconds: float = SECONDS, arc: bool = True
) -> np.ndarray:
    """Write dialect (b), CRLF without times, or with `timed` dialect (a), LF, ten names over nine fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = sensor_values(seconds=seconds, arc=arc)
    rows = [",".join(f"{v:.2f}" for v in row) for row in values]
    if timed:
        times = times or [f"07:50:{20 + i / ROWS_HZ:06.3f}" for i in range(len(rows))]
        rows = [f"8/17/2022,{time},P1,{row}" for time, row in zip(times, rows, strict=True)]
    ending = "\n" if timed else "\r\n"
    path.write_bytes((ending.join([TIMED if timed else HEADER, *rows]) + ending).encode())
    return values.round(2)


def make_photo(path: Path, *, size: tuple[int, int] = (64, 48), label: bool = False) -> bytes:
    """Write a JPEG; with `label`, a printed one in its lower left corner."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(0, 6, size[0]), np.linspace(0, 4, size[1]))
    noise = np.random.default_rng(2).normal(0, 3, (size[1], size[0], 3))
    image = Image.fromarray((120 + 50 * (np.sin(x) * np.cos(y))[..., np.newaxis] + noise).astype(np.uint8))
    if label:
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, size[1] * 3 // 4, size[0] // 2, size[1]), fill=(250, 250, 250))
        draw.text((4, size[1] * 3 // 4 + 2), "P1 06", fill=(0, 0, 0))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    path.write_bytes(data.getvalue())
    return data.getvalue()


def huge_png() -> bytes:
    """The head of a PNG of 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@dataclass
class Expected:
    """What an import of the tree must report; texts are parts of the messages."""

    imported: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    """Key: label and who says so."""
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    offsets_ms: dict[tuple[str, str], float] = field(default_factory=dict)
    needs_decoding: set[str] = field(default_factory=set)
    """Texts of warnings that a dry run without --check cannot know."""
    rows_without_weld: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def row(category: str, key: str, split: str = "TRAIN", directory: str | None = None) -> str:
    """One row of a manifest."""
    directory = directory if directory is not None else key.partition("/")[0]
    return f"{category},butt,6,S355,20,177,24.5,3.4,42,{directory},{key},{split}"


def write_tree(root: Path, outside: Path) -> Expected:
    """Write a tree with every irregularity; `outside` is a folder that is no part of it."""
    expected = Expected()
    rows = _good_welds(root, expected) + _odd_welds(root, expected)
    _bad_welds(root, outside, expected)
    rows += _contradictions(root, expected)
    # Excel's manifest: a BOM, CRLF, names in another case.
    text = "\ufeff" + "\r\n".join([MANIFEST.replace("CATEGORY", "Category").replace("SPLIT", "Split "), *rows]) + "\r\n"
    (root / "manifest.csv").write_text(text, encoding="utf-8", newline="")
    (root / "README.txt").write_text("about the data")
    expected.notes += [
        "1 ids are in more than one folder",
        "1 rows of manifest.csv name welds that are not here, gone/01-01-23-0001-00 the first",
        "files of other kinds were left alone",
    ]
    expected.rows_without_weld = ["gone/01-01-23-0001-00"]
    return expected


def _good_welds(root: Path, expected: Expected) -> list[str]:
    """Two complete welds of one id in two folders, each with its own starts; spellings and backslashes differ."""
    one, two = "good_weld_08-17-22", "Good weld run 2"
    for directory, video_s, sound_s, timed in ((one, 0.3, 1.3, True), (two, 0.0, 0.7, False)):
        name = "08-17-22-0011-00"
        folder, key = root / directory / name, f"{directory}/08-17-22-0011-00"
        make_video(folder / f"{name}.avi", rate_hz=30 if timed else 31, leads_s=video_s)
        make_sound(folder / f"{name}.flac", leads_s=sound_s, seconds=SECONDS - 1.5)
        make_sensors(folder / f"{name}.csv", timed=timed)
        for i in range(5):
            make_photo(folder / "images" / f"20220817_08{i:02}00_123.jpg")
        expected.imported[key] = (0, "manifest")
        expected.offsets_ms |= {(key, "camera"): -1e3 * video_s, (key, "microphone"): -1e3 * sound_s}
    return [
        row("Good", f"{one}\\08-17-22-0011-00", "TRAIN"),
        row("good_weld", f"{two}/08-17-22-0011-00", "val", two),
        row("Good", "gone/01-01-23-0001-00", "TEST"),
    ]


def _odd_welds(root: Path, expected: Expected) -> list[str]:
    """Welds that are imported although something about them is odd or absent."""
    rows = []

    def weld(name: str, category: str | None, by: str | None = "manifest") -> Path:
        expected.imported[f"odd/{name}"] = (int(name[-2:]), by)
        if category is not None:
            rows.append(row(category, f"odd/{name}"))
        return root / "odd" / name

    name = "01-02-23-0001-04"  # sensors only; stamps that repeat and run backwards, over midnight
    folder = weld(name, "Porosity w/ Excessive Penetration")
    seconds = [86_397 + i / ROWS_HZ for i in range(round(SECONDS * ROWS_HZ))]
    seconds[7], seconds[9] = seconds[6], seconds[3]
    make_sensors(folder / f"{name}.csv", timed=True, times=[_clock(s) for s in seconds])
    expected.warnings.append((f"odd/{name}", "2 stamps repeat, run backwards or cannot be read"))
    expected.absent[f"odd/{name}"] = ["video", "audio", "post_images"]

    name = "01-02-23-0002-03"  # no photos, a partly decodable video
    folder = weld(name, "porosity")
    make_video(folder / "whole.avi")
    whole = (folder / "whole.avi").read_bytes()
    (folder / "whole.avi").unlink()
    (folder / f"{name}.avi").write_bytes(whole[: len(whole) * 8 // 10])
    make_sensors(folder / f"{name}.csv")
    expected.warnings.append((f"odd/{name}", "of 60 frames can be decoded"))
    expected.absent[f"odd/{name}"] = ["audio", "post_images"]

    name = "01-02-23-0003-01"  # photos with odd names, of other sizes, more than five, one cut short, one no photo
    folder = weld(name, None, "id")
    make_sensors(folder / f"{name}.csv")
    for photo in ("249 (11).jpg", "249 (2).jpg", "20230102_101500.jpg", "20230102_091500_007.jpg"):
        make_photo(folder / "images" / photo, size=(100, 45))
    for i in range(3):
        make_photo(folder / "images" / f"more_{i}.JPG")
    whole = make_photo(folder / "images" / "x.jpg", size=(100, 45))
    (folder / "images" / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (folder / "images" / "huge.png").write_bytes(huge_png())
    (folder / "images" / "Thumbs.db").write_bytes(b"\0")
    (folder / "images" / "scan.tif").write_bytes(b"II*\0")
    expected.warnings += [
        (f"odd/{name}", "manifest.csv has no row for it"),
        (f"odd/{name}", "cut.jpg"),
        (f"odd/{name}", "huge.png"),
        (f"odd/{name}", "scan.tif: is neither JPEG nor PNG"),
    ]
    expected.absent[f"odd/{name}"] = ["video", "audio"]

    name = "01-02-23-0004-08"  # sound alone decodes; the video is a text that would make FFmpeg open other files
    folder = weld(name, "EXCESSIVE CONVEXITY")
    make_sound(folder / f"{name}.flac")
    (folder / f"{name}.avi").write_text("ffconcat version 1.0\nfile '/etc/passwd'\n")
    (folder / f"{name}.csv").write_text(HEADER + "\n3.4,0,0,abc,7,0\n")
    expected.warnings += [(f"odd/{name}", "video left out"), (f"odd/{name}", "holds 'abc', not a number")]
    expected.absent[f"odd/{name}"] = ["post_images"]

    name = "01-02-23-0005-10"  # no arc anywhere, a cut last line, a stray file
    folder = weld(name, "warping weld")
    make_sensors(folder / f"{name}.csv", arc=False)
    with (folder / f"{name}.csv").open("a") as file:
        file.write("3.4,0,0")
    make_sensors(folder / "trial.csv")
    rows.append(rows[-1])
    expected.warnings += [
        (f"odd/{name}", "no arc is visible"),
        (f"odd/{name}", "is cut off and left out"),
        (f"odd/{name}", "trial.csv: lies in the folder of"),
        (f"odd/{name}", "repeats line"),
    ]
    expected.absent[f"odd/{name}"] = ["video", "audio", "post_images"]

    make_sensors(root / "odd" / "trial piece" / "trial piece.csv")  # no id: unknown, never good
    expected.imported["odd/trial piece"] = (-1, None)
    expected.warnings.append(("odd/trial piece", "manifest.csv has no row for it"))
    expected.absent["odd/trial piece"] = ["video", "audio", "post_images"]
    expected.needs_decoding |= {"cut.jpg", "of 60 frames can be decoded", "no arc is visible"}
    return rows


def _bad_welds(root: Path, outside: Path, expected: Expected) -> None:
    """Welds of which nothing can be used, or that must not be."""

    def folder(name: str, reason: str) -> Path:
        expected.skipped[f"bad/{name}"] = reason
        (root / "bad" / name).mkdir(parents=True)
        return root / "bad" / name

    name = "01-03-23-0001-00"
    (folder(name, "bytes are no media file") / f"{name}.avi").write_bytes(b"")
    name = "01-03-23-0002-00"
    outside.mkdir(parents=True, exist_ok=True)
    make_sensors(outside / "secret.csv")
    (folder(name, "is a link out of") / f"{name}.csv").symlink_to(outside / "secret.csv")
    name = "01-03-23-0003-12"
    make_sensors(folder(name, "class 12, which Weld-4M has not") / f"{name}.csv")
    name = "01-03-23-0004-00"
    place = folder(name, "claim the same weld")
    make_sensors(place / f"{name}.csv")
    make_sensors(place / f"copy_{name}.csv")
    name = "01-03-23-0005-00"
    (folder(name, "a line of") / f"{name}.csv").write_bytes(HEADER.encode() + b"\n" + b"1," * 100_000)
    name = "01-03-23-0006-00"
    folder(name, "holds neither video nor sound nor sensor file")
    name = "01-03-23-0007-00"
    with (folder(name, "at most") / f"{name}.csv").open("wb") as file:
        file.truncate(5 * 2**30)  # a sparse 5 GB
    make_sensors(root / "bad" / "two\nlines.csv")
    expected.skipped["bad/two\nlines"] = "holds a character"
    make_sensors(root / "bad" / "con.csv")
    expected.skipped["bad/con"] = "is reserved"
    (root / "linked").symlink_to(outside)
    expected.skipped["linked"] = "is a link to a folder"


def _contradictions(root: Path, expected: Expected) -> list[str]:
    """Welds whose class is contested or unknown: reported and skipped, never guessed."""
    for name in ("01-04-23-0001-06", "01-04-23-0002-00", "01-04-23-0003-00", "01-04-23-0004-05"):
        make_sensors(root / "contested" / name / f"{name}.csv")
    expected.skipped |= {
        "contested/01-04-23-0001-06": "manifest.csv says good (00), the id ends in overlap (06)",
        "contested/01-04-23-0002-00": "gives the category 'Goodish'",
        "contested/01-04-23-0003-00": "contradict each other (SPLIT: 'TRAIN' and 'TEST')",
        "contested/01-04-23-0004-05": "has more than the 12 fields",
    }
    return [
        row("Good", "contested/01-04-23-0001-06"),
        row("Goodish", "contested/01-04-23-0002-00"),
        row("Good", "contested/01-04-23-0003-00", "TRAIN"),
        row("Good", "contested/01-04-23-0003-00", "TEST"),
        row("Undercut", "contested/01-04-23-0004-05").replace("24.5", "24,5"),
    ]


def _clock(seconds: float) -> str:
    seconds %= 86_400
    return f"{int(seconds // 3600):02}:{int(seconds // 60 % 60):02}:{seconds % 60:06.3f}"
