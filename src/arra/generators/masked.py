"""Masked prediction over a grid of codes (MaskGIT, arXiv 2202.04200; ELM's comparison with it).

The same blocks, condition and codes as `grid`, but every position sees every other: cells are
hidden and predicted from the rest, and a picture is drawn in rounds, the surest cells first. All
codes of a cell are hidden together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arra.errors import InputError
from arra.generators.base import Batch
from arra.generators.batches import IGNORE, Sample, Store
from arra.generators.grid import GridConfig, GridGenerator
from arra.generators.grid_batches import GridBatches
from arra.networks.grid_llama import joined
from arra.orders.layout import visible
from arra.registry import generators
from arra.settings import BatchConfig


class MaskedBatches(GridBatches):
    """condition x_1 ... x_n, of which some are hidden; a hidden cell is predicted where it stands.

    How many of a sample's n cells are hidden: floor(n cos(pi / 2 u)), at least one, u uniform over
    0, 1 / T, ..., (T - 1) / T with T = `rounds`: the shares that drawing in T rounds meets.
    """

    rounds = 10

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        batch = super().batch(step, part, parts)
        rng = np.random.default_rng([self.config.seed, 5, step * parts + part])
        shape = (batch.samples, self.cells)
        share = np.cos(math.pi / 2 * rng.integers(self.rounds, size=shape[0]) / self.rounds)
        count = np.maximum(1, np.floor(self.cells * share + 1e-9))
        rank = rng.random(shape).argsort(axis=1).argsort(axis=1)
        hidden = torch.from_numpy(rank < count[:, None])
        hidden = hidden[batch.segment.clamp(min=0), batch.place.clamp(min=0)] & batch.image
        return replace(
            batch,
            target=batch.target.masked_fill(~hidden, IGNORE),
            place=batch.place.masked_fill(~hidden, -1),
            image=hidden,
            read=batch.place.masked_fill(hidden, -1),
        )

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        prompt, tokens = self.prompt(text), self._tokens(codes)
        before, cells = len(prompt), list(range(self.cells))
        place = [-1] * before + cells
        return Sample([*prompt, *tokens], [IGNORE] * before + tokens, place, place)


@dataclass
class MaskedCache:
    """The prompts of B rows: with full attention nothing that was computed can be kept."""

    prompts: list[Sequence[int]]

    @property
    def rows(self) -> int:
        """B."""
        return len(self.prompts)

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        self.prompts = [self.prompts[row] for row in rows.tolist()]


@generators.register("masked")
class MaskedGenerator(GridGenerator):
    """Full attention over the cells of a grid, some of which are hidden."""

    sampler: ClassVar[str] = "masked"
    causal: ClassVar[bool] = False

    def __init__(self, config: GridConfig, tokenizer: PreTrainedTokenizerBase | None = None):
        super().__init__(config, tokenizer)
        self.hidden = nn.Parameter(torch.empty(config.size.width).normal_(std=0.02))

    def batches(
        self,
        store: Store,
        config: BatchConfig,
        features: Sequence[str] | None = None,
        replay: Sequence[Sequence[int]] = (),
    ) -> MaskedBatches:
        made = MaskedBatches(store, self.prompt, self.config, config, features)
        made.rounds = self.config.options.rounds
        return made

    def _cells(self, batch: Batch) -> Tensor:
        if batch.read is None:
            raise InputError("MaskedGenerator: this batch does not say which places are read")
        return torch.maximum(batch.read, batch.place)

    def _inputs(self, batch: Batch, cell: Tensor) -> Tensor:
        x = super()._inputs(batch, cell)
        return torch.where((batch.place >= 0)[..., None], self.hidden, x)

    def _mask(self, batch: Batch) -> Tensor:
        return visible(batch.segment, torch.zeros_like(batch.segment))[:, None]

    # ---- sampling ------------------------------------------------------------------------------

    @property
    def units(self) -> int:
        """Rounds: so many passes draw a picture."""
        return self.config.options.rounds

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, MaskedCache]:  # type: ignore[override]
        """Logits (B, n, m, V) of all cells when nothing is known, and the prompts."""
        cache = MaskedCache(list(prompts))
        shape = (len(prompts), self.config.grid[0] * self.config.grid[1], self.config.split)
        nothing = torch.full(shape, -1, dtype=torch.int64, device=self.device)
        return self.step(nothing, cache), cache

    def step(self, codes: Tensor, cache: MaskedCache) -> Tensor:  # type: ignore[override]
        """Logits (B, n, m, V) of all cells given codes (B, n, m), of which -1 are hidden."""
        rows, cells, device = len(codes), codes.shape[1], codes.device
        longest = max(map(len, cache.prompts))
        shape = (rows, longest + cells)
        tokens = torch.zeros(shape, dtype=torch.int64)
        segment = torch.zeros(shape, dtype=torch.int64)
        position = torch.zeros(shape, dtype=torch.int64)
        for row, prompt in enumerate(cache.prompts):
            tokens[row, longest - len(prompt) : longest] = torch.tensor(list(prompt))
            segment[row, : longest - len(prompt)] = -1
            position[row, longest - len(prompt) : longest] = torch.arange(len(prompt))
        tokens, segment, position = (t.to(device) for t in (tokens, segment, position))
        tokens[:, longest:] = joined(codes.clamp(min=0), self.config.codes)
        here = torch.full(shape, -1, dtype=torch.int64, device=device)
        here[:, longest:] = torch.arange(cells, device=device)
        unknown = torch.zeros(shape, dtype=torch.bool, device=device)
        unknown[:, longest:] = codes[..., 0] < 0
        batch = Batch(
            tokens,
            segment,
            position,
            target=here,
            image=unknown,
            place=here.masked_fill(~unknown, -1),
            read=here.masked_fill(unknown, -1),
        )
        # several rows may have one number: no row holds two samples
        x = self._inputs(replace(batch, segment=_numbered(segment)), here)
        rotary, mask = self.rotary[here + 1], self._mask(batch)
        for block in self.blocks:
            x = block(x, rotary, mask)
        return self.logits_of(x[:, longest:])


def _numbered(segment: Tensor) -> Tensor:
    """Every row is a sample of its own."""
    rows = torch.arange(len(segment), device=segment.device)[:, None].expand_as(segment)
    return rows.masked_fill(segment < 0, -1)
