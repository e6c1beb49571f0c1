"""Exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """The average of the trainable parameters of `module` over the updates so far.

    Starts at the current weights. Early on the decay is (1 + n) / (10 + n) after n updates, where
    that is smaller than `decay`: a short run must not average in its random beginning.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move the average towards the weights, after update number `updates` (from 1)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, list(self._parameters.values()), 1.0 - decay)

    @torch.no_grad()
    def load(self, average: dict[str, Tensor]) -> None:
        """Take over a saved average; `KeyError` where a parameter has none."""
        for name, mine in self.average.items():
            mine.copy_(average[name])

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Overwrite the module's weights with the average."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.average[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the module has the averaged weights; afterwards its own, bit for bit."""
        own = {name: p.detach().clone() for name, p in self._parameters.items()}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(own[name])
