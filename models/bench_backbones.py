"""`bench backbones`: what large frozen backbones cost on a graphics card.

V-JEPA 2 ViT-L at 16 and 64 frames, AST and DINOv3-B have their published sizes and random weights, which take the same
time as trained ones; nothing is downloaded. A window is a clip and 10 s of sound; five photos come once per weld.
"""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from models.detector_contract import DetectorError

Progress = Callable[[str], None]
WARM_UP: Final = 3
VIEWS: Final = 5
CLIP: Final = "pixel_values_videos"
MODES: Final = {"eager fp32": torch.float32, "compiled bf16": torch.bfloat16}
_TINY: Final = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the backbones are and look at; the defaults are the published sizes.

    Attributes:
        vjepa: Of `VJEPA2Config`.
        ast: Of `ASTConfig`.
        dino: Of `DINOv3ViTConfig`.
        frames: Clip lengths.
        side: Side of a video frame in pixels.
        fbank: Rows of the filter bank, 10 ms each.
        photo: Side of a photo in pixels.
    """

    vjepa: dict[str, Any]
    ast: dict[str, Any]
    dino: dict[str, Any]
    frames: tuple[int, int] = (16, 64)
    side: int = 256
    fbank: int = 1024
    photo: int = 224


PUBLISHED: Final = Sizes(
    vjepa={"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    ast={"frequency_stride": 14, "time_stride": 14},
    dino={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_register_tokens": 4},
)
"""`vjepa2-vitl-fpc64-256`, `ast-finetuned-audioset-14-14-0.443` and `dinov3-vitb16`."""
TINY: Final = Sizes(
    vjepa=_TINY | {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1},
    ast=_TINY | {"intermediate_size": 64, "frequency_stride": 14, "time_stride": 14},
    dino=_TINY | {"intermediate_size": 64, "num_register_tokens": 4},
    frames=(2, 4),
    side=32,
    fbank=128,
    photo=32,
)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A network with the input that it is measured on, named."""

    name: str
    network: nn.Module
    inputs: dict[str, Any]

    def tokens(self) -> Tensor:
        """Run it once."""
        found = self.network(**self.inputs).last_hidden_state
        assert isinstance(found, Tensor)
        return found


