"""Backbones: tiny random ones, saved and loaded back, behave as the large ones must."""

import importlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.backbone_config import BackbonesConfig, BackboneSettings, photo_widths, token_sizes
from models.backbone_folder import WEIGHTS, load_pretrained
from models.backbone_inputs import PhotoInput, SoundInput, VideoInput
from models.backbones import Backbones, Encoders, Large, encoders_of, load_backbones, with_backbones
from models.detector_contract import DetectorError
from models.evaluation import noise_window
from models.film_config import load_run
from models.film_inputs import SensorScale
from models.film_tokens import FrozenInputs, described_photos, weld_tokens
from models.pretraining import pretrain, sensor_scale
from models.result_tokens import ResultTokens, ResultTokensConfig
from models.small_encoders import Tokens, WeldSmall, WeldSmallConfig
from tests.models.films import cut_files, good_welds, tiny_file, tiny_run
from tests.models.welds import SPEC

WIDTH = 32
TINY = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
SETTINGS = BackboneSettings(video="v", audio="a", photos="p", video_regions=(3, 4), audio_regions=(4, 2), photo_edge=32)
SMALL = WeldSmallConfig(width=16, audio_rate_hz=8000, audio_bands=16, audio_tokens=8, photo_width=8, contrast_width=8)
Batch = dict[str, Tensor]


def save_tiny(folder: Path, kind: str, **changes: Any) -> Path:
    """Save a tiny model with random weights, as transformers does."""
    transformers = importlib.import_module("transformers")
    sizes: dict[str, dict[str, Any]] = {
        "VJEPA2": {
            "crop_size": 64,
            "pred_hidden_size": 12,
            "pred_num_attention_heads": 2,
            "pred_num_hidden_layers": 1,
        },
        "AST": {"intermediate_size": 64, "max_length": 64, "num_mel_bins": 48},
        "DINOv3ViT": {"intermediate_size": 64, "image_size": 32, "num_register_tokens": 4},
        "Dinov2": {"image_size": 28, "patch_size": 14},
    }
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}Model")(
        getattr(transformers, f"{kind}Config")(**(TINY | sizes[kind] | changes))
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for name, kind in (("v", "VJEPA2"), ("a", "AST"), ("p", "DINOv3ViT"), ("p2", "Dinov2")):
        save_tiny(folder / name, kind)
    return folder


@pytest.fixture(scope="module")
def encoders(root: Path) -> Encoders:
    torch.manual_seed(2)
    return with_backbones(WeldSmall(SMALL), load_backbones(SETTINGS, SPEC, root))


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "weights"))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WEIGHTS, raising=False)


def batch(count: int = 3) -> Batch:
    """Windows of `SPEC` and their photos, with a hole in the first: a frame, half a second of sound, a view."""
    rng = np.random.default_rng(4)
    found = {
        "video": torch.from_numpy(rng.integers(0, 256, (count, 8, 1, 24, 40), dtype=np.uint8)),
        "audio": torch.from_numpy(rng.integers(-9000, 9000, (count, 1, 16_000), dtype=np.int16)),
        "photos": torch.from_numpy(rng.integers(0, 256, (count, 2, 3, 30, 40), dtype=np.uint8)),
        "video_mask": torch.ones(count, 8, dtype=torch.bool),
        "audio_mask": torch.ones(count, 16_000, dtype=torch.bool),
        "photos_mask": torch.ones(count, 2, dtype=torch.bool),
    }
    found["video_mask"][0, 3] = found["photos_mask"][0, 1] = False
    found["audio_mask"][0, 4000:8000] = False
    return found


def encoded(encoders: Encoders, found: Batch) -> list[Tensor]:
    with torch.no_grad():
        return [
            *encoders.video(found["video"], found["video_mask"]),
            *encoders.audio(found["audio"], found["audio_mask"]),
            *encoders.photos(found["photos"], found["photos_mask"]),
        ]


def state_of(encoders: Encoders) -> dict[str, Any]:
    return {f"encoders.{name}": tensor.numpy() for name, tensor in encoders.state_dict().items()}


def stored(encoders: Encoders) -> dict[str, Any]:
    """Give the configuration as a checkpoint gives it back."""
    return {"encoders": msgspec.json.decode(msgspec.json.encode(asdict(encoders.config)))}


