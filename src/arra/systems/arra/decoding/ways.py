"""Ways of decoding one checkpoint: nothing guessed, guesses that change nothing, guesses that do,
and students that draw everything at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from arra.generators.fast import decoding
from arra.samplers.speculative.drafts import Budget, Drafter
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.ngrams import NgramConfig, NgramDrafter
from arra.samplers.speculative.rules import Rule
from arra.samplers.speculative.sampler import SpeculativeSampler, Statistics
from arra.systems.arra.decoding.models import Models
from arra.text_to_image import TextToImage

PLAIN = "plain"
NODES = 16
"""Guesses that a pass judges at most."""
CHAIN = 4
"""Those of a model, which are one below the other."""
STEPS = (1, 2, 4)
"""Of a student."""


@dataclass(frozen=True)
class Way:
    """One way of drawing, with the settings of all."""

    name: str
    model: TextToImage
    """What draws, and paints."""
    parameters: int
    """Of all networks that take part."""
    lossless: bool = True
    """Whether the law of pictures is that of the plain way."""
    speculation: SpeculativeSampler | None = None
    """Guesses, if there are any."""

    def draw(
        self, models: Models, captions: Sequence[str], seeds: Sequence[int], batch: int
    ) -> Tensor:
        """Codes of pictures, by the fastest decoder that there is."""
        if self.speculation is not None:
            self.speculation.statistics = Statistics()
        return self.model.draw_codes(
            captions,
            seeds,
            models.setting.judge.sampling,
            batch=batch,
            decoder="auto" if self.model is not models.target else "fast",
            sampler="auto" if self.speculation is None else "speculative",
            speculation=self.speculation,
        )

    def passes(self) -> float:
        """Passes of the network for a picture, of the last call."""
        if self.speculation is None:
            return float(self.model.generator.units)
        return self.speculation.statistics.passes / self.speculation.statistics.pictures

    def units_per_pass(self) -> float:
        """Units that one gives."""
        return self.model.generator.units / self.passes()


def ways(models: Models) -> Iterator[Way]:
    """All of them, the plain one first."""
    yield Way(PLAIN, models.target, _size(models.target))
    yield _guessed(models, "tri-grams (ADED)", lambda: NgramDrafter(models.trigrams))
    yield _guessed(
        models,
        "tri-grams, a chain",
        lambda: NgramDrafter(models.trigrams, NgramConfig(method="chain")),
        Budget(CHAIN, CHAIN),
    )
    small = decoding(models.small.generator, models.small.generator.units, decoder="fast").stepper
    yield _guessed(
        models,
        "small model, strict",
        lambda: ModelDrafter(small),
        Budget(CHAIN, CHAIN),
        more=_size(models.small),
    )
    for steps in STEPS:
        name = f"distilled, {steps} step{'s' if steps > 1 else ''}"
        student = models.student.paced(steps=steps)
        yield Way(name, student, _size(student), lossless=False)


def _guessed(
    models: Models,
    name: str,
    drafter: Callable[[], Drafter],
    budget: Budget | None = None,
    rule: Rule | None = None,
    more: int = 0,
) -> Way:
    """The target, helped by a drafter of so many parameters."""
    sampler = SpeculativeSampler(
        models.setting.judge.sampling, drafter(), rule, budget or Budget(NODES, NODES)
    )
    return Way(name, models.target, _size(models.target) + more, sampler.rule.lossless, sampler)


def _size(model: TextToImage) -> int:
    return sum(p.numel() for p in model.generator.parameters())
