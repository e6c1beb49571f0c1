"""The tokenizers of the claim: the library's, and the same without normalisation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from arra.codecs.quantized import in_raster_order, most_similar
from arra.codecs.vq import VQCodec, VQConfig


class PlainVQ(VQCodec):
    """Vector quantisation by plain distance, as in VQGAN: lengths of latents and codes count.

    Codes begin uniform in +-1 / K, as there.
    """

    def __init__(self, config: VQConfig):
        super().__init__(config)
        limit = 1.0 / config.vocabulary
        self.codebook.data.uniform_(-limit, limit)

    def nearest(self, latents: Tensor) -> Tensor:
        # |z - e|^2 is smallest where <z, e> - |e|^2 / 2 is largest
        codebook = self.codebook.detach()
        return most_similar(
            latents.permute(0, 2, 3, 1), codebook, -0.5 * codebook.square().sum(dim=1)
        )

    def lookup(self, codes: Tensor) -> Tensor:
        return F.embedding(codes, self.codebook).permute(0, 3, 1, 2)

    def distances(self, latents: Tensor) -> Tensor:
        """Squared distances."""
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cdist(in_raster_order(latents), self.codebook.float()).square()

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        codes = self.nearest(latents.detach())
        nearest = self.lookup(codes)
        losses = {
            "codebook": F.mse_loss(nearest, latents.detach()),
            "commitment": self.config.commitment * F.mse_loss(latents, nearest.detach()),
        }
        return latents + (nearest - latents).detach(), codes, losses
