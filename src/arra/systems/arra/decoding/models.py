"""The checkpoints that ways of decoding are compared on: trained once, kept in a folder.

One language model draws digit scenes. A smaller one of the same codes and a network over its
features guess for it, tri-grams of its training codes do, and a student of it draws in a few steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.data.scenes import DigitScenes, Scene
from arra.experiments.bench import Bench
from arra.experiments.grid import Cell, changed
from arra.experiments.once import once
from arra.experiments.parallel import run_jobs
from arra.experiments.scene_cells import SceneRunner, SceneSetting
from arra.generators.features import FeatureStudent
from arra.generators.raster import RasterGenerator
from arra.generators.students import Student, StudentOptions
from arra.jobs.distilling import Distillation, run_distillation
from arra.jobs.pairs import PairOptions
from arra.networks.feature_predictor import FeaturePredictor
from arra.objectives.features import feature_objectives
from arra.randomness import seeded
from arra.samplers.speculative.rules import nearest
from arra.samplers.speculative.trigrams import Trigrams
from arra.settings import BatchConfig, LlamaSize, Sizes, VectorOptions
from arra.systems.arra.scenes_config import ScenesConfig
from arra.systems.arra.studies import COARSE, base, changes_of
from arra.systems.arra.ways import VECTOR_WAYS
from arra.text_to_image import TextToImage
from arra.training.config import TrainConfig
from arra.training.loop import train

STEPS = 800
TARGET = LlamaSize(256, 6, 4, 704, 128, 100.0, tied=True)
DEPTH = 32
"""Blocks of the deepened target."""
SMALL = LlamaSize(96, 2, 3, 256, 128, 100.0, tied=True)
VECTOR_SIZES = {
    "vectors": LlamaSize(128, 2, 4, 352, 128, 100.0),
    "small vectors": LlamaSize(48, 1, 2, 128, 128, 100.0),
}
ROUNDS = 12
"""In which sixteen vectors are drawn."""
NEIGHBOURS = 64
"""A sixteenth of the codes, as in LANTERN."""
_ROWS = 4096


@dataclass(frozen=True)
class Models:
    """Everything that draws or guesses."""

    bench: Bench
    setting: SceneSetting
    target: TextToImage
    deep: TextToImage
    """The same model with more blocks, which add nothing: of the cost of a larger one."""
    small: TextToImage
    trigrams: Trigrams
    features: FeaturePredictor
    """Predicts what the target's head reads (EAGLE)."""
    neighbours: Tensor
    """(V, k) of every code those that look like it, the nearest first."""
    student: TextToImage
    vectors: TextToImage
    """A larger generator of vectors of the same scenes, and a smaller one."""
    small_vectors: TextToImage

    def scenes(self, count: int) -> tuple[np.ndarray, list[Scene]]:
        """Held-out scenes whose captions are drawn."""
        return self.bench.scenes("heldout", count, self.setting.judge.prompt_seed)