def bench_backbones(*, tiny: bool = False, runs: int = 30, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Measure latency and peak memory, eager in fp32 against compiled in bf16.

    Args:
        tiny: Tiny networks, on the processor where there is no graphics card: does it run at all?
        runs: Measured runs of each, after those that compile and warm up.
        progress: Takes lines for the user.

    Returns:
        `{"device", "torch", "tiny", "rows"}`. A row has the name, the mode, parameters, median and p95 in ms, seconds
        of the first run (which compiles), peak memory in MiB with the weights (None on the processor), and the cosine
        of its tokens with those in fp32. The last rows take all three, one after the other, per clip length.

    Raises:
        DetectorError: There is no graphics card, or too little memory on it.
    """
    if runs < 1:
        raise DetectorError(f"--n is {runs}; measure at least 1 run")
    gpu = torch.cuda.is_available()
    if not (gpu or tiny):
        raise DetectorError(
            "no graphics card that torch can use: nothing measured; --tiny tries tiny networks without one"
        )
    device = torch.device("cuda" if gpu else "cpu")
    rows: list[dict[str, Any]] = []
    wanted: dict[str, Tensor] = {}
    try:
        for mode, dtype in MODES.items():
            made = backbones(TINY if tiny else PUBLISHED, device, dtype)
            if mode != "eager fp32":
                # Without a graphics card only the graphs are captured: a compiler may not be there.
                made = [_compiled(b, "inductor" if gpu else "eager") for b in made]
            single = {b.name: [b] for b in made}
            together = {f"all three, {clip.inputs[CLIP].shape[1]} frames": [clip, *made[2:]] for clip in made[:2]}
            for name, group in (single | together).items():
                row = {"name": name, "mode": mode} | _row(group, runs, device)
                if len(group) == 1:
                    tokens = _tokens(group[0])
                    row["cosine"] = _cosine(tokens, wanted.setdefault(name, tokens))
                rows.append(row)
                progress(f"{name}, {mode}: {row['median']} ms")
    except torch.OutOfMemoryError as error:
        raise DetectorError(
            f"out of memory on {_device_name(device)} after {len(rows)} rows; free it from other programs"
        ) from error
    return {"device": _device_name(device), "torch": torch.__version__, "tiny": tiny, "rows": rows}


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Lay out the result for people."""
    yield f"{result['device']}, torch {result['torch']}{', tiny networks' if result['tiny'] else ''}"
    yield f"{'':24}{'mode':>14}{'median ms':>11}{'p95 ms':>9}{'peak MiB':>10}{'first s':>9}{'cosine':>8}"
    for row in result["rows"]:
        peak = "n/a" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        cosine = f"{row['cosine']:.4f}" if "cosine" in row else ""
        times = f"{row['median']:11.2f}{row['p95']:9.2f}{peak:>10}{row['first_s']:9.1f}"
        yield f"{row['name']:24}{row['mode']:>14}{times}{cosine:>8}"


def backbones(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> list[Backbone]:
    """Make the networks, the same weights every time, and an input for each: both clips, sound and photos."""
    from transformers import (
        ASTConfig,
        ASTModel,
        DINOv3ViTConfig,
        DINOv3ViTModel,
        VJEPA2Config,
        VJEPA2Model,
    )

    torch.manual_seed(0)
    with torch.device(device):
        vjepa = VJEPA2Model(VJEPA2Config(crop_size=sizes.side, **sizes.vjepa))
        ast = ASTModel(ASTConfig(max_length=sizes.fbank, **sizes.ast))
        dino = DINOv3ViTModel(DINOv3ViTConfig(image_size=sizes.photo, **sizes.dino))
        clips = [torch.randn(1, frames, 3, sizes.side, sizes.side) for frames in sizes.frames]
        sound, photos = torch.randn(1, sizes.fbank, 128), torch.randn(VIEWS, 3, sizes.photo, sizes.photo)
    networks: tuple[nn.Module, ...] = (vjepa, ast, dino)
    for network in networks:
        network.to(dtype).eval().requires_grad_(False)
    video = [
        Backbone(
            f"V-JEPA 2, {clip.shape[1]} frames",
            vjepa,
            {CLIP: clip.to(dtype)} | {"skip_predictor": True},
        )
        for clip in clips
    ]
    return [
        *video,
        Backbone("AST", ast, {"input_values": sound.to(dtype)}),
        Backbone(f"DINOv3, {VIEWS} photos", dino, {"pixel_values": photos.to(dtype)}),
    ]


def _compiled(backbone: Backbone, backend: str) -> Backbone:
    network = torch.compile(backbone.network, backend=backend, dynamic=False)
    assert isinstance(network, nn.Module)
    return Backbone(backbone.name, network, backbone.inputs)


@torch.inference_mode()
def _row(group: Sequence[Backbone], runs: int, device: torch.device) -> dict[str, Any]:
    """Measure networks one after the other; memory is that of their own weights and of what they need to run."""
    began = time.perf_counter()
    _run(group, device)
    first_s = time.perf_counter() - began
    for _ in range(WARM_UP - 1):
        _run(group, device)
    resident = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        resident = torch.cuda.memory_allocated(device)
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        _run(group, device)
        times.append(1e3 * (time.perf_counter() - began))
    networks = [b.network for b in group]
    weights = [p for network in networks for p in network.parameters()]
    peak = None
    if device.type == "cuda":
        own = sum(p.numel() * p.element_size() for p in weights)
        peak = round((torch.cuda.max_memory_allocated(device) - resident + own) / 2**20, 1)
    median, p95 = np.percentile(times, [50, 95])
    return {
        "parameters": sum(p.numel() for p in weights),
        "median": round(float(median), 3),
        "p95": round(float(p95), 3),
        "first_s": round(first_s, 2),
        "peak_mib": peak,
    }


def _run(group: Sequence[Backbone], device: torch.device) -> None:
    for backbone in group:
        backbone.tokens()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.inference_mode()
def _tokens(backbone: Backbone) -> Tensor:
    return backbone.tokens().float().cpu().flatten()


def _cosine(one: Tensor, other: Tensor) -> float:
    return round(float(torch.nn.functional.cosine_similarity(one, other, dim=0)), 5)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"no graphics card: {platform.machine()}"
