"""Exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from arra.training.sharding import local


class Ema:
    """The average of the trainable parameters of `module` over the updates so far.

    Of sharded parameters each process averages the rows that it holds.

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
        averages = [local(average) for average in self.average.values()]
        weights = [local(parameter) for parameter in self._parameters.values()]
        torch._foreach_lerp_(averages, weights, 1.0 - decay)

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
