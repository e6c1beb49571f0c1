"""A law of codes behind the interface of heads for vectors: what continuous heads are compared
with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.heads.base import Head


class CodeHead(Head):
    """A softmax over the points of a codebook: what is drawn is one of them."""

    draws = 1
    codebook: Tensor

    def __init__(self, width: int, codebook: Tensor):
        """`codebook` (V, C)."""
        super().__init__()
        self.channels = codebook.shape[1]
        self.register_buffer("codebook", codebook)
        self.logits = nn.Linear(width, len(codebook))

    def nearest(self, tokens: Tensor) -> Tensor:
        """(M,) the code of each of the tokens (M, C)."""
        return torch.cdist(tokens, self.codebook).argmin(dim=1)

    def losses(
        self, target: Tensor, hidden: Tensor, random: torch.Generator | None = None
    ) -> Tensor:
        return F.cross_entropy(self.logits(hidden), self.nearest(target), reduction="none")

    def sample(
        self, hidden: Tensor, noise: Tensor, scale: float = 1.0, temperature: float = 1.0
    ) -> Tensor:
        chances = self.logits(hidden).softmax(dim=-1)
        # the first number of a token's noise decides, as a share between 0 and 1
        share = torch.special.ndtr(noise[0][:, 0])
        code = torch.searchsorted(chances.cumsum(dim=-1), share[:, None])[:, 0]
        return self.codebook[code.clamp(max=len(self.codebook) - 1)]
