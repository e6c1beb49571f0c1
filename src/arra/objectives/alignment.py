"""Representation alignment: hidden states are pulled towards a frozen encoder's features.

ARRA (arXiv 2503.07334, section 3): at every position whose output predicts an image token (the
role called HYBNEXT), the state after block i is projected and compared with one global feature of
the whole target picture. The loss and its projector exist in training only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from arra.errors import InputError
from arra.files import to_plain
from arra.generators.base import Batch, Output
from arra.objectives.base import Objective
from arra.randomness import seeded
from arra.registry import objectives
from arra.settings import AlignmentConfig


@objectives.register("alignment")
class Alignment(Objective):
    """lambda * mean over samples and positions of the distance between projection and feature."""

    name = "alignment"

    def __init__(
        self,
        config: AlignmentConfig,
        width: int,
        features: int,
        grid: tuple[int, int] | None = None,
        *,
        seed: int = 0,
    ):
        """`width` D of the states, `features` D_F of the target (both: twice the encoder's width),
        `grid` rows and columns of codes (needed by the patch target); `seed` of the projector."""
        super().__init__()
        if config.target == "patch" and grid is None:
            raise InputError("Alignment.grid: the patch target needs the grid of codes")
        self.config, self.grid, self.layers = config, grid, config.layers
        with seeded(seed):
            self.projectors = nn.ModuleDict(
                {str(layer): _projector(config.projector, width, features) for layer in self.layers}
            )

    @classmethod
    def tiny(cls, width: int, features: int) -> Self:
        return cls(AlignmentConfig(), width, features)

    def weight(self, step: int) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.weight
        left = max(0.0, 1.0 - step / config.until)
        return config.weight * (left if config.schedule == "anneal" else float(left > 0))

    def settings(self) -> dict[str, Any]:
        return {**to_plain(self.config), "grid": None if self.grid is None else list(self.grid)}

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Mean distance: for cosine 0 (equal direction) to 2 (opposite)."""
        # whole rows by their number: several times cheaper than by a mask, back and forth
        chosen = self._positions(batch).flatten().nonzero().squeeze(1)
        sample, place = batch.segment.flatten()[chosen], batch.place.flatten()[chosen]
        target = self._target(batch, sample, place)
        losses = []
        for layer in self.layers:
            states = output.hidden[layer].flatten(0, 1).index_select(0, chosen)
            projected = self.projectors[str(layer)](states).float()
            losses.append(_distance(projected, target, self.config.similarity))
        per_position = torch.stack(losses).mean(dim=0)
        return _mean_over_samples(per_position, sample, batch.samples)

    def _positions(self, batch: Batch) -> Tensor:
        """(R, T) bool: the positions that are aligned, found by what they predict."""
        if self.config.positions == "hybnext":
            return batch.image
        if self.config.positions == "rep":
            return batch.place == 0
        return batch.image & (batch.place == batch.place.max())

    def _target(self, batch: Batch, sample: Tensor, place: Tensor) -> Tensor:
        """(M, D_F) the feature that each aligned position is pulled towards; no gradient."""
        missing = [name for name in self.config.feature_names if name not in batch.features]
        if missing:
            raise InputError(
                f"Alignment.target: {self.config.target!r} needs the feature {missing[0]!r}, which "
                "the store does not hold; prepare it with that aggregation"
            )
        if self.config.target == "patch":
            assert self.grid is not None
            patches = on_grid(batch.features["patches"].float(), self.grid)
            return patches[sample, place].detach()
        parts = [batch.features[name].float() for name in self.config.feature_names]
        return torch.cat(parts, dim=-1).detach().index_select(0, sample)


def on_grid(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch vectors (B, N, D) of a square grid, resampled to rows x columns: (B, n, D)."""
    count, width = patches.shape[1:]
    side = round(count**0.5)
    if side * side != count:
        raise InputError(f"patches: {count} of them, expected a square number")
    if (side, side) == grid:
        return patches
    square = patches.transpose(1, 2).reshape(len(patches), width, side, side)
    fitted = F.interpolate(square, size=grid, mode="bilinear", antialias=True, align_corners=False)
    return fitted.flatten(2).transpose(1, 2)


class _Pool(nn.Module):
    """Channels averaged or repeated until there are as many as the feature has; no parameters."""

    def __init__(self, features: int):
        super().__init__()
        self.features = features

    def forward(self, hidden: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(hidden[:, None], self.features)[:, 0]


def _projector(kind: str, width: int, features: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, features)
    if kind == "pool":
        return _Pool(features)
    return nn.Sequential(nn.Linear(width, features), nn.GELU(), nn.Linear(features, features))


def _distance(projected: Tensor, target: Tensor, similarity: str) -> Tensor:
    """(M,) distance of each row."""
    if projected.shape != target.shape:
        raise InputError(
            f"Alignment.features: the projector gives {projected.shape[-1]} channels, the stored "
            f"features have {target.shape[-1]}"
        )
    if similarity == "cosine":
        return 1.0 - _Cosine.apply(projected, F.normalize(target, dim=-1))
    return (projected - target).square().mean(dim=-1)


class _Cosine(torch.autograd.Function):
    """`F.cosine_similarity` of rows (M, D) with constant rows of length 1, at a third of its cost.

    With c = <p, u> / |p| the gradient is u / |p| - c p / |p|^2: two passes instead of seven.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, units: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        inverse = length.clamp_min(_SHORTEST).reciprocal()
        cosine = torch.linalg.vecdot(rows, units).unsqueeze(-1) * inverse
        ctx.save_for_backward(rows, units, inverse, cosine)
        return cosine.squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows, units, inverse, cosine = ctx.saved_tensors
        scale = gradient.unsqueeze(-1) * inverse
        return torch.addcmul(units * scale, rows, -scale * cosine * inverse), None


_SHORTEST = 1e-8
"""Rows shorter than this count as this long, as in `F.cosine_similarity`."""


def _mean_over_samples(values: Tensor, sample: Tensor, samples: int) -> Tensor:
    """Mean over each sample's positions, then over samples."""
    count = torch.bincount(sample, minlength=samples).clamp(min=1)
    return (values / count[sample]).sum() / samples


def feature_width(config: AlignmentConfig, features: Mapping[str, Tensor]) -> int:
    """D_F of the target, from the features of a store or batch."""
    return sum(features[name].shape[-1] for name in config.feature_names)