def refused(root: Path, settings: BackboneSettings = SETTINGS) -> str:
    with pytest.raises(DetectorError) as caught:
        load_backbones(settings, SPEC, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -- tokens --------------------------------------------------------------------------------------------------------


def test_sizes_come_from_the_configurations(encoders: Encoders, root: Path, tmp_path: Path) -> None:
    video, video_valid, audio, audio_valid, *levels = encoded(encoders, batch())
    sizes = token_sizes(encoders.config, 8)
    assert video.shape == (3, 4 * 3 * 4, WIDTH) == (3, sizes.video_tokens, sizes.video_width)
    assert audio.shape == (3, 8, WIDTH) == (3, sizes.audio_tokens, sizes.audio_width)
    assert [x.shape for x in levels] == [(3, 2, 2 * 3, WIDTH)] * 3  # 30 x 40 pixels become 32 x 48, patches of 16
    assert photo_widths(encoders.config) == (WIDTH,) * 3
    # The pair of frames with the hole, and the second of four stretches of sound, by half a second of two.
    assert (~video_valid).nonzero().tolist() == [[0, i] for i in range(12, 24)]
    assert (~audio_valid).nonzero().tolist() == [[0, 2], [0, 3]]
    assert all(not x[0, 1].any() and x[1:].any() for x in levels)
    assert all(x.isfinite().all() for x in (video, audio, *levels))
    wider = load_pretrained("photos", save_tiny(tmp_path / "wide", "DINOv3ViT", hidden_size=48, num_attention_heads=3))
    assert wider.model.config.hidden_size == 48
    shutil.copytree(root / "v", tmp_path / "v")
    large = load_backbones(BackboneSettings(video="v", photos="wide"), SPEC, tmp_path)
    assert {name: record.width for name, record in large.records.items()} == {"video": WIDTH, "photos": 48}


@pytest.mark.parametrize("registers", [0, 4])
def test_registers_are_no_patches(tmp_path: Path, registers: int) -> None:
    folder = save_tiny(tmp_path / "p", "DINOv3ViT", num_register_tokens=registers)
    photos = load_backbones(BackboneSettings(photos="p", photo_edge=32), SPEC, tmp_path).photos
    assert photos is not None
    images = batch(1)["photos"][0]
    levels = photos(images[None], torch.ones(1, 2, dtype=torch.bool))
    pixels = PhotoInput(edge=32, patch=16)(images)
    with torch.no_grad():
        whole = load_pretrained("photos", folder).model(pixel_values=pixels).last_hidden_state
    assert whole.shape[1] == 1 + registers + 6
    torch.testing.assert_close(levels[-1][0], whole[:, 1 + registers :])


def test_levels_are_layers_and_not_the_embedding(root: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "deep", "Dinov2", num_hidden_layers=6)
    photos = load_backbones(BackboneSettings(photos="deep", photo_edge=28), SPEC, tmp_path).photos
    assert photos is not None
    assert photos.layers == (2, 4, 6)
    images, mask = batch(1)["photos"], torch.ones(1, 2, dtype=torch.bool)
    fine, middle, last = photos(images, mask)
    assert fine.shape == (1, 2, 2 * 3, WIDTH)
    assert not torch.equal(fine, middle)
    with torch.no_grad():
        whole = photos.model(pixel_values=photos.input(images[0])).last_hidden_state
    torch.testing.assert_close(last[0], whole[:, 1:])


# -- inputs --------------------------------------------------------------------------------------------------------


def test_video_is_scaled_and_cropped_as_v_jepa_does_itself(encoders: Encoders) -> None:
    assert isinstance(encoders, Backbones)
    assert encoders.large.video is not None
    assert encoders.large.video.input == VideoInput(resize=73, crop=64)
    frames = torch.full((1, 2, 1, 24, 40), 51, dtype=torch.uint8)
    frames[..., :8] = frames[..., 32:] = 255  # 12 to 28 of 40 columns are left, less the margin of 73 to 64
    pixels = VideoInput(resize=292, crop=256)(frames, torch.ones(1, 2, dtype=torch.bool))
    assert pixels.shape == (1, 2, 3, 256, 256)
    expected = (0.2 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels, expected[:, None, None].expand_as(pixels), atol=1e-4, rtol=0)


def test_sound_is_what_ast_was_trained_on() -> None:
    transformers = importlib.import_module("transformers")
    ours = SoundInput(bands=128, frames=1024)
    theirs = transformers.ASTFeatureExtractor()
    sound = np.random.default_rng(6).integers(-9000, 9000, 64_000).astype(np.int16)
    tensor = torch.from_numpy(sound)[None, None]
    clips, known, real = ours(tensor, torch.ones(1, 64_000, dtype=torch.bool), 16_000)
    wanted = theirs(sound / 32768.0, sampling_rate=16_000, return_tensors="pt")["input_values"]
    assert clips.shape == (1, 1, 1024, 128)
    torch.testing.assert_close(clips[0], wanted.float(), atol=1e-4, rtol=0)
    assert int(known.sum()) == int(real.sum()) == 398
    longer = torch.cat([tensor] * 3, dim=-1)
    clips, known, real = ours(longer, torch.ones(1, 192_000, dtype=torch.bool), 16_000)
    assert clips.shape == (1, 2, 1024, 128)
    assert real[0].all()
    assert not real[1].all()


# -- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photos", ["p", "p2"])
def test_what_is_masked_never_counts(root: Path, photos: str) -> None:
    encoders = with_backbones(WeldSmall(SMALL), load_backbones(replace(SETTINGS, photos=photos), SPEC, root))
    found = batch()
    found["video"], found["photos"] = found["video"].float(), found["photos"].float()
    before = encoded(encoders, found)
    found["video"][~found["video_mask"]] = torch.nan
    found["photos"][~found["photos_mask"]] = torch.nan
    found["audio"][0, 0, 4000:8000] = torch.randint(-30_000, 30_000, (4000,), dtype=torch.int16)
    assert all(torch.equal(a, b) for a, b in zip(before, encoded(encoders, found), strict=True))


def test_a_batch_equals_its_windows(encoders: Encoders) -> None:
    found = batch()
    together = encoded(encoders, found)
    for i in range(3):
        alone = encoded(encoders, {name: tensor[i : i + 1] for name, tensor in found.items()})
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-5, rtol=0)


