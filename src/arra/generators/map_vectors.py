"""What generators share that draw maps of vectors coarse to fine, a whole map at once.

A transformer reads what coarser maps say and gives a state at every position of the next; a head
over maps, told these states, leads from where the map's way starts to where it ends. Captions
condition as in `generators.scales`: words that everything sees, and their mean, which sets norms.

B pictures, R rows (B, or 2 B with guidance), P positions of captions, L of all maps, n_k of map k.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from arra.codecs.pyramids import VectorPyramid
from arra.generators.base import Batch, Output
from arra.generators.vectors import Prompts, VectorConfig, VectorGenerator, no_logits
from arra.heads.map_flow import MapHead
from arra.heads.processes import Process
from arra.networks.adaln import Memory
from arra.networks.conditions import Captions
from arra.networks.dit import Block
from arra.networks.grid_llama import Norm
from arra.networks.rotary import rotary_table, still
from arra.orders.layout import visible
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import Scales
from arra.randomness import Noise


@dataclass(frozen=True)
class Way:
    """Training's way to the map of one scale; all (B, n_k, C)."""

    start: Tensor
    end: Tensor
    read: Tensor
    """What the next scale reads: where the way ends, or something near."""


@dataclass
class MapCache:
    """R rows of which some maps are drawn."""

    memories: list[Memory]
    """One a block."""
    real: Tensor
    """(R, T) bool: which stored positions are not padding."""
    condition: Tensor
    """(R, D)."""
    drawn: Tensor | None = None
    """(B, C, h, w) where the way of the newest map ended."""
    read: Tensor | None = None
    """(B, C, h, w) what the next map reads of it."""
    level: int = 0
    """Maps that are drawn."""


