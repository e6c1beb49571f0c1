"""Training batches of a Llama over a grid of codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from arra.errors import InputError
from arra.generators.batches import IGNORE, Sample, Store, StoreBatches
from arra.settings import BatchConfig


class GridBatches(StoreBatches):
    """condition x_1 ... x_(n-1), the output at each position predicting the next cell.

    The last position of the condition predicts the first cell, and the last cell is no input. The m
    codes of a cell are one token, the number whose digits they are (`networks.grid_llama.joined`).
    """

    def __init__(
        self,
        store: Store,
        prompt: Callable[[Sequence[int]], list[int]],
        shape: Any,
        config: BatchConfig | None = None,
        features: Sequence[str] | None = None,
    ):
        """`prompt`: text ids to what stands before the picture; `shape`: grid, codes, split."""
        super().__init__(store, config, features)
        self.prompt = prompt
        self.cells = shape.grid[0] * shape.grid[1]
        self.codes, self.split = shape.codes, shape.split
        for name in ("supervise_text", "replay"):
            if value := getattr(self.config, name):
                raise InputError(
                    f"BatchConfig.{name}: {value}, but this generator predicts no text"
                )

    def _tokens(self, codes: Sequence[int]) -> list[int]:
        """One number a cell."""
        if len(codes) != self.cells * self.split:
            raise InputError(
                f"the store has {len(codes)} codes a picture, this generator draws {self.split} "
                f"for each of {self.cells} cells: prepare it with the codec of this generator"
            )
        tokens = list(codes[:: self.split])
        for digit in range(1, self.split):
            here = codes[digit :: self.split]
            tokens = [t * self.codes + code for t, code in zip(tokens, here, strict=True)]
        return tokens

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        prompt, tokens = self.prompt(text), self._tokens(codes)
        silent = len(prompt) - 1
        place = [-1] * silent + list(range(self.cells))
        target = [IGNORE] * silent + tokens
        read = [-1] * len(prompt) + list(range(self.cells - 1))
        return Sample([*prompt, *tokens[:-1]], target, place, read)
