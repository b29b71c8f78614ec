"""Frozen inputs of Causal-FiLM: tokens of windows and photos, and their cache.

Nothing in here learns any more. Tokens of a modality that is not present, or of a part that was not measured, are NaN,
so that an array alone says what is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from models.backbones import Encoders
from models.detector_contract import PHASES, PHOTOS, PROCESS, DetectorError, Encoded
from models.film_data import CutFile, CutWeld
from models.film_inputs import SensorScale, photo_batch, process_batch
from models.photo_views import describe_views
from models.result_tokens import ResultTokens
from models.small_encoders import Tokens
from models.statistics import WIDTH, side_by_side
from models.statistics import encode_window as statistics_of
from sync.sample import Weld4MSample

VERSION: Final = 2
"""Raised when cached tokens change their meaning."""
_TOGETHER: Final = 16
_SAY_EVERY: Final = 40
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeldTokens:
    """Tokens of one weld.

    Attributes:
        key: Weld key.
        session: Its session.
        label: 0-11, or -1 for unknown.
        windows: `video` (n, Nv, D), `audio` (n, Na, D) and `sensors` (n, S, F) float32, NaN where not known;
            `statistics` (n, W) float64, the plain ones of all modalities, NaN where not known; `index` (n,) and
            `phases` (n, 3): number of the phase of each process modality, -1 where it is absent.
        result: `(K, R)` float32, or None without photos.
    """

    key: str
    session: str
    label: int
    windows: Arrays
    result: npt.NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.windows["index"])


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenInputs:
    """Encoders, sensor scale and result tokens as they are after pretraining.

    Attributes:
        encoders: Frozen, in eval mode.
        scale: Of the sensors.
        result: None when no training weld had photos.
    """

    encoders: Encoders
    scale: SensorScale
    result: ResultTokens | None

    @torch.no_grad()
    def windows(self, windows: Sequence[Weld4MSample]) -> Arrays:
        """Give the `windows` of `WeldTokens`."""
        batch = process_batch(windows, self.scale)
        plain = [statistics_of(w) for w in windows]
        found: Arrays = {
            "index": np.array([w.index for w in windows], dtype=np.int64),
            "phases": np.array([_phases(p) for p in plain], dtype=np.int64).reshape(-1, len(PROCESS)),
            "statistics": np.array([side_by_side(p, p.present) for p in plain]).reshape(-1, WIDTH),
        }
        for name, encode in (("video", self.encoders.video), ("audio", self.encoders.audio)):
            tokens = encode(batch[name], batch[f"{name}_mask"])
            found[name] = torch.where(tokens.valid[..., None], tokens.values, torch.nan).numpy()
        found["sensors"] = torch.where(batch["sensors_mask"], batch["sensors"], torch.nan).numpy()
        return found

    @torch.no_grad()
    def photos(self, sample: Weld4MSample) -> npt.NDArray[np.float32] | None:
        """Give the result tokens of a weld; None without a photo."""
        if self.result is None or not sample.post_images_mask.any():
            return None
        tokens = self.result(*described_photos(self.encoders, [sample]))[0]
        return np.ascontiguousarray(tokens.numpy())

    def weld(self, cut: CutWeld) -> WeldTokens:
        """Give the tokens of a whole weld."""
        parts = [self.windows(cut.windows[i : i + _TOGETHER]) for i in range(0, len(cut.windows), _TOGETHER)]
        # Safetensors writes memory as it lies, whatever the strides say.
        windows = {n: np.ascontiguousarray(np.concatenate([p[n] for p in parts])) for n in parts[0]} if parts else {}
        return WeldTokens(
            key=cut.key,
            session=cut.session,
            label=cut.label,
            windows=windows or {"index": np.empty(0, dtype=np.int64)},
            result=self.photos(cut.photos),
        )

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Give every array by name."""
        state = {f"encoders.{n}": t.numpy() for n, t in self.encoders.state_dict().items()}
        state |= {"sensors.mean": self.scale.mean, "sensors.sd": self.scale.sd}
        if self.result is not None:
            state |= {f"result.{n}": t.numpy() for n, t in self.result.state_dict().items()}
        return state

    def digest(self) -> str:
        """Hash everything that the tokens depend on."""
        h = xxhash.xxh3_128(repr((VERSION, self.encoders.config)).encode())
        for name, array in sorted(self.state().items()):
            h.update(name.encode())
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()


@torch.no_grad()
def described_photos(encoders: Encoders, samples: Sequence[Weld4MSample]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Look at the photos of welds as `ResultTokens` takes them: patch features, plain description, mask."""
    batch = photo_batch(samples)
    mask = batch[f"{PHOTOS}_mask"]
    views = np.stack([describe_views(s.post_images, s.post_images_mask) for s in samples])
    return encoders.photos(batch[PHOTOS], mask), torch.from_numpy(views), mask


def as_input(windows: Arrays, rows: Any) -> tuple[Tokens, Tokens, Tensor, Tensor]:
    """Give chosen rows of token arrays as the network takes them: video, sound, sensors and their mask."""
    video, audio = (_tokens(windows[m][rows]) for m in ("video", "audio"))
    sensors = torch.from_numpy(np.ascontiguousarray(windows["sensors"][rows], dtype=np.float32))
    return video, audio, sensors.nan_to_num(nan=0.0), ~sensors.isnan()


def presence(windows: Arrays) -> npt.NDArray[np.bool_]:
    """Tell `(n, 3)` which process modalities each window has."""
    return np.asarray(windows["phases"] >= 0)


def weld_tokens(
    inputs: FrozenInputs,
    welds: Sequence[CutFile],
    cache: Path,
    progress: Callable[[str], None],
) -> list[WeldTokens]:
    """Encode cut welds, from the cache where it holds them.

    Args:
        inputs: What encodes.
        welds: What to encode.
        cache: Folder of the cache.
        progress: Takes lines for the user.
    """
    cache.mkdir(parents=True, exist_ok=True)
    digest = inputs.digest()
    found = []
    for count, weld in enumerate(welds, 1):
        name = xxhash.xxh3_128_hexdigest(f"{digest} {weld.path.stem}".encode())
        found.append(_cached(inputs, weld, cache / f"{name}.safetensors"))
        if count % _SAY_EVERY == 0:
            progress(f"tokens of {count} of {len(welds)} welds")
    return found


def _cached(inputs: FrozenInputs, file: CutFile, path: Path) -> WeldTokens:
    if not path.exists():
        weld = inputs.weld(file.load())
        made = weld.windows | ({"result": weld.result} if weld.result is not None else {})
        fresh = path.with_suffix(".new")
        fresh.write_bytes(save(made))
        fresh.replace(path)
    try:
        arrays = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise DetectorError(f"{path}: {error}; delete it, it will be made again") from error
    manifest = file.weld.manifest
    result = arrays.pop("result", None)
    return WeldTokens(key=manifest.key, session=manifest.session, label=manifest.label, windows=arrays, result=result)


def _phases(window: Encoded) -> list[int]:
    """Number the phase of each process modality, as it sees it itself."""
    return [PHASES.index(window.phases[m]) if m in window.phases else -1 for m in PROCESS]


def _tokens(values: npt.NDArray[Any]) -> Tokens:
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    valid = ~tensor[..., 0].isnan()
    return Tokens(torch.where(valid[..., None], tensor, 0.0), valid)
