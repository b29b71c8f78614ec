"""Result tokens: a frozen description of a weld's photos that does not depend on the order of the views.

They are what the process must predict, so nothing in them is trained (a target that learns together with its
prediction collapses). Patch features are normalised per patch and level (LayerNorm) and whitened with good training
patches. Then, per level: the largest and smallest value anywhere, mean and spread per horizontal band of the view, and
a soft histogram over a codebook of good patches. Where a fault may show in one view only, the largest value over the
views counts: the mean hides a crack.
Codebook: S. P. Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982 (k-means).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.detector_contract import DetectorError

_ROUNDS: Final = 15
"""Of k-means; the codebook hardly moves afterwards."""
_LEAST_POWER: Final = 0.01
"""Directions with less of the mean power than this are taken for noise and not magnified to the full."""
_PATCHES_PER_VIEW: Final = 32
_MAX_PATCHES: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultTokensConfig:
    """Sizes; stored in the checkpoint.

    Attributes:
        widths: C of each level of patch features.
        words: Words of each level's codebook.
        bands: Horizontal bands of a view.
    """

    widths: tuple[int, ...] = (64, 64, 64)
    words: int = 64
    bands: int = 3

    @property
    def tokens_per_level(self) -> int:
        """Largest, smallest, mean and spread per band, histogram averaged over views and at its largest."""
        return 4 + 2 * self.bands

    @property
    def tokens(self) -> int:
        """K."""
        return self.tokens_per_level * len(self.widths)

    @property
    def width(self) -> int:
        """R; narrower statistics are filled up with zeros."""
        return max(*self.widths, self.words)


class ResultTokens(nn.Module):
    """See the module; it has buffers only. Make one with `fit`, or load a state into one made from a configuration."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ResultTokensConfig) -> None:
        super().__init__()
        self.config = config
        for level, width in enumerate(config.widths):
            self.register_buffer(f"centre_{level}", torch.zeros(width))
            self.register_buffer(f"whitening_{level}", torch.eye(width))
            self.register_buffer(f"codebook_{level}", torch.zeros(config.words, width))
            self.register_buffer(f"softness_{level}", torch.ones(()))
        self.register_buffer("mean", torch.zeros(config.tokens, config.width))
        self.register_buffer("scale", torch.ones(config.tokens, config.width))

    @classmethod
    def fit(
        cls, levels_of_good_train: Iterable[list[Tensor]], config: ResultTokensConfig | None = None, *, seed: int = 0
    ) -> "ResultTokens":
        """Fit the codebooks and the normalisation on photos of good training welds.

        Args:
            levels_of_good_train: Patch features of batches of welds, as `WeldSmall.photos` gives them (dropped views
                are all zero). It is gone through twice: a list, or an object that starts anew, but no generator.
            config: Sizes; None takes the widths as they come, and the defaults.
            seed: Of the patches drawn and of the first codebook.

        Raises:
            DetectorError: There are too few welds with photos, their features have other widths than the
                configuration, or the second pass gave others.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn: list[list[Tensor]] = []
        widths: tuple[int, ...] = ()
        welds = 0
        for levels in levels_of_good_train:
            mask = _views(levels)
            welds += int(mask.any(dim=1).sum())
            widths = tuple(x.shape[-1] for x in levels)
            drawn.append([_draw(_normalised(x)[mask], generator) for x in levels])
        if welds < 2:
            raise DetectorError(f"result tokens need photos of at least 2 good training welds, found {welds}")
        config = config or ResultTokensConfig(widths=widths)
        if config.widths != widths:
            raise DetectorError(f"patch features have the widths {widths}, the result tokens want {config.widths}")
        tokens = cls(config)
        for level in range(len(widths)):
            patches = torch.cat([batch[level] for batch in drawn])
            centre, whitening = whitened(
                len(patches), patches.double().sum(dim=0), patches.double().T @ patches.double()
            )
            tokens.get_buffer(f"centre_{level}").copy_(centre)
            tokens.get_buffer(f"whitening_{level}").copy_(whitening)
            codebook, softness = _codebook(tokens._white(level, patches), config.words, generator)
            tokens.get_buffer(f"codebook_{level}").copy_(codebook)
            tokens.get_buffer(f"softness_{level}").copy_(softness)
        tokens._fit_normalisation(levels_of_good_train, welds)
        return tokens

    def _fit_normalisation(self, levels_of_good_train: Iterable[list[Tensor]], welds: int) -> None:
        rows = []
        for levels in levels_of_good_train:
            mask = _views(levels)
            rows.append(self(levels, mask)[mask.any(dim=1)])
        if sum(map(len, rows)) != welds:
            raise DetectorError(
                f"result tokens saw {welds} welds at first and {sum(map(len, rows))} afterwards; "
                "give the levels as a list, not as a generator"
            )
        table = torch.cat(rows).double()
        scale = table.std(dim=0)
        self.mean.copy_(table.mean(dim=0))
        # What hardly ever varies, such as an unused word, would otherwise count for its noise alone.
        floor = 0.1 * scale[scale > 0].median() if (scale > 0).any() else scale.new_ones(())
        self.scale.copy_(torch.where(scale > 0, scale.clamp_min(float(floor)), 1.0))

    @torch.no_grad()
    def forward(self, levels: list[Tensor], mask: Tensor) -> Tensor:
        """Describe the photos of each weld.

        Args:
            levels: Patch features `(B, N, P_l, C_l)`, row by row over the view.
            mask: `(B, N)`, true where there is a view.

        Returns:
            `(B, K, R)`, in standard deviations from the mean of good welds; zeros without a photo.
        """
        tokens = [
            functional.pad(token, (0, self.config.width - token.shape[-1]))
            for level, features in enumerate(levels)
            for token in self._statistics(level, features, mask)
        ]
        normal = (torch.stack(tokens, dim=1) - self.mean) / self.scale
        return torch.where(mask.any(dim=1)[:, None, None], normal, 0.0)

    def _statistics(self, level: int, features: Tensor, mask: Tensor) -> list[Tensor]:
        """Statistics `(B, C)` or `(B, words)` of one level."""
        seen = mask[..., None]  # (B, N, 1)
        patches = self._white(level, _normalised(torch.where(seen[..., None], features, 0.0)))  # (B, N, P, C)
        bands = patches.tensor_split(self.config.bands, dim=2)
        distance = torch.cdist(patches.flatten(0, 2), self.get_buffer(f"codebook_{level}")).square()
        words = torch.softmax(-distance / self.get_buffer(f"softness_{level}"), dim=-1)
        histogram = words.reshape(*patches.shape[:3], -1).mean(dim=2).sqrt()  # (B, N, words)
        return [
            _largest(patches.amax(dim=2), seen),
            -_largest(-patches.amin(dim=2), seen),
            *(_mean(band.mean(dim=2), seen) for band in bands),
            *(_largest(band.std(dim=2, correction=0), seen) for band in bands),
            _mean(histogram, seen),
            _largest(histogram, seen),
        ]

    def _white(self, level: int, patches: Tensor) -> Tensor:
        return (patches - self.get_buffer(f"centre_{level}")) @ self.get_buffer(f"whitening_{level}")


def whitened(count: int, total: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
    """Give centre `(C,)` and symmetric whitening `(C, C)` of features, so that all their directions count alike.

    Most features of one encoder say the same (how bright it is), and a cosine between them hardly sees the rest. The
    symmetric form changes each feature as little as possible.

    Args:
        count: Number of rows.
        total: Their sum, `(C,)`.
        products: Sum of their outer products, `(C, C)`.
    """
    centre = total / max(count, 1)
    covariance = products / max(count, 1) - torch.outer(centre, centre)
    powers, directions = torch.linalg.eigh(covariance)
    powers = powers.clamp_min(0.0)
    floor = _LEAST_POWER * powers.mean()
    if count < 2 or floor == 0.0:
        return centre, torch.eye(len(centre), dtype=centre.dtype)
    return centre, directions / (powers + floor).sqrt() @ directions.T


def _views(levels: list[Tensor]) -> Tensor:
    """Tell which views are there: dropped ones are zero."""
    return levels[0].flatten(2).abs().amax(dim=2) > 0.0


def _normalised(features: Tensor) -> Tensor:
    """LayerNorm over the features of a patch, without parameters."""
    return functional.layer_norm(features, features.shape[-1:])


def _largest(values: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, values, -torch.inf).amax(dim=1).nan_to_num(neginf=0.0)


def _mean(values: Tensor, seen: Tensor) -> Tensor:
    return torch.where(seen, values, 0.0).sum(dim=1) / seen.sum(dim=1).clamp_min(1)


def _draw(views: Tensor, generator: torch.Generator) -> Tensor:
    """Draw patches of views `(n, P, C)`, the same number of each."""
    count = min(_PATCHES_PER_VIEW, views.shape[1])
    order = torch.rand(views.shape[:2], generator=generator).argsort(dim=1)[:, :count].to(views.device)
    return views.gather(1, order[..., None].expand(-1, -1, views.shape[2])).flatten(0, 1).cpu()


def _codebook(patches: Tensor, words: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cluster patches `(n, C)`; returns the words and the mean squared distance to the nearest one."""
    patches = patches[torch.randperm(len(patches), generator=generator)[:_MAX_PATCHES]]
    codebook = patches[torch.arange(words) % len(patches)].clone()
    for _ in range(_ROUNDS):
        nearest = torch.cdist(patches, codebook).argmin(dim=1)
        count = torch.bincount(nearest, minlength=words)
        centres = torch.zeros_like(codebook).index_add_(0, nearest, patches) / count.clamp_min(1)[:, None]
        codebook = torch.where(count[:, None] > 0, centres, codebook)
    softness = torch.cdist(patches, codebook).amin(dim=1).square().mean()
    return codebook, softness.clamp_min(1e-6)
