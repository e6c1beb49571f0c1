"""A codebook that is read softly: from a model of codes to one of vectors (Orthus, 2412.00127)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from arra.errors import InputError


class SoftLookup(nn.Module):
    """Vectors to mixtures of the rows of a table, by how near they are to the codes.

    With distances d_k = |v - e_k|^2 the weights are softmax(-d / T). In the limit T -> 0 it is the
    row of the nearest code. The codebook is a parameter of its own, beside that of the codec.
    """

    def __init__(self, codes: int, channels: int, temperature: float):
        """`codes` K rows e_k of C `channels`; `temperature` T in units of squared distances."""
        super().__init__()
        if codes < 2 or temperature <= 0:
            raise InputError(
                f"SoftLookup: {codes} codes, temperature {temperature}; expected 2 or more, and "
                "more than 0"
            )
        self.codebook = nn.Parameter(torch.randn(codes, channels))
        self.temperature = temperature

    def weights(self, vectors: Tensor) -> Tensor:
        """(M, K) the shares of the codes, of vectors (M, C)."""
        return (-squared_distances(vectors, self.codebook) / self.temperature).softmax(dim=-1)

    def forward(self, vectors: Tensor, table: Tensor) -> Tensor:
        """(M, D) mixtures of the rows of the table (K, D)."""
        return self.weights(vectors).to(table.dtype) @ table


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """(M, K) float32, less |v|^2, which is the same for all codes: softmax does not see it."""
    vectors, codebook = vectors.float(), codebook.float()
    return codebook.square().sum(dim=1) - 2.0 * vectors @ codebook.T


@torch.no_grad()
def chosen_temperature(vectors: Tensor, codebook: Tensor, certainty: float = 0.7) -> float:
    """The T at which half of the vectors (M, C) give their nearest code at least this share.

    In few dimensions 1 is nearly uniform where codes are near each other; in many it is nearly
    hard, and nothing has a gradient.
    """
    distances = squared_distances(vectors, codebook).double()
    low, high = 1e-6, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5
        found = float((-distances / middle).softmax(dim=-1).amax(dim=-1).median())
        low, high = (middle, high) if found > certainty else (low, middle)
    return (low * high) ** 0.5
