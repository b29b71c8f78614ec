"""The bench of large backbones runs from one end to the other on tiny ones, and never pretends to have a GPU."""

from typing import Any

import pytest
import torch

from models.bench_backbones import MODES, PUBLISHED, bench_backbones, lines
from models.detector_contract import DetectorError


def test_tiny_backbones_run_in_both_modes() -> None:
    found = bench_backbones(tiny=True, runs=2)
    rows = found["rows"]
    assert [row["mode"] for row in rows] == [mode for mode in MODES for _ in range(6)]
    assert len({row["name"] for row in rows}) == 6
    for row in rows:
        assert 0 < row["median"] <= row["p95"]
        assert (row["peak_mib"] is not None) == torch.cuda.is_available()
    by_name = {(row["name"], row["mode"]): row for row in rows}
    for name, mode in by_name:
        single, row = "cosine" in by_name[name, mode], by_name[name, mode]
        assert single != name.startswith("all three")
        # The same weights on the same input: half precision and compiling change digits, not the answer.
        assert not single or row["cosine"] > 0.99
    parts = [by_name[name, "eager fp32"]["parameters"] for name in ("V-JEPA 2, 2 frames", "AST", "DINOv3, 5 photos")]
    assert by_name["all three, 2 frames", "eager fp32"]["parameters"] == sum(parts)
    text = list(lines(found))
    assert len(text) == 2 + len(rows)
    assert "tiny" in text[0]


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DetectorError, match="no graphics card") as caught:
        bench_backbones()
    assert "\n" not in str(caught.value)
    with pytest.raises(DetectorError, match="at least 1 run"):
        bench_backbones(tiny=True, runs=0)


def test_the_published_sizes_are_those_of_the_names() -> None:
    """As `transformers` counts tokens: see the tables of V-JEPA 2, AST 14-14 and DINOv3-B/16."""
    from transformers import ASTConfig, DINOv3ViTConfig, VJEPA2Config

    vjepa: Any = VJEPA2Config(crop_size=PUBLISHED.side, **PUBLISHED.vjepa)
    assert PUBLISHED.frames[1] // vjepa.tubelet_size * (vjepa.crop_size // vjepa.patch_size) ** 2 == 8192
    ast: Any = ASTConfig(max_length=PUBLISHED.fbank, **PUBLISHED.ast)
    columns = (ast.max_length - ast.patch_size) // ast.time_stride + 1
    bands = (ast.num_mel_bins - ast.patch_size) // ast.frequency_stride + 1
    assert 2 + columns * bands == 659
    dino: Any = DINOv3ViTConfig(image_size=PUBLISHED.photo, **PUBLISHED.dino)
    assert (dino.hidden_size, dino.num_hidden_layers, dino.patch_size) == (768, 12, 16)
