"""`WeldingDataset`: recorded welds as samples for training, in any order, the same as live and in replay.

Only what a sample needs is decoded (`models.weld_windows`). Nothing is open before the first sample, and every process
opens its own files, so that workers may be forked or spawned. Sample, masks and modes: `docs/dataset.md`.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import av
import numpy as np
import torch
import xxhash
from torch.utils.data import Dataset

from acquisition.packet import EVENTS_STREAM, Event, Packet
from models.dataset_samples import Sample, tensors
from models.detector_contract import DetectorError
from models.film_data import CutWeld, cut_path, cut_welds, load_cut_weld, store_cut_weld
from models.normalisation import Moments, Normalisation
from models.splits import Split, media_digests, select
from models.weld_features import FoundWeld, found_welds, windows_of
from models.weld_windows import WeldWindows
from recordings.manifest import Manifest
from recordings.weld_folder import WeldError, load_manifest
from sync.sample import SampleSpec, Weld4MSample
from sync.windows import WindowCutter

Mode: TypeAlias = Literal["windows", "weld", "arc"]
Transform: TypeAlias = Callable[[Sample, np.random.Generator], Sample]
ALL: Final = "all"
"""The part of a data set that was made without a split."""
UNREADABLE: Final = (WeldError, OSError, av.FFmpegError, ValueError, LookupError, ArithmeticError)
"""What a damaged weld leads to; whatever a file claims, the weld is named."""
LONGEST_ARC_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One weld of a data set.

    Attributes:
        folder: Where it lies.
        key: Weld key.
        session: Its session.
        label: 0-11, or -1 for unknown.
        digest: Of its manifest.
        windows: How many it has.
    """

    folder: Path
    key: str
    session: str
    label: int
    digest: str
    windows: int


