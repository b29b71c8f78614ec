"""Causal-FiLM: what the process says, the result must show. Trained on good welds only.

Frozen tokens of the encoders come in, whitened with training statistics (they are input and target; a target that
learns together with its prediction collapses). Then:
- `SensorModulator` (FiLM): gas, current and voltage scale and shift the tokens of video and sound.
- `ProcessEncoder`: video tokens attend to sound tokens; a few process tokens remain.
- `Decoder`: a noisy bottleneck and linear attention, which generalise badly on purpose: what was never seen in good
  welds is not restored. It predicts each process modality from the others, restores the tokens of all of them together,
  predicts the result tokens from the process with learned queries, and restores them from themselves.
Whatever is missing, a modality or a token of it, is replaced by a learned token before the first layer.
FiLM: E. Perez et al., "FiLM: Visual reasoning with a general conditioning layer", AAAI 2018. Linear attention:
A. Katharopoulos et al., "Transformers are RNNs", ICML 2020. Bottleneck and loose decoder: J. Guo et al., "Dinomaly",
CVPR 2025.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from acquisition.packet import MODALITIES
from models.detector_contract import PHOTOS, PROCESS, DetectorError
from models.result_tokens import whitened
from models.small_encoders import Tokens

_SENSOR_STATE: Final = 64
_EPS: Final = 1e-6
_WORST_SHARE: Final = 0.02
"""Share of the elements whose mean error is the residual `<name>_error`: few of many, for faults are local."""
_MIN_RIPPLE: Final = 0.05
"""Training standard deviations; what ripples less is as good as constant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalFilmConfig:
    """Sizes, and the switches of the ablations; stored in the checkpoint.

    Attributes:
        width: D.
        video_tokens: Video tokens of a window.
        video_width: Their width.
        audio_tokens: Sound tokens of a window.
        audio_width: Their width.
        sensor_channels: F.
        sensor_tokens: Segments of a window of sensors that are predicted.
        result_tokens: K.
        result_width: R.
        process_tokens: P, 16 to 64.
        heads: Attention heads.
        ff: Hidden width of the process encoder's feed-forward layers; the decoders have 2D.
        encoder_blocks: Blocks of the process encoder.
        decoder_blocks: Blocks of each decoder.
        bottleneck_dropout: Of the noisy bottleneck.
        film: Sensors modulate video and sound; false: they are left out (ablation).
        attention: Of the decoders.
        noise: Whether the bottleneck is noisy (ablation).
        bidirectional: Sound attends to video too.
        sensor_encoder: What reads the sensors.
        fusion: `flat`: tokens of all modalities side by side instead of FiLM and video-asks-sound (ablation).
        smooth_l1: Weight of the smooth-L1 loss beside the cosine.
        text_weight: Weight of the distance between predicted result and text (ablation; CLIP image features only).
    """

    width: int = 128
    video_tokens: int = 96
    video_width: int = 128
    audio_tokens: int = 32
    audio_width: int = 128
    sensor_channels: int = 6
    sensor_tokens: int = 16
    result_tokens: int = 34
    result_width: int = 16
    process_tokens: int = 32
    heads: int = 4
    ff: int = 256
    encoder_blocks: int = 2
    decoder_blocks: int = 2
    bottleneck_dropout: float = 0.2
    film: bool = True
    attention: Literal["linear", "softmax"] = "linear"
    noise: bool = True
    bidirectional: bool = False
    sensor_encoder: Literal["gru", "conv"] = "gru"
    fusion: Literal["film", "flat"] = "film"
    smooth_l1: float = 1.0
    text_weight: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built or that make no sense."""
        if self.heads < 1 or self.width % self.heads:
            raise ValueError(f"width is {self.width}, which {self.heads} heads do not divide; change one of them")
        if not 16 <= self.process_tokens <= 64:
            raise ValueError(f"process_tokens is {self.process_tokens}; give 16 to 64")
        if self.result_tokens < 8:
            raise ValueError(f"result_tokens is {self.result_tokens}; one or few tokens cannot be attended to, give 8")
        if not 0.0 <= self.bottleneck_dropout < 1.0:
            raise ValueError(f"bottleneck_dropout is {self.bottleneck_dropout}; give a share from 0 to below 1")

    @property
    def target_widths(self) -> dict[str, int]:
        """Width of the tokens that are predicted, per process modality; sensors have a level and a ripple each."""
        return {"video": self.video_width, "audio": self.audio_width, "sensors": 2 * self.sensor_channels}

    @property
    def target_tokens(self) -> dict[str, int]:
        """Number of the tokens that are predicted, per process modality."""
        return {"video": self.video_tokens, "audio": self.audio_tokens, "sensors": self.sensor_tokens}


@dataclass(slots=True, kw_only=True)
class FilmOutput:
    """Everything the network says about a batch of windows; finite whatever is missing.

    Attributes:
        process: Process tokens `(B, P, D)`.
        predicted_result: Result tokens `(B, K, R)` as predicted from the process tokens of this window alone.
        restored_result: Result tokens `(B, K, R)` as restored from themselves; None without `result`.
        result: The frozen result tokens that were given.
        predicted: Per process modality, its tokens as predicted from the others.
        targets: The frozen whitened tokens that they are compared with.
        restored: Per process modality, its tokens as restored from those of all through the noisy bottleneck.
        known: Which tokens exist, `(B, N)` bool, for video, audio, sensors and result.
    """

    process: Tensor
    predicted_result: Tensor
    restored_result: Tensor | None
    result: Tensor | None
    predicted: dict[str, Tensor]
    targets: dict[str, Tensor]
    restored: dict[str, Tensor]
    known: dict[str, Tensor]


class CausalFilm(nn.Module):
    """See the module. Training or not is told by `self.training` alone."""

    def __init__(self, config: CausalFilmConfig) -> None:
        super().__init__()
        self.config = config
        width, counts = config.width, config.target_tokens
        for name, target_width in config.target_widths.items():
            self.register_buffer(f"{name}_mean", torch.zeros(target_width))
            self.register_buffer(f"{name}_whitening", torch.eye(target_width))
        self.inputs = nn.ModuleDict(
            {name: nn.Linear(target_width, width) for name, target_width in config.target_widths.items()}
            | {PHOTOS: nn.Linear(config.result_width, width)}
        )
        self.missing = nn.ParameterDict({name: _learned(width) for name in (*PROCESS, PHOTOS)})
        self.places = nn.ParameterDict(
            {name: _learned(counts[name], width) for name in PROCESS} | {PHOTOS: _learned(config.result_tokens, width)}
        )
        self.queries = nn.ParameterDict(
            {name: _learned(counts[name], width) for name in PROCESS} | {PHOTOS: _learned(config.result_tokens, width)}
        )
        self.outputs = nn.ModuleDict(
            {name: nn.Linear(width, target_width) for name, target_width in config.target_widths.items()}
            | {f"restored_{name}": nn.Linear(width, size) for name, size in config.target_widths.items()}
            | {PHOTOS: nn.Linear(width, config.result_width), "restored": nn.Linear(width, config.result_width)}
        )
        self.modulator = SensorModulator(config)
        self.process_encoder = ProcessEncoder(config)
        self.cross_decoder = Decoder(config)
        self.process_decoder = Decoder(config)
        self.result_decoder = Decoder(config)
        self.restoring_decoder = Decoder(config)

    def forward(
        self,
        video: Tokens,
        audio: Tokens,
        sensors: Tensor,
        sensors_mask: Tensor,
        result: Tensor | None,
        present: Tensor,
    ) -> FilmOutput:
        """Look at a batch of windows.

        Args:
            video: Frozen video tokens of the windows.
            audio: Frozen sound tokens of the windows.
            sensors: `(B, S, F)`, normalised with training statistics.
            sensors_mask: `(B, S, F)`.
            result: Frozen result tokens `(B, K, R)` of the weld of each window, or None.
            present: `(B, 4)` bool in the order of `MODALITIES`; what is not present is not looked at.

        Raises:
            DetectorError: The tokens have other numbers or widths than the configuration.
        """
        here: dict[str, Tensor] = {name: present[:, i, None] for i, name in enumerate(MODALITIES)}
        sensors_mask = sensors_mask & here["sensors"][..., None]
        sensors = torch.where(sensors_mask, sensors, 0.0)
        inputs, known = {}, {}
        for name, tokens in (("video", video), ("audio", audio)):
            self._check(name, tokens.values)
            known[name] = tokens.valid & here[name]
            inputs[name] = self._white(name, tokens.values, known[name])
        rows, measured = segment_statistics(sensors, sensors_mask, self.config.sensor_tokens)
        known["sensors"] = measured.any(dim=-1)
        # A channel that is missing takes its mean, so that it says nothing about the others.
        rows = torch.where(measured, rows, self.get_buffer("sensors_mean"))
        inputs["sensors"] = self._white("sensors", rows, known["sensors"])
        seen = {name: self._tokens(name, inputs[name], known[name]) for name in PROCESS}
        heard = [seen[name] for name in ("video", "audio")]
        state = self.modulator.state(sensors, known["sensors"].any(dim=1))
        without = self.modulator.state(sensors, torch.zeros_like(present[:, 0]))
        process = self.process_encoder(seen, self.modulator, state)
        predicted = {
            "video": self._predicted("video", self.modulator(seen["audio"], state)),
            "audio": self._predicted("audio", self.modulator(seen["video"], state)),
            "sensors": self._predicted("sensors", self.modulator(torch.cat(heard, dim=1), without)),
        }
        restored = None
        if result is not None:
            known["result"] = here[PHOTOS].expand(-1, self.config.result_tokens)
            result = torch.where(here[PHOTOS][..., None], result, 0.0).detach()
            restored = self.restore_result(result, present[:, MODALITIES.index(PHOTOS)])
        return FilmOutput(
            process=process,
            predicted_result=self.predict_result(process),
            restored_result=restored,
            result=result,
            predicted=predicted,
            targets={name: values.detach() for name, values in inputs.items()},
            restored=self._restored(seen),
            known=known,
        )

    def predict_result(self, process: Tensor, valid: Tensor | None = None) -> Tensor:
        """Predict the result tokens `(B, K, R)` of whole welds.

        Args:
            process: Process tokens of all windows of each weld, `(B, W*P, D)`, in any order.
            valid: `(B, W*P)`, false where a weld has fewer windows than others; None = all are valid.
        """
        if valid is not None:
            process = torch.where(valid[..., None], process, 0.0)
        queries = self.queries[PHOTOS].expand(len(process), -1, -1)
        memory = self.result_decoder.bottleneck(process)
        predicted: Tensor = self.outputs[PHOTOS](self.result_decoder(queries, memory, valid))
        return predicted

    def restore_result(self, result: Tensor, present: Tensor) -> Tensor:
        """Restore result tokens `(B, K, R)` from themselves; `present` is `(B,)`, false where there are no photos."""
        if result.shape[1:] != (self.config.result_tokens, self.config.result_width):
            wanted = (self.config.result_tokens, self.config.result_width)
            raise DetectorError(f"result tokens are {tuple(result.shape[1:])}, the model wants {wanted}")
        known = present[:, None].expand(result.shape[:2])
        tokens = self._tokens(PHOTOS, torch.where(known[..., None], result, 0.0), known)
        noisy = self.restoring_decoder.bottleneck(tokens)
        restored: Tensor = self.outputs["restored"](self.restoring_decoder(noisy, noisy))
        return restored

    def loss(self, out: FilmOutput, text: Tensor | None = None) -> tuple[Tensor, dict[str, float]]:
        """Compare everything that was predicted or restored with its frozen target.

        Args:
            out: Of `forward`.
            text: Embedding `(R,)` of the sentence for a good weld, wanted when `text_weight` is not zero.

        Returns:
            The loss, zero where there is nothing to compare, and its parts for the log.
        """
        terms = {name: self._distance(*pair, out.known[key]) for name, (pair, key) in _pairs(out).items()}
        if self.config.text_weight:
            if text is None:
                raise DetectorError("text_weight is not zero, but no text embedding was given")
            near = functional.cosine_similarity(out.predicted_result.mean(dim=1), text.detach(), dim=-1)
            terms["text"] = self.config.text_weight * (1.0 - near).mean()
        return torch.stack([*terms.values()]).sum(), {name: float(term.detach()) for name, term in terms.items()}

    def result_loss(
        self, predicted: Tensor, restored: Tensor, result: Tensor, present: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Compare the results of whole welds: `predict_result` and `restore_result` with the frozen tokens.

        Args:
            predicted: `(B, K, R)`.
            restored: `(B, K, R)`.
            result: `(B, K, R)`.
            present: `(B,)`, false where there are no photos.
        """
        known = present[:, None].expand(result.shape[:2])
        result = torch.where(known[..., None], result, 0.0).detach()
        terms = {
            "result": self._distance(predicted, result, known),
            "result_only": self._distance(restored, result, known),
        }
        return torch.stack([*terms.values()]).sum(), {name: float(term.detach()) for name, term in terms.items()}

    @torch.no_grad()
    def residuals(self, out: FilmOutput) -> dict[str, Tensor]:
        """Tell how wrong each prediction is, per sample.

        Returns:
            For video, audio, sensors (each predicted from the others), restored_video, restored_audio and
            restored_sensors, result (predicted by this window) and result_only (restored): `<name>` `(B,)`, mean cosine
            distance of its tokens; `<name>_error` `(B,)`, mean of its largest absolute errors, in whitened units; and
            `<name>_tokens` `(B, N)`, the distance of each token. NaN where the modality is missing: there is nothing to
            compare.
        """
        found: dict[str, Tensor] = {}
        for name, (pair, key) in _pairs(out).items():
            found |= _residuals(name, *pair, out.known[key])
        return found

    @torch.no_grad()
    def result_residuals(self, name: str, found: Tensor, result: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Give the same three residuals for the `found` result tokens `(B, K, R)` of whole welds; see `residuals`."""
        return _residuals(name, found, result, present[:, None].expand(result.shape[:2]))

    @torch.no_grad()
    def fit_normalisation(self, batches: Iterable[tuple[Tokens, Tokens, Tensor, Tensor]]) -> None:
        """Take mean and whitening of the frozen tokens from good training windows; call it once, before training.

        Args:
            batches: Video tokens, sound tokens, sensors and their mask, as `forward` takes them. A modality that is
                never there is left as it comes.
        """
        counts = dict.fromkeys(PROCESS, 0)
        totals = {m: torch.zeros(n, dtype=torch.float64) for m, n in self.config.target_widths.items()}
        products = {m: torch.zeros(n, n, dtype=torch.float64) for m, n in self.config.target_widths.items()}
        for video, audio, sensors, sensors_mask in batches:
            rows, measured = segment_statistics(
                torch.where(sensors_mask, sensors, 0.0), sensors_mask, self.config.sensor_tokens
            )
            tokens = {"video": video, "audio": audio, "sensors": Tokens(rows, measured.any(dim=-1))}
            for name, (values, valid) in tokens.items():
                x = values[valid].double().cpu()  # (n, D)
                counts[name] += len(x)
                totals[name] += x.sum(dim=0)
                products[name] += x.T @ x
        for name in PROCESS:
            mean, whitening = whitened(counts[name], totals[name], products[name])
            self.get_buffer(f"{name}_mean").copy_(mean)
            self.get_buffer(f"{name}_whitening").copy_(whitening)

    def _check(self, name: str, values: Tensor) -> None:
        wanted = (self.config.target_tokens[name], self.config.target_widths[name])
        if values.shape[1:] != wanted:
            raise DetectorError(f"{name} tokens are {tuple(values.shape[1:])}, the model wants {wanted}")

    def _white(self, name: str, values: Tensor, known: Tensor) -> Tensor:
        """Whiten frozen tokens with training statistics; zero where not known."""
        values = torch.where(known[..., None], values, 0.0)
        white = (values - self.get_buffer(f"{name}_mean")) @ self.get_buffer(f"{name}_whitening")
        return torch.where(known[..., None], white, 0.0)

    def _tokens(self, name: str, values: Tensor, known: Tensor) -> Tensor:
        """Project tokens to `(B, N, D)` and mark their places; the learned token stands for each that is missing."""
        tokens: Tensor = (
            torch.where(known[..., None], self.inputs[name](values), self.missing[name]) + self.places[name]
        )
        return tokens

    def _predicted(self, name: str, memory: Tensor) -> Tensor:
        queries = self.queries[name].expand(len(memory), -1, -1)
        predicted: Tensor = self.outputs[name](self.cross_decoder(queries, self.cross_decoder.bottleneck(memory)))
        return predicted

    def _restored(self, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        """Restore the frozen tokens of all process modalities from all of them together."""
        noisy = self.process_decoder.bottleneck(torch.cat([seen[name] for name in PROCESS], dim=1))
        decoded = self.process_decoder(noisy, noisy).split([seen[name].shape[1] for name in PROCESS], dim=1)
        return {name: self.outputs[f"restored_{name}"](part) for name, part in zip(PROCESS, decoded, strict=True)}

    def _distance(self, found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
        """Mean over the known tokens of cosine distance and weighted smooth-L1."""
        per_token = 1.0 - functional.cosine_similarity(found, wanted, dim=-1)
        if self.config.smooth_l1:
            per_token = per_token + self.config.smooth_l1 * functional.smooth_l1_loss(
                found, wanted, reduction="none"
            ).mean(dim=-1)
        return (per_token * known).sum() / known.sum().clamp_min(1)


class SensorModulator(nn.Module):
    """Feature-wise linear modulation by the sensors: `F (1 + gamma) + beta`, the identity before training."""

    def __init__(self, config: CausalFilmConfig) -> None:
        super().__init__()
        self.film = config.film and config.fusion == "film"
        self.flat = config.fusion == "flat"
        self.reader: nn.Module
        if config.sensor_encoder == "gru":
            self.reader = nn.GRU(config.sensor_channels, _SENSOR_STATE, num_layers=2, batch_first=True)
        else:
            self.reader = nn.Sequential(
                nn.Conv1d(config.sensor_channels, _SENSOR_STATE, 5, stride=2, padding=2),
                nn.GELU(),
                nn.Conv1d(_SENSOR_STATE, _SENSOR_STATE, 5, stride=2, padding=2),
                nn.GELU(),
                nn.AdaptiveAvgPool1d(1),
            )
        self.missing = _learned(_SENSOR_STATE)
        if self.flat:
            self.head = nn.Linear(_SENSOR_STATE, config.width)
        else:
            self.head = nn.Linear(_SENSOR_STATE, 2 * config.width)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def state(self, sensors: Tensor, known: Tensor) -> Tensor:
        """Sum up the sensors of each window, `(B, 64)`; a learned state where `known` `(B,)` is false."""
        if isinstance(self.reader, nn.GRU):
            state = self.reader(sensors)[1][-1]
        else:
            state = self.reader(sensors.mT)[..., 0]
        return torch.where(known[:, None], state, self.missing)

    def forward(self, tokens: Tensor, state: Tensor) -> Tensor:
        """Modulate tokens `(B, N, D)`; flat fusion appends the state as one more token instead."""
        if self.flat:
            return torch.cat([tokens, self.head(state)[:, None]], dim=1)
        if not self.film:
            return tokens
        gamma, beta = self.head(state)[:, None].chunk(2, dim=-1)
        modulated: Tensor = tokens * (1.0 + gamma) + beta
        return modulated


class ProcessEncoder(nn.Module):
    """Modulated video tokens ask modulated sound tokens; `process_tokens` remain."""

    def __init__(self, config: CausalFilmConfig) -> None:
        super().__init__()
        self.config = config
        blocks = config.encoder_blocks
        self.blocks = nn.ModuleList([Block(config.width, config.heads, config.ff, "softmax") for _ in range(blocks)])
        self.reverse = nn.ModuleList(
            [Block(config.width, config.heads, config.ff, "softmax") for _ in range(blocks * config.bidirectional)]
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, seen: dict[str, Tensor], modulator: SensorModulator, state: Tensor) -> Tensor:
        """Give process tokens `(B, P, D)` of projected video and sound tokens."""
        if self.config.fusion == "flat":
            process = self._pooled(seen["video"])
            sound = modulator(torch.cat([seen["video"], seen["audio"]], dim=1), state)
        else:
            video, sound = modulator(seen["video"], state), modulator(seen["audio"], state)
            process = self._pooled(video)
        for block in self.blocks:
            process = block(process, sound)
        if self.config.bidirectional:
            back, asked = self._pooled(sound), modulator(seen["video"], state)
            for block in self.reverse:
                back = block(back, asked)
            process = process + back
        tokens: Tensor = self.norm(process)
        return tokens

    def _pooled(self, tokens: Tensor) -> Tensor:
        """Average neighbours: `(B, N, D)` to `(B, P, D)`."""
        return functional.adaptive_avg_pool1d(tokens.mT, self.config.process_tokens).mT


class Decoder(nn.Module):
    """Noisy bottleneck and blocks of attention; see the module."""

    def __init__(self, config: CausalFilmConfig) -> None:
        super().__init__()
        width = config.width
        self.bottleneck = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Dropout(config.bottleneck_dropout if config.noise else 0.0),
            nn.Linear(width // 2, width),
        )
        self.blocks = nn.ModuleList(
            [Block(width, config.heads, 2 * width, config.attention) for _ in range(config.decoder_blocks)]
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Let queries `(B, Q, D)` ask the memory `(B, M, D)` that has passed the bottleneck; `valid` is `(B, M)`."""
        for block in self.blocks:
            queries = block(queries, memory, valid)
        decoded: Tensor = self.norm(queries)
        return decoded


class Block(nn.Module):
    """Attention to a memory and a feed-forward layer, each behind a LayerNorm and beside a residual."""

    def __init__(self, width: int, heads: int, ff: int, attention: Literal["linear", "softmax"]) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm_queries, self.norm_memory, self.norm_ff = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.ff = nn.Sequential(nn.Linear(width, ff), nn.GELU(), nn.Linear(ff, width))

    def forward(self, queries: Tensor, memory: Tensor, valid: Tensor | None = None) -> Tensor:
        """Let queries `(B, Q, D)` ask the memory `(B, M, D)`; `valid` is `(B, M)`, None = all."""
        normal = self.norm_memory(memory)
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).movedim(2, 1)  # (B, heads, n, D/heads)
            for x in (self.query(self.norm_queries(queries)), self.key(normal), self.value(normal))
        )
        if self.attention == "linear":
            answer = linear_attention(q, k, v, valid)
        else:
            answer = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=None if valid is None else valid[:, None, None]
            )
        queries = queries + self.out(answer.movedim(1, 2).flatten(2))
        out: Tensor = queries + self.ff(self.norm_ff(queries))
        return out


