"""Ways of decoding one checkpoint: nothing guessed, guesses that change nothing, guesses that do,
and students that draw everything at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from arra.systems.arra.decoding.models import DEPTH, Models
from arra.text_to_image import TextToImage

PLAIN, DEEP, VECTORS = "plain", f"{DEPTH} blocks", "vectors"
"""Of codes, of the deepened model, and of vectors, nothing guessed: what the ways after each are
compared with."""
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
    """All of them; those that are compared with a plain one behind it."""
    shallow, deep = (_Drafting(models, model) for model in (models.target, models.deep))
    yield shallow.plain(PLAIN)
    yield shallow.by("tri-grams (ADED)", NgramDrafter(models.trigrams), NODES)
    chain = NgramDrafter(models.trigrams, NgramConfig(method="chain"))
    yield shallow.by("tri-grams, a chain", chain, CHAIN)
    yield shallow.small("small model, strict")
    yield shallow.features("features, a chain, strict", TreeShape.chain(CHAIN))
    yield shallow.features("features, a tree, strict", TreeShape.likely(NODES, 5))
    yield shallow.features("features, dynamic tree", None)
    for delta in DELTAS:
        rule = Relaxed(models.neighbours, delta)
        yield shallow.features(f"LANTERN, a chain, δ = {delta}", TreeShape.chain(CHAIN), rule)
    rule = Relaxed(models.neighbours, ratio=RATIO)
    yield shallow.features(f"LANTERN++, a chain, λ = {RATIO}", TreeShape.chain(CHAIN), rule)
    for steps in STEPS:
        name = f"distilled, {steps} step{'s' if steps > 1 else ''}"
        student = models.student.paced(steps=steps)
        yield Way(name, student, _size(student), models.setting.judge.sampling, lossless=False)
    yield deep.plain(DEEP)
    yield deep.small(f"{DEEP}, small model, strict")
    yield deep.features(f"{DEEP}, features, a chain, strict", TreeShape.chain(CHAIN))
    rule = Relaxed(models.neighbours, DELTAS[-1])
    name = f"{DEEP}, LANTERN, a chain, δ = {DELTAS[-1]}"
    yield deep.features(name, TreeShape.chain(CHAIN), rule)
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


class _Drafting:
    """Ways of drawing with one model."""

    def __init__(self, models: Models, target: TextToImage):
        self.models, self.target = models, target
        self.sampling = models.setting.judge.sampling

    def plain(self, name: str) -> Way:
        """Nothing is guessed."""
        return Way(name, self.target, _size(self.target), self.sampling)

    def by(
        self, name: str, drafter: Drafter, nodes: int, rule: Rule | None = None, more: int = 0
    ) -> Way:
        """With guesses of a drafter of so many parameters, `nodes` for a pass."""
        sampler = SpeculativeSampler(self.sampling, drafter, rule, Budget(nodes, nodes))
        lossless, observed = sampler.rule.lossless, None
        if not lossless:
            sampler.rule = observed = Observed(sampler.rule, _EVERY, drafter.draws)
        size = _size(self.target) + more
        return Way(name, self.target, size, self.sampling, lossless, sampler, observed)

    def small(self, name: str) -> Way:
        """With chains of the small model."""
        model = self.models.small
        stepper = decoding(model.generator, model.generator.units, decoder="fast").stepper
        return self.by(name, ModelDrafter(stepper), CHAIN, more=_size(model))

    def features(self, name: str, shape: TreeShape | None, rule: Rule | None = None) -> Way:
        """With the drafter of features, in trees of one shape, or of none: dynamic ones."""
        generator, network = self.target.generator, self.models.features
        assert isinstance(generator, RasterGenerator)
        more, tables = sum(p.numel() for p in network.parameters()), CodeTables(generator)
        if shape is None:
            return self.by(name, DynamicFeatureDrafter(network, tables), NODES, rule, more)
        return self.by(name, StaticFeatureDrafter(network, tables, shape), len(shape), rule, more)


def _size(model: TextToImage) -> int:
    return sum(p.numel() for p in model.generator.parameters())
