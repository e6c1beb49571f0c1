"""Masked autoregression over vectors inside a language model (MMAR, arXiv 2410.10798).

Text is causal; the cells of a picture see each other and the text before them, and stand in one
place of it. Cells that are hidden have a learned vector, and are drawn in rounds. To be read a
picture is whole: nothing of it is hidden, and nothing of it is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from arra.generators.base import Batch
from arra.generators.interleaving import Mixed
from arra.generators.language_batches import MaskedLanguageBatches
from arra.generators.language_vectors import (
    LanguageVectorConfig,
    LanguageVectorGenerator,
    Reading,
)
from arra.generators.rounds import Rounds
from arra.generators.vectors import drawn_noise
from arra.orders.layout import visible
from arra.randomness import Noise
from arra.registry import generators


@dataclass(kw_only=True)
class MaskedLanguageCache(Rounds):
    """What is drawn after texts, as many rows as pictures, or twice as many (guidance)."""

    reading: Reading


@generators.register("masked-language")
class MaskedLanguageGenerator(LanguageVectorGenerator):
    """Draws hidden cells in rounds, each one pass over the picture; what stands before it is read
    once."""

    reads = (*LanguageVectorGenerator.reads, "rounds", "least", "widened")

    causal = False
    Batches = MaskedLanguageBatches

    def __init__(
        self,
        config: LanguageVectorConfig,
        tokenizer: PreTrainedTokenizerBase | None = None,
        lm: PreTrainedModel | None = None,
    ):
        super().__init__(config, tokenizer, lm)
        self.hidden = nn.Parameter(torch.empty(self.width).normal_(std=0.02))
        self.places = nn.Parameter(torch.empty(2, config.cells, self.width).normal_(std=0.02))
        """Of the cells that come in, and of those that go to the head."""

    def read(self, vectors: Tensor, place: Tensor) -> Tensor:
        return super().read(vectors, place) + self.places[0, place]

    def _unknown(self, place: Tensor) -> Tensor:
        """(M, D) input embeddings of hidden cells at places (M,)."""
        return self.hidden + self.places[0, place]

    def _conditions(self, states: Tensor, place: Tensor) -> Tensor:
        return states + self.places[1, place]

    def _embedded(self, batch: Batch) -> Tensor:
        x = super()._embedded(batch)
        unknown = self._unknown(batch.place[batch.image])
        return x.index_put((batch.image,), unknown.to(x.dtype))

    def _mask(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        return visible(batch.segment, batch.position)[:, None], batch.position

    def moments(self, cell: Tensor, real: Tensor) -> Tensor:
        follows = cell & torch.nn.functional.pad(cell[:, :-1], (1, 0))
        return ((real & ~follows).cumsum(dim=1) - 1).clamp(min=0)

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Rounds: so many passes draw a picture."""
        return min(self.config.options.rounds, self.config.cells)

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> MaskedLanguageCache:
        order, latents = Rounds.begun(noise, self.config.cells, self.dimensions, self.device)
        reading, _ = self.prefill([Mixed(list(ids)) for ids in prompts])
        return MaskedLanguageCache(reading=reading, order=order, latents=latents)

    def unit(
        self, cache: MaskedLanguageCache, noise: Noise, scale: float, temperature: float
    ) -> None:
        pictures, now = len(cache.order), cache.next(self.units)
        rows = len(cache.reading.next)
        states = self.seen(cache.latents, cache.hidden, cache.reading)
        chosen = states.gather(
            1, now.repeat(rows // pictures, 1)[..., None].expand(-1, -1, self.width)
        )
        known = self._conditions(chosen.flatten(0, 1), now.repeat(rows // pictures, 1).flatten())
        fresh = drawn_noise(noise, self.head.draws, now.shape[1], self.dimensions)
        if scale == 1.0:
            known = known[: fresh.shape[1]]
        found = self.head.sample(known, fresh.to(self.device), scale, temperature)
        cache.put(found / self.config.scale)

    def seen(self, latents: Tensor, hidden: Tensor, reading: Reading) -> Tensor:
        """(R, n, D) states of the cells of pictures (B, n, C), of which some are `hidden` (B, n);
        rows R are B, or several times as many. What was read before them stays as it is."""
        rows, cells = len(reading.next), latents.shape[1]
        place = torch.arange(cells, device=latents.device).repeat(len(latents))
        known = self.read(latents.flatten(0, 1), place)
        x = torch.where(hidden.flatten()[:, None], self._unknown(place), known)
        x = x.view(len(latents), cells, -1).repeat(rows // len(latents), 1, 1)
        real = torch.ones(rows, cells, dtype=torch.bool, device=x.device)
        stored, position = reading.cache.stored, reading.next
        states = self.advance(x, real, torch.zeros_like(real).long(), reading)
        reading.truncate(stored, position)
        return states

    def drawn(self, cache: MaskedLanguageCache) -> Tensor:
        return cache.latents