class WeldingDataset(Dataset[Sample]):
    """Recorded welds as samples.

    Attributes:
        spec: What samples are cut to.
        mode: `windows`: a sample per window; `weld`: all windows of a weld in one sample, the first axis W; `arc`: T
            frames and S rows over the whole arc, a sample per weld.
        part: The part of the split, or `ALL` without one.
        entries: The welds, in the order of the samples.
        left_out: Key (or folder) and reason of every weld that gives no sample.
    """

    def __init__(
        self,
        welds: Path | Sequence[FoundWeld],
        spec: SampleSpec,
        *,
        mode: Mode = "windows",
        split: Split | None = None,
        part: str = "train",
        photos: bool = True,
        normalise: Normalisation | None = None,
        cache: Path | None = None,
        transform: Transform | None = None,
        seed: int = 0,
        on_error: Literal["raise", "leave out"] = "raise",
        open_welds: int = 8,
        memory_mb: int = 256,
    ) -> None:
        """List the samples; nothing but manifests is read.

        Args:
            welds: Folder tree of welds, or welds.
            spec: What samples are cut to.
            mode: See the class.
            split: Only welds of one of its parts.
            part: Which.
            photos: Give the weld's photos with every sample. Without, they are masked, as in a live window.
            normalise: Applied to every sample; fit it on the training part.
            cache: Folder for cut welds; each is decoded once.
            transform: Applied last. It draws from the generator that it is given, whose numbers follow from the seed,
                the epoch and the sample, whichever worker makes it.
            seed: Of `transform`.
            on_error: What a weld that cannot be read does.
            open_welds: Welds whose files (with `cache`: contents) a process keeps open.
            memory_mb: What a process keeps of the folds of welds beyond these.

        Raises:
            DetectorError: A weld cannot be read and `on_error` is `raise`, or no weld is left.
        """
        self.spec = spec
        self.mode: Mode = mode
        self.part = ALL if split is None else part
        self.left_out: list[tuple[str, str]] = []
        self._photos = photos
        self._normalise = normalise
        self._cache = cache
        self._transform = transform
        self._seed = seed
        self._raise = on_error == "raise"
        self._open_welds, self._memory = max(1, open_welds), memory_mb << 20
        # Shared, so that workers which stay for many epochs hear of the next one.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        if isinstance(welds, Path):
            leave_out = None if self._raise else lambda folder, why: self.left_out.append((str(folder), why))
            welds = found_welds(welds, leave_out)
        if split is not None:
            welds = select(split, welds, part)
        self.entries = [entry for weld in self._each_once(welds) if (entry := self._entry(weld)) is not None]
        counts = [entry.windows if mode == "windows" else 1 for entry in self.entries]
        self._ends = np.cumsum(counts, dtype=np.int64)
        if not self.entries:
            why = f" ({self.left_out[0][0]}: {self.left_out[0][1]})" if self.left_out else ""
            raise DetectorError(f"none of {len(welds)} welds gives a sample{why}; name other welds or another spec")
        self._forget()

    def _each_once(self, welds: Sequence[FoundWeld]) -> Iterator[FoundWeld]:
        """Give welds by their keys, a copy of one only once."""
        seen: dict[str, FoundWeld] = {}
        for weld in sorted(welds, key=lambda w: (w.manifest.session, w.manifest.key, w.digest)):
            other = seen.setdefault(weld.manifest.key, weld)
            if other is weld:
                yield weld
                continue
            same = media_digests(weld.manifest) == media_digests(other.manifest)
            problem = f"{weld.folder} and {other.folder} hold {'the same weld' if same else 'two welds of one key'}"
            if self._raise and not same:
                raise DetectorError(f"weld {weld.manifest.key}: {problem}; take one of them away")
            self.left_out.append((weld.manifest.key, f"{problem}; the first is left out"))

    def _entry(self, weld: FoundWeld) -> Entry | None:
        manifest = weld.manifest
        windows, problem = 0, _problem(weld, self.spec, self.mode)
        if problem is None:
            try:
                windows = self._window_count(weld)
            except UNREADABLE as error:
                problem = str(error)
        if problem is not None and self._raise:
            raise DetectorError(f"weld {manifest.key}: {problem}")
        if problem is not None or not windows:
            self.left_out.append((manifest.key, problem or "no arc, so that it has no windows"))
            return None
        return Entry(weld.folder, manifest.key, manifest.session, manifest.label, weld.digest, windows)

    def _window_count(self, weld: FoundWeld) -> int:
        manifest = weld.manifest
        if manifest.state == "finalised" and (manifest.arc_on_ns is None or manifest.arc_off_ns is not None):
            return 0 if manifest.arc_on_ns is None else _windows_between(manifest, self.spec)
        return len(WeldWindows(weld.folder, self.spec))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        """Make a sample: `video`, `audio`, `sensors`, `post_images` with their masks, and what it is of.

        Raises:
            IndexError: There is no such sample.
            DetectorError: The weld cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, "right"))
        entry = self.entries[number]
        window = index - (int(self._ends[number - 1]) if number else 0)
        try:
            sample = tensors(*self._read(number, window), stacked=self.mode == "weld")
        except UNREADABLE as error:
            raise DetectorError(f"weld {entry.key}: {error}") from error
        sample |= {"label": torch.tensor(entry.label), "key": entry.key, "session": entry.session}
        if self._normalise is not None:
            sample = self._normalise.apply(sample)
        if self._transform is not None:
            sample = self._transform(sample, np.random.default_rng((self._seed, int(self._epoch), index)))
        return sample

    @property
    def raw(self) -> bool:
        """Whether samples come as they were cut."""
        return self._normalise is None and self._transform is None

    @property
    def labels(self) -> list[int]:
        """Label of every sample, for samplers."""
        return [e.label for e in self.entries for _ in range(e.windows if self.mode == "windows" else 1)]

    def set_epoch(self, epoch: int) -> None:
        """Let `transform` draw other numbers than in other epochs; running workers follow."""
        self._epoch.fill_(epoch)

    def close(self) -> None:
        """Close every file that this process has opened; the next sample opens them again."""
        if self._process == os.getpid():
            for weld in self._folded.values():
                weld.close()
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._held = 0
        self._folded: OrderedDict[int, WeldWindows] = OrderedDict()
        self._cut: OrderedDict[int, CutWeld] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_folded": OrderedDict(), "_cut": OrderedDict(), "_process": -1}

    def _read(self, number: int, window: int) -> tuple[list[Weld4MSample], Weld4MSample | None]:
        """Give the windows of a sample, and the photos of its weld if they are wanted."""
        if self._process != os.getpid():
            self._forget()  # forked: a file's position is shared with the parent, so its files are not touched
        if self._cache is not None:
            weld = self._cut_weld(number, self._cache)
            cut = [weld.windows[window]] if self.mode == "windows" else list(weld.windows)
            return cut, weld.photos if self._photos else None
        if self.mode == "weld":
            _, windows, photos_too = windows_of(self.entries[number].folder, self.spec)
            return windows, photos_too if self._photos else None
        folded = self._folded_weld(number)
        photos = folded.photos() if self._photos else None
        if self.mode == "arc":
            return [folded.arc()], photos
        return [folded.window(window)], photos

    def _folded_weld(self, number: int) -> WeldWindows:
        entry = self.entries[number]
        if number not in self._folded:
            weld = WeldWindows(entry.folder, self.spec)
            if len(weld) != entry.windows:
                raise WeldError(
                    f"{entry.folder}: has {len(weld)} windows and not {entry.windows}, as its arc says; run verify"
                )
            self._folded[number] = weld
            self._held += weld.fold.nbytes
        self._folded.move_to_end(number)
        if len(self._folded) > self._open_welds:
            self._folded[list(self._folded)[-1 - self._open_welds]].close()
        while len(self._folded) > self._open_welds and self._held > self._memory:
            self._held -= self._folded.popitem(last=False)[1].fold.nbytes
        return self._folded[number]

    def _cut_weld(self, number: int, cache: Path) -> CutWeld:
        if number not in self._cut:
            entry = self.entries[number]
            weld = FoundWeld(folder=entry.folder, manifest=load_manifest(entry.folder), digest=entry.digest)
            problems: list[str] = []
            if self.mode == "arc":
                path = cut_path(weld, self.spec, cache, what="arc")
                if not path.exists():
                    cache.mkdir(parents=True, exist_ok=True)
                    whole = WeldWindows(entry.folder, self.spec)
                    store_cut_weld(path, [whole.arc()], whole.photos(), self.spec)
                    whole.close()
                self._cut[number] = load_cut_weld(path, weld, self.spec)
            else:
                files = cut_welds([weld], self.spec, cache, problems.append)
                if not files:
                    raise WeldError(problems[-1].removeprefix("left out: "))
                self._cut[number] = files[0].load()
        self._cut.move_to_end(number)
        while len(self._cut) > self._open_welds:
            self._cut.popitem(last=False)
        return self._cut[number]


def _problem(weld: FoundWeld, spec: SampleSpec, mode: Mode) -> str | None:
    """Tell what its manifest and its folder say against cutting the weld to the spec."""
    manifest = weld.manifest
    for record in manifest.streams.values():
        missing = [f for f in record.files if record.items and not (weld.folder / f).is_file()]
        if missing:
            return f"{weld.folder / missing[0]} is not there; restore it from a copy"
        if record.info.modality == "audio" and len(record.info.channels) < spec.audio_channels:
            return (
                f"'{record.info.name}' has {len(record.info.channels)} sound channels, the spec {spec.audio_channels}"
            )
    if manifest.arc_on_ns is None or manifest.arc_off_ns is None:
        return None
    arc_s = (manifest.arc_off_ns - manifest.arc_on_ns) / 1e9
    if not 0 <= arc_s <= LONGEST_ARC_S:
        return f"an arc of {arc_s:.6g} s is none; run verify, restore weld.json from a copy"
    if mode == "arc" and arc_s > spec.window_s:
        return f"its arc of {arc_s:.2f} s is longer than the {spec.window_s:g} s of the spec; raise window_s"
    return None


def _windows_between(manifest: Manifest, spec: SampleSpec) -> int:
    """Count the windows of a whole weld from its arc edges: the fold, with no stream at all."""
    small = replace(spec, frames=1, height=1, width=1, audio_rate_hz=1, sensor_rows=1, photos=0)
    cutter = WindowCutter(manifest.key, small, {})
    edges = (("arc_on", manifest.arc_on_ns), ("arc_off", manifest.arc_off_ns), ("weld_close", None))
    count = 0
    for order, (kind, t_ns) in enumerate(edges, 1):
        event = Event(kind=kind, weld=manifest.key, t_ns=t_ns)
        packet = Packet(stream=EVENTS_STREAM, seq=order, t_arrival_ns=manifest.origin_ns, payload=event, order=order)
        count += len(cutter.push(packet))
    return count


def fit_normalisation(dataset: WeldingDataset) -> Normalisation:
    """Take mean and standard deviation per channel from the training part, under the masks.

    Raises:
        DetectorError: It is not the training part of a split, or its samples are normalised or changed already.
    """
    if dataset.part != "train":
        raise DetectorError(
            f"normalisation is fitted on the train part of a split, and this is '{dataset.part}'; make the data set "
            "with split=... and part='train'"
        )
    if not dataset.raw:
        raise DetectorError("normalisation is fitted on samples as they are; leave normalise and transform out")
    moments = Moments()
    for index in range(len(dataset)):
        moments.add(dataset[index])
    keys = xxhash.xxh3_128_hexdigest("\n".join(sorted(e.key for e in dataset.entries)).encode())
    return Normalisation(channels=moments.channels(), samples=moments.samples, welds=keys)
