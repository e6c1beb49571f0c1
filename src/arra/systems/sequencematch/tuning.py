"""SequenceMatch on a language model that is there: it learns the data with mistakes that are taken
back, then more and more to write texts like the data's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from arra.errors import InputError
from arra.generators.backspacing import Writing
from arra.generators.batches import Store
from arra.generators.raster import RasterGenerator
from arra.objectives.imitation import ImitationConfig, Ramp, blended
from arra.settings import BatchConfig
from arra.systems.sequencematch.batches import BackspaceBatches
from arra.systems.sequencematch.replay import Replay, ReplayConfig, Writer
from arra.training.config import TrainConfig
from arra.training.loop import TrainReport, train


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


def blending(tuning: Tuning, begin: int, rise: int) -> Tuning:
    """The same with likelihood alone for `begin` steps, the share of J rising in `rise` more."""
    ramp = replace(tuning.imitation.ramp, start=begin + 1, steps=rise)
    own = None if tuning.replay is None else replace(tuning.replay, start=begin)
    return replace(tuning, imitation=replace(tuning.imitation, ramp=ramp), replay=own)


def data_alone(tuning: Tuning, noise: float) -> Tuning:
    """The same for likelihood alone, all along, with so many mistakes."""
    ramp = Ramp(most=0.0)
    return replace(tuning, imitation=replace(tuning.imitation, ramp=ramp), replay=None, noise=noise)


def tune(
    generator: RasterGenerator,
    store: Store,
    writing: Writing,
    tuning: Tuning,
    folder: Path,
    seed: int = 0,
) -> TrainReport:
    """Train in place, going on where an earlier run in `folder` was stopped. The codes of the store
    are numbers of what may be written.

    Raises `InputError` where an average of weights is asked for: texts are to be the model's own.
    """
    config = replace(tuning.train, seed=seed)
    if tuning.replay is not None:
        if config.ema is not None:
            raise InputError("TrainConfig.ema: texts would be those of the average; expected None")
        config = replace(config, validate_every=tuning.replay.every)
        replay = Replay(folder / "replay", tuning.replay, seed)
        writers = [Writer(replay, store, writing)]
    else:
        replay, writers = None, []
    batches = BackspaceBatches(
        store,
        writing,
        replace(tuning.batch, seed=seed),
        pad=generator.config.vocabulary.pad,
        rate=tuning.noise,
        replay=replay,
    )
    losses = blended(tuning.imitation)
    return train(generator, losses, batches, config, folder, validators=writers)
