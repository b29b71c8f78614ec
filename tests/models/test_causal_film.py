import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from acquisition.packet import MODALITIES
from models.causal_film import (
    Block,
    CausalFilm,
    CausalFilmConfig,
    FilmOutput,
    SensorModulator,
    linear_attention,
    segment_statistics,
)
from models.detector_contract import DetectorError
from models.small_encoders import Tokens

CONFIG = CausalFilmConfig(
    width=32,
    video_tokens=24,
    video_width=16,
    audio_tokens=10,
    audio_width=12,
    sensor_tokens=5,
    result_tokens=9,
    result_width=8,
    process_tokens=16,
    ff=48,
)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"film": False},
    {"fusion": "flat"},
    {"attention": "softmax"},
    {"noise": False},
    {"bidirectional": True},
    {"bidirectional": True, "fusion": "flat"},
    {"sensor_encoder": "conv"},
]
SUBSETS = [s for n in range(5) for s in itertools.combinations(MODALITIES, n)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(**changes: Any) -> CausalFilm:
    """A network whose modulation is no longer the identity."""
    torch.manual_seed(0)
    model = CausalFilm(replace(CONFIG, **changes))
    torch.nn.init.normal_(model.modulator.head.weight, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> CausalFilm:
    return network()


def inputs(count: int = 4, seed: int = 0) -> dict[str, Any]:
    """Windows with holes in everything."""
    g = torch.Generator().manual_seed(seed)

    def tokens(number: int, width: int) -> Tokens:
        valid = torch.rand(count, number, generator=g) < 0.8
        values = torch.randn(count, number, width, generator=g)
        return Tokens(torch.where(valid[..., None], values, 0.0), valid)

    return {
        "video": tokens(24, 16),
        "audio": tokens(10, 12),
        "sensors": torch.randn(count, 40, 6, generator=g),
        "sensors_mask": torch.rand(count, 40, 6, generator=g) < 0.8,
        "result": torch.randn(count, 9, 8, generator=g),
        "present": torch.ones(count, 4, dtype=torch.bool),
    }


def presence(subset: tuple[str, ...], count: int) -> Tensor:
    return torch.tensor([[m in subset for m in MODALITIES]]).expand(count, -1)


def flat(out: FilmOutput) -> dict[str, Tensor]:
    """All tensors of an output by name."""
    kinds = ("predicted", "restored", "targets", "known")
    found = {f"{kind}.{m}": x for kind in kinds for m, x in getattr(out, kind).items()}
    for name in ("process", "predicted_result", "restored_result", "result"):
        if getattr(out, name) is not None:
            found[name] = getattr(out, name)
    return found


def filled(batch: dict[str, Any], fill: float | None) -> dict[str, Any]:
    """Put `fill`, or random numbers for None, under everything that is false or not present."""

    def put(values: Tensor, mask: Tensor) -> Tensor:
        other = torch.randn_like(values) * 1e3 if fill is None else torch.full_like(values, fill)
        return torch.where(mask, values, other)

    here = {m: batch["present"][:, i, None, None] for i, m in enumerate(MODALITIES)}
    changed = dict(batch)
    for m in ("video", "audio"):
        changed[m] = Tokens(put(batch[m].values, batch[m].valid[..., None] & here[m]), batch[m].valid)
    changed["sensors"] = put(batch["sensors"], batch["sensors_mask"] & here["sensors"])
    changed["result"] = put(batch["result"], here["post_images"].expand_as(batch["result"]))
    return changed


def test_sizes_of_the_default():
    model = CausalFilm(CausalFilmConfig())
    counted = sum(p.numel() for p in model.parameters())
    assert counted == 1_606_648
    assert counted + 506_004 < 2_400_000  # with the small encoders: below 10 MB in float32
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("sensor_encoder", ["gru", "conv"])
def test_modulation_is_the_identity_before_training(sensor_encoder: Any):
    modulator = SensorModulator(replace(CONFIG, sensor_encoder=sensor_encoder))
    sensors, tokens = torch.randn(3, 40, 6) * 100, torch.randn(3, 24, 32)
    for known in (torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)):
        assert torch.equal(modulator(tokens, modulator.state(sensors, known)), tokens)


def test_modulation_does_something_afterwards(model: CausalFilm):
    batch = inputs()
    other = batch | {"sensors": batch["sensors"] + 1.0}
    one, two = model(**batch), model(**other)
    assert not torch.allclose(one.process, two.process, atol=1e-3)
    assert not torch.allclose(one.predicted["audio"], two.predicted["audio"], atol=1e-3)
    without = network(film=False)
    assert torch.equal(without(**batch).process, without(**other).process)


@pytest.mark.parametrize("masked", [False, True])
def test_linear_attention_equals_explicit_attention(masked: bool):
    g = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 4, n, 8, generator=g) for n in (7, 33, 33))
    valid = torch.rand(2, 33, generator=g) < 0.5 if masked else None
    fq, fk = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
    weights = fq @ fk.mT  # (B, heads, Q, M)
    if valid is not None:
        weights = weights * valid[:, None, None]
    explicit = (weights / (weights.sum(dim=-1, keepdim=True) + 1e-6)) @ v
    torch.testing.assert_close(linear_attention(q, k, v, valid), explicit, atol=1e-6, rtol=1e-6)


