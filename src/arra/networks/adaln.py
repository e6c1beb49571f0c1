"""Transformer blocks whose norms and branches a condition sets (AdaLN), with a KV cache.

As in VAR (arXiv 2404.02905, appendix; DiT, arXiv 2212.09748, before it). R rows of T positions,
width D, H heads; a condition is (R, D) for whole rows or (R, T, D) for every position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.scan import Scan, ScanMemory
from arra.settings import Mixer, ScanSize

_SHARPEST = math.log(100.0)


@dataclass
class Memory:
    """Keys and values of one block, (R, H, T, D / H) each; empty before the first positions."""

    stored: list[Tensor] = field(default_factory=list)
    keep: int | None = None
    """How many of the first positions stay; None is all (later ones are seen once, when they are
    read)."""
    scan: ScanMemory = field(default_factory=ScanMemory)
    """What the block's scan carries on, if it has one."""

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these behind those from before."""
        new = [keys, values]
        if self.stored:
            new = [torch.cat(pair, dim=2) for pair in zip(self.stored, new, strict=True)]
        self.stored = new if self.keep is None else [tensor[:, :, : self.keep] for tensor in new]
        return new[0], new[1]

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        self.stored = [tensor[rows] for tensor in self.stored]
        self.scan.gather(rows)

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        self.stored = [tensor[:, :, :length] for tensor in self.stored]
        self.scan.truncate(length)


class Attention(nn.Module):
    """Multi-head self-attention; query and value have a bias, the key has none.

    `normalised`: queries and keys are of unit length, and every head learns how sharp it is (it
    begins at 4, at most 100). Otherwise logits are a quarter of the usual, as in the released code.
    """

    def __init__(self, width: int, heads: int, normalised: bool):
        super().__init__()
        if width % heads:
            raise InputError(f"Attention: width {width} is no multiple of {heads} heads")
        self.heads, self.normalised = heads, normalised
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)
        if normalised:
            self.log_sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(4.0)))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        memory: Memory | None = None,
        spans: Sequence[int] | None = None,
    ) -> Tensor:
        """(R, T, D); `mask` (R or 1, 1, T or 1, keys) bool, None lets all see all.

        `spans` are lengths of stretches, T in all, of which each sees itself alone: without a mask,
        in work of the sum of their squares.
        """
        rows, length, width = x.shape
        bias = torch.cat((self.query_bias, torch.zeros_like(self.query_bias), self.value_bias))
        mixed = F.linear(x, self.qkv.weight, bias).view(rows, length, 3, self.heads, -1)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        scale = 0.25 / query.shape[-1] ** 0.5
        if self.normalised:
            sharpness = self.log_sharpness.clamp(max=_SHARPEST).exp()
            query = (F.normalize(query, dim=-1) * sharpness).to(value.dtype)
            key, scale = F.normalize(key, dim=-1).to(value.dtype), 1.0
        if memory is not None:
            key, value = memory.extend(key, value)
        if spans is None:
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
        else:
            parts = zip(
                *(part.split(list(spans), dim=2) for part in (query, key, value)), strict=True
            )
            seen = torch.cat(
                [F.scaled_dot_product_attention(q, k, v, scale=scale) for q, k, v in parts], dim=2
            )
        return self.out(seen.transpose(1, 2).reshape(rows, length, width))


class DropPath(nn.Module):
    """In training a branch is left out with this probability, row by row, and scaled up else."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        chosen = torch.empty(len(x), *(1,) * (x.ndim - 1), device=x.device).bernoulli_(keep)
        return x * (chosen / keep).to(x.dtype)


class Modulated(nn.Module):
    """A norm without weights of its own: LN(x) (1 + scale) + shift, set by the condition."""

    def __init__(self, width: int):
        super().__init__()
        self.set = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = spread(self.set(F.silu(condition)), x).chunk(2, dim=-1)
        return modulate(x, scale, shift)