class MapVectorGenerator(VectorGenerator):
    """Blocks with AdaLN over a pyramid of maps. Subclasses name the scales, the processes, and what
    the way to each map begins and ends with."""

    head_type: ClassVar[type[MapHead]] = MapHead
    enlarge: Literal["bicubic", "nearest"]
    """How a map is brought to the size of the next; see `VectorPyramid`."""
    rotary: Tensor
    inner_rotary: Tensor

    def __init__(self, config: VectorConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config, tokenizer)
        size, options, width = config.size, config.options, config.size.width
        self.pyramid = Pyramid(self._sizes())
        self.scales = VectorPyramid(config.dimensions, self.enlarge)
        self.processes = self._processes()
        self.captions = Captions(config.text, width, config.longest)
        self.read_in = nn.Linear(config.dimensions, width)
        self.before, self.after = (Norm(width, 1e-6) for _ in range(2))
        self.blocks = nn.ModuleList(
            Block(width, size.heads, size.feed_forward) for _ in range(size.depth)
        )
        for part in (self.read_in, *self.blocks.modules()):
            if isinstance(part, nn.Linear) and bool(part.weight.any()):  # what is zero stays so
                nn.init.xavier_uniform_(part.weight)
        nn.init.zeros_(self.read_in.bias)
        self.head = self.head_type(
            width,
            config.dimensions,
            outputs=self.processes[0].outputs,
            inner=options.inner,
            depth=options.inner_depth,
            told=options.told,
            guided_until=options.guided_until,
        )
        for name, wide, heads in (
            ("rotary", width, size.heads),
            ("inner_rotary", options.inner, self.head.network.heads),
        ):
            table = _rotary(self.pyramid.sizes, wide // heads, size.rope_theta)
            self.register_buffer(name, table, persistent=False)
        # last, so that generators of other scales begin with the same weights but for these
        self.places = nn.Parameter(torch.empty(2, self.pyramid.length, width).normal_(std=0.02))

    @abstractmethod
    def _sizes(self) -> Scales:
        """Rows and columns of every scale, coarse to fine."""

    @abstractmethod
    def _processes(self) -> Sequence[Process]:
        """The process of every scale's way."""

    @abstractmethod
    def ways(self, latents: Tensor, random: torch.Generator | None) -> list[Way]:
        """Training's ways to the maps of pictures (B, n, C), with noise of `random`."""

    def _start(
        self, level: int, before: Tensor | None, noise: Tensor, temperature: float
    ) -> tuple[Tensor, float]:
        """What a map's way begins with when it is drawn, (draws, B, n_k, C), and the temperature
        that is left to the process; after `before` (B, C, h, w), with noise of that shape."""
        return noise, temperature

    def _reading(self, end: Tensor, noise: Noise) -> Tensor:
        """(B, C, h, w) what the next map reads of one whose way ended there, as training's
        `Way.read`."""
        return end

    # ---- training ------------------------------------------------------------------------------

    @property
    def grids(self) -> Scales:
        return self.pyramid.sizes

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        self._check_layers(layers)
        prompts, latents = self._read(batch)
        random = batch.stream()
        ways = self.ways(latents, random)
        read = self.scales.inputs(torch.cat([way.read for way in ways], dim=1), self.pyramid)
        states, found = self._states(prompts, read, layers)
        losses = [
            self.head.losses(
                process, way.end, way.start, states[:, here], self.inner_rotary[here], random
            )
            for process, way, here in zip(self.processes, ways, self.pyramid.slices, strict=True)
        ]
        return Output(*no_logits(states), found, torch.cat(losses, dim=1).flatten())

    def _states(
        self, prompts: Prompts, read: Tensor, layers: Sequence[int] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, L, D) what the head is told, of what all scales but the first read (B, L - n_0, C),
        and (B, P + L, D) after some layers."""
        words, condition = self.captions(prompts.ids, prompts.real)
        first = condition[:, None].expand(-1, self.pyramid.counts[0], -1)
        x = torch.cat((first, self.read_in(read)), dim=1) + self.places[0]
        real = F.pad(prompts.real, (0, x.shape[1]), value=True)
        if bool(prompts.real.all()):
            real = real[:1]
        text = words.shape[1]
        moments = self.pyramid.layout(text).now.to(x.device).expand_as(real)
        mask = visible(real.long() - 1, moments)[:, None]
        rotary = torch.cat((still(self.rotary, text), self.rotary))[None]
        x, found = self.before(torch.cat((words, x), dim=1)), {}
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, condition, rotary, mask)
            if number in layers:
                found[number] = x
        return self.after(x[:, text:]) + self.places[1], found

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Number of scales."""
        return len(self.pyramid.sizes)

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> MapCache:
        read = Prompts.of(prompts, self.device)
        words, condition = self.captions(read.ids, read.real)
        cache = MapCache([Memory() for _ in self.blocks], read.real[:, :0], condition)
        if (text := words.shape[1]) > 0:
            self._advance(words, read.real, still(self.rotary, text), cache)
        return cache

    def unit(self, cache: MapCache, noise: Noise, scale: float, temperature: float) -> None:
        level, here = cache.level, self.pyramid.slices[cache.level]
        process, count = self.processes[level], self.pyramid.counts[level]
        fresh = noise(process.draws, count, self.dimensions).to(self.device).transpose(0, 1)
        if cache.read is None:
            x = cache.condition[:, None].expand(-1, count, -1)
        else:
            read = self.read_in(self.scales.read(cache.read, level, self.pyramid))
            x = read.repeat(len(cache.condition) // len(read), 1, 1)
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        states = self._advance(x + self.places[0, here], real, self.rotary[here], cache)
        states = self.after(states) + self.places[1, here]
        start, left = self._start(level, cache.drawn, fresh, temperature)
        drawn = self.head.sample(process, start, states, self.inner_rotary[here], scale, left)
        end = self.scales.add(drawn, drawn, level, self.pyramid)
        cache.drawn = end
        if cache.level + 1 < self.units:
            cache.read = self._reading(end, noise)
        cache.level += 1

    def _advance(self, x: Tensor, real: Tensor, rotary: Tensor, cache: MapCache) -> Tensor:
        """States after the last block; new positions see all that are real, and each other."""
        cache.real = torch.cat((cache.real, real), dim=1)
        length, known = x.shape[1], cache.real.shape[1]
        # a row of padding alone sees itself: attention to nothing is not a number
        itself = torch.eye(length, known, dtype=torch.bool, device=x.device).roll(
            known - length, dims=1
        )
        mask = (cache.real[:, None] | (itself & ~real[..., None]))[:, None]
        x = self.before(x)
        for block, memory in zip(self.blocks, cache.memories, strict=True):
            x = block(x, cache.condition, rotary[None], mask, memory)
        return x

    def drawn(self, cache: MapCache) -> Tensor:
        assert cache.drawn is not None
        return cache.drawn.flatten(2).transpose(1, 2)


def _rotary(sizes: Scales, dimensions: int, base: float) -> Tensor:
    """(L, dimensions / 2, 2): every scale's cells at their places in the picture, so that the same
    place turns alike at all sizes."""
    tables = [rotary_table(size, dimensions, base, span=sizes[-1])[1:] for size in sizes]
    return torch.cat(tables)