def linear_attention(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """Attend with the kernel `phi = elu + 1`, in float32 whatever comes in.

    Args:
        q: `(B, heads, Q, d)`.
        k: `(B, heads, M, d)`.
        v: `(B, heads, M, d)`.
        valid: `(B, M)`, None = all; where nothing is valid the answer is zero.

    Returns:
        `(B, heads, Q, d)` in the dtype of `v`.
    """
    with torch.autocast(q.device.type, enabled=False):
        fq, fk = functional.elu(q.float()) + 1.0, functional.elu(k.float()) + 1.0
        if valid is not None:
            fk = fk * valid[:, None, :, None]
        memory = fk.mT @ v.float()  # (B, heads, d, d)
        z = 1.0 / (fq @ fk.sum(dim=2)[..., None] + _EPS)  # (B, heads, Q, 1)
        return ((fq @ memory) * z).to(v.dtype)


def segment_statistics(sensors: Tensor, mask: Tensor, segments: int) -> tuple[Tensor, Tensor]:
    """Level and ripple of each channel in equal parts of the window: what is predicted of the sensors.

    Args:
        sensors: `(B, S, F)`, zero where the mask is false.
        mask: `(B, S, F)`.
        segments: Number of parts.

    Returns:
        `(B, segments, 2F)`: means, then logarithms of the standard deviations; and where they were measured.
    """
    rows = sensors.shape[1]
    share = functional.one_hot(torch.arange(rows, device=sensors.device) * segments // rows, segments).float().T
    count = share @ mask.float()  # (B, segments, F)
    mean = (share @ sensors) / count.clamp_min(1.0)
    power = (share @ sensors.square()) / count.clamp_min(1.0)
    ripple = ((power - mean.square()).clamp_min(0.0) + _MIN_RIPPLE**2).log() / 2.0
    measured = (count > 0.0).repeat(1, 1, 2)
    return torch.where(measured, torch.cat([mean, ripple], dim=-1), 0.0), measured


def _pairs(out: FilmOutput) -> dict[str, tuple[tuple[Tensor, Tensor], str]]:
    """List what is compared with what, and which tokens of it exist."""
    pairs = {name: ((out.predicted[name], out.targets[name]), name) for name in PROCESS}
    pairs |= {f"restored_{name}": ((out.restored[name], out.targets[name]), name) for name in PROCESS}
    if out.result is not None and out.restored_result is not None:
        pairs["result"] = ((out.predicted_result, out.result), "result")
        pairs["result_only"] = ((out.restored_result, out.result), "result")
    return pairs


def _residuals(name: str, found: Tensor, wanted: Tensor, known: Tensor) -> dict[str, Tensor]:
    tokens = 1.0 - functional.cosine_similarity(found, wanted, dim=-1)  # (B, N)
    some = known.any(dim=1)
    error = ((found - wanted).abs() * known[..., None]).flatten(1)
    worst = error.topk(max(1, round(_WORST_SHARE * error.shape[1])), dim=1).values.mean(dim=1)
    mean = (tokens * known).sum(dim=1) / known.sum(dim=1).clamp_min(1)
    return {
        name: torch.where(some, mean, torch.nan),
        f"{name}_error": torch.where(some, worst, torch.nan),
        f"{name}_tokens": torch.where(known, tokens, torch.nan),
    }


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.02)
