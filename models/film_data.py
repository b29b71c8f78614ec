"""Cut welds on disk: every window as a detector will see it, so that training decodes each recording once.

Windows overlap: with a 4 s window every second, three quarters of each are also in the next. A file therefore holds
each frame, and each stretch of sound and sensors of one hop, once, with the rows that a window is made of. What comes
back is what was cut, to the last bit (`orders`, which say where a window came from, are not kept).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save

from acquisition.packet import MODALITIES
from models.detector_contract import DetectorError
from models.weld_features import FoundWeld, Progress, read_in_parallel, windows_of
from recordings.weld_folder import WeldError
from sync.alignment import AlignmentError
from sync.sample import SampleSpec, Weld4MSample
from sync.windows import WindowError

VERSION: Final = 1
"""Raised when the file changes its meaning; files of another version are not used."""
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutWeld:
    """One weld, cut to a spec.

    Attributes:
        key: Weld key.
        session: Its session.
        label: 0-11, or -1 for unknown.
        windows: Every window, in order.
        photos: The photo-only sample; its mask is false throughout when there are none.
    """

    key: str
    session: str
    label: int
    windows: Sequence[Weld4MSample]
    photos: Weld4MSample


@dataclass(frozen=True, slots=True, kw_only=True)
class CutFile:
    """A cut weld that has not been read yet."""

    weld: FoundWeld
    path: Path
    spec: SampleSpec

    def load(self) -> CutWeld:
        """Read it; raises `DetectorError` when the file is damaged."""
        return load_cut_weld(self.path, self.weld, self.spec)


def cut_welds(welds: Sequence[FoundWeld], spec: SampleSpec, cache: Path, progress: Progress) -> list[CutFile]:
    """Cut welds into files of the cache, two at a time, where it does not hold them yet.

    Returns:
        The files; welds that cannot be read are named to `progress` and left out.
    """
    cache.mkdir(parents=True, exist_ok=True)
    paths = [cut_path(weld, spec, cache) for weld in welds]
    jobs = [(w.folder, spec, path) for w, path in zip(welds, paths, strict=True) if not path.exists()]
    read_in_parallel(_cut_to, jobs, len(welds), progress)
    return [CutFile(weld=w, path=p, spec=spec) for w, p in zip(welds, paths, strict=True) if p.exists()]


def load_cut_weld(path: Path, weld: FoundWeld, spec: SampleSpec) -> CutWeld:
    """Read a cut weld from the cache; raises `DetectorError` when the file is damaged."""
    try:
        arrays = load(path.read_bytes())
        return _from_arrays(arrays, weld, spec)
    except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
        raise DetectorError(f"{path}: {error}; delete it, it will be made again") from error


def store_cut_weld(path: Path, windows: Sequence[Weld4MSample], photos: Weld4MSample, spec: SampleSpec) -> None:
    """Write a cut weld to the cache; of several processes that do so at once, the last one's file stays."""
    arrays = _to_arrays(windows, photos, spec)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    fresh.replace(path)


def cut_path(weld: FoundWeld, spec: SampleSpec, cache: Path, *, what: str = "cut") -> Path:
    """Name the file of a weld in the cache; `what` tells other cuts than windows apart."""
    name = xxhash.xxh3_128_hexdigest(repr((what, VERSION, weld.manifest.key, weld.digest, spec)).encode())
    return cache / f"{name}.safetensors"


def _cut_to(folder: Path, spec: SampleSpec, path: Path) -> str | None:
    """Cut one weld into a file of the cache; returns what went wrong."""
    try:
        _, windows, photos = windows_of(folder, spec)
        store_cut_weld(path, windows, photos, spec)
    except (WeldError, WindowError, AlignmentError) as error:
        return f"left out: {error}"
    return None


