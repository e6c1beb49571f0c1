"""Ways of decoding one checkpoint: nothing guessed, guesses that change nothing, guesses that do,
and students that draw everything at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from arra.generators.fast import decoding
from arra.generators.features import CodeTables
from arra.generators.raster import RasterGenerator
from arra.samplers.speculative import Speculation
from arra.samplers.speculative.drafts import Budget, Drafter
from arra.samplers.speculative.feature_trees import DynamicFeatureDrafter, StaticFeatureDrafter
from arra.samplers.speculative.models import ModelDrafter
from arra.samplers.speculative.ngrams import NgramConfig, NgramDrafter
from arra.samplers.speculative.observed import Observed
from arra.samplers.speculative.rules import Relaxed, Rule
from arra.samplers.speculative.sampler import SpeculativeSampler
from arra.samplers.speculative.trees import TreeShape
from arra.samplers.speculative.vectors import PathConfig, SpeculativeVectorSampler
from arra.settings import SamplingConfig
from arra.systems.arra.decoding.models import Models
from arra.text_to_image import TextToImage

PLAIN, VECTORS = "plain", "vectors"
"""Of codes, and of vectors, nothing guessed: what the ways after each are compared with."""
NODES = 16
"""Guesses that a pass judges at most."""
CHAIN = 4
"""Those of a model, which are one below the other."""
DELTAS, RATIO = (0.05, 0.2), 2.0
"""Of LANTERN's rules."""
STEPS = (1, 2, 4)
"""Of a student."""
ROUNDS_AHEAD, LAST = 4, 0.1
"""Of vectors: rounds that are drafted, and the deviation of the last step's noise."""
_EVERY = 64  # decisions, of one of which the exact law is computed


@dataclass(frozen=True)
class Way:
    """One way of drawing, with the settings of all."""

    name: str
    model: TextToImage
    """What draws, and paints."""
    parameters: int
    """Of all networks that take part."""
    sampling: SamplingConfig
    lossless: bool = True
    """Whether the law of pictures is that of the plain way."""
    speculation: Speculation | None = None
    """Guesses, if there are any."""
    observed: Observed | None = None
    """Its rule, where that does not keep the law."""

    def draw(self, captions: Sequence[str], seeds: Sequence[int], batch: int) -> Tensor:
        """Codes of pictures, by the fastest decoder that there is."""
        if self.speculation is not None:
            self.speculation.statistics = type(self.speculation.statistics)()
        kernels = isinstance(self.model.generator, RasterGenerator)
        return self.model.draw_codes(
            captions,
            seeds,
            self.sampling,
            batch=batch,
            decoder="fast" if kernels else "auto",
            sampler="auto" if self.speculation is None else "speculative",
            speculation=self.speculation,
        )

    def passes(self) -> float:
        """Passes of the network for a picture, of the last call."""
        if self.speculation is None:
            return float(self.model.generator.units)
        return self.speculation.statistics.passes / self.speculation.statistics.pictures

    def codes_per_pass(self) -> float:
        """Codes, or vectors, that one gives."""
        rows, columns = self.model.generator.grids[-1]
        return rows * columns / self.passes()

    def accepted(self) -> float | None:
        """Share of the guesses that stayed."""
        if self.speculation is None:
            return None
        counted = self.speculation.statistics
        return counted.accepted / max(counted.drafted, 1)


def ways(models: Models) -> Iterator[Way]:
    """All of them, the plain one first."""
    yield Way(PLAIN, models.target, _size(models.target), models.setting.judge.sampling)
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
    yield from _featured(models)
    for steps in STEPS:
        name = f"distilled, {steps} step{'s' if steps > 1 else ''}"
        student = models.student.paced(steps=steps)
        yield Way(name, student, _size(student), models.setting.judge.sampling, lossless=False)
    yield from _vectors(models)


def _vectors(models: Models) -> Iterator[Way]:
    """Vectors, drawn alone and with a small generator that drafts rounds (CSpD)."""
    large, small, sampling = models.vectors, models.small_vectors, SamplingConfig(2.0)
    yield Way(VECTORS, large, _size(large), sampling)
    drafter: Any = small.generator
    how = PathConfig(Budget(ROUNDS_AHEAD, ROUNDS_AHEAD), last=LAST)
    sampler = SpeculativeVectorSampler(sampling, drafter, how)
    size = _size(large) + _size(small)
    yield Way(f"{VECTORS}, drafted (CSpD)", large, size, sampling, speculation=sampler)


def _featured(models: Models) -> Iterator[Way]:
    """With a drafter of features: rules that keep the law, and those of LANTERN."""
    assert isinstance(models.target.generator, RasterGenerator)
    tables, near = CodeTables(models.target.generator), models.neighbours
    more = sum(p.numel() for p in models.features.parameters())
    chain, tree = Budget(CHAIN, CHAIN), Budget(NODES, NODES)

    def static(shape: TreeShape) -> Callable[[], Drafter]:
        return lambda: StaticFeatureDrafter(models.features, tables, shape)

    def dynamic() -> Drafter:
        return DynamicFeatureDrafter(models.features, tables)

    one, broad = TreeShape.chain(CHAIN), TreeShape.likely(NODES, 5)
    yield _guessed(models, "features, a chain, strict", static(one), chain, more=more)
    yield _guessed(models, "features, a tree, strict", static(broad), tree, more=more)
    yield _guessed(models, "features, dynamic tree", dynamic, tree, more=more)
    for delta in DELTAS:
        rule = Relaxed(near, delta)
        name = f"LANTERN, a chain, δ = {delta}"
        yield _guessed(models, name, static(one), chain, rule, more)
    rule = Relaxed(near, ratio=RATIO)
    yield _guessed(models, f"LANTERN++, a tree, λ = {RATIO}", static(broad), tree, rule, more)


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
    lossless, observed = sampler.rule.lossless, None
    if not lossless:
        sampler.rule = observed = Observed(sampler.rule, _EVERY, sampler.drafter.draws)
    size = _size(models.target) + more
    return Way(name, models.target, size, sampler.config, lossless, sampler, observed)


def _size(model: TextToImage) -> int:
    return sum(p.numel() for p in model.generator.parameters())