def test_linear_attention_is_computed_in_float32():
    q, k, v = (torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(i)) for i in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_attention(q, k, v), linear_attention(q, k, v))
        inside = linear_attention(q, k, v)
    assert torch.equal(inside, linear_attention(q, k, v))
    assert linear_attention(q.bfloat16(), k.bfloat16(), v.bfloat16()).dtype == torch.bfloat16


def test_attention_without_anything_valid_is_zero():
    q = torch.randn(1, 2, 5, 8)
    assert torch.equal(linear_attention(q, q, q, torch.zeros(1, 5, dtype=torch.bool)), torch.zeros_like(q))


@pytest.mark.parametrize("attention", ["linear", "softmax"])
def test_over_a_memory_of_length_one_the_queries_have_no_say(attention: Any):
    """That is why results are decoded from many process tokens with learned queries."""
    torch.manual_seed(0)
    block = Block(32, 4, 64, attention)
    answers: list[Tensor] = []
    block.out.register_forward_pre_hook(lambda module, args: answers.append(args[0]))
    block(torch.randn(1, 9, 32), torch.randn(1, 1, 32))
    block(torch.randn(1, 9, 32), torch.randn(1, 16, 32))
    one, many = answers
    torch.testing.assert_close(one[0], one[0, :1].expand(9, -1), atol=1e-4, rtol=1e-4)
    assert (many[0] - many[0, :1]).abs().max() > 1e-3


