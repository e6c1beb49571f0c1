"""Autoregression over entities, each drawn by the network itself from noise, a flow or a diffusion.

xAR (arXiv 2502.20388) trains on noisy predecessors: in one pass every entity is a noisy one that is
drawn and what later ones read. ACDiT (arXiv 2412.07720; see `generators.blocks`) has a clean copy
beside the noisy one. Sampling is the same: predecessors are clean, and their keys and values stay.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.generators.base import Batch, Output
from arra.generators.batches import Sample, Store
from arra.generators.vectors import (
    SOLVED,
    Prompts,
    VectorBatches,
    VectorConfig,
    VectorGenerator,
    no_logits,
    process_of,
)
from arra.heads.base import guided
from arra.heads.processes import normal
from arra.networks.adaln import Memory
from arra.networks.entities import EntityTransformer, Told
from arra.orders.entities import Entities, in_blocks
from arra.orders.layout import visible
from arra.randomness import Noise
from arra.registry import generators
from arra.settings import BatchConfig

WORD = -1
"""The place of a position that is no place."""


class EntityBatches(VectorBatches):
    """Positions come entity by entity; `place` says where on the grid each stands."""

    places: Sequence[int]

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        found = super()._sample(text, codes)
        place = [*found.place[: -self.positions], *self.places]
        return Sample(found.tokens, found.target, place, place)


@dataclass
class EntityCache:
    """B pictures that are being drawn; rows are as many, or, guided, twice as many."""

    prompts: Prompts
    mean: Tensor
    """(R, D) what sets norms."""
    memories: list[Memory]
    """Of each block: words, and clean entities that were read."""
    drawn: list[Tensor] = field(default_factory=list)
    """(B, s, c) the entities so far."""


class SequenceOfEntities(VectorGenerator):
    """What generators of entities share. Layers are those of the network; full attention inside an
    entity, so that positions know later ones of their own."""

    causal = False
    plain_context: ClassVar[bool]
    """Whether clean positions know neither time nor caption."""

    def __init__(self, config: VectorConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config, tokenizer)
        self.entities = self.entities_of(config)
        self.channels = config.dimensions // self.entities.frames
        self.process = process_of(config.options)
        self.network = EntityTransformer(
            config.size,
            self.entities.coordinates(),
            self.channels,
            text=config.text,
            longest=config.longest,
        )

    @classmethod
    @abstractmethod
    def entities_of(cls, config: VectorConfig) -> Entities:
        """What is drawn one after another."""

    @abstractmethod
    def context(
        self, target: Tensor, random: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None] | None:
        """A copy of the entities (B, L, c) that later ones read in training, and its times (B, N),
        None where nothing is said of them. No copy: they read each other as they are, noisy."""

    @classmethod
    def tiny(cls) -> Self:
        small = super().tiny()
        assert small.tokenizer is not None
        return cls.from_scratch(
            small.tokenizer, 3, (4, 4), small.config.size, small.config.options, seed=0
        )

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        return self.entities.grids

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(self.network.blocks)

    # ---- training ------------------------------------------------------------------------------

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> EntityBatches:
        found = EntityBatches(store, config, features, self._prompt, self.positions)
        found.places = self.entities.places
        return found

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        self._check_layers(layers)
        prompts, latents = self._read(batch)
        target, owner = self.entities.gather(latents), self._owner
        drawn = (len(target), self.units)
        random, device = batch.stream(), target.device
        time = self.process.times(drawn[0] * drawn[1], random, device).view(drawn)
        noise = normal(target.shape, random, device)
        context, found = self.context(target, random), {}

        def predict(noisy: Tensor, _: Tensor) -> Tensor:
            said, states = self.say(prompts, noisy.view_as(target), time, context, layers)
            found.update(states)
            return said.flatten(0, 1)

        rows = (target, time[:, owner], noise)
        losses = self.process.losses(predict, *(x.flatten(0, 1) for x in rows))
        return Output(*no_logits(target), found, losses)

    def say(
        self,
        prompts: Prompts,
        noisy: Tensor,
        time: Tensor,
        context: tuple[Tensor, Tensor | None] | None = None,
        layers: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What the network says of noisy entities (B, L, c) at times (B, N), (B, L, c), all in one
        pass; and the states (B, P + L, D) of layers, without those of the context."""
        network, place = self.network, torch.arange(noisy.shape[1], device=noisy.device)
        words, mean = network.captions(prompts.ids, prompts.real)
        prefix = words.shape[1]
        parts, places = [words], [torch.full((prefix,), WORD, device=noisy.device)]
        told = [mean[:, None] + network.times(time)]
        if context is not None:
            copy, its_time = context
            parts, places = [*parts, network.read(copy, place)], [*places, place]
            if its_time is not None:
                told.insert(0, mean[:, None] + network.times(its_time))
        owner = torch.cat([self._owner + self.units * copy for copy in range(len(told))])
        x, found = network(
            torch.cat((*parts, network.read(noisy, place)), dim=1),
            torch.cat((*places, place)),
            Told(torch.cat(told, dim=1), owner),
            self._mask(prompts.real, context is not None),
            layers=layers,
        )
        here = torch.tensor([*range(prefix), *range(x.shape[1] - len(place), x.shape[1])])
        states = {layer: hidden[:, here] for layer, hidden in found.items()}
        return network.last(x[:, -len(place) :], told[-1][:, self._owner]), states

    def _mask(self, real: Tensor, copies: bool) -> Tensor:
        """(B or 1, 1, T, T) bool of words, of which some are `real` (B, P), and entities."""
        if bool(real.all()):
            real = real[:1]
        layout, prefix = in_blocks(self.entities.sizes, copies, real.shape[1]), real.shape[1]
        segment = layout.segment.to(real.device).expand(len(real), -1).clone()
        segment[:, :prefix] -= (~real).long()
        mask = visible(segment, layout.now.to(real.device), layout.dies.to(real.device))
        if copies and self.plain_context:
            mask[:, prefix : -self.positions, :prefix] = False
        return mask[:, None]

    @property
    def _owner(self) -> Tensor:
        return self.entities.owner().to(self.device)

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Entities."""
        return len(self.entities.sizes)

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> EntityCache:
        read = Prompts.of(prompts, self.device)
        words, mean = self.network.captions(read.ids, read.real)
        memories = [Memory() for _ in self.network.blocks]
        if words.shape[1]:
            segment = read.real.long() - 1
            mask = visible(segment, torch.zeros_like(segment[0]))[:, None]
            place = torch.full((words.shape[1],), WORD, device=self.device)
            self.network(words, place, None, mask, memories)
        return EntityCache(read, mean, memories)

    def unit(self, cache: EntityCache, noise: Noise, scale: float, temperature: float) -> None:
        if cache.drawn:
            self.remember(cache, cache.drawn[-1])
        size = self.entities.sizes[len(cache.drawn)]
        made = noise(self.process.draws, size, self.channels).transpose(0, 1).to(self.device)

        def predict(x: Tensor, time: Tensor, mean: Tensor) -> Tensor:
            return self._velocity(cache, x, time, mean)

        steps = guided(predict, cache.mean, made.shape[1], scale, self.channels)
        cache.drawn.append(self.process.sample(steps, made, temperature))

    def remember(self, cache: EntityCache, last: Tensor) -> None:
        """Read the last entity (B, s, c) that was drawn: its keys and values stay."""
        x = last.repeat(len(cache.mean) // len(last), 1, 1)
        told = None
        if not self.plain_context:
            time = torch.zeros(len(x), device=x.device)
            told = self._told(cache.mean, time, x.shape[1])
        place = self._places(len(cache.drawn) - 1)
        mask = self._sight(cache, x, hidden=self.plain_context)
        self.network(self.network.read(x, place), place, told, mask, cache.memories)

    def _velocity(self, cache: EntityCache, x: Tensor, time: Tensor, mean: Tensor) -> Tensor:
        """What the network says of the noisy next entity (R, s, c) at times (R,)."""
        memories = [
            Memory([stored[: len(x)] for stored in memory.stored], keep=_length(memory))
            for memory in cache.memories
        ]
        place, told = self._places(len(cache.drawn)), self._told(mean, time, x.shape[1])
        state, _ = self.network(
            self.network.read(x, place), place, told, self._sight(cache, x), memories
        )
        return self.network.last(state, told.by_position)

    def _told(self, mean: Tensor, time: Tensor, size: int) -> Told:
        """One condition for all positions of an entity."""
        condition = mean[:, None] + self.network.times(time[:, None])
        return Told(condition, torch.zeros(size, dtype=torch.int64, device=mean.device))

    def _sight(self, cache: EntityCache, x: Tensor, hidden: bool = False) -> Tensor:
        """(R, 1, 1, keys) bool: words, unless they are `hidden`, all that was read, and itself."""
        real = cache.prompts.real[: len(x)]
        words = torch.zeros_like(real) if hidden else real
        rest = _length(cache.memories[0]) - real.shape[1] + x.shape[1]
        return torch.cat((words, words.new_ones(len(x), rest)), dim=1)[:, None, None]

    def _places(self, number: int) -> Tensor:
        where = self.entities.slices[number]
        return torch.arange(where.start, where.stop, device=self.device)

    def drawn(self, cache: EntityCache) -> Tensor:
        return self.entities.restore(torch.cat(cache.drawn, dim=1))


def _length(memory: Memory) -> int:
    return memory.stored[0].shape[2] if memory.stored else 0


@generators.register("entities")
class EntityGenerator(SequenceOfEntities):
    """Tokens, cells, subsamples, scales or the whole picture (xAR)."""

    reads = (*SOLVED, "entity", "side", "context")

    plain_context = False

    @classmethod
    def entities_of(cls, config: VectorConfig) -> Entities:
        return Entities.of(config.options.entity, config.grid, config.options.side)

    def context(
        self, target: Tensor, random: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None] | None:
        if self.config.options.context == "noisy":
            return None
        return target, target.new_zeros(len(target), self.units)