def build(config: ScenesConfig, folder: Path, budget: str, quiet: bool = False) -> Models:
    """Train what is not trained yet."""
    steps = config.steps or (STEPS if budget == "full" else 24)
    plain = changed(base(budget, steps), {"alignment": None})
    runner = SceneRunner(config.cells or folder / "work", quiet=quiet)
    settings = {
        name: changed(plain, {"plan.sizes.llama": size})
        for name, size in (("target", TARGET), ("small", SMALL))
    }
    # a step of vectors, with its noises, takes twice as long
    fewer = changed(base(budget, max(steps // 2, 12)), {"alignment": None})
    settings |= {name: changed(fewer, _vectors(size)) for name, size in VECTOR_SIZES.items()}
    cells = {name: Cell(setting, 0, name) for name, setting in settings.items()}
    runner.prepare(list(settings.values()))
    run_jobs([runner.job(c) for c in cells.values() if runner.find(c) is None], quiet=quiet)
    bench = runner.bench(plain)
    models = {name: runner.folder / "cells" / cell.key / "model" for name, cell in cells.items()}
    student = _student(bench, plain, models["target"], folder / "work" / "student", budget)
    target = TextToImage.from_pretrained(models["target"], "cpu")
    assert isinstance(target.generator, RasterGenerator)
    return Models(
        bench,
        plain,
        target,
        TextToImage(deepened(target.generator, DEPTH), target.codec),
        TextToImage.from_pretrained(models["small"], "cpu"),
        Trigrams.counted(_codes(bench), target.generator.codes),
        _features(bench, plain, target.generator, folder / "work" / "features", budget),
        nearest(target.codec.code_vectors(), NEIGHBOURS),
        student,
        *(TextToImage.from_pretrained(models[name], "cpu") for name in VECTOR_SIZES),
    )


def deepened(generator: RasterGenerator, depth: int) -> RasterGenerator:
    """The same law from more blocks of the same size: what those behind the old ones add to the
    residual stream is zero."""
    config = replace(
        generator.config,
        language_model={**generator.config.language_model, "num_hidden_layers": depth},
    )
    with seeded(0):
        made = RasterGenerator(config, tokenizer=generator.tokenizer)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.zero_()
    made.load_state_dict({**made.state_dict(), **generator.state_dict()})
    return made.eval()


def _vectors(size: LlamaSize) -> dict[str, Any]:
    """What differs where vectors are drawn, in rounds, by ancestral diffusion (MAR)."""
    options = VectorOptions(
        objective="v", steps=20, stochastic=True, rounds=ROUNDS, inner=128, repeats=2
    )
    changes = changes_of(VECTOR_WAYS["masked-vectors"], COARSE)
    return {**changes, "plan.sizes": Sizes(size, vectors=options)}


def _features(
    bench: Bench, setting: SceneSetting, target: RasterGenerator, folder: Path, budget: str
) -> FeaturePredictor:
    """A drafter of the target's features, one block deep."""
    model = folder / "model"

    def make(to: Path) -> dict[str, Any]:
        student = FeatureStudent.of(target, noise=0.2)
        batches = student.batches(bench.store, BatchConfig(32, drop_caption=0.1, multiple=4))
        config = _short(600 if budget == "full" else 4, setting)
        report = train(student, feature_objectives(), batches, config, to / "training")
        student.save_pretrained(to / "network")
        return {"steps": report.steps, "seconds": report.seconds}

    once(model, [target.fingerprint(), budget], make)
    return FeaturePredictor.from_pretrained(model / "network")


def _short(steps: int, setting: SceneSetting) -> TrainConfig:
    """A training loop of so many steps, beside the target's."""
    return TrainConfig(
        steps=steps,
        learning_rate=1e-3,
        schedule="cosine",
        warmup=min(20, steps),
        checkpoint_every=200,
        keep=1,
        log_every=20,
        precision=setting.plan.train.precision,
    )


def _student(
    bench: Bench, setting: SceneSetting, teacher: Path, folder: Path, budget: str
) -> TextToImage:
    """A student of one, two, three or four steps."""
    full = budget == "full"
    scenes = DigitScenes(bench.config.training_scene, "train", 0, "seen")
    count = 10_000 if full else 24
    units = setting.bench.scene.size // setting.bench.codec.autoencoder.downsample
    quarter = units * units // 4
    run_distillation(
        Distillation(
            teacher,
            folder,
            tuple(scenes.prompt(index).caption for index in range(count)),
            PairOptions(count, flow_steps=50 if full else 2),
            StudentOptions(starts=tuple(range(0, 4 * quarter, quarter))),
            setting.judge.sampling,
            BatchConfig(32 if full else 8, drop_caption=0.0),
            _short(600 if full else 4, setting),
            samples=0,
        )
    )
    model = TextToImage.from_pretrained(folder / "model", "cpu")
    assert isinstance(model.generator, Student)
    return model


def _codes(bench: Bench) -> Iterator[np.ndarray]:
    """(n, units) codes of the training pictures."""
    rows = iter(range(len(bench.store)))
    while part := list(islice(rows, _ROWS)):
        yield bench.store.rows(part, features=[]).codes.flatten(1).numpy()