@dataclass(frozen=True)
class Sight:
    """What positions of a block learn of each other."""

    mask: Tensor | None = None
    """For attention: (R or 1, 1, T or 1, keys) bool, None lets all see all."""
    spans: tuple[int, ...] | None = None
    """For attention, in the place of a mask: lengths of stretches that see themselves alone."""
    real: Tensor | None = None
    """For a scan: (R, T) bool, which positions count; None is all of them, row by row."""
    runs: Tensor | None = None
    """For a scan whose rows are not samples: (S, N) int64, the positions of the flattened rows that
    it reads one after another, -1 behind the last of a sample."""


class Block(nn.Module):
    """x + gate Mix(norm x) for every mixer, then x + gate FeedForward(norm x); gates and norms are
    set by the condition.

    Mixers (M-VAR, arXiv 2411.10433): attention, a linear-time scan, or both, in this order. Whether
    attention sees coarser scales is a matter of the mask.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        feed_forward: int,
        normalised: bool,
        drop_path: float = 0.0,
        mixer: Mixer = "attention",
        scan: ScanSize | None = None,
    ):
        super().__init__()
        self.branches = 1 + len(mixer.split("+"))
        self.set = nn.Linear(width, 3 * self.branches * width)
        self.attention = None if mixer == "scan" else Attention(width, heads, normalised)
        self.scan = Scan(width, heads, scan or ScanSize()) if "scan" in mixer else None
        self.inside = nn.Linear(width, feed_forward)
        self.outside = nn.Linear(feed_forward, width)
        self.drop = DropPath(drop_path)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        sight: Sight | Tensor | None,
        memory: Memory | None = None,
    ) -> Tensor:
        """(R, T, D) of states (R, T, D); a tensor is a `Sight` of this mask."""
        sight = sight if isinstance(sight, Sight) else Sight(sight)
        parts = spread(self.set(F.silu(condition)), x).chunk(3 * self.branches, dim=-1)
        n = self.branches
        branch = zip(parts[:n], parts[n : 2 * n], parts[2 * n :], strict=True)
        if self.attention is not None:
            gate, scale, shift = next(branch)
            seen = self.attention(modulate(x, scale, shift), sight.mask, memory, sight.spans)
            x = x + self.drop(gate * seen)
        if self.scan is not None:
            gate, scale, shift = next(branch)
            x = x + self.drop(gate * self._scan(modulate(x, scale, shift), sight, memory))
        gate, scale, shift = next(branch)
        hidden = F.gelu(self.inside(modulate(x, scale, shift)), approximate="tanh")
        return x + self.drop(gate * self.outside(hidden))

    def _scan(self, x: Tensor, sight: Sight, memory: Memory | None) -> Tensor:
        assert self.scan is not None
        if sight.runs is None:
            return self.scan(x, sight.real, None if memory is None else memory.scan)
        real, flat = sight.runs >= 0, x.flatten(0, 1)
        found = self.scan(flat[sight.runs.clamp(min=0)], real)
        return torch.zeros_like(flat).index_put((sight.runs[real],), found[real]).view_as(x)


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift, the norm without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1.0 + scale) + shift


def spread(values: Tensor, x: Tensor) -> Tensor:
    """Values of whole rows (R, n) or of positions (R, T, n), so that they fit x (R, T, D)."""
    return values if values.ndim == x.ndim else values[:, None]


def initialise(module: nn.Module, width: int, depth: int, gate: float) -> None:
    """Set the weights of `module` as VAR's are (released code), in place, from torch's generator.

    Linear layers, embeddings and the parameters of `module` itself come from a normal law of
    deviation sqrt(1 / 3 D); biases are 0; what adds to the stream of states is divided by the root
    of how many do (2 depth; 3 depth with a scan beside attention), what sets norms is halved, what
    sets gates multiplied by `gate`.
    """
    deviation = (1.0 / (3.0 * width)) ** 0.5
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(part.weight, std=deviation)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for parameter in module.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=deviation)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, Block):
                for mixer in (part.attention, part.scan):
                    if mixer is not None:
                        mixer.out.weight /= (part.branches * depth) ** 0.5
                part.outside.weight /= (part.branches * depth) ** 0.5
                gates = part.branches * part.set.weight.shape[1]
                part.set.weight[:gates] *= gate
                part.set.weight[gates:] *= 0.5
            elif isinstance(part, Modulated):
                part.set.weight *= 0.5
