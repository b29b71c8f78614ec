import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from models.small_encoders import MAX_PARAMETERS, Tokens, WeldSmall, WeldSmallConfig

NAMES = ("video", "audio", "sensors", "post_images")
RATE = 8000


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoders() -> WeldSmall:
    torch.manual_seed(0)
    return WeldSmall(WeldSmallConfig(audio_rate_hz=RATE)).eval()


def samples(count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Small samples with holes in every modality; sample 3 has a modality each that is whole, holed or absent."""
    g = torch.Generator().manual_seed(seed)
    batch = {
        "video": torch.randint(0, 256, (count, 4, 1, 48, 64), generator=g, dtype=torch.uint8),
        "audio": torch.randint(-9000, 9000, (count, 1, RATE), generator=g, dtype=torch.int16),
        "sensors": torch.randn(count, 40, 6, generator=g),
        "post_images": torch.randint(0, 256, (count, 3, 3, 30, 40), generator=g, dtype=torch.uint8),
        "video_mask": torch.rand(count, 4, generator=g) < 0.7,
        "audio_mask": torch.ones(count, RATE, dtype=torch.bool),
        "sensors_mask": torch.rand(count, 40, 6, generator=g) < 0.7,
        "post_images_mask": torch.rand(count, 3, generator=g) < 0.7,
    }
    batch["audio_mask"][1, 2000:5000] = False
    batch["audio_mask"][2, :700] = False
    batch["sensors_mask"][2, 10:30] = False
    batch["video_mask"][3] = batch["audio_mask"][3] = False
    return batch


def encoded(encoders: WeldSmall, batch: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    with torch.no_grad():
        found = {m: list(getattr(encoders, m)(batch[m], batch[f"{m}_mask"])) for m in NAMES[:3]}
        return found | {"post_images": encoders.photos(batch["post_images"], batch["post_images_mask"])}


def expanded(mask: Tensor, like: Tensor) -> Tensor:
    if mask.ndim == 2 and like.ndim == 3 and mask.shape[1] == like.shape[2]:
        return mask[:, None].expand_as(like)  # sound
    return mask.reshape(*mask.shape, *[1] * (like.ndim - mask.ndim)).expand_as(like)


def test_all_of_it_fits_into_ten_megabytes():
    parameters = sum(p.numel() for p in WeldSmall(WeldSmallConfig()).parameters())
    assert parameters == 506_004
    assert parameters <= MAX_PARAMETERS


def test_token_shapes_of_the_default_sample():
    encoders = WeldSmall(WeldSmallConfig()).eval()
    with torch.no_grad():
        video = encoders.video(torch.zeros(1, 16, 1, 96, 160, dtype=torch.uint8), torch.ones(1, 16, dtype=torch.bool))
        audio = encoders.audio(torch.zeros(1, 1, 64_000, dtype=torch.int16), torch.ones(1, 64_000, dtype=torch.bool))
        sensors = encoders.sensors(torch.zeros(1, 128, 6), torch.ones(1, 128, 6, dtype=torch.bool))
        levels = encoders.photos(torch.zeros(1, 5, 3, 120, 160, dtype=torch.uint8), torch.ones(1, 5, dtype=torch.bool))
    assert video.values.shape == (1, encoders.config.video_tokens(16), 128)
    assert [t.values.shape[1] for t in (video, audio, sensors)] == [96, 32, 16]
    assert all(t.values.dtype == torch.float32 and t.valid.all() for t in (video, audio, sensors))
    assert [tuple(x.shape) for x in levels] == [(1, 5, 1280, 64), (1, 5, 320, 64), (1, 5, 80, 64)]


@pytest.mark.parametrize("fill", ["nan", "random"])
def test_contents_under_a_false_mask_change_nothing(encoders: WeldSmall, fill: str):
    batch = samples()
    clean = encoded(encoders, batch)
    changed = dict(batch)
    for name in NAMES:
        x, mask = batch[name], expanded(batch[f"{name}_mask"], batch[name])
        assert not mask.all()
        if not x.is_floating_point():
            other = torch.randint_like(x, 0, 255)
        else:
            other = torch.full_like(x, math.nan) if fill == "nan" else torch.randn_like(x) * 1e6
        changed[name] = torch.where(mask, x, other)
    for name, values in encoded(encoders, changed).items():
        for one, other in zip(values, clean[name], strict=True):
            assert torch.equal(one, other), name
            assert torch.isfinite(one).all(), name


def test_tokens_that_are_not_valid_are_zero(encoders: WeldSmall):
    found = encoded(encoders, samples())
    for name in NAMES[:3]:
        values, valid = found[name]
        assert 0 < valid.sum() < valid.numel()
        assert (values[~valid] == 0).all()
        assert (values[valid].abs().sum(dim=-1) > 0).all()
    mask = samples()["post_images_mask"]
    assert all((level[~mask] == 0).all() and (level[mask] != 0).any() for level in found["post_images"])


def test_a_batch_of_mixed_masks_equals_single_samples(encoders: WeldSmall):
    batch = samples()
    together = encoded(encoders, batch)
    for i in range(4):
        alone = encoded(encoders, {name: x[i : i + 1] for name, x in batch.items()})
        for name in NAMES:
            for one, many in zip(alone[name], together[name], strict=True):
                torch.testing.assert_close(one[0].float(), many[i].float(), atol=1e-5, rtol=1e-5)


def test_the_absolute_level_of_the_sound_is_kept(encoders: WeldSmall):
    time_s = torch.arange(RATE) / RATE
    tone = (10_000 * torch.sin(2 * math.pi * 1000 * time_s)).to(torch.int16)[None, None]
    mask = torch.ones(1, RATE, dtype=torch.bool)
    loud, _ = encoders.audio_encoder.levels(tone, mask)
    soft, _ = encoders.audio_encoder.levels(tone // 10, mask)
    band = int(loud[0, :, 40].argmax())
    assert float(loud[0, band, 40] - soft[0, band, 40]) == pytest.approx(1.0, abs=0.02)  # 20 dB are the unit
    wide, _ = encoders.audio_encoder.levels(tone.to(torch.int32) * 2**16, mask)
    torch.testing.assert_close(wide, loud)


def test_sound_above_8_khz_is_heard_where_it_was_recorded():
    encoders = WeldSmall(WeldSmallConfig(audio_rate_hz=48_000)).eval()
    time_s = torch.arange(48_000) / 48_000
    mask = torch.ones(1, 48_000, dtype=torch.bool)
    low, high = (
        encoders.audio_encoder.levels(
            (8000 * torch.sin(2 * math.pi * hertz * time_s)).to(torch.int16)[None, None], mask
        )[0][0, :, 50]
        for hertz in (9_000, 20_000)
    )
    assert int(high.argmax()) > int(low.argmax())
    assert float(high.max() - high.median()) > 2.0


def test_spectra_that_a_gap_touches_are_not_known(encoders: WeldSmall):
    batch = samples()
    level, known = encoders.audio_encoder.levels(batch["audio"], batch["audio_mask"])
    hop, half = encoders.audio_encoder.hop, encoders.audio_encoder.length // 2
    centres = torch.arange(known.shape[1]) * hop
    inside = (centres + half > 2000) & (centres - half < 5000)
    assert torch.equal(known[1], ~inside)
    assert (level[1][:, inside] == 0).all()
    assert not known[3].any()


def test_the_light_of_a_photo_does_not_matter(encoders: WeldSmall):
    dark = torch.randint(10, 100, (1, 2, 3, 30, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    bright = dark * 2 + 4  # the logarithm is taken of the level + 4
    mask = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        for one, other in zip(encoders.photos(dark, mask), encoders.photos(bright, mask), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_no_gradient_reaches_the_encoder_of_an_absent_modality(encoders: WeldSmall):
    modules = {
        "video": encoders.video_encoder,
        "audio": encoders.audio_encoder,
        "sensors": encoders.sensor_encoder,
        "post_images": encoders.photo_encoder,
    }
    for absent, module in modules.items():
        batch = samples()
        batch[f"{absent}_mask"] = torch.zeros_like(batch[f"{absent}_mask"])
        encoders.zero_grad()
        encoders.pretraining_loss(batch, torch.Generator().manual_seed(0))[0].backward()
        for name, other in modules.items():
            moved = sum(float(p.grad.abs().sum()) for p in other.parameters() if p.grad is not None)
            assert (moved == 0.0) == (other is module), (absent, name)
    encoders.zero_grad()


def test_pretraining_copes_with_any_set_of_modalities(encoders: WeldSmall):
    for count in range(5):
        for names in itertools.combinations(NAMES, count):
            batch = {k: x for k, x in samples().items() if k.removesuffix("_mask") in names}
            loss, parts = encoders.pretraining_loss(batch, torch.Generator().manual_seed(0))
            assert torch.isfinite(loss)
            assert set(names) <= set(parts)
            assert float(loss.detach()) == pytest.approx(sum(parts.values()), rel=1e-5, abs=1e-7)
            loss.backward()
    encoders.zero_grad()


def test_pretraining_is_the_same_for_the_same_seed(encoders: WeldSmall):
    def loss(seed: int) -> float:
        return float(encoders.pretraining_loss(samples(), torch.Generator().manual_seed(seed))[0].detach())

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)


def test_pretraining_ignores_what_is_masked(encoders: WeldSmall):
    batch, changed = samples(), samples()
    for name in NAMES:
        mask = expanded(batch[f"{name}_mask"], batch[name])
        other = torch.full_like(batch[name], math.nan if name == "sensors" else 99)
        changed[name] = torch.where(mask, batch[name], other)
    one, other_parts = (encoders.pretraining_loss(b, torch.Generator().manual_seed(0))[1] for b in (batch, changed))
    assert one == other_parts


def test_pretraining_learns():
    torch.manual_seed(0)
    encoders = WeldSmall(WeldSmallConfig(audio_rate_hz=RATE))
    # Recognisable welds: what burns brighter is louder, draws more current and leaves more tint.
    batch = samples(8)
    batch |= {k: torch.ones_like(x) for k, x in batch.items() if k.endswith("_mask")}
    strength = torch.arange(1, 9)
    batch["video"] = (batch["video"] // 16 + 28 * strength[:, None, None, None, None]).to(torch.uint8)
    batch["audio"] = (batch["audio"] // (9 - strength[:, None, None]) ** 2).to(torch.int16)
    batch["sensors"] = batch["sensors"] * 0.1 + strength[:, None, None] / 4.0
    tint = torch.tensor([1, 0, -1])[:, None, None] * strength[:, None, None, None, None] * 10
    batch["post_images"] = (110 + tint + batch["post_images"] // 32).to(torch.uint8)
    optimiser = torch.optim.AdamW(encoders.parameters(), lr=2e-3)
    history = []
    for step in range(50):
        loss, parts = encoders.pretraining_loss(batch, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(parts)
    for name in history[0]:
        early, late = (sum(p[name] for p in part) for part in (history[:5], history[-5:]))
        assert late < 0.9 * early, (name, early, late)


def test_tokens_are_a_pair(encoders: WeldSmall):
    batch = samples()
    tokens = encoders.sensors(batch["sensors"], batch["sensors_mask"])
    assert isinstance(tokens, Tokens)
    assert tokens.valid.shape == tokens.values.shape[:2]


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="width is 3"):
        WeldSmallConfig(width=3)
    with pytest.raises(ValueError, match="audio_tokens is 0"):
        WeldSmallConfig(audio_tokens=0)
    with pytest.raises(ValueError, match=r"masked_share is 1\.0"):
        WeldSmallConfig(masked_share=1.0)
