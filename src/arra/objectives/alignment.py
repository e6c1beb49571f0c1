"""Representation alignment: hidden states are pulled towards a frozen encoder's features.

ARRA (arXiv 2503.07334, section 3): at every position whose output predicts an image token (the
role called HYBNEXT), the state after block i is projected and compared with one global feature of
the whole target picture. The loss and its projector exist in training only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from arra.errors import InputError
from arra.files import to_plain
from arra.generators.base import Batch, Output
from arra.objectives.base import Objective
from arra.objectives.targets import AttentionPool, on_grids, spatially_normalised
from arra.randomness import seeded
from arra.registry import objectives
from arra.settings import AlignmentConfig

Grid = tuple[int, int] | Sequence[tuple[int, int]]
"""Rows and columns of codes; of several scales those of each, coarse to fine."""


@objectives.register("alignment")
class Alignment(Objective):
    """lambda * mean over samples and positions of the distance between projection and feature."""

    name = "alignment"

    def __init__(
        self,
        config: AlignmentConfig,
        width: int,
        features: int,
        grid: Grid | None = None,
        *,
        seed: int = 0,
        name: str = "alignment",
    ):
        """`width` D of the states, `features` D_F of the target (both: twice the encoder's width),
        `grid` rows and columns of codes, or those of every scale (needed by the targets patch and
        attention); `seed` of the projector and of the attention; `name` under which the loss is
        logged."""
        super().__init__()
        if config.target in ("patch", "attention") and grid is None:
            raise InputError(f"Alignment.grid: the target {config.target} needs the grid of codes")
        self.config, self.grid, self.layers, self.name = config, grid, config.layers, name
        self.grids = _grids(grid)
        self.features = config.feature_names
        with seeded(seed):
            self.projectors = nn.ModuleDict(
                {str(layer): _Compared(config, width, features) for layer in self.layers}
            )
            self.attention: AttentionPool | None = None
            if config.target == "attention":
                self.attention = AttentionPool(features, self.grids[-1])

    @classmethod
    def tiny(cls, width: int, features: int) -> Self:
        return cls(AlignmentConfig(), width, features)

    def weight(self, step: int) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.weight
        left = max(0.0, 1.0 - step / config.until)
        return config.weight * (left if config.schedule == "anneal" else float(left > 0))

    def compile_blocks(self) -> None:
        """Compile projector and distance in place: of a small model casts and element-wise work
        take longer than the products, and fused a third less."""
        for compared in self.projectors.values():
            compared.compile()

    def settings(self) -> dict[str, Any]:
        return {**to_plain(self.config), "grid": None if self.grid is None else list(self.grid)}

    def forward(self, output: Output, batch: Batch) -> Tensor:
        """Mean distance: for cosine 0 (equal direction) to 2 (opposite)."""
        aligned, place = self._positions(batch)
        # whole rows by their number: several times cheaper than by a mask, back and forth
        chosen = aligned.flatten().nonzero().squeeze(1)
        sample, place = batch.segment.flatten()[chosen], place.flatten()[chosen]
        target, redrawing = self._target(batch, sample, place)
        losses = []
        for layer in self.layers:
            states = output.hidden[layer].flatten(0, 1).index_select(0, chosen)
            losses.append(self.projectors[str(layer)](states, target))
        per_position = torch.stack(losses).mean(dim=0)
        loss = _mean_over_samples(per_position, sample, batch.samples)
        if redrawing is None:
            return loss
        # The gradient of another loss and nothing of its value. It is small, so that it hardly
        # counts where the norm of all gradients is clipped; Adam sees no difference.
        return loss + _REDRAWING * (redrawing - redrawing.detach())

    def _positions(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(R, T) bool which positions are aligned, and (R, T) which place each of them is about."""
        how, place = self.config.positions, batch.place
        if how == "read":
            if batch.read is None:
                raise InputError(
                    "AlignmentConfig.positions: 'read', but this generator's batches do not say "
                    "which place a position reads"
                )
            return batch.read >= 0, batch.read
        if how != "hybnext":
            return batch.image & (place == (0 if how == "rep" else place.max())), place
        if self.config.target == "patch":
            return batch.image & (place >= 0), place
        return batch.image, place  # codes without a place of their own have the global target too

    def _target(self, batch: Batch, sample: Tensor, place: Tensor) -> tuple[Tensor, Tensor | None]:
        """(M, D_F) the feature that each aligned position is pulled towards, without a gradient;
        and the loss that trains a learned target."""
        missing = [name for name in self.config.feature_names if name not in batch.features]
        if missing:
            raise InputError(
                f"Alignment.target: {self.config.target!r} needs the feature {missing[0]!r}, which "
                "the store does not hold; prepare it with that encoder and aggregation"
            )
        parts = [batch.features[name].detach().float() for name in self.config.feature_names]
        if self.config.target == "patch":
            patches = on_grids(parts[0], self.grids)
            if self.config.spatial_norm is not None:
                patches = spatially_normalised(patches, self.config.spatial_norm)
            row = sample * patches.shape[1] + place
            return patches.flatten(0, 1).index_select(0, row), None
        if self.attention is not None:
            pooled, redrawing = self.attention(parts[0])
            return pooled.detach().index_select(0, sample), redrawing
        return torch.cat(parts, dim=-1).index_select(0, sample), None


_REDRAWING = 0.01


def alignments(
    terms: Sequence[AlignmentConfig],
    shapes: Mapping[str, Sequence[int]],
    width: int,
    grid: Grid,
    *,
    seed: int,
) -> list[Objective]:
    """An objective for each of `terms` whose weight is not 0, named alignment, alignment_2, ...

    `shapes` are those of the features of a store, `width` that of the hidden states. Raises
    `InputError` where a term needs a feature that is not there.
    """
    found: list[Objective] = []
    for number, term in enumerate(terms):
        if term.weight == 0:
            continue
        if missing := [name for name in term.feature_names if name not in shapes]:
            raise InputError(
                f"alignment with target {term.target!r} needs the features {missing[0]!r}, the "
                f"store has {', '.join(shapes) or 'none at all'}"
            )
        features = sum(shapes[name][-1] for name in term.feature_names)
        name = f"alignment_{number + 1}" if number else "alignment"
        found.append(Alignment(term, width, features, grid, seed=seed + number, name=name))
    return found


def _grids(grid: Grid | None) -> tuple[tuple[int, int], ...]:
    """All grids: none, one, or one a scale."""
    if grid is None:
        return ()
    several = (grid,) if isinstance(grid[0], int) else grid
    return cast(tuple[tuple[int, int], ...], tuple(several))


class _Pool(nn.Module):
    """Channels averaged or repeated until there are as many as the feature has; no parameters."""

    def __init__(self, features: int):
        super().__init__()
        self.features = features

    def forward(self, hidden: Tensor) -> Tensor:
        return F.adaptive_avg_pool1d(hidden[:, None], self.features)[:, 0]


def _projector(config: AlignmentConfig, width: int, features: int) -> nn.Module:
    if config.projector == "linear":
        return nn.Linear(width, features)
    if config.projector == "pool":
        return _Pool(features)
    if config.projector == "mlp3":  # REPA's (2410.06940, appendix), also LlamaGen-REPA's
        hidden = config.hidden or 2048
        return nn.Sequential(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, features),
        )
    hidden = config.hidden or features
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, features))


class _Compared(nn.Module):
    """A projector and the distance of what it gives from the target."""

    def __init__(self, config: AlignmentConfig, width: int, features: int):
        super().__init__()
        self.projector, self.similarity = _projector(config, width, features), config.similarity

    def forward(self, states: Tensor, target: Tensor) -> Tensor:
        """(M,) distances of states (M, D) from targets (M, D_F)."""
        return _distance(self.projector(states).float(), target, self.similarity)


def _distance(projected: Tensor, target: Tensor, similarity: str) -> Tensor:
    """(M,) distance of each row."""
    if projected.shape != target.shape:
        raise InputError(
            f"Alignment.features: the projector gives {projected.shape[-1]} channels, the stored "
            f"features have {target.shape[-1]}"
        )
    if similarity == "cosine":
        if torch.compiler.is_compiling():  # the compiler fuses the plain form
            return 1.0 - F.cosine_similarity(projected, target, dim=-1, eps=_SHORTEST)
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
