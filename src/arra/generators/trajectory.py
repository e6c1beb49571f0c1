"""Flow whose network remembers noisier states (ARFlow, arXiv 2501.16085).

A flow's network is told x at one time. This one also has a memory of pictures that were noisier: in
training those of other pictures of the same caption, at drawing those of its own trajectory, one
for each step of the solver. Inside a picture all cells see each other and the caption's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.errors import InputError
from arra.generators.base import Batch, Output
from arra.generators.batches import Store
from arra.generators.trajectory_batches import TrajectoryBatches
from arra.generators.vectors import (
    PROCESS,
    Prompts,
    VectorConfig,
    VectorGenerator,
    no_logits,
    process_of,
)
from arra.guidance import guide_pairs
from arra.heads.processes import TIMES, Flow, normal
from arra.networks.conditions import Captions
from arra.networks.denoiser import waves
from arra.networks.dit import Block, Last, TimeEmbedding
from arra.networks.gated_memory import Carried, Chunks, GatedMemory, in_sequences
from arra.randomness import Noise
from arra.registry import generators
from arra.settings import BatchConfig


@dataclass(frozen=True)
class Said:
    """Captions of B rows, as the network takes them."""

    words: Tensor
    """(B, P, D)."""
    mean: Tensor
    """(B, D)."""
    real: Tensor
    """(B, P) bool."""


@dataclass
class TrajectoryCache:
    """Pictures that are being drawn; rows of captions are as many, or twice as many (guidance)."""

    said: Said
    x: Tensor
    """(B, n, C): where the pictures are between noise and data."""
    memories: list[Carried]
    """What each block remembers, of all rows of captions."""
    done: int = 0
    """Steps that are done."""


@generators.register("trajectory")
class TrajectoryGenerator(VectorGenerator):
    """Cells of a picture see each other, and pictures those before them in their sequence."""

    reads = (*PROCESS, "sequence", "read_decay", "gate_root")

    causal = False
    process: Flow

    def __init__(self, config: VectorConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config, tokenizer)
        size, options, width = config.size, config.options, config.size.width
        process = process_of(options)
        if not isinstance(process, Flow):
            raise InputError(
                f"VectorOptions.objective: {options.objective!r}, but a trajectory is one of flow"
            )
        self.process = process
        self.captions = Captions(config.text, width, config.longest)
        self.time = TimeEmbedding(width)
        self.read_in = nn.Linear(config.dimensions, width)
        self.blocks = nn.ModuleList(
            Block(
                width,
                size.heads,
                size.feed_forward,
                GatedMemory(width, size.heads, options.read_decay, options.gate_root),
            )
            for _ in range(size.depth)
        )
        self.last = Last(width, config.dimensions)
        self.places: Tensor
        self.register_buffer("places", grid_waves(config.grid, width), persistent=False)

    @property
    def remembers(self) -> bool:
        """Whether pictures know of noisier ones at all."""
        return self.config.options.sequence > 1

    def decoder_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> TrajectoryBatches:
        pictures = self.config.options.sequence
        return TrajectoryBatches(store, config, features, self._prompt, self.positions, pictures)

    # ---- training ------------------------------------------------------------------------------

    def forward(self, batch: Batch, layers: Sequence[int] = ()) -> Output:
        self._check_layers(layers)
        prompts, latents = self._read(batch)
        group = batch.group
        if group is None or not self.remembers:
            group = torch.arange(len(latents), device=latents.device)
        chunks = self._chunks(prompts.real, in_sequences(group))
        random = batch.stream()
        drawn = self.process.times(len(latents), random, latents.device)
        time = from_noise(drawn, chunks)
        noise = normal(latents.shape, random, latents.device)
        said, found = self._said(prompts), {}

        def predict(x: Tensor, at: Tensor) -> Tensor:
            velocity, states = self._velocity(x.view_as(latents), time, said, chunks, None, layers)
            found.update(states)
            return velocity.flatten(0, 1)

        cells = latents.shape[1]
        losses = self.process.losses(
            predict, latents.flatten(0, 1), time.repeat_interleave(cells), noise.flatten(0, 1)
        )
        return Output(*no_logits(latents), found, losses)

    def _said(self, prompts: Prompts) -> Said:
        words, mean = self.captions(prompts.ids, prompts.real)
        return Said(words, mean, prompts.real)

    def _chunks(self, real: Tensor, order: Tensor) -> Chunks:
        """Cells are remembered, the words of captions (B, P), of which some are real, are not."""
        cells = torch.ones(len(real), self.config.cells, dtype=torch.bool, device=real.device)
        seen, written = (torch.cat((words, cells), dim=1) for words in (real, real & False))
        return Chunks(order, None if bool(real.all()) else seen, written)

    def _velocity(
        self,
        x: Tensor,
        time: Tensor,
        said: Said,
        chunks: Chunks,
        memories: Sequence[Carried] | None = None,
        layers: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(B, n, C) of x (B, n, C) at times (B,), and the states (B, P + n, D) of layers."""
        condition = self.time(time) + said.mean
        states = torch.cat((said.words, self.read_in(x) + self.places), dim=1)
        found = {}
        for number, block in enumerate(self.blocks, start=1):
            carried = None if memories is None else memories[number - 1]
            states = block(states, condition, condition, chunks, carried)
            if number in layers:
                found[number] = states
        return self.last(states[:, -x.shape[1] :], condition), found

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Steps of the solver."""
        return self.process.steps

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> TrajectoryCache:
        x = noise(self.config.cells, self.dimensions).to(self.device)
        said = self._said(Prompts.of(prompts, self.device))
        return TrajectoryCache(said, x, [Carried() for _ in self.blocks])

    def unit(self, cache: TrajectoryCache, noise: Noise, scale: float, temperature: float) -> None:
        """A step. Pairs are both computed whatever the scale: later steps read what they leave."""
        flow, number, pictures = self.process, cache.done, len(cache.x)
        if number == 0 and not flow.stochastic:
            cache.x = temperature * cache.x
        rows = len(cache.said.words)
        order = torch.arange(rows, device=self.device)[:, None]
        time = torch.full((rows,), TIMES * flow.shares[number], device=self.device)
        velocity, _ = self._velocity(
            cache.x.repeat(rows // pictures, 1, 1),
            time,
            cache.said,
            self._chunks(cache.said.real, order),
            cache.memories if self.remembers else None,
        )
        if rows > pictures:
            velocity = guide_pairs(velocity, scale)
        fresh = None
        if number + 1 < flow.draws:
            fresh = temperature * noise(*cache.x.shape[1:]).to(self.device)
        cache.x = flow.step(number, cache.x, velocity, fresh)
        cache.done += 1

    def drawn(self, cache: TrajectoryCache) -> Tensor:
        return cache.x


def from_noise(time: Tensor, chunks: Chunks) -> Tensor:
    """(R,) the times (R,) of each sequence, between its rows so that the noisiest is the first."""
    falling = chunks.by_sequence(time, -1.0).sort(dim=1, descending=True).values
    return chunks.by_row(falling)


def grid_waves(grid: tuple[int, int], width: int) -> Tensor:
    """(n, D): sines and cosines of a cell's row, and of its column (DiT, arXiv 2212.09748)."""
    if width % 4:
        raise InputError(f"LlamaSize.width: {width}, expected a multiple of 4")
    rows, columns = (torch.arange(side).float() for side in grid)
    row = waves(rows, width // 2)[:, None].expand(-1, grid[1], -1)
    column = waves(columns, width // 2)[None].expand(grid[0], -1, -1)
    return torch.cat((row, column), dim=-1).flatten(0, 1)
