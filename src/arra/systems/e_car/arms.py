"""The work of the claim: models trained at equal cost, and what they draw at which cost."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from arra.experiments.digit_codes import store_of
from arra.experiments.digit_vectors import Greys, draw_digits, learn, word_generator
from arra.experiments.digits import Judge, digits, judged
from arra.experiments.once import once
from arra.generators.map_vectors import MapVectorGenerator
from arra.generators.pyramid_flow import PyramidFlowGenerator
from arra.heads.stages import repeated
from arra.samplers.noise import PictureNoise
from arra.settings import BatchConfig
from arra.systems.e_car.recipe import CUT, NAIVE, ONE, STAGES, Recipe

SHAPE = (8, 8, 1)
PIXELS = Greys()
WEIGHTS = "model.safetensors"


class NaiveGenerator(PyramidFlowGenerator):
    """Enlarges what a stage ended with as it is and adds white noise, so much that the variance is
    that of where the next stage begins."""

    def _start(
        self, level: int, before: Tensor | None, noise: Tensor, temperature: float
    ) -> tuple[Tensor, float]:
        if before is None:
            return noise, temperature
        begins, ended = self.stages[level].start, self.stages[level - 1].end
        added = temperature * (begins**2 - ended**2) ** 0.5
        enlarged = repeated(before).flatten(2).transpose(1, 2)
        return enlarged + added * noise, 1.0


def make_generator(arm: str, recipe: Recipe, seed: int) -> MapVectorGenerator:
    """An untrained generator; arms begin with the same weights, places apart."""
    options = recipe.options
    if arm == ONE:
        options = replace(options, stages=1, steps=options.steps * options.stages)
    return word_generator(PyramidFlowGenerator, SHAPE, recipe.size, options, seed)


def training_work(generator: MapVectorGenerator) -> int:
    """Floating-point operations of a forward pass of one picture in training."""
    known = digits()[0]
    store = store_of(known, PIXELS.of(known.pictures))
    batch = generator.batches(store, BatchConfig(1, drop_caption=0.0, multiple=1)).batch(0)
    with _counted() as counter:
        generator(batch)
    return counter.get_total_flops()


@torch.no_grad()
def drawing_work(generator: MapVectorGenerator) -> int:
    """Floating-point operations that draw one picture."""
    noise = PictureNoise([0]).normal
    with _counted() as counter:
        cache = generator.begin([[1]], noise)
        for _ in range(generator.units):
            generator.unit(cache, noise, 1.0, 1.0)
    return counter.get_total_flops()


class _counted:
    """Counts operations; attention as the products that it is made of."""

    def __enter__(self) -> FlopCounterMode:
        self._kernel, self._counter = sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
        self._kernel.__enter__()
        return self._counter.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)
        self._kernel.__exit__(*error)


def steps_within(generator: MapVectorGenerator, work: int) -> int:
    """Most steps in which a generator of one stage draws for so many operations, 1 at least."""
    one, two = (drawing_work(generator.paced(steps=steps)) for steps in (1, 2))
    return max(1, 1 + (work - one) // (two - one))


def training_steps(arm: str, recipe: Recipe) -> int:
    """Steps that cost as much as the recipe's do with stages."""
    works = [training_work(make_generator(name, recipe, 0)) for name in (STAGES, arm)]
    return max(1, round(recipe.train.steps * works[0] / works[1]))


def ways_of(arm: str, generator: MapVectorGenerator, recipe: Recipe) -> dict[str, Any]:
    """The ways in which the model of an arm draws: generators by name."""
    if arm == ONE:
        most = drawing_work(make_generator(STAGES, recipe, 0).eval())
        return {ONE: generator, CUT: generator.paced(steps=steps_within(generator, most))}
    naive = NaiveGenerator(generator.config)
    naive.load_state_dict(generator.state_dict())
    return {STAGES: generator, NAIVE: naive.eval()}


def train_arm(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """Train one model, and judge what it draws in all its ways."""

    def make(target: Path) -> dict[str, Any]:
        known, _ = digits()
        generator = make_generator(arm, recipe, seed)
        steps = training_steps(arm, recipe)
        config = replace(recipe.train, steps=steps, checkpoint_every=steps)
        store = store_of(known, PIXELS.of(known.pictures))
        report = learn(generator, store, recipe.batch, config, seed, target / "training")
        save_file(generator.state_dict(), str(target / WEIGHTS))
        found: dict[str, Any] = {"parameters": report.parameters, "steps": steps}
        for name, way in ways_of(arm, generator, recipe).items():
            began = time.perf_counter()
            pictures = draw_digits(way, PIXELS, recipe.drawn, seed)
            seconds = time.perf_counter() - began
            found[name] = {
                **judged(judge, pictures),
                "seconds": seconds,
                "work": drawing_work(way),
                "steps": way.config.options.steps,
            }
        return found

    return once(folder / f"{arm}-{seed}", [recipe, arm, seed], make)
