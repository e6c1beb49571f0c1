"""Masked autoregression over vectors (MAR, arXiv 2406.11838): hidden cells are drawn in rounds.

An encoder reads the caption and the cells that are known; a decoder reads what it says of them, and
a learned vector at hidden cells; a head draws each hidden cell given the decoder's state there.
Cells of one round are independent of each other given those before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.denoising import DenoisingPath, Spans
from arra.generators.base import Batch, Output
from arra.generators.batches import Store
from arra.generators.rounds import Rounds, hidden_cells, round_sizes
from arra.generators.vectors import (
    HEAD,
    SOLVED,
    Prompts,
    VectorBatches,
    VectorConfig,
    VectorGenerator,
    drawn_noise,
    no_logits,
    process_of,
)
from arra.heads.diffusion import DiffusionHead
from arra.networks.conditions import TokenCondition
from arra.networks.vit import Block
from arra.randomness import Noise
from arra.registry import generators
from arra.settings import BatchConfig

_LEAST = 0.7


class MaskedVectorBatches(VectorBatches):
    """Some cells are hidden, as many in all pictures of a batch: a share of a normal law around 1,
    of deviation 0.25, cut to 0.7 to 1 (MAR, section 4)."""

    def _finished(self, batch: Batch, codes: Tensor, key: tuple[int, int, int]) -> Batch:
        batch = super()._finished(batch, codes, key)
        chosen = hidden_cells(np.random.default_rng(key), len(batch.tokens), self.positions, _LEAST)
        hidden = batch.image.clone()
        hidden[:, -self.positions :] &= chosen
        return replace(
            batch,
            place=batch.place.masked_fill(~hidden, -1),
            image=hidden,
            read=batch.place.masked_fill(hidden, -1),
        )


@dataclass(kw_only=True)
class MaskedVectorCache(Rounds):
    """What is drawn for captions, as many rows as pictures, or twice as many (guidance)."""

    prompts: Prompts


@generators.register("masked-vectors")
class MaskedVectorGenerator(VectorGenerator):
    """Full attention; layers are counted in the decoder, whose depth is that of the encoder."""

    reads = (*SOLVED, *HEAD, "rounds")

    causal = False

    def __init__(self, config: VectorConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config, tokenizer)
        size, options, width = config.size, config.options, config.size.width
        self.condition = TokenCondition(config.text, width, config.longest)
        self.read_in = nn.Linear(config.dimensions, width)
        self.before = nn.LayerNorm(width, eps=1e-6)
        self.encoder, self.decoder = (
            nn.ModuleList(Block(width, size.heads, size.feed_forward) for _ in range(size.depth))
            for _ in range(2)
        )
        self.encoded, self.decoded = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.between = nn.Linear(width, width)
        self.texts = nn.Parameter(torch.empty(config.longest, width))
        self.hidden = nn.Parameter(torch.empty(width))
        self.places = nn.Parameter(torch.empty(3, config.cells, width))
        self.head = DiffusionHead(
            width,
            config.dimensions,
            process_of(options),
            inner=options.inner,
            depth=options.inner_depth,
            repeats=options.repeats,
        )
        for module in (
            self.read_in,
            self.between,
            *self.encoder.modules(),
            *self.decoder.modules(),
        ):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for parameter in (self.texts, self.hidden, self.places):
            nn.init.normal_(parameter, std=0.02)
        for module in self.condition.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return [*self.encoder, *self.decoder]

    def _prompt(self, text: Sequence[int]) -> list[int]:
        """An empty caption is the null id."""
        return list(text) or [self.config.text]

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> MaskedVectorBatches:
        return MaskedVectorBatches(store, config, features, self._prompt, self.positions)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        self._check_layers(layers)
        prompts, latents = self._read(batch)
        hidden = batch.image[:, -self.positions :]
        states, found = self._states(prompts, latents, hidden, layers)
        losses = self.head.losses(latents[hidden], states[hidden], batch.stream())
        return Output(*no_logits(states), found, losses)

    def _states(
        self, prompts: Prompts, latents: Tensor, hidden: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, n, D) of all cells, of which some are `hidden` (B, n) bool, and those of layers."""
        position = (prompts.real.cumsum(dim=1) - 1).clamp(min=0)
        words = self.condition(prompts.ids, position)
        x = torch.cat((words, self.read_in(latents) + self.places[0]), dim=1)
        known, where = _kept(torch.cat((prompts.real, ~hidden), dim=1))
        x = self.before(_taken(x, where))
        mask = None if bool(known.all()) else known[:, None, None]
        for block in self.encoder:
            x = block(x, mask)
        x = self.between(self.encoded(x))
        text = words.shape[1]
        whole = self.hidden.to(x.dtype).expand(len(x), text + hidden.shape[1], -1)
        whole = whole.scatter(
            1,
            where[..., None].expand_as(x),
            torch.where(known[..., None], x, self.hidden.to(x.dtype)),
        )
        places = torch.cat((self.texts[position], self.places[1].expand(len(x), -1, -1)), dim=1)
        x, found = whole + places, {}
        real = torch.cat((prompts.real, torch.ones_like(hidden)), dim=1)
        mask = None if bool(real.all()) else real[:, None, None]
        for number, block in enumerate(self.decoder, start=1):
            x = block(x, mask)
            if number in layers:
                found[number] = x
        return self.decoded(x)[:, text:] + self.places[2], found

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Rounds: so many passes draw a picture."""
        return min(self.config.options.rounds, self.config.cells)

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> MaskedVectorCache:
        order, latents = Rounds.begun(noise, self.config.cells, self.dimensions, self.device)
        read = Prompts.of(prompts, self.device)
        return MaskedVectorCache(prompts=read, order=order, latents=latents)

    def unit(
        self, cache: MaskedVectorCache, noise: Noise, scale: float, temperature: float
    ) -> None:
        pictures, now = len(cache.order), cache.next(self.units)
        rows = pictures if scale == 1.0 else len(cache.prompts.ids)
        copies = rows // pictures
        states, _ = self._states(
            cache.prompts[:rows],
            cache.latents.repeat(copies, 1, 1),
            cache.hidden.repeat(copies, 1),
        )
        chosen = _taken(states, now.repeat(copies, 1)).flatten(0, 1)
        fresh = drawn_noise(noise, self.head.draws, now.shape[1], self.dimensions)
        cache.put(self.head.sample(chosen, fresh.to(self.device), scale, temperature))

    def drawn(self, cache: MaskedVectorCache) -> Tensor:
        return cache.latents

    # ---- drafting and judging ------------------------------------------------------------------

    def undraftable(self, longest: int) -> str:
        return self.head.pathless

    @property
    def unit_sizes(self) -> list[int]:
        return round_sizes(self.units, self.config.cells)

    @property
    def path_draws(self) -> tuple[int, int, int]:
        return self.head.draws, self.head.last_draws, self.dimensions

    def paths(
        self,
        cache: MaskedVectorCache,
        vectors: Tensor,
        spans: Spans,
        noise: Tensor,
        scale: Tensor,
        temperature: float,
        last: float | None,
    ) -> DenoisingPath:
        """Every span is a row of its own, in which just the cells before it are known: full
        attention leaves nothing that several could share."""
        spans, vectors = spans.to(self.device), vectors.to(self.device)
        order = cache.order[spans.pictures]
        unknown = torch.arange(order.shape[1], device=self.device) >= spans.first[:, None]
        hidden = torch.zeros_like(unknown).scatter(1, order, unknown)
        latents = _placed(vectors[spans.pictures], order)
        copies = len(cache.prompts.ids) // len(cache.order)
        rows = torch.cat([spans.pictures + copy * len(cache.order) for copy in range(copies)])
        states, _ = self._states(
            cache.prompts[rows], latents.repeat(copies, 1, 1), hidden.repeat(copies, 1)
        )
        chosen = _taken(states, order.repeat(copies, 1))
        chosen = chosen[spans.inside(order.shape[1]).repeat(copies, 1)]
        fresh, scale = noise.to(self.device), scale.to(self.device)
        return self.head.path(chosen, fresh, scale, temperature, last)

    def keep(self, cache: MaskedVectorCache, vectors: Tensor, counts: Tensor) -> None:
        """Nothing is remembered of what was read, so that nothing need be forgotten."""
        cache.latents = _placed(vectors.to(self.device), cache.order)


def _placed(vectors: Tensor, order: Tensor) -> Tensor:
    """(B, n, C) in the order of cells, of vectors in the order (B, n) in which they are drawn."""
    return torch.zeros_like(vectors).scatter(1, order[..., None].expand_as(vectors), vectors)


def _kept(keep: Tensor) -> tuple[Tensor, Tensor]:
    """Where the kept positions of (B, T) bool stand, first ones first: which of (B, k) are some,
    and (B, k) int64; shorter rows are filled up with others."""
    count = int(keep.sum(dim=1).max())
    where = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, :count]
    return keep.gather(1, where), where


def _taken(x: Tensor, where: Tensor) -> Tensor:
    """(B, k, D) the positions `where` (B, k) of x (B, T, D)."""
    return x.gather(1, where[..., None].expand(-1, -1, x.shape[-1]))
