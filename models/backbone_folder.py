"""Pretrained models from a local folder, as transformers saves them: `config.json` and safetensors, nothing else.

Nothing is ever downloaded, and no code of a folder is run. What is incomplete is refused: transformers itself would go
on with random numbers in the place of missing tensors.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import xxhash
from safetensors import SafetensorError

from models.detector_contract import DetectorError

WEIGHTS: Final = "WELD4M_WEIGHTS"
"""Environment variable: the folder of all weights."""
KINDS: Final = {
    "video": {"vjepa2": "VJEPA2Model"},
    "audio": {"audio-spectrogram-transformer": "ASTModel"},
    "photos": {"dinov2": "Dinov2Model", "dinov3_vit": "DINOv3ViTModel"},
}
"""Per modality, the kinds of model (`model_type`) that can encode it, and their classes in transformers."""
_CONFIG: Final = "config.json"
_ONE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"


class Pretrained(NamedTuple):
    """A model as it lies in a folder.

    Attributes:
        model: Of transformers, float32, on the CPU, frozen.
        kind: `model_type`.
        digest: XXH3-128 (hex) over configuration and weights.
    """

    model: Any
    kind: str
    digest: str


def weights_folder(given: Path | None, remembered: str | None = None) -> Path:
    """Find the folder of all weights: what is given, else what the environment says, else what is remembered."""
    named = given or os.environ.get(WEIGHTS) or remembered
    if not named:
        raise DetectorError(f"where the backbones lie is not known; give --weights DIR or set {WEIGHTS}")
    return Path(named).expanduser().absolute()


def load_pretrained(name: str, folder: Path) -> Pretrained:
    """Load the backbone of a modality.

    Args:
        name: One of `KINDS`.
        folder: Its own folder.

    Raises:
        DetectorError: The folder is absent or incomplete, holds another kind of model, or cannot be read; one line.
    """
    text, kind = _configuration(name, folder)
    _check_shards(folder)
    transformers: Any = importlib.import_module("transformers")
    errors: Any = importlib.import_module("huggingface_hub.errors")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    broken = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, errors.StrictDataclassError)
    try:
        model, found = getattr(transformers, KINDS[name][kind]).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except broken as error:
        raise DetectorError(f"{folder}: {' '.join(str(error).split())[:200]}; copy the folder again") from error
    if missing := sorted(found["missing_keys"]):
        raise DetectorError(
            f"{folder}: {len(missing)} tensors are missing, the first is '{missing[0]}'; copy the folder again"
        )
    if other := sorted(key for key, *_ in found["mismatched_keys"]):
        raise DetectorError(
            f"{folder}: {len(other)} tensors have other sizes than {_CONFIG} says, the first is '{other[0]}'; copy the "
            "folder again"
        )
    model.eval().requires_grad_(False)
    digest = xxhash.xxh3_128(text)
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy())
    return Pretrained(model, kind, digest.hexdigest())


def _configuration(name: str, folder: Path) -> tuple[bytes, str]:
    """Read the configuration; returns it as it stands, and the kind of model."""
    try:
        text = (folder / _CONFIG).read_bytes()
    except OSError as error:
        raise DetectorError(
            f"{folder}: no backbone for {name} ({_CONFIG}: {error.strerror}); give the folder that holds "
            f"'{folder.name}' by --weights DIR or {WEIGHTS}"
        ) from error
    found = _object(folder / _CONFIG, text)
    kind = str(found.get("model_type"))
    if kind not in KINDS[name]:
        raise DetectorError(f"{folder}: a model of type '{kind}'; for {name} give one of type {_either(KINDS[name])}")
    return text, kind


def _check_shards(folder: Path) -> None:
    """Refuse a folder without weights, or with an index that names files which are not there."""
    if (folder / _ONE).is_file():
        return
    if not (folder / _INDEX).is_file():
        raise DetectorError(f"{folder}: neither {_ONE} nor {_INDEX}; only safetensors are read: copy the folder again")
    shards = _object(folder / _INDEX, (folder / _INDEX).read_bytes()).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise DetectorError(f"{folder / _INDEX}: names no files; copy the folder again")
    absent = sorted({str(name) for name in shards.values() if not (folder / str(name)).is_file()})
    if absent:
        raise DetectorError(
            f"{folder}: {len(absent)} files that {_INDEX} names are missing, the first is {absent[0]}; copy it again"
        )


def _object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise DetectorError(f"{path}: not valid JSON ({error}); copy the folder again") from error
    if not isinstance(found, dict):
        raise DetectorError(f"{path}: not a JSON object; copy the folder again")
    return found


def _either(kinds: dict[str, str]) -> str:
    return " or ".join(f"'{kind}'" for kind in kinds)
