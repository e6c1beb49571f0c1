"""Draft trees for a Llama over a grid of codes, so that it can be decoded speculatively."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from arra.networks.adaln import Memory
from arra.networks.cache import KVCache
from arra.orders.trees import Trees


class _Layer:
    """The keys and values of one block, by the names that `KVCache` has for them."""

    def __init__(self, memory: Memory):
        self.memory = memory

    @property
    def keys(self) -> Tensor:
        return self.memory.stored[0]

    @keys.setter
    def keys(self, new: Tensor) -> None:
        self.memory.stored[0] = new

    @property
    def values(self) -> Tensor:
        return self.memory.stored[1]

    @values.setter
    def values(self, new: Tensor) -> None:
        self.memory.stored[1] = new


class _Past:
    """The memories of all blocks, as a `KVCache` holds them."""

    def __init__(self, memories: Sequence[Memory]):
        self.memories = memories
        self.layers = [_Layer(memory) for memory in memories]

    def batch_select_indices(self, rows: Tensor) -> None:
        for memory in self.memories:
            memory.gather(rows)

    def crop(self, count: int) -> None:
        """Drop the last -count positions."""
        for layer in self.layers:
            layer.memory.truncate(layer.keys.shape[2] + count)


@dataclass
class GridTreeCache(KVCache):
    """A cache whose rows have cells of their own: their positions begin behind the condition."""

    texts: Tensor | None = None
    """(B,) int64: positions of each row's condition."""

    def gather(self, rows: Tensor) -> None:
        super().gather(rows)
        assert self.texts is not None
        self.texts = self.texts[rows]


class GridTreeStepper:
    """The units of a grid generator of one code a cell, which also reads trees of them."""

    def __init__(self, generator: Any):
        """`generator`: a `GridGenerator`, which makes such steppers and is not imported here."""
        self.generator = generator
        self.units, self.codes, self.end = generator.units, generator.config.codes, None
        self.prompt_ids = generator.prompt_ids

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, GridTreeCache]:
        """Read conditions of any lengths: logits (B, V) of the first cell, and the cache."""
        logits, read = self.generator.prefill(prompts)
        texts = read.real.sum(dim=1)
        past: Any = _Past(read.memories)
        return logits[:, 0], GridTreeCache(past, read.real, read.prompt, texts=texts)

    def step(self, codes: Tensor, cache: GridTreeCache) -> Tensor:
        """Logits (B, V) of the next cell after `codes` (B,) were drawn; extends the cache."""
        chain = Trees.of([[-1]] * len(codes), codes.device)
        logits, _ = self.step_tree(codes[:, None], chain, cache)
        return logits[:, 0]

    def step_tree(self, codes: Tensor, trees: Trees, cache: GridTreeCache) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of the cell after every node of a draft tree in each row, of `codes`
        (B, T), and what the head read for them (B, T, D); `cache.keep` then says which stay."""
        generator = self.generator
        sees, position = cache.branch(trees)
        assert cache.texts is not None
        # row 0 of the table is the condition's; behind the last cell nothing is drawn
        cell = (position - cache.texts[:, None] + 1).clamp(max=len(generator.rotary) - 1)
        x, rotary = generator.embed(codes[..., None]), generator.rotary[cell]
        for block, memory in zip(generator.blocks, cache.past.memories, strict=True):
            x = block(x, rotary, sees, memory)
        return generator.logits_of(x)[..., 0, :], generator.norm(x)
