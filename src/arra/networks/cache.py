"""The KV cache as an explicit object: rows with their own lengths; fork, gather, truncate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig

from arra.errors import InputError
from arra.orders.trees import Trees


@dataclass
class KVCache:
    """Keys and values of B rows, of which each sees only its own positions.

    Rows of different lengths share one tensor by padding on the left: `visible` says which stored
    positions are real, `next_position` where each row goes on.
    """

    past: Any
    """Keys and values, a `transformers.DynamicCache`."""
    visible: Tensor
    """(B, L) bool: which of the L stored positions belong to the row."""
    prompt: int = 0
    """How many of them are the prompt's, padding included: what follows was drawn."""
    state: Tensor | None = None
    """(B, D) what the head read after the prompts, of rows as they were then."""

    @classmethod
    def empty(cls, rows: int, config: PretrainedConfig, device: torch.device) -> KVCache:
        """A cache without positions for `rows` rows of a model with this configuration."""
        visible = torch.zeros(rows, 0, dtype=torch.bool, device=device)
        return cls(DynamicCache(config=config), visible)

    @property
    def rows(self) -> int:
        """B."""
        return self.visible.shape[0]

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.visible.device

    @property
    def stored(self) -> int:
        """L, the number of stored positions, padding included."""
        return self.visible.shape[1]

    @property
    def next_position(self) -> Tensor:
        """(B,) int64: how many real positions each row has, which is where it continues."""
        return self.visible.sum(dim=1)

    def extend(self, real: Tensor) -> tuple[Tensor, Tensor]:
        """Make room for (B, t) new positions, of which `real` are not padding.

        Returns the visibility (B, L + t) int64 that the model takes as its attention mask, and the
        positions (B, t). The keys themselves are added by the model's forward.
        """
        start = self.next_position
        self.visible = torch.cat((self.visible, real), dim=1)
        position = (start[:, None] + real.cumsum(dim=1) - 1).clamp(min=0)
        return self.visible.to(torch.int64), position

    def branch(self, trees: Trees) -> tuple[Tensor, Tensor]:
        """Make room for a tree of new positions in each row, all behind what the row has.

        Returns which of the L + T positions each new one sees, (B, 1, T, L + T) bool, and the
        positions (B, T). Afterwards `keep` says which of them stay: until then siblings stand side
        by side as if they followed one another.
        """
        before = self.visible[:, None].expand(-1, trees.real.shape[1], -1)
        position = self.next_position[:, None] + trees.depth
        self.visible = torch.cat((self.visible, trees.real), dim=1)
        return torch.cat((before, trees.sees), dim=2)[:, None], position

    def keep(self, kept: Tensor) -> None:
        """Of the last T positions, a tree, keep the `kept` (B, T) bool, each row's in their order,
        and forget the others; rows that keep fewer are padded on the left."""
        before = self.visible[:, : self.visible.shape[1] - kept.shape[1]]
        kept = torch.cat((before, kept), dim=1)
        lengths = kept.sum(dim=1)
        longest = int(lengths.max())
        # stable: padding first, then what is kept, in its order
        order = kept.to(torch.int8).argsort(dim=1, stable=True)[:, kept.shape[1] - longest :]
        for layer in self.past.layers:
            index = order[:, None, :, None]
            layer.keys = layer.keys.take_along_dim(index, dim=2)
            layer.values = layer.values.take_along_dim(index, dim=2)
            if hasattr(layer, "cumulative_length"):  # layers with a window count by themselves
                layer.cumulative_length = longest
        self.visible = torch.arange(longest, device=kept.device) >= (longest - lengths)[:, None]
        self.prompt = 0  # rows no longer have theirs at the same places

    def gather(self, rows: Tensor) -> None:
        """Keep the given rows (n,) int64, in this order; rows may repeat."""
        self.past.batch_select_indices(rows)
        self.visible = self.visible[rows]

    def fork(self, copies: int) -> None:
        """Repeat every row `copies` times, copies of a row side by side."""
        self.past.batch_repeat_interleave(copies)
        self.visible = self.visible.repeat_interleave(copies, dim=0)

    def take_back(self, counts: Tensor) -> None:
        """Forget the last `counts` (B,) int64 of each row's own positions, as if they had never
        been. Stored positions at the end that no row has any more are dropped; where others have
        some the row just does not see them."""
        left = self.next_position - counts
        if bool((left < 0).any()) or bool((counts < 0).any()):
            raise InputError(
                f"KVCache.take_back: {counts.tolist()} of {self.next_position.tolist()}"
            )
        self.visible = self.visible & (self.visible.cumsum(dim=1) <= left[:, None])
        seen = self.visible.any(dim=0).nonzero()
        self.truncate(int(seen.max()) + 1 if len(seen) else 0)

    def truncate(self, stored: int) -> None:
        """Forget all but the first `stored` positions (as counted by `self.stored`)."""
        if not 0 <= stored <= self.stored:
            raise InputError(f"KVCache.truncate: {stored}, expected 0 to {self.stored}")
        if stored == self.stored:
            return
        # transformers takes 0 for "keep everything" in some versions: drop by a negative count
        self.past.crop(stored - self.stored)
        self.visible = self.visible[:, :stored]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """(R, T) int64 of rows of ids of any lengths, and (R, T) bool which are no padding."""
    longest = max(map(len, rows))
    tokens = torch.full((len(rows), longest), pad)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        tokens[number, longest - len(row) :] = torch.tensor(list(row))
        real[number, longest - len(row) :] = True
    return tokens, real
