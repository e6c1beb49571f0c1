"""What the training loop is given beside its configuration, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arra.generators.base import Batch, Generator


class BatchSource(Protocol):
    """Training data as a function, so that any step's batch can be had at any time."""

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Part `part` of the `parts` that make up `step` (both from 0), on the CPU.

        The loop cuts a step into `TrainConfig.accumulation` micro-batches for every process; for
        the data both are the same. The same arguments give the same batch, in every process and
        after every restart.
        """
        ...


class Validator(Protocol):
    """A measure of a generator during training."""

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        """Named results after `step` updates; pictures and the like may be written to `folder`.

        Called in the main process, without gradients or autocast, with the generator in evaluation
        mode and its averaged weights, and with the same random numbers each time.
        """
        ...


@dataclass(frozen=True)
class TrainReport:
    """What a finished run did."""

    steps: int
    """Updates in all."""
    resumed_from: int
    """Updates that an earlier process had done."""
    seconds: float
    """Wall-clock time of this process's part of the run, validation and checkpoints included."""
    median_step_seconds: float
    """Of this process's steps without the first; nan when there were fewer than two."""
    data_share: float
    """Share of these steps' time that was spent waiting for batches."""
    history: list[dict[str, Any]]
    """Logged steps: step (updates done), loss, each objective's loss, lr, grad_norm, seconds, and
    data_seconds, for which the step waited for its batches."""
    validation: list[dict[str, Any]]
    """Validation results, each with its step."""
    precision: str
    """"fp32" or "bf16"."""
    precision_reason: str
    """Why that one."""
    compiled: bool
    """Whether decoder blocks ran compiled."""
    parameters: int
    """Trainable parameters of the generator."""
    objective_parameters: int
    """Trainable parameters of the objectives, which are not part of the exported model."""
    model: Path
    """Folder of the exported generator (averaged weights, if there is an average)."""
