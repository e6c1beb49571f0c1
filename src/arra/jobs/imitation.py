"""A language model learns to write sequences like the data's, with a backspace (SequenceMatch).

First by likelihood of the data with mistakes that are taken back, then more and more by imitation,
from what it wrote itself some steps ago (arXiv 2306.05426).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from arra.errors import InputError
from arra.generators.backspace_batches import BackspaceBatches
from arra.generators.backspacing import BackspaceStepper, Writing
from arra.generators.base import Batch, Generator
from arra.generators.batches import Store
from arra.generators.raster import RasterGenerator
from arra.objectives.imitation import Cloning, ImitationConfig, blended
from arra.samplers.backtracking import BacktrackingSampler, Limits
from arra.settings import BatchConfig, SamplingConfig
from arra.training.config import TrainConfig
from arra.training.loop import train
from arra.training.replay import Replay, ReplayConfig
from arra.training.report import TrainReport, Validator

REPLAY = "replay"
"""In a run's folder: what the model wrote."""


@dataclass(frozen=True)
class Tuning:
    """How a model learns to match sequences."""

    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    noise: float = 0.05
    """Probability of a mistake before each action of the data."""
    replay: ReplayConfig | None = field(default_factory=ReplayConfig)
    """Of the model's own texts; None learns from the data alone."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def blended(self, begin: int, rise: int) -> Tuning:
        """The same with likelihood alone for `begin` steps; in `rise` more the share of J rises."""
        ramp = replace(self.imitation.ramp, start=begin + 1, steps=rise)
        own = None if self.replay is None else replace(self.replay, start=begin)
        return replace(self, imitation=replace(self.imitation, ramp=ramp), replay=own)

    def seeded(self, seed: int) -> Tuning:
        """The same with this seed of the order of the data, of mistakes and of what is written."""
        batch, config = replace(self.batch, seed=seed), replace(self.train, seed=seed)
        return replace(self, batch=batch, train=config)


def tune(
    generator: RasterGenerator,
    store: Store,
    writing: Writing,
    tuning: Tuning,
    folder: Path,
    *,
    validators: Sequence[Validator] = (),
    progress_label: str = "train",
) -> TrainReport:
    """Train in place, going on where an earlier run in `folder` was stopped. The codes of the store
    are numbers of what may be written, -1 where a text has ended.

    Raises `InputError` where an average of weights is asked for: texts are to be the model's own.
    """
    config, replay = tuning.train, None
    watching: list[Validator] = list(validators)
    if tuning.replay is not None:
        if config.ema is not None:
            raise InputError("TrainConfig.ema: texts would be those of the average; expected None")
        replay = Replay(folder / REPLAY, tuning.replay, config.seed)
        due = [_Due(one, config.validate_every, config.steps) for one in validators]
        watching = [Writer(replay, store, writing), *due]
        # the loop is to come by whenever somebody is due
        often = math.gcd(tuning.replay.every, config.validate_every or 0)
        config = replace(config, validate_every=often)
    batches = BackspaceBatches(
        store,
        writing,
        tuning.batch,
        pad=generator.config.vocabulary.pad,
        rate=tuning.noise,
        replay=replay,
    )
    losses = blended(tuning.imitation)
    return train(
        generator,
        losses,
        batches,
        config,
        folder,
        validators=watching,
        progress_label=progress_label,
    )


class Writer:
    """Writes into a replay while the model learns; a validator of the training loop, which calls it
    with the weights of the step and random numbers of its own."""

    def __init__(
        self, replay: Replay, store: Store, writing: Writing, limits: Limits | None = None
    ):
        self.replay, self.store, self.writing = replay, store, writing
        self.sampler = BacktrackingSampler(SamplingConfig(guidance=1.0), limits)

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        """Texts to prompts of the store at temperature 1, where they are due; tells how often a
        token was taken back in one of them."""
        if not self.replay.is_due(step):
            return {}
        assert isinstance(generator, RasterGenerator)
        count = self.replay.config.texts
        rng = np.random.default_rng([self.replay.seed, 8, step])
        rows = self.store.rows(rng.integers(len(self.store), size=count).tolist(), ())
        prompts = [list(text) for text in rows.text_ids]
        seeds = rng.integers(1 << 62, size=count).tolist()
        stepper = BackspaceStepper(generator, self.writing)
        asked = [self.writing.prompt(text) for text in prompts]
        actions = self.sampler.actions(stepper, asked, seeds, batch=count)
        self.replay.write(step, list(zip(prompts, actions, strict=True)))
        back = stepper.tokens + 1
        return {"backspaces": sum(row.count(back) for row in actions) / count}


@dataclass(frozen=True)
class _Due:
    """A validator that is asked every so many steps and at the end, in a loop that validates more
    often."""

    validator: Validator
    every: int | None
    """None: at the end alone."""
    last: int

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        if step != self.last and (not self.every or step % self.every):
            return {}
        return self.validator(generator, step, folder)


class HeldOutActions:
    """A validator: nats of an action of held-out texts, written without mistakes."""

    def __init__(self, store: Store, writing: Writing, size: int = 64, most: int = 512):
        self.store, self.writing, self.size, self.most = store, writing, size, most

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        assert isinstance(generator, RasterGenerator)
        pad = generator.config.vocabulary.pad
        batches = BackspaceBatches(self.store, self.writing, BatchConfig(1), pad=pad)
        return {"held_out_nats": nats(generator, batches.in_order(self.size, self.most))}


@torch.no_grad()
def nats(generator: RasterGenerator, batches: Iterable[Batch]) -> float:
    """Mean negative log-likelihood of an action."""
    loss, total, count = Cloning(), 0.0, 0
    for batch in batches:
        moved = batch.to(generator.device)
        here = loss.count(moved)
        total, count = total + here * float(loss(generator(moved), moved)), count + here
    return total / count