def _pieces(spec: SampleSpec) -> dict[str, tuple[int, ...]]:
    """Give the shape `(pieces, ...)` that the contents of a window are split to, per modality."""
    hops = round(spec.window_s / spec.hop_s)
    even = hops * spec.hop_s == spec.window_s
    sound = hops if even and spec.audio_length % hops == 0 else 1
    rows = hops if even and spec.sensor_rows % hops == 0 else 1
    return {
        "video": (spec.frames, spec.height, spec.width),
        "audio": (sound, spec.audio_channels, spec.audio_length // sound),
        "sensors": (rows, spec.sensor_rows // rows, 6),
    }


def _to_arrays(windows: Sequence[Weld4MSample], photos: Weld4MSample, spec: SampleSpec) -> Arrays:
    arrays: Arrays = {
        "index": np.array([w.index for w in windows], dtype=np.int64),
        "t0_ns": np.array([w.t0_ns for w in windows], dtype=np.int64),
        "duration_ns": np.array([w.duration_ns for w in windows], dtype=np.int64),
        "present": np.array([[m in w.present for m in MODALITIES] for w in windows], dtype=np.uint8),
        "photos": photos.post_images,
        "photos_mask": photos.post_images_mask.astype(np.uint8),
        "photos_t0_ns": np.array([photos.t0_ns, photos.duration_ns], dtype=np.int64),
    }
    for m, shape in _pieces(spec).items():
        rows: list[npt.NDArray[Any]] = []
        seen: dict[bytes, int] = {}
        where = np.zeros((len(windows), shape[0]), dtype=np.int32)
        for i, window in enumerate(windows):
            for j, piece in enumerate(_split(getattr(window, m), m, shape)):
                row = seen.setdefault(piece.tobytes(), len(rows))
                if row == len(rows):
                    rows.append(piece)
                where[i, j] = row
        if rows:
            arrays[m], arrays[f"{m}_rows"] = np.stack(rows), where
            arrays[f"{m}_mask"] = np.stack([np.packbits(getattr(w, f"{m}_mask")) for w in windows])
    return arrays


def _split(content: npt.NDArray[Any], modality: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Split the content of a window; sound has its channels first."""
    if modality == "audio":
        return np.ascontiguousarray(content.reshape(shape[1], shape[0], shape[2]).swapaxes(0, 1))
    return content.reshape(shape)


def _joined(pieces: npt.NDArray[Any], modality: str, spec: SampleSpec) -> npt.NDArray[Any]:
    """Undo `_split`."""
    if modality == "video":
        return pieces[:, None]
    if modality == "audio":
        return np.ascontiguousarray(pieces.swapaxes(0, 1)).reshape(spec.audio_channels, spec.audio_length)
    return pieces.reshape(spec.sensor_rows, 6)


def _from_arrays(arrays: Arrays, weld: FoundWeld, spec: SampleSpec) -> CutWeld:
    manifest = weld.manifest
    shapes = {"video": (spec.frames,), "audio": (spec.audio_length,), "sensors": (spec.sensor_rows, 6)}
    t0_ns, duration_ns = arrays["photos_t0_ns"].tolist()
    photos_mask = arrays["photos_mask"].astype(np.bool_)
    empty = Weld4MSample(
        weld=manifest.key,
        index=-1,
        t0_ns=t0_ns,
        duration_ns=duration_ns,
        spec=spec,
        video=np.zeros((spec.frames, 1, spec.height, spec.width), np.uint8),
        video_mask=np.zeros(spec.frames, np.bool_),
        audio=np.zeros((spec.audio_channels, spec.audio_length), np.int16),
        audio_mask=np.zeros(spec.audio_length, np.bool_),
        sensors=np.zeros((spec.sensor_rows, 6), np.float64),
        sensors_mask=np.zeros((spec.sensor_rows, 6), np.bool_),
        post_images=np.zeros((spec.photos, 3, spec.photo_height, spec.photo_width), np.uint8),
        post_images_mask=np.zeros(spec.photos, np.bool_),
        label=manifest.label,
    )
    windows = []
    for i in range(len(arrays["index"])):
        parts: dict[str, Any] = {}
        for m, shape in shapes.items():
            parts[m] = _joined(arrays[m][arrays[f"{m}_rows"][i]], m, spec)
            mask = np.unpackbits(arrays[f"{m}_mask"][i], count=int(np.prod(shape)))
            parts[f"{m}_mask"] = mask.astype(np.bool_).reshape(shape)
        window = replace(
            empty,
            index=int(arrays["index"][i]),
            t0_ns=int(arrays["t0_ns"][i]),
            duration_ns=int(arrays["duration_ns"][i]),
            present=tuple(m for m, there in zip(MODALITIES, arrays["present"][i], strict=True) if there),
            **parts,
        )
        windows.append(window)
    photos = replace(
        empty,
        post_images=arrays["photos"],
        post_images_mask=photos_mask,
        present=("post_images",) if photos_mask.any() else (),
    )
    return CutWeld(key=manifest.key, session=manifest.session, label=manifest.label, windows=windows, photos=photos)
