"""A linear-time mixer that carries a state: Mamba-2's layer (arXiv 2405.21060), in plain PyTorch.

Every head keeps a matrix S of P x N numbers (P: width of a head, N: size of the state):

    S_t = exp(dt_t A) S_{t-1} + dt_t x_t B_t^T,        y_t = S_t C_t + D x_t

with dt_t > 0, A < 0 a head, and B_t, C_t shared by the heads. Two forms give the same numbers: one
position after another, and chunks that are matrix products inside and hand a state on. R rows of T
positions, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.settings import ScanSize

CHUNK = 64
"""Positions that are computed at once; work inside a chunk grows with its square."""


def recurrent_scan(
    x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One position after another: y (R, T, H, P) and the last state (R, H, P, N).

    x (R, T, H, P) is what enters (dt x), `decay` (R, T, H) the logarithm of what stays (dt A, at
    most 0), b and c (R, T, N) say where it is written and read; `state` is the one before.
    """
    if state is None:
        state = x.new_zeros(len(x), *x.shape[2:], b.shape[-1])
    found = []
    for t in range(x.shape[1]):
        written = x[:, t, :, :, None] * b[:, t, None, None]
        state = decay[:, t].exp()[..., None, None] * state + written
        found.append((state @ c[:, t, None, :, None]).squeeze(-1))
    return (torch.stack(found, dim=1) if found else x), state


def chunked_scan(
    x: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The same as `recurrent_scan`, chunk by chunk: work O(T chunk), passes O(T / chunk).

    Inside a chunk y_t = sum_{s <= t} exp(a_{s+1} + ... + a_t) (c_t . b_s) x_s, a masked product as
    in attention (section 6 of the paper); what came before reaches it through the state alone.
    """
    if state is None:
        state = x.new_zeros(len(x), *x.shape[2:], b.shape[-1])
    found = []
    for start in range(0, x.shape[1], chunk):
        here = slice(start, start + chunk)
        y, state = _one_chunk(x[:, here], decay[:, here], b[:, here], c[:, here], state)
        found.append(y)
    return (torch.cat(found, dim=1) if found else x), state


def _one_chunk(
    x: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    total = decay.cumsum(dim=1).transpose(1, 2)  # (R, H, T): what stays of the state before
    between = total[..., :, None] - total[..., None, :]
    after = torch.ones(between.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
    # masked before the exponential: above the diagonal it would overflow, and spoil gradients
    kept = between.masked_fill(after, -math.inf).exp()
    weight = kept * (c @ b.transpose(1, 2))[:, None]
    heads = x.transpose(1, 2)  # (R, H, T, P)
    inside = weight @ heads
    before = torch.einsum("rtn,rhpn->rhtp", c, state) * total.exp()[..., None]
    left = (total[..., -1:] - total).exp()[..., None] * heads
    state = total[..., -1].exp()[..., None, None] * state + left.transpose(2, 3) @ b[:, None]
    return (inside + before).transpose(1, 2), state


@dataclass
class ScanMemory:
    """What a scan carries on: its last inputs and its state, after every call (R rows)."""

    marks: list[tuple[int, Tensor, Tensor]] = field(default_factory=list)
    """Positions read so far, the last inputs of the convolution (R, K - 1, E), and the state."""

    @property
    def length(self) -> int:
        """Positions that were read."""
        return self.marks[-1][0] if self.marks else 0

    @property
    def last(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """What the next call begins with."""
        return self.marks[-1][1:] if self.marks else (None, None)

    def extend(self, count: int, inputs: Tensor, state: Tensor) -> None:
        """Remember how things stand after `count` more positions."""
        self.marks.append((self.length + count, inputs, state))

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        self.marks = [(n, inputs[rows], state[rows]) for n, inputs, state in self.marks]

    def truncate(self, length: int) -> None:
        """Go back to when `length` positions had been read; calls are not taken apart."""
        self.marks = [mark for mark in self.marks if mark[0] <= length]


class Scan(nn.Module):
    """Mamba-2's mixer: projections, a short causal convolution, the scan, a gated norm.

    `width` D in and out; inside E = expand D, in heads of D / `heads` numbers.
    """

    def __init__(self, width: int, heads: int, size: ScanSize):
        super().__init__()
        inner, state, conv = size.expand * width, size.state, size.conv
        self.inner, self.state, self.heads = inner, state, heads * size.expand
        mixed = inner + 2 * state
        self.into = nn.Linear(width, inner + mixed + self.heads, bias=False)
        bound = conv**-0.5
        self.conv = nn.Parameter(torch.empty(mixed, 1, conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.zeros(mixed))
        # as in the released layer: decays of 1 to 16, steps of 0.001 to 0.1
        self.log_rate = nn.Parameter(torch.empty(self.heads).uniform_(1.0, 16.0).log())
        step = torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.step_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus's inverse
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm_weight = nn.Parameter(torch.ones(inner))
        self.out = nn.Linear(inner, width, bias=False)

    def forward(
        self, x: Tensor, real: Tensor | None = None, memory: ScanMemory | None = None
    ) -> Tensor:
        """(R, T, D); positions that are not `real` (R, T) leave no trace, and say nothing."""
        rows, length, _ = x.shape
        gate, mixed, step = self.into(x).split(
            (self.inner, self.inner + 2 * self.state, self.heads), dim=-1
        )
        if real is not None:
            mixed = mixed * real[..., None]
        inputs, state = (None, None) if memory is None else memory.last
        mixed, inputs = self._convolve(mixed, inputs)
        exact = torch.promote_types(mixed.dtype, torch.float32)  # sums over many positions
        value, b, c = mixed.to(exact).split((self.inner, self.state, self.state), dim=-1)
        value = value.view(rows, length, self.heads, -1)
        dt = F.softplus(step.to(exact) + self.step_bias)
        if real is not None:
            dt = dt * real[..., None]
        found, state = chunked_scan(value * dt[..., None], -dt * self.log_rate.exp(), b, c, state)
        if memory is not None:
            memory.extend(length, inputs, state)
        found = (found + self.skip[:, None] * value).view(rows, length, self.inner)
        gated = F.rms_norm(found * F.silu(gate.to(exact)), (self.inner,), self.norm_weight, 1e-5)
        return self.out(gated.to(x.dtype))

    def _convolve(self, mixed: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """SiLU of a causal convolution (R, T, E + 2 N), and the inputs that the next call needs."""
        past = self.conv.shape[-1] - 1
        if before is None:
            before = mixed.new_zeros(len(mixed), past, mixed.shape[-1])
        known = torch.cat((before, mixed), dim=1)
        found = F.conv1d(known.transpose(1, 2), self.conv, self.conv_bias, groups=len(self.conv))
        return F.silu(found.transpose(1, 2)), known[:, known.shape[1] - past :]


def runs_of(segment: Tensor, samples: int) -> Tensor:
    """(S, N) int64: the positions of each of `samples` samples among the flattened rows, in order.

    `segment` (R, T) says whose a position is, -1 nobody's; -1 fills up behind the last of a sample.
    """
    flat = segment.flatten()
    mine = (flat >= 0).nonzero().flatten()
    mine = mine[flat[mine].argsort(stable=True)]
    counts = torch.bincount(flat[mine], minlength=samples).tolist()
    return nn.utils.rnn.pad_sequence(mine.split(counts), batch_first=True, padding_value=-1)
