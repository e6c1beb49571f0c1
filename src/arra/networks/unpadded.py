"""Attention over samples of different lengths without padding between them.

Everything in a decoder but attention is a matter of one position: it runs on the N real positions
of a batch, one row each, however they lie in it (padded on the right or left, packed, mixed). For
attention every sample becomes a row of its own that begins at its first position, so that causal
attention needs no mask, and padding behind it is never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

SHORT = 160
"""On a CPU, samples of at most this many positions get attention as products of matrices, which for
them is faster than torch's kernel."""


@dataclass(frozen=True)
class Places:
    """Where the N real positions of a batch lie, and where in attention's (S, L): sample, place."""

    flat: Tensor
    """(N,) int64: their numbers in the batch, flattened."""
    position: Tensor
    """(N,) int64: their positions within their own samples."""
    slot: Tensor
    """(N,) int64: their numbers in (S, L), flattened."""
    row: Tensor
    """(S, L) int64: which of the N is there; 0 where there is none."""

    @classmethod
    def of(cls, segment: Tensor, position: Tensor) -> Places:
        """Of a batch's `segment` (which sample, -1 is padding) and `position` (from 0, each once in
        its sample), both (R, T)."""
        flat = (segment.flatten() >= 0).nonzero().squeeze(1)
        sample, own = segment.flatten()[flat], position.flatten()[flat]
        samples, length = (int(n) + 1 for n in torch.stack((sample.max(), own.max())).tolist())
        length = -(-length // 8) * 8  # products of matrices like it
        slot = sample * length + own
        row = torch.zeros(samples * length, dtype=torch.int64, device=flat.device)
        row[slot] = torch.arange(len(flat), device=flat.device)
        return cls(flat, own, slot, row.view(samples, length))

    def spread(self, rows: Tensor, like: Tensor) -> Tensor:
        """(R, T, D) of rows (N, D), with zeros at padding; `like` is (R, T)."""
        empty = rows.new_zeros(like.numel(), rows.shape[1])
        return empty.index_copy(0, self.flat, rows).view(*like.shape, -1)


class Heads:
    """From N positions to attention's rows of every head, and back: numbers of rows, made once."""

    def __init__(self, places: Places, heads: int, groups: int):
        """`heads` of queries share `groups` heads of keys and values."""
        samples, length = places.row.shape
        self.shape = (samples, heads, length)
        self.heads, self.groups = heads, groups
        device = places.row.device
        head = torch.arange(heads, device=device)
        shared = heads + head // (heads // groups)
        parts = torch.stack((head, shared, shared + groups))  # (3, heads): queries, keys, values
        stored = heads + 2 * groups
        row = places.row[None, :, None] * stored + parts[:, None, :, None]
        self.gather = row.flatten()
        """(3 S heads L,) int64: rows of (N stored, d) in attention's order."""
        sample, own = places.slot // length, places.slot % length
        self.back = ((sample[:, None] * heads + head) * length + own[:, None]).flatten()
        """(N heads,) int64: rows of (S heads L, d) in the order of positions."""
        each = samples * heads * length
        apart = self.back.view(-1, heads)
        self.inverse = torch.cat([apart + part * each for part in range(3)], dim=1).flatten()
        """(3 N heads,) int64: rows of (3 S heads L, d) in the order of positions."""
        self.short = device.type == "cpu" and length <= SHORT
        if self.short:
            future = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
            self.mask = torch.zeros(length, length, device=device).masked_fill(future, -torch.inf)


def attend(qkv: Tensor, heads: Heads) -> Tensor:
    """(N, heads d): causal attention of every sample within itself.

    `qkv` (N, heads + 2 groups, d) are queries, keys and values, already rotated.
    """
    if heads.short:
        return _ShortAttention.apply(qkv.float(), heads)
    query, key, value = _Padded.apply(qkv, heads).unbind(0)
    drawn = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return _Unpadded.apply(drawn, heads)


def _gathered(qkv: Tensor, heads: Heads) -> Tensor:
    """(3, S, heads, L, d) queries, keys and values; padding has those of some position."""
    rows = qkv.reshape(-1, qkv.shape[-1]).index_select(0, heads.gather)
    return rows.view(3, *heads.shape, -1)


def _gathered_back(gradient: Tensor, heads: Heads) -> Tensor:
    """(N, heads + 2 groups, d) of the gradient of `_gathered`, where padding's is 0."""
    width = gradient.shape[-1]
    rows = gradient.reshape(-1, width).index_select(0, heads.inverse)
    rows = rows.view(-1, 3, heads.heads, width)
    if heads.groups == heads.heads:
        return rows.flatten(1, 2)
    query, shared = rows[:, 0], rows[:, 1:].unflatten(2, (heads.groups, -1)).sum(dim=3)
    return torch.cat((query, shared.flatten(1, 2)), dim=1)


def _returned(drawn: Tensor, heads: Heads) -> Tensor:
    """(N, heads d) of (S, heads, L, d)."""
    width = drawn.shape[-1]
    rows = drawn.reshape(-1, width).index_select(0, heads.back)
    return rows.view(-1, heads.heads * width)


def _returned_back(gradient: Tensor, heads: Heads) -> Tensor:
    """(S, heads, L, d) of the gradient of `_returned`, 0 at padding."""
    width = gradient.shape[-1] // heads.heads
    samples, number, length = heads.shape
    empty = gradient.new_zeros(samples * number * length, width)
    return empty.index_copy_(0, heads.back, gradient.reshape(-1, width)).view(*heads.shape, width)


class _Padded(torch.autograd.Function):
    """`_gathered`; the gradient is gathered, too: autograd's own would add rows one by one."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: Heads) -> Tensor:
        ctx.heads = heads
        return _gathered(qkv, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _gathered_back(gradient, ctx.heads), None


class _Unpadded(torch.autograd.Function):
    """`_returned`, with a gradient that is copied and not added up."""

    @staticmethod
    def forward(ctx: Any, drawn: Tensor, heads: Heads) -> Tensor:
        ctx.heads = heads
        return _returned(drawn, heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _returned_back(gradient, ctx.heads), None


class _ShortAttention(torch.autograd.Function):
    """softmax(q k' / sqrt(d)) v with the weights kept for the backward pass: (N, heads d) of (N,
    heads + 2 groups, d)."""

    @staticmethod
    def forward(ctx: FunctionCtx, qkv: Tensor, heads: Heads) -> Tensor:
        rows = _gathered(qkv, heads).flatten(1, 2)
        query, key, value = rows.unbind(0)
        mask = heads.mask.to(rows.dtype).expand(len(query), -1, -1)
        weights = torch.baddbmm(mask, query, key.mT, alpha=qkv.shape[-1] ** -0.5).softmax(dim=-1)
        ctx.save_for_backward(rows, weights)
        ctx.heads = heads  # type: ignore[attr-defined]
        return _returned(torch.bmm(weights, value), heads)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows, weights = ctx.saved_tensors
        query, key, value = rows.unbind(0)
        drawn = _returned_back(gradient, ctx.heads).flatten(0, 1)
        found = torch.empty_like(rows)
        with torch.autocast(rows.device.type, enabled=False):  # the caller's may be on
            torch.bmm(weights.mT, drawn, out=found[2])
            scores = torch.bmm(drawn, value.mT)
            scores = torch.ops.aten._softmax_backward_data(scores, weights, -1, weights.dtype)
            scores *= rows.shape[-1] ** -0.5
            torch.bmm(scores, key, out=found[0])
            torch.bmm(scores.mT, query, out=found[1])
        return _gathered_back(found, ctx.heads), None
