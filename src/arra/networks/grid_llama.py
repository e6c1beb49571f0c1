"""Llama blocks with two-dimensional rotary positions, as LlamaGen has them (arXiv 2406.06525, 3.2).

R rows of T positions, width D, H heads of d = D / H dimensions. A position stands at a cell of a
grid or belongs to the condition before it. Half of a head's dimensions turn with the row of the
cell, half with its column; pairs of neighbouring dimensions turn together.

In the released code the condition's rows of the rotary table are zeros: its queries and keys
vanish. So everything that looks at a condition token does so with a logit of exactly 0, and a
condition token spreads its attention evenly over what it sees. Released weights depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.adaln import DropPath, Memory
from arra.networks.rotary import rotate


class Norm(nn.Module):
    """x / root mean square of x, times a learned weight; in float32."""

    def __init__(self, width: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon, self.weight = epsilon, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return (wide * scale).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; no biases."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise InputError(f"Attention: width {width} is no multiple of {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Tensor | None, memory: Memory | None = None
    ) -> Tensor:
        """(R, T, D); `mask` (R or 1, 1, T or 1, keys) bool, None is causal from the first stored
        position on."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(2)
        query, key = rotate(query, rotary), rotate(key, rotary)
        query, key, value = (t.transpose(1, 2) for t in (query, key, value))
        if memory is not None:
            key, value = memory.extend(key, value)
        causal = mask is None and query.shape[2] > 1
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self.dropout(self.out(seen.transpose(1, 2).flatten(2)))


class SwiGLU(nn.Module):
    """down(SiLU(gate x) * up x); no biases."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.silu(self.gate(x)) * self.up(x)))


class Block(nn.Module):
    """x + Attention(norm x), then x + SwiGLU(norm x)."""

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float = 0.0, drop_path: float = 0.0
    ):
        super().__init__()
        self.attention_norm, self.feed_norm = Norm(width), Norm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed = SwiGLU(width, hidden, dropout)
        self.drop = DropPath(drop_path)

    def forward(
        self, x: Tensor, rotary: Tensor, mask: Tensor | None, memory: Memory | None = None
    ) -> Tensor:
        """(R, T, D) of states (R, T, D)."""
        x = x + self.drop(self.attention(self.attention_norm(x), rotary, mask, memory))
        return x + self.drop(self.feed(self.feed_norm(x)))


class SplitEmbedding(nn.Module):
    """Vectors of positions that hold m codes each: m tables, side by side, through one linear map
    (ELM, arXiv 2410.16257). With m = 1 a plain table."""

    def __init__(self, codes: int, split: int, width: int):
        super().__init__()
        self.codes, self.split = codes, split
        self.tables = nn.Embedding(codes * split, width)
        self.mix = nn.Linear(split * width, width, bias=False) if split > 1 else None

    def forward(self, codes: Tensor) -> Tensor:
        """(..., D) of codes (..., m) below `codes`."""
        offset = self.codes * torch.arange(self.split, device=codes.device)
        vectors = self.tables(codes + offset).flatten(-2)
        return vectors if self.mix is None else self.mix(vectors)


def joined(codes: Tensor, base: int) -> Tensor:
    """(...,) the number whose digits to `base` are the m codes (..., m), the first the highest."""
    total = torch.zeros_like(codes[..., 0])
    for digit in codes.unbind(-1):
        total = total * base + digit
    return total


def divided(numbers: Tensor, base: int, split: int) -> Tensor:
    """(..., m) the codes of which `joined` makes numbers (...,)."""
    power = base ** torch.arange(split - 1, -1, -1, device=numbers.device)
    return numbers[..., None] // power % base
