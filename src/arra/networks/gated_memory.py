"""A mixer that attends inside a chunk and has a gated linear memory of earlier chunks.

It is that of ARFlow (arXiv 2501.16085), as its released code has it.

R chunks of T positions, width D, H heads of d = D / H numbers. Chunks follow each other in N
sequences; of each head they leave a matrix k^T v behind, which the next ones read:

    S_{i+1} = exp(mean a_i) S_i + k_i^T v_i,    o_i = softmax(q_i k_i^T) v_i + (q_i exp(r_i)) S_i

with a_i <= 0 the logarithms of the gates of chunk i, one for a position and head, and r_i what a
chunk's own gates take away from what it reads. So work grows with the number of chunks, and what is
kept of them does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.adaln import spread

ReadDecay = Literal["chunk", "raster"]
"""r_i: the chunk's mean gate, alike for all of its positions; or, as in the released code, the sum
of the gates up to each position, so that later positions of a chunk read less."""
_EPSILON = 1e-6


@dataclass(frozen=True)
class Chunks:
    """Which chunks follow each other, and which of their positions count."""

    order: Tensor
    """(N, S) int64: the rows of each sequence, every row once; behind a shorter one stands -1."""
    seen: Tensor | None = None
    """(R, T) bool: the positions that a chunk attends to; None: all."""
    written: Tensor | None = None
    """(R, T) bool: those that are remembered, at least one of each row; None: all."""

    def by_sequence(self, values: Tensor, none: float = 0.0) -> Tensor:
        """(N, S, ...) of values of rows (R, ...), with `none` where there is no row."""
        there = (self.order >= 0).view(*self.order.shape, *(1,) * (values.ndim - 1))
        return torch.where(there, values[self.order.clamp(min=0)], none)

    def by_row(self, values: Tensor) -> Tensor:
        """(R, ...) of values (N, S, ...)."""
        there = self.order >= 0
        found = values.new_empty(int(there.sum()), *values.shape[2:])
        return found.index_put((self.order[there],), values[there])


@dataclass
class Carried:
    """What the sequences of one mixer remember."""

    state: Tensor | None = None
    """(N, H, d, d) float32; None before the first chunk."""


class GatedMemory(nn.Module):
    """Softmax attention inside a chunk, a gated linear memory across chunks."""

    def __init__(self, width: int, heads: int, decay: ReadDecay = "chunk", root: float = 16.0):
        """Gates are the `root`-th root of a logistic function: with 16, the released value, a chunk
        begins by taking 4 % away from what is remembered, with 1 a half."""
        super().__init__()
        if width % heads:
            raise InputError(f"GatedMemory: width {width} is no multiple of {heads} heads")
        self.heads, self.decay, self.root = heads, decay, root
        self.inputs = nn.Linear(width, 4 * width, bias=False)
        self.gate = nn.Linear(width, heads, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, condition: Tensor, chunks: Chunks, carried: Carried | None = None
    ) -> Tensor:
        """(R, T, D) of states (R, T, D) and what the gates are told, (R, D) or (R, T, D).

        With `carried` the sequences go on where it ends, and it becomes what they end with.
        """
        *projected, gate = self.inputs(x).chunk(4, dim=-1)
        # over the whole width, before it is split into heads, as in the released code
        query, key, value = (self._split(_norm(part)) for part in projected)
        key = key * key.shape[-1] ** -0.5
        kept = F.logsigmoid(self.gate(x + spread(condition, x)).float()) / self.root
        seen = None if chunks.seen is None else chunks.seen[:, None, None]
        inside = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=1.0)
        kept = kept.transpose(1, 2)  # (R, H, T)
        mean, written = kept.mean(dim=2), key
        if chunks.written is not None:
            here = chunks.written[:, None].to(kept.dtype)
            kept, written = kept * here, key * here[..., None]
            mean = kept.sum(dim=2) / here.sum(dim=2)
        states = recalled(written.transpose(2, 3) @ value, mean, chunks, carried)
        read = mean[..., None] if self.decay == "chunk" else kept.cumsum(dim=2)
        found = inside + (query * read.exp()[..., None]) @ states
        found = F.rms_norm(found.float(), found.shape[-1:], eps=_EPSILON)
        return self.out(F.silu(gate) * found.transpose(1, 2).flatten(2).to(gate.dtype))

    def _split(self, x: Tensor) -> Tensor:
        """(R, H, T, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def recalled(left: Tensor, kept: Tensor, chunks: Chunks, carried: Carried | None = None) -> Tensor:
    """(R, H, d, d) what each chunk reads, of what chunks leave (R, H, d, d) and keep (R, H), the
    logarithm of a share."""
    added, shares = chunks.by_sequence(left.float()), chunks.by_sequence(kept).exp()
    state = torch.zeros_like(added[:, 0])
    if carried is not None and carried.state is not None:
        state = carried.state
    before = []
    for number in range(added.shape[1]):
        before.append(state)
        state = shares[:, number, :, None, None] * state + added[:, number]
    if carried is not None:
        carried.state = state
    return chunks.by_row(torch.stack(before, dim=1))


def in_sequences(group: Tensor) -> Tensor:
    """(N, S) int64 rows of each group, in their order, of group numbers (R,); -1 fills up."""
    _, number, counts = group.unique(return_inverse=True, return_counts=True)
    row = number.argsort(stable=True)
    first = counts.cumsum(dim=0) - counts
    within = torch.arange(len(group), device=group.device) - first[number[row]]
    order = torch.full((len(counts), int(counts.max())), -1, device=group.device)
    return order.index_put((number[row], within), row)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=_EPSILON)
