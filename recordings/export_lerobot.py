"""Welds as a LeRobot v3 data set: an episode per weld, on the frame grid of the camera.

The layout is that of `lerobot.datasets` (codebase_version v3.0): many episodes per Parquet and MP4 file, told apart by
`meta/episodes`. An episode is encoded on its own and then joined, so that a weld that fails half-way leaves no trace.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import av
import xxhash

from recordings.export_fault import UNUSABLE, reason
from recordings.export_lerobot_dataset import DataSet
from recordings.export_lerobot_episode import Shape
from recordings.export_place import Destination
from recordings.export_report import ExportError, ExportReport
from recordings.export_source import ExportSource
from recordings.manifest import Manifest
from recordings.weld_folder import MANIFEST, WeldError, digest, load_manifest

LIMITS: Final = (
    "frames are encoded anew (H.264, crf 16), on a grid of frame_index / fps from the first frame; a gap repeats the "
    "nearest frame, and observation.camera_valid is false there",
    "observation.state holds the sensors at the grid points by the project's rules of interpolation, as float32; "
    "observation.state_valid says where they were measured, zero elsewhere",
    "observation.audio holds, per frame, the samples up to the next one as -1 to 1; observation.audio_valid likewise",
    "photos, events, clocks, scores, verdicts and raw times are left out; there is no action",
    "statistics count measured values only",
)
_TOP: Final = ("data", "videos", "meta")


def export_lerobot(
    folders: Sequence[Path],
    destination: Path,
    report: ExportReport,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write one data set of all welds; nothing is there before it is whole.

    Raises:
        ExportError: The destination holds something else, or cannot be written.
    """
    report.limits += LIMITS
    shape, readable = _survey(folders, report)
    if shape is None:
        return
    place = Destination(destination, "lerobot")
    try:
        name = xxhash.xxh3_128(b"".join(digest(folder / MANIFEST).encode() for folder in readable)).hexdigest()
        if place.is_done("dataset", name):
            report.present += [manifest.key for manifest in readable.values()]
            return
        dataset = DataSet(place.staging, shape)
        for done, folder in enumerate(readable, start=1):
            _add(dataset, folder, place, report)
            if progress is not None:
                progress(done, len(readable))
        dataset.close()
        if dataset.episodes:
            place.put("dataset", name, _TOP, {})
    except (OSError, av.FFmpegError) as error:
        cause = error.strerror or str(error)
        raise ExportError(f"{destination}: {cause}; make room or name another destination") from error
    finally:
        place.close()


def _survey(folders: Sequence[Path], report: ExportReport) -> tuple[Shape | None, dict[Path, Manifest]]:
    """Find what most welds have in common, and leave out those that no episode can be made of."""
    readable: dict[Path, Manifest] = {}
    for folder in folders:
        key = folder.name
        try:
            manifest = load_manifest(folder)
            key = manifest.key
            if not any(one.info.modality == "video" and one.items for one in manifest.streams.values()):
                raise WeldError(f"{folder}: has no video, on whose frames an episode stands")
            readable[folder] = manifest
        except WeldError as error:
            report.skip(key, str(error))
    infos = [[one.info for one in manifest.streams.values() if one.items] for manifest in readable.values()]
    cameras = [next(info for info in one if info.modality == "video") for one in infos]
    sounds = [round(info.rate_hz) for one in infos for info in one if info.modality == "audio"]
    if not cameras:
        return None, readable
    (height, width), _ = Counter((info.height, info.width) for info in cameras).most_common(1)[0]
    fps, _ = Counter(max(1, round(info.rate_hz)) for info in cameras).most_common(1)[0]
    sound_hz = Counter(sounds).most_common(1)[0][0] if sounds else 0
    if height % 2 or width % 2:
        raise ExportError(f"frames of {width} x {height}: H.264 in colour wants even sizes; export to another format")
    return Shape(fps=fps, height=height, width=width, sound_hz=sound_hz), readable


def _add(dataset: DataSet, folder: Path, place: Destination, report: ExportReport) -> None:
    """Add a weld, or say why not.

    Raises:
        OSError: The destination cannot be written any further.
    """
    key = folder.name
    try:
        weld = ExportSource(folder)
        key = weld.manifest.key
        weld.check()
        episode = dataset.encode(weld)
    except UNUSABLE as error:
        if place.gave_out(error):
            raise
        report.skip(key, reason(error))
    else:
        dataset.join(weld, episode)
        report.exported.append(key)
        weld.tell(report)