def test_nothing_at_all_gives_nothing(encoders: Encoders) -> None:
    found = {name: torch.zeros_like(x) if "mask" in name else x for name, x in batch().items()}
    assert not any(x.any() for x in encoded(encoders, found))


# -- frozen --------------------------------------------------------------------------------------------------------


def test_all_of_it_is_frozen(encoders: Encoders) -> None:
    assert isinstance(encoders, Backbones)
    models = [encoders.small, *encoders.large.models.values()]
    assert len(models) == 4
    assert not any(m.training for network in models for m in network.modules())
    assert not any(p.requires_grad for p in encoders.parameters())
    small = sum(p.numel() for p in encoders.small.parameters())
    assert sum(p.numel() for p in encoders.parameters()) > 2 * small
    assert not any(x.requires_grad for x in encoded(encoders, batch()))


def test_only_small_encoders_in_use_learn_and_are_stored(root: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, audio=None, photos=None)
    assert settings.small == ["audio", "post_images"]
    run = tiny_run(tmp_path)
    files = cut_files(good_welds(tmp_path / "data", sessions=2, per_session=2), tmp_path / "cuts", run)
    torch.manual_seed(0)
    small = WeldSmall(run.encoders)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    modalities = [*settings.small, "sensors"]
    pretrain(
        small,
        files,
        files,
        sensor_scale(files),
        run,
        digest="",
        file=tmp_path / "state.safetensors",
        progress=lambda _: None,
        modalities=modalities,
    )
    moved = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("audio_encoder") for name in moved)
    assert any(name.startswith("photo_encoder") for name in moved)
    # The loss holds zero times the first tensor, which therefore decays.
    assert {name for name in moved if name.startswith("video_encoder")} <= {next(iter(before))}
    encoders = with_backbones(small, load_backbones(settings, SPEC, root))
    assert {name.partition(".")[0] for name in encoders.state_dict()} == {"audio_encoder", "photo_encoder"}
    assert encoders.audio(batch()["audio"], batch()["audio_mask"]).values.shape[1] == run.encoders.audio_tokens


