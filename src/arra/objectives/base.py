"""What an objective is: a named, weighted loss over a generator's output and its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from arra.generators.base import Batch, Output


def features_of(objectives: Sequence[Objective]) -> list[str]:
    """The encoder features that any of `objectives` reads, each once."""
    return sorted({name for objective in objectives for name in objective.features})


class Objective(nn.Module, ABC):
    """One scalar loss. Objectives add up: the total is the sum of weight(step) * forward(...).

    An objective with weight 0 is not evaluated at all, so that it changes nothing, bit for bit.
    """

    name: str
    """Under which name the loss is logged."""
    layers: Sequence[int] = ()
    """Which hidden states the objective reads (blocks counted from 1)."""
    features: Sequence[str] = ()
    """Which encoder features of the batch the objective reads."""
    registered_name: ClassVar[str]

    @classmethod
    def tiny(cls, width: int, features: int) -> Self:
        """A small instance for contract tests: states of `width`, features of `features`."""
        return cls()

    @abstractmethod
    def weight(self, step: int) -> float:
        """The weight at training step `step` (from 0)."""

    def settings(self) -> dict[str, Any]:
        """What the loss depends on beside its parameters, as plain JSON.

        A run is not resumed with other settings. A subclass with settings of its own adds them.
        """
        return {"layers": list(self.layers), "weight": self.weight(0)}

    def count(self, batch: Batch) -> int:
        """Over how many items of `batch` the loss is a mean: by default its samples.

        Micro-batches and processes are weighed by it, so that how a batch is cut changes nothing.
        """
        return batch.samples

    @abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor:
        """The unweighted loss, a scalar."""
