"""Blocks of a vision transformer (arXiv 2010.11929), with the released weights' names in mind."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.adaln import DropPath


class Attention(nn.Module):
    """Multi-head self-attention with biases, seen by all unless a mask says otherwise."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise InputError(f"Attention: width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(R, T, D); `mask` (R or 1, 1, T or 1, T) bool, None lets all see all."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + Attention(norm x), then x + FeedForward(norm x), with GELU."""

    def __init__(self, width: int, heads: int, hidden: int, drop_path: float = 0.0):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.feed_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.inside, self.outside = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(R, T, D) of states (R, T, D)."""
        x = x + self.drop(self.attention(self.attention_norm(x), mask))
        return x + self.drop(self.outside(F.gelu(self.inside(self.feed_norm(x)))))