def test_each_result_token_has_a_query_of_its_own(model: CausalFilm):
    predicted = model(**inputs()).predicted_result
    assert predicted.shape == (4, 9, 8)
    assert torch.pdist(predicted[0]).min() > 1e-3
    permuted = copy.deepcopy(model)
    with torch.no_grad():
        permuted.queries["post_images"].copy_(model.queries["post_images"].flip(0))
    torch.testing.assert_close(permuted(**inputs()).predicted_result, predicted.flip(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_subset_gives_finite_numbers(changes: dict[str, Any]):
    model = network(**changes)
    for subset in SUBSETS:
        batch = inputs() | {"present": presence(subset, 4)}
        out = model(**batch)
        loss, parts = model.loss(out)
        assert all(torch.isfinite(x).all() for x in flat(out).values()), subset
        assert torch.isfinite(loss)
        assert all(map(math.isfinite, parts.values()))
        residuals = model.residuals(out)
        there: dict[str, bool] = {m: m in subset for m in MODALITIES[:3]}
        there |= {f"restored_{m}": here for m, here in there.items()}
        there |= dict.fromkeys(("result", "result_only"), "post_images" in subset)
        for name, known in there.items():
            assert torch.isfinite(residuals[name]).all() == known, (subset, name)
            assert residuals[f"{name}_error"].isnan().all() == (not known), (subset, name)


@pytest.mark.parametrize("fill", [math.nan, math.inf, None])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_contents_under_a_false_mask_change_nothing(changes: dict[str, Any], fill: float | None):
    model = network(**changes)
    for subset in (MODALITIES, ("video",), ("audio", "post_images"), ("sensors",), ()):
        batch = inputs() | {"present": presence(subset, 4)}
        clean, changed = model(**filled(batch, 0.0)), model(**filled(batch, fill))
        for name, value in flat(clean).items():
            assert torch.equal(flat(changed)[name], value), (subset, name)
        for name, value in model.residuals(clean).items():
            assert torch.equal(model.residuals(changed)[name].nan_to_num(-9.0), value.nan_to_num(-9.0)), name


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_batch_of_mixed_masks_equals_single_windows(changes: dict[str, Any]):
    model = network(**changes)
    batch = inputs(16)
    batch["present"] = torch.cat([presence(s, 1) for s in SUBSETS])
    together = flat(model(**batch))
    for i in range(16):
        alone = {
            k: Tokens(*(y[i : i + 1] for y in x)) if isinstance(x, Tokens) else x[i : i + 1] for k, x in batch.items()
        }
        for name, value in flat(model(**alone)).items():
            torch.testing.assert_close(value[0].float(), together[name][i].float(), atol=1e-5, rtol=1e-5, msg=name)


def test_no_gradient_reaches_what_reads_an_absent_modality(model: CausalFilm):
    readers = {
        "video": model.inputs["video"],
        "audio": model.inputs["audio"],
        "sensors": torch.nn.ModuleList([model.modulator.reader, model.inputs["sensors"]]),
        "post_images": model.inputs["post_images"],
    }
    for absent in MODALITIES:
        model.zero_grad()
        batch = inputs() | {"present": presence(tuple(m for m in MODALITIES if m != absent), 4)}
        for m in ("video", "audio"):  # as if the encoders were trained
            batch[m] = Tokens(batch[m].values.requires_grad_(), batch[m].valid)
        model.loss(model(**filled(batch, math.nan)))[0].backward()
        for m, reader in readers.items():
            moved = sum(float(p.grad.abs().sum()) for p in reader.parameters() if p.grad is not None)
            assert math.isfinite(moved)
            assert (moved == 0.0) == (m == absent), (absent, m)
        for m in ("video", "audio"):
            gradient = batch[m].values.grad
            assert gradient is not None
            assert torch.isfinite(gradient).all()
            assert (gradient.abs().sum() == 0.0) == (m == absent)
    model.zero_grad()


def test_targets_are_frozen(model: CausalFilm):
    batch = inputs()
    for m in ("video", "audio"):
        batch[m] = Tokens(batch[m].values.requires_grad_(), batch[m].valid)
    batch["result"].requires_grad_()
    out = model(**batch)
    assert out.result is not None
    assert not any(x.requires_grad for x in (*out.targets.values(), out.result))


def test_the_process_tokens_learn_from_the_result_alone(model: CausalFilm):
    """Were they to learn from what restores the modalities too, they would drop what is hard to restore."""
    batch = inputs()
    model.zero_grad()
    out = model(**batch | {"result": None})
    model.loss(out)[0].backward()
    assert all(p.grad is None for p in model.process_encoder.parameters())
    for m in MODALITIES[:3]:
        for name in (m, f"restored_{m}"):
            assert all(p.grad is not None and p.grad.any() for p in model.outputs[name].parameters()), name
    model.loss(model(**batch))[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.process_encoder.norm.parameters())
    model.zero_grad()


@pytest.mark.parametrize("changed", MODALITIES[:3])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_each_modality_is_restored_from_all(changes: dict[str, Any], changed: str):
    model = network(**changes)
    batch, other = inputs(), inputs()
    if changed == "sensors":
        other["sensors"] = other["sensors"] + 3.0
    else:
        other[changed] = Tokens(other[changed].values * 3.0, other[changed].valid)
    one, two = model(**batch), model(**other)
    for m, restored in one.restored.items():
        assert restored.shape == one.targets[m].shape
        assert not torch.allclose(restored, two.restored[m], atol=1e-5)


@pytest.mark.parametrize("held_out", ["video", "audio", "sensors"])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_modality_is_predicted_without_looking_at_it(changes: dict[str, Any], held_out: str):
    model = network(**changes)
    batch, other = inputs(), inputs()
    if held_out == "sensors":
        other["sensors"] = other["sensors"] + 3.0
    else:
        other[held_out] = Tokens(other[held_out].values * 3.0, other[held_out].valid)
    one, two = model(**batch), model(**other)
    assert torch.equal(one.predicted[held_out], two.predicted[held_out])
    assert not torch.equal(one.targets[held_out], two.targets[held_out])
    rest = [m for m in one.predicted if m != held_out]
    if held_out != "sensors" or changes.get("film", True):
        assert all(not torch.equal(one.predicted[m], two.predicted[m]) for m in rest)


def test_training_and_noise_are_told_by_the_mode_alone():
    model = network()
    batch = inputs()

    def outputs() -> tuple[Tensor, ...]:
        out = model(**batch)
        assert out.restored_result is not None
        return *out.predicted.values(), *out.restored.values(), out.predicted_result, out.restored_result

    assert all(map(torch.equal, outputs(), outputs()))
    model.train()
    assert not any(map(torch.equal, outputs(), outputs()))
    assert torch.equal(model(**batch).process, model(**batch).process)  # noise is in the bottleneck only
    quiet = network(noise=False).train()
    for m, restored in quiet(**batch).restored.items():
        assert torch.equal(quiet(**batch).restored[m], restored)


def test_the_result_of_a_weld_is_predicted_from_all_its_windows(model: CausalFilm):
    out = model(**inputs(3))
    weld = out.process.reshape(1, -1, 32)
    whole = model.predict_result(weld)
    assert whole.shape == (1, 9, 8)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model.predict_result(out.process[order].reshape(1, -1, 32)), whole, atol=1e-5, rtol=1e-5)
    padded = torch.cat([weld, torch.full((1, 16, 32), math.nan)], dim=1)
    valid = torch.arange(padded.shape[1])[None] < weld.shape[1]
    torch.testing.assert_close(model.predict_result(padded, valid), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.predict_result(out.process), out.predicted_result)
    nothing = model.predict_result(padded, torch.zeros_like(valid))
    assert torch.isfinite(nothing).all()


def test_result_loss_and_residuals_count_only_welds_with_photos(model: CausalFilm):
    batch = inputs()
    present = torch.tensor([True, True, False, True])
    out = model(**batch | {"present": presence(MODALITIES, 4) & present[:, None]})
    result = torch.where(present[:, None, None], batch["result"], math.nan)
    restored = model.restore_result(result, present)
    loss, parts = model.result_loss(out.predicted_result, restored, result, present)
    predicted, kept, wanted = (x[present] for x in (out.predicted_result, restored, result))
    three, _ = model.result_loss(predicted, kept, wanted, present[present])
    torch.testing.assert_close(loss, three)
    assert set(parts) == {"result", "result_only"}
    residuals = model.result_residuals("result", out.predicted_result, result, present)
    assert torch.equal(residuals["result"].isnan(), ~present)
    assert residuals["result_tokens"].shape == (4, 9)
    same = model.residuals(out)["result"]
    torch.testing.assert_close(residuals["result"][present], same[present])


def test_residuals_point_at_what_is_wrong(model: CausalFilm):
    out = model(**inputs())
    before = model.residuals(out)
    out.targets["audio"] = out.targets["audio"].clone()
    out.known["audio"][0, 3] = True
    out.targets["audio"][0, 3] = -10.0 * out.predicted["audio"][0, 3]
    after = model.residuals(out)
    assert int(after["audio_tokens"][0].nan_to_num(-1.0).argmax()) == 3
    assert float(after["audio_tokens"][0, 3]) == pytest.approx(2.0, abs=1e-4)
    assert after["audio"][0] > before["audio"][0]
    assert after["audio_error"][0] > before["audio_error"][0]
    torch.testing.assert_close(after["audio"][1:], before["audio"][1:])
    assert torch.equal(after["video"], before["video"])


def test_tokens_are_whitened_with_training_tokens():
    model = network()
    batch = inputs(64)
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    known = batch["video"].valid
    video = Tokens(torch.where(known[..., None], batch["video"].values @ mixing + 3.0, math.nan), known)
    nothing = Tokens(batch["audio"].values, torch.zeros_like(batch["audio"].valid))
    rows = batch["sensors"] * 2.0
    model.fit_normalisation(
        (
            Tokens(*(x[part] for x in video)),
            Tokens(*(x[part] for x in nothing)),
            rows[part],
            batch["sensors_mask"][part],
        )
        for part in (slice(0, 20), slice(20, 64))
    )
    out = model(video, nothing, rows, batch["sensors_mask"], None, batch["present"])
    white = out.targets["video"][known]
    torch.testing.assert_close(white.mean(dim=0), torch.zeros(16), atol=1e-3, rtol=0)
    spread = torch.linalg.eigvalsh(torch.cov(white.T))
    mixed = torch.linalg.eigvalsh(torch.cov(video.values[known].T))
    assert mixed.max() > 100 * mixed.min()
    assert 0.95 < spread.max() < 1.05
    assert torch.equal(model.get_buffer("audio_whitening"), torch.eye(12))
    torch.testing.assert_close(out.targets["sensors"].mean(dim=(0, 1)), torch.zeros(12), atol=0.1, rtol=0)
    assert out.restored_result is None
    assert "result" not in model.residuals(out)


def test_level_and_ripple_of_segments():
    rows = torch.zeros(1, 10, 1)
    rows[0, :5, 0] = torch.tensor([1.0, 3.0, 1.0, 3.0, 99.0])
    mask = torch.ones(1, 10, 1, dtype=torch.bool)
    mask[0, 4] = False
    mask[0, 5:] = False
    statistics, measured = segment_statistics(torch.where(mask, rows, 0.0), mask, 2)
    assert statistics[0, 0].tolist() == pytest.approx([2.0, 0.5 * math.log(1.0 + 0.05**2)], abs=1e-6)
    assert measured.tolist() == [[[True, True], [False, False]]]
    assert statistics[0, 1].tolist() == [0.0, 0.0]


def test_it_learns_what_belongs_together():
    """Good welds: sound and result follow from the picture; a weld with another's result stands out."""
    torch.manual_seed(0)
    model = CausalFilm(replace(CONFIG, process_tokens=16))
    mixing = [torch.randn(4, n) for n in (16, 12, 8)]

    def windows(count: int) -> dict[str, Any]:
        cause = torch.randn(count, 1, 4)
        video, audio, result = (
            cause @ m + 0.1 * torch.randn(count, n, m.shape[1]) for m, n in zip(mixing, (24, 10, 9), strict=True)
        )
        batch = inputs(count)
        batch["video"] = Tokens(video, torch.ones(count, 24, dtype=torch.bool))
        batch["audio"] = Tokens(audio, torch.ones(count, 10, dtype=torch.bool))
        return batch | {"result": result}

    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss, _ = model.loss(model(**windows(24)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    good = windows(32)
    swapped = good | {"result": good["result"].roll(1, dims=0)}
    right, wrong = (model.residuals(model(**batch))["result"] for batch in (good, swapped))
    assert right.mean() < 0.2
    assert (wrong > right).float().mean() > 0.9
    dubbed = good | {"audio": Tokens(good["audio"].values.roll(1, dims=0), good["audio"].valid)}
    right, wrong = (model.residuals(model(**batch))["audio"] for batch in (good, dubbed))
    assert (wrong > right).float().mean() > 0.9
    alone = [model.residuals(model(**batch))["result_only"].mean() for batch in (good, swapped)]
    torch.testing.assert_close(*alone)


def test_the_text_term_is_an_ablation():
    model = network(text_weight=0.1)
    out = model(**inputs())
    with pytest.raises(DetectorError, match="no text embedding"):
        model.loss(out)
    loss, parts = model.loss(out, torch.randn(8))
    assert 0.0 <= parts["text"] <= 0.2
    assert float(loss.detach()) == pytest.approx(sum(parts.values()), rel=1e-5)
    assert "text" not in network().loss(out)[1]


def test_wrong_sizes_are_named(model: CausalFilm):
    batch = inputs()
    short = Tokens(batch["video"].values[:, :5], batch["video"].valid[:, :5])
    with pytest.raises(DetectorError, match=r"video tokens are \(5, 16\), the model wants \(24, 16\)"):
        model(**batch | {"video": short})
    with pytest.raises(DetectorError, match=r"result tokens are \(3, 8\), the model wants \(9, 8\)"):
        model(**batch | {"result": batch["result"][:, :3]})
    for change, said in (
        ({"heads": 5}, "5 heads"),
        ({"process_tokens": 8}, "process_tokens is 8"),
        ({"result_tokens": 1}, "result_tokens is 1"),
        ({"bottleneck_dropout": 1.0}, "bottleneck_dropout"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(CONFIG, **change)
