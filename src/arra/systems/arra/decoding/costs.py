"""What a pass over a draft costs on the fast decoder, in steps of one unit: where drafting pays.

A draft of n guesses pays where a pass gives more units than it costs steps. That depends on how
large the model is and how many pictures are drawn together, and on no weight: so random ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.scene_judging import median_seconds
from arra.generators.fast import FastStepper, decoding
from arra.generators.raster import RasterGenerator
from arra.orders.trees import Trees
from arra.settings import LlamaSize, Precision
from arra.systems.arra.decoding.models import TARGET

SIZES: dict[str, LlamaSize] = {
    "1 M": LlamaSize(128, 5, 4, 352, 256, 100.0, True),
    "5 M": TARGET,
    "26 M": LlamaSize(512, 8, 8, 1408, 256),
    "111 M": LlamaSize.named("111M"),
}
NODES = (2, 4, 8, 16, 32)
BATCHES = (1, 8, 32)
_PROMPT, _LONGEST = 24, 4.0
_SECONDS, _LEAST, _MOST = 1.0, 3, 41  # how long, and how often, each pass is repeated


@dataclass(frozen=True)
class PassCost:
    """A pass over drafts of so many nodes, beside a step, of guided pictures."""

    model: str
    precision: Precision
    batch: int
    """Pictures; with their pairs there are twice as many rows."""
    nodes: int
    """In each row, the unit that was drawn last among them."""
    step: float
    """Seconds of a step of one unit."""
    seconds: float
    """Of the pass."""

    @property
    def steps(self) -> float:
        """What the pass costs, in steps: so many units it has to give."""
        return self.seconds / self.step


def measured_models(budget: str) -> list[tuple[str, Precision]]:
    """Which models' passes are measured, and in which precision."""
    names = list(SIZES) if budget == "full" else list(SIZES)[:1]
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    return [(name, precision) for name in names for precision in precisions]


def pass_costs(name: str, precision: Precision, budget: str) -> Iterator[PassCost]:
    """Of a model; larger drafts are left out where one takes seconds."""
    tokenizer = train_text_tokenizer(["a picture"])
    generator = RasterGenerator.from_scratch(tokenizer, 1024, (6, 6), SIZES[name], seed=0).eval()
    stepper = decoding(generator, 1 << 20, decoder="fast", precision=precision).stepper
    for batch in BATCHES if budget == "full" else BATCHES[:1]:
        rows = 2 * batch
        _, cache = stepper.prefill([[1] * _PROMPT] * rows)
        seconds = _timed(partial(_step, stepper, cache, rows))
        for nodes in NODES:
            took = _pass(stepper, cache, rows, nodes)
            yield PassCost(name, precision, batch, nodes, seconds, took)
            if took > _LONGEST:
                break  # the next one takes twice as long


def _step(stepper: FastStepper, cache: Any, rows: int) -> None:
    stepper.step(torch.zeros(rows, dtype=torch.int64), cache)
    cache.take_back(torch.ones(rows, dtype=torch.int64))


def _pass(stepper: FastStepper, cache: Any, rows: int, nodes: int) -> float:
    trees = Trees.of([list(range(-1, nodes - 1))] * rows)
    codes = torch.zeros(rows, nodes, dtype=torch.int64)
    with torch.inference_mode():
        return _timed(lambda: stepper.step_tree(codes, trees, cache))


def _timed(call: Callable[[], object]) -> float:
    """Median seconds; quick calls are repeated more often."""
    once = median_seconds(call, 1)
    return median_seconds(call, min(max(round(_SECONDS / once), _LEAST), _MOST))