# -- the folder ----------------------------------------------------------------------------------------------------


def no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def half_a_file(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def missing_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = [name for name in tensors if "layer.1." in name or "layers.1." in name]
    assert names
    save_file({n: t for n, t in tensors.items() if n not in names}, folder / "model.safetensors", {"format": "pt"})


def absent_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def wrong_width(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | {"hidden_size": 64}))


def no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize("name", ["v", "a", "p"])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (no_configuration, "config.json: No such file or directory"),
        (no_weights, "neither model.safetensors nor"),
        (half_a_file, "copy the folder again"),
        (missing_tensors, "tensors are missing, the first is"),
        (absent_shard, "1 files that model.safetensors.index.json names are missing, the first is model-00001-of"),
        (wrong_width, "tensors have other sizes than config.json says, the first is"),
        (no_json, "not valid JSON"),
    ],
)
def test_an_incomplete_folder_is_refused(copied: Path, name: str, damage: Callable[[Path], None], what: str) -> None:
    damage(copied / name)
    message = refused(copied)
    assert what in message
    assert message.startswith(str(copied / name))


def test_another_kind_of_model_is_refused(root: Path) -> None:
    message = refused(root, BackboneSettings(video="a"))
    assert "a model of type 'audio-spectrogram-transformer'; for video give one of type 'vjepa2'" in message


@pytest.mark.parametrize(("name", "kind"), [("v", "VJEPA2ForVideoClassification"), ("a", "ASTForAudioClassification")])
def test_a_head_for_classes_is_left_out(root: Path, tmp_path: Path, name: str, kind: str) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.from_pretrained(root / name)
    whole = getattr(transformers, kind)(config).eval()
    whole.save_pretrained(tmp_path / name)
    loaded = load_pretrained({"v": "video", "a": "audio"}[name], tmp_path / name)
    inside = whole.get_submodule(whole.base_model_prefix)
    for ours, theirs in zip(loaded.model.parameters(), inside.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_frames_that_do_not_pair_are_refused(root: Path) -> None:
    with pytest.raises(DetectorError, match=r"frames is 7, .*give a multiple of 2 in \[sample\]"):
        load_backbones(BackboneSettings(video="v"), replace(SPEC, frames=7), root)


def test_the_folder_must_be_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DetectorError, match=f"give --weights DIR or set {WEIGHTS}"):
        load_backbones(SETTINGS, SPEC)
    assert load_backbones(BackboneSettings(), SPEC) == Large()
    monkeypatch.setenv(WEIGHTS, str(root))
    assert load_backbones(replace(SETTINGS, video=None), SPEC).records.keys() == {"audio", "photos"}


def test_settings_are_checked_with_their_line(tmp_path: Path) -> None:
    path = tiny_file(tmp_path, {"[result]": '[backbones]\nvideo = "v"\n[result]'})
    assert load_run(path).backbones == BackboneSettings(video="v")
    path = tiny_file(tmp_path, {"[result]": '[backbones]\nvideo = "../v"\n[result]'})
    with pytest.raises(DetectorError, match=r"tiny.toml:\d+: video is '../v'; give the name of a folder"):
        load_run(path)


# -- the checkpoint ------------------------------------------------------------------------------------------------


def test_a_checkpoint_finds_its_backbones_again(encoders: Encoders, root: Path, copied: Path) -> None:
    state = state_of(encoders)
    assert state == {}  # large weights are not copied
    for weights in (None, copied):
        again = encoders_of(stored(encoders), state, weights)
        assert repr(again.config) == repr(encoders.config)
        for a, b in zip(encoded(encoders, batch()), encoded(again, batch()), strict=True):
            assert torch.equal(a, b)


