"""Everything about the claim that is a number, and its arms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from arra.codecs.patches import PatchConfig
from arra.experiments.digit_vectors import training
from arra.jobs.imitation import Tuning
from arra.objectives.imitation import ImitationConfig, Ramp
from arra.settings import BatchConfig, LlamaSize
from arra.training.replay import ReplayConfig

MATCH, BACKSPACE, LIKELIHOOD = "match", "backspace", "likelihood"
ARMS = (MATCH, BACKSPACE, LIKELIHOOD)
"""SequenceMatch; likelihood of data with mistakes that are taken back (the baseline); and, as
control, likelihood of the data as they are. All see the same data as often."""


@dataclass(frozen=True)
class Task:
    """One kind of sequences, and how it is learnt."""

    size: LlamaSize
    tuning: Tuning
    """Of `MATCH`, but for when what begins."""
    begin: int
    """Steps of likelihood alone."""
    rise: int
    """Steps in which the share of imitation rises."""

    def of(self, arm: str) -> Tuning:
        """How this arm learns."""
        if arm == MATCH:
            return self.tuning.blended(self.begin, self.rise)
        return _data_alone(self.tuning, self.tuning.noise if arm == BACKSPACE else 0.0)


def _data_alone(tuning: Tuning, noise: float) -> Tuning:
    """The same for likelihood alone, all along, with so many mistakes."""
    ramp = Ramp(most=0.0)
    return replace(tuning, imitation=replace(tuning.imitation, ramp=ramp), replay=None, noise=noise)


SIZE = LlamaSize(width=64, depth=2, heads=4, feed_forward=192, positions=64, rope_theta=100.0)


def _tuning(steps: int, size: int = 32, every: int = 50) -> Tuning:
    return Tuning(
        # Of 0.01, 0.02, 0.05 and 0.3, in short trials of additions with seed 0: large ones undo
        # more and are right less often.
        imitation=ImitationConfig(alpha=0.02),
        noise=0.05,
        replay=ReplayConfig(start=every, every=every, texts=2 * size, kept=4, batch=size // 2),
        batch=BatchConfig(size=size, drop_caption=0.0, multiple=1),
        train=training(steps, 3e-3, optimizer="muon", muon_scale=3.0),
    )


def _additions() -> Task:
    return Task(SIZE, _tuning(1400), begin=900, rise=100)


def _pictures() -> Task:
    return Task(SIZE, _tuning(350), begin=200, rise=50)


@dataclass(frozen=True)
class Recipe:
    """Sums of two numbers of three figures as text, and digits of 8 x 8 pixels as 16 codes."""

    additions: Task = field(default_factory=_additions)
    sums: int = 2000
    """Additions to train on: few on purpose."""
    asked: int = 500
    """Held-out additions."""
    pictures: Task = field(default_factory=_pictures)
    codes: PatchConfig = field(default_factory=lambda: PatchConfig(2, 32))
    drawn: int = 300
    """Pictures drawn, and as many from a corrupted code on."""


def tiny() -> Recipe:
    """To see that it runs; nobody should read its numbers."""
    size = LlamaSize(width=16, depth=1, heads=2, feed_forward=16, positions=64)
    task = Task(size, replace(_tuning(6, size=4, every=2), noise=0.3), begin=2, rise=2)
    return Recipe(task, 40, 6, task, PatchConfig(2, 8), 10)


RECIPES = {"full": Recipe, "tiny": tiny}
