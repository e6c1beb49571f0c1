"""What hidden states are aligned with, where that is more than a stored vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arra.errors import InputError

_WIDTH = 256  # of the decoder that judges an attention
_HEADS = 4


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


def on_grids(patches: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
    """Patch vectors (B, N, D) on each of several grids, one after another: (B, n, D).

    They are resampled to the last grid; a cell of another one has the mean of what it covers there.
    """
    last = on_grid(patches, grids[-1])
    if len(grids) == 1:
        return last
    square = last.transpose(1, 2).unflatten(2, grids[-1])
    means = [F.adaptive_avg_pool2d(square, grid).flatten(2).transpose(1, 2) for grid in grids]
    return torch.cat(means, dim=1)


def spatially_normalised(patches: Tensor, share: float) -> Tensor:
    """Patches (B, N, D), each channel z-scored over the places of its picture: (z - share m) / s.

    iREPA (as GEAR uses it for targets other than DINO, with share 0.6): what all patches of a
    picture have in common is weakened, where they differ counts more.
    """
    deviation, mean = torch.std_mean(patches, dim=1, keepdim=True, correction=0)
    return (patches - share * mean) / (deviation + 1e-6)


class AttentionPool(nn.Module):
    """One vector a picture, (B, D): its patches (B, N, D) weighed by learned queries.

    A pool that the alignment itself trained would look for whatever is easiest to predict: patches
    that are alike in all pictures. So alignment takes the vector as a constant, and the queries are
    trained to keep what the picture shows: a small decoder, thrown away like the projector, redraws
    all patches from the pooled vector and their places alone (RetroMAE, 2205.12035, does so for
    sentences). A vector that is the same for all pictures redraws none. Queries begin at zero, so
    that the pooled vector begins as the mean of the patches. Each of up to four heads weighs its
    own share of the channels.
    """

    def __init__(self, width: int, grid: tuple[int, int]):
        super().__init__()
        self.heads = max(n for n in range(1, _HEADS + 1) if width % n == 0)
        self.grid, self.width = grid, width
        self.queries = nn.Parameter(torch.zeros(self.heads, width))
        self.inside = nn.Linear(width, _WIDTH)
        self.places = nn.Parameter(torch.randn(grid[0] * grid[1], _WIDTH) * 0.1)
        self.outside = nn.Linear(_WIDTH, width)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled vectors (B, D), and the mean error of redrawing (a scalar)."""
        attention = self.attention(patches)
        by_head = patches.unflatten(-1, (self.heads, -1))  # (B, N, heads, D / heads)
        pooled = torch.einsum("bhn,bnhd->bhd", attention, by_head).flatten(1)
        hidden = self.inside(pooled)[:, None] + self.places
        truth = F.layer_norm(on_grid(patches, self.grid), (self.width,))
        return pooled, F.mse_loss(self.outside(F.gelu(hidden)), truth)

    def attention(self, patches: Tensor) -> Tensor:
        """(B, heads, N) how much each patch counts; sums to 1."""
        keys = F.layer_norm(patches, (self.width,))
        return (self.queries @ keys.transpose(1, 2) / self.width**0.5).softmax(dim=-1)