def test_small_encoders_come_back_beside_them(root: Path) -> None:
    torch.manual_seed(3)
    for settings in (replace(SETTINGS, audio=None, video=None), BackboneSettings()):
        encoders = with_backbones(WeldSmall(SMALL), load_backbones(settings, SPEC, root))
        again = encoders_of(stored(encoders), state_of(encoders), root)
        assert isinstance(again.config, BackbonesConfig) == bool(settings.folders)
        for a, b in zip(encoded(encoders, batch()), encoded(again, batch()), strict=True):
            assert torch.equal(a, b)
        short = dict(list(state_of(encoders).items())[1:])
        with pytest.raises(DetectorError, match=r"no array 'encoders\."):
            encoders_of(stored(encoders), short, root)


def test_other_weights_are_refused(encoders: Encoders, copied: Path) -> None:
    path = copied / "a" / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(DetectorError, match="not the weights that the checkpoint was trained with") as caught:
        encoders_of(stored(encoders), {}, copied)
    assert str(caught.value).startswith(f"{copied / 'a'}: ")
    assert "\n" not in str(caught.value)
    shutil.rmtree(copied / "p")
    shutil.copytree(copied / "p2", copied / "p")
    with pytest.raises(DetectorError, match="not the weights"):
        encoders_of(stored(encoders), {}, copied)


def test_another_preparation_is_refused(encoders: Encoders, root: Path) -> None:
    configuration = stored(encoders)
    configuration["encoders"]["settings"]["photo_edge"] = 48
    with pytest.raises(DetectorError, match="prepares photos in another way"):
        encoders_of(configuration, {}, root)


# -- end to end ----------------------------------------------------------------------------------------------------


def inputs_of(root: Path, settings: BackboneSettings = SETTINGS, seed: int = 2) -> FrozenInputs:
    torch.manual_seed(seed)
    encoders = with_backbones(WeldSmall(SMALL), load_backbones(settings, SPEC, root))
    return FrozenInputs(encoders=encoders, scale=SensorScale.fit([noise_window(SPEC)]), result=None)


def test_cached_tokens_are_keyed_by_weights_and_preparation_alone(root: Path, copied: Path) -> None:
    key = inputs_of(root).digest()
    assert inputs_of(copied, seed=7).digest() == key  # small encoders that nobody uses do not count
    (copied / "v").rename(copied / "other")
    assert inputs_of(copied, replace(SETTINGS, video="other")).digest() == key
    assert inputs_of(root, replace(SETTINGS, photo_edge=48)).digest() != key
    assert inputs_of(root, replace(SETTINGS, audio_regions=(8, 2))).digest() != key
    assert inputs_of(root, replace(SETTINGS, photos="p2")).digest() != key
    path = copied / "p" / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, path, {"format": "pt"})
    assert inputs_of(copied, replace(SETTINGS, video="other")).digest() != key


def test_welds_become_tokens_and_stay_in_the_cache(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cut_files(good_welds(tmp_path / "data", sessions=1, per_session=2), tmp_path / "cuts", tiny_run(tmp_path))
    inputs = inputs_of(root)
    config = ResultTokensConfig(widths=photo_widths(inputs.encoders.config), words=6, bands=2)
    seen = described_photos(inputs.encoders, [file.load().photos for file in files])
    inputs = replace(inputs, result=ResultTokens.fit([seen[:2]], config))
    made = weld_tokens(inputs, files, tmp_path / "cache", lambda _: None)
    sizes = tiny_run(tmp_path).network(config.tokens, config.width, inputs.encoders.config)
    for weld in made:
        windows = weld.windows
        assert windows["video"].shape == (len(weld), sizes.video_tokens, sizes.video_width)
        assert windows["audio"].shape == (len(weld), sizes.audio_tokens, sizes.audio_width)
        assert np.isfinite(windows["video"][1]).all()
        assert np.isfinite(windows["audio"][1]).all()
        assert weld.result is not None
        assert weld.result.shape == (sizes.result_tokens, sizes.result_width)
        assert np.isfinite(weld.result).all()
    assert len(list((tmp_path / "cache").iterdir())) == 2

    def never(*_: object) -> Tokens:
        raise AssertionError("the cache holds these tokens")

    monkeypatch.setattr(Backbones, "video", never)
    again = weld_tokens(inputs, files, tmp_path / "cache", lambda _: None)
    for a, b in zip(made, again, strict=True):
        for name in a.windows:
            np.testing.assert_array_equal(a.windows[name], b.windows[name])
