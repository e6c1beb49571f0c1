"""Arms of an experiment: one generator trained in different ways on one bench, judged alike.

Arms are paired: for one seed they share initial weights, data order, dropped captions and the noise
of sampling, so that their difference is due to what differs between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from arra.codecs.base import Codec
from arra.data.scenes import DigitScenes, Scene
from arra.data.scenes import draw as draw_scene
from arra.data.store import PreparedStore
from arra.errors import InputError
from arra.experiments.bench import Bench
from arra.experiments.digits import MemoryStore, encoded
from arra.experiments.parallel import Job
from arra.files import atomic_folder, read_json, sha256_of_json, to_plain, write_json
from arra.generators.base import Batch, Generator
from arra.generators.batches import StoreBatches
from arra.generators.raster import RasterGenerator
from arra.metrics.diversity import ssim_diversity
from arra.metrics.frechet import frechet_distance, frechet_floor
from arra.metrics.image_text import image_text_score
from arra.metrics.likelihood import Likelihood, VectorLoss, held_out_law
from arra.metrics.measured import Measured
from arra.metrics.memorisation import memorisation
from arra.metrics.prompts import ATTRIBUTES, PromptScores, prompt_accuracy, shuffled_control
from arra.objectives.alignment import AlignmentConfig, alignments
from arra.objectives.base import Objective, features_of
from arra.objectives.laws import own_objectives
from arra.progress import track
from arra.registry import generators
from arra.samplers.logits import SamplingConfig
from arra.settings import BatchConfig, Sizes
from arra.text_to_image import TextToImage, load_generator
from arra.training.config import TrainConfig
from arra.training.loop import train
from arra.training.report import Validator


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    name: str
    """Short name, also of its folder."""
    label: str
    """How pages call it."""
    alignment: AlignmentConfig | None = None
    """Representation alignment, or None for next-token prediction alone."""
    also: tuple[AlignmentConfig, ...] = ()
    """Further terms of alignment, to another target or encoder, beside the first."""
    shuffled: bool = False
    """Control: every picture is aligned with another picture's features."""


@dataclass(frozen=True)
class TrainingPlan:
    """What all arms have in common."""

    sizes: Sizes = field(default_factory=Sizes)
    """Size of the generator's network."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """Batches."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop; its seed is replaced by the run's."""
    z_loss: float = 1e-5
    """Weight of the z-loss."""
    watch: int = 0
    """Test scenes of new combinations whose bits are measured every `train.validate_every` steps;
    0 measures none. They are the first of those that the judge measures."""
    generator: str = "raster"
    """Registered name of the generator."""


@dataclass(frozen=True)
class JudgePlan:
    """How a trained arm is judged."""

    prompts: int = 256
    """Test prompts of held-out combinations."""
    prompt_seed: int = 1
    """Which ones; settings of the recipe were chosen on those of seed 0."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How pictures are drawn."""
    bits_scenes: int = 1024
    """Test scenes whose cross-entropy is measured (half of them of held-out combinations)."""
    real: int = 1024
    """Real test scenes that the Fréchet distance compares with."""
    diversity_prompts: int = 16
    """Prompts of which several pictures are drawn, to see how much they differ."""
    diversity_pictures: int = 4
    """Pictures of each of them."""
    sampling_seed: int = 0
    """Picture i is drawn with seed `sampling_seed` * 1 000 003 + i, in every arm."""


class Ground(Protocol):
    """What arms are trained on: a store and the codec that made it."""

    @property
    def codec(self) -> Codec: ...
    @property
    def store(self) -> PreparedStore: ...


def arm_parts(
    bench: Ground, arm: Arm, plan: TrainingPlan, seed: int, start: Path | None = None
) -> tuple[Generator, list[Objective], StoreBatches]:
    """Generator, objectives and batches of one arm, functions of `seed`.

    `start` is the folder of a model that goes on, on codes that mean to it what they meant; without
    it a new one begins from random weights.
    """
    store = bench.store
    store.check(codec=bench.codec)
    if start is None:
        grid = bench.codec.grid or store.grid
        kind = generators[plan.generator]
        generator = kind.for_store(store.tokenizer(), bench.codec, grid, plan.sizes, seed=seed)
    else:
        generator = _continued(bench, start)
    batch = replace(plan.batch, seed=seed, shuffle_features=arm.shuffled)
    objectives = own_objectives(generator, plan.z_loss)
    terms = () if arm.alignment is None else (arm.alignment, *arm.also)
    shapes = store.provenance.feature_shapes
    objectives += alignments(terms, shapes, generator.width, generator.grids, seed=seed)
    features = features_of(objectives)
    return generator, objectives, generator.batches(store, batch, features)


def _continued(bench: Ground, start: Path) -> RasterGenerator:
    """The model in `start`, to be trained on; `InputError` where it draws other grids or codes."""
    generator = RasterGenerator.from_pretrained(start)
    codes, grid = generator.config.vocabulary.codes, generator.config.grid
    if (codes, tuple(grid)) != (bench.codec.vocabulary, bench.store.grid):
        raise InputError(
            f"{start}: draws {grid} of {codes} codes, expected {bench.store.grid} of "
            f"{bench.codec.vocabulary}"
        )
    generator.config = replace(generator.config, codec=bench.codec.fingerprint())
    return generator


def train_arm(
    bench: Ground,
    arm: Arm,
    plan: TrainingPlan,
    seed: int,
    folder: Path,
    *,
    start: Path | None = None,
    validators: Sequence[Validator] = (),
) -> dict[str, Any]:
    """Train one arm with one seed, or go on; the facts of the training."""
    generator, objectives, batches = arm_parts(bench, arm, plan, seed, start)
    config = replace(plan.train, seed=seed)
    report = train(
        generator,
        objectives,
        batches,
        config,
        folder,
        validators=validators,
        progress_label="train",
    )
    facts = {
        "steps": report.steps,
        "seconds": report.seconds,
        "step_seconds": report.median_step_seconds,
        "parameters": report.parameters,
        "projector_parameters": report.objective_parameters,
        "precision": report.precision,
        "compiled": report.compiled,
        "history": [
            {
                "step": row["step"],
                "losses": {k: row[k] for k in (*generator.laws, "alignment") if k in row},
            }
            for row in report.history
        ],
        "validation": report.validation,
    }
    model = folder / "model"
    if not (model / "codec").is_dir():  # so that the checkpoint draws pictures by itself
        bench.codec.save_pretrained(model / "codec")
    return facts


def judge_arm(bench: Bench, folder: Path, plan: JudgePlan) -> tuple[dict[str, Any], np.ndarray]:
    """Draw and measure with the model in `folder`: plain results, and the pictures uint8."""
    generator = load_generator(folder / "model")
    _, scenes = bench.scenes("heldout", plan.prompts, plan.prompt_seed)
    seeds = [plan.sampling_seed * 1_000_003 + i for i in range(plan.prompts)]
    pictures = draw(bench, generator, [s.caption for s in scenes], seeds, plan.sampling)
    rng = np.random.default_rng(0)
    readings = bench.reader.read(pictures)
    scores = prompt_accuracy(readings, scenes, bench.config.scene)
    told = {
        name: held_out(bench, generator, name, plan.bits_scenes // 2)
        for name in ("seen", "heldout")
    }
    law = "loss" if generator.dimensions else "bits"
    results: dict[str, Any] = {
        "prompt_accuracy": plain(scores.measured(bench.reader.name, rng)),
        "per_prompt": per_prompt(scores),
        "shuffled_prompts": shuffled_control(readings, scenes, rng, bench.config.scene).values(),
        law: {name: plain({law: x.measured(rng, "")})[law] for name, x in told.items()},
        f"{law}_per_picture": {name: x.values.tolist() for name, x in told.items()},
        **_set_measures(bench, pictures, rng, plan),
        **_diversity(bench, generator, scenes, rng, plan),
    }
    if (tower := bench.text_tower) is not None:
        captions = [scene.caption for scene in scenes]
        results["image_text"] = _image_text(bench, tower, pictures, captions, rng)
    return results, pictures


def _set_measures(
    bench: Bench, pictures: np.ndarray, rng: np.random.Generator, plan: JudgePlan
) -> dict[str, Any]:
    """The pictures as a set: Fréchet distance with its floor, and nearness to training pictures."""
    reader, encoder = bench.reader, bench.reader.name
    features = reader.features(pictures)
    pool, _ = bench.scenes("heldout", plan.real + len(pictures), seed=77)
    real = reader.features(pool)
    distance = frechet_distance(real[: plan.real], features, encoder=encoder, rng=rng)
    floor = frechet_floor(real, plan.real, len(pictures), encoder=encoder, rng=rng, repeats=5)
    known = bench.training_pictures(4000)
    in_features = memorisation(
        features, reader.features(known), real[: plan.real], encoder=encoder
    ).share
    in_pixels = memorisation(pictures, known, pool[: plan.real], encoder="none").share
    return {
        "frechet": {
            **plain({"x": distance})["x"],
            "floor": floor.value,
            "floor_high": None if floor.interval is None else floor.interval.high,
            "encoder": encoder,
        },
        "nearest_training": plain({"features": in_features, "pixels": in_pixels}),
    }


def _diversity(
    bench: Bench,
    generator: Generator,
    scenes: list[Scene],
    rng: np.random.Generator,
    plan: JudgePlan,
) -> dict[str, Any]:
    """Likeness of pictures of one prompt (MS-SSIM), beside that of real scenes of the prompt."""
    chosen = scenes[: plan.diversity_prompts]
    each = plan.diversity_pictures
    groups = [prompt for prompt in range(len(chosen)) for _ in range(each)]
    captions = [chosen[prompt].caption for prompt in groups]
    seeds = [plan.sampling_seed * 1_000_003 + 500_000 + i for i in range(len(groups))]
    drawn = draw(bench, generator, captions, seeds, plan.sampling)
    source = DigitScenes(bench.config.scene, "test", 0, "heldout")
    again = [source.redrawn(chosen[prompt], seed=i) for i, prompt in enumerate(groups)]
    real = np.stack([draw_scene(scene, bench.config.scene) for scene in again])
    found = ssim_diversity(drawn, groups, real, groups, rng=rng)
    return {"ms_ssim": plain({"generated": found.generated, "real": found.real})}


def draw(
    bench: Bench,
    generator: Generator,
    captions: Sequence[str | None],
    seeds: Sequence[int],
    sampling: SamplingConfig,
) -> np.ndarray:
    """Pictures (N, S, S, 3) uint8 of captions and seeds."""
    with track("draw", len(captions) * generator.units) as task:
        model = TextToImage(generator, bench.codec)
        return model.draw(captions, seeds, sampling, batch=128, on_unit=task.advance)


def held_out(
    bench: Bench, generator: Generator, combinations: str, count: int
) -> Likelihood | VectorLoss:
    """What test scenes (unseen scans) cost under the generator: bits, or the loss of vectors."""
    return held_out_law(generator.eval(), scene_batches(bench, generator, combinations, count))


def scene_batches(
    bench: Bench, generator: Generator, combinations: str, count: int
) -> Iterator[Batch]:
    """The first `count` test scenes as batches of a generator, each once, with its caption."""
    pictures, scenes = bench.scenes(combinations, count, seed=5)
    texts = [generator.caption_ids(scene.caption) for scene in scenes]
    store = MemoryStore(texts, encoded(bench.codec, pictures, batch=128))
    return generator.batches(store, BatchConfig(size=1), ()).in_order(128)


class Watched:
    """A validator: bits per token (or the loss of vectors) of test scenes of combinations that
    training never shows."""

    def __init__(self, bench: Bench, count: int):
        self.bench, self.count = bench, count
        self._batches: list[Batch] = []

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        if not self._batches:  # the same at every step: the codec need not look again
            self._batches = list(scene_batches(self.bench, generator, "heldout", self.count))
        return held_out_law(generator, self._batches).told()


def run_arm(
    bench: Bench, arm: Arm, plan: TrainingPlan, judge: JudgePlan, seed: int, folder: Path
) -> dict[str, Any]:
    """Train and judge one arm, unless that was done; leaves `arm.json` and `pictures.npz`."""
    if (found := judged_arm(bench, arm, plan, judge, seed, folder)) is not None:
        return found
    watched = [Watched(bench, plan.watch)] if plan.watch else []
    facts = train_arm(bench, arm, plan, seed, folder, validators=watched)
    results, pictures = judge_arm(bench, folder, judge)
    digest = _digest(bench, arm, plan, judge, seed)
    found = {"settings": digest, "arm": arm.name, "seed": seed, "training": facts, **results}
    with atomic_folder(folder / "judged") as target:
        np.savez_compressed(target / "pictures.npz", pictures=pictures)
        write_json(target / "arm.json", found)
    return to_plain(found)


def judged_arm(
    bench: Bench, arm: Arm, plan: TrainingPlan, judge: JudgePlan, seed: int, folder: Path
) -> dict[str, Any] | None:
    """What `run_arm` left in `folder`, if it was asked for the same."""
    try:
        found = read_json(folder / "judged" / "arm.json")
    except InputError:
        return None  # not judged yet
    return found if found["settings"] == _digest(bench, arm, plan, judge, seed) else None


def _digest(bench: Bench, arm: Arm, plan: TrainingPlan, judge: JudgePlan, seed: int) -> str:
    return sha256_of_json(
        to_plain([bench.store.provenance.settings, arm, plan, judge, seed, ATTRIBUTES])
    )


def arm_job(
    label: str,
    bench: Bench,
    arm: Arm,
    plan: TrainingPlan,
    judge: JudgePlan,
    seed: int,
    folder: Path,
) -> Job:
    """`run_arm` as a job, to run beside others."""
    given = {"bench": bench, "arm": arm, "plan": plan, "judge": judge, "seed": seed}
    return Job(label, run_arm, {**given, "folder": folder})


def drawn_pictures(folder: Path) -> np.ndarray:
    """The pictures that `run_arm` judged."""
    with np.load(folder / "judged" / "pictures.npz", allow_pickle=False) as stored:
        return stored["pictures"]


def per_prompt(scores: PromptScores) -> dict[str, list[list[float]]]:
    """attribute -> [right, asked] for every prompt, for paired comparisons."""
    found = {}
    for name in ATTRIBUTES:
        share = getattr(scores, name)
        found[name] = [share.right.astype(float).tolist(), share.asked.astype(float).tolist()]
    return found


def plain(measured: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """Value, low, high and n of each, as JSON."""
    return {
        name: {
            "value": m.value,
            "low": None if m.interval is None else m.interval.low,
            "high": None if m.interval is None else m.interval.high,
            "n": m.n,
        }
        for name, m in measured.items()
    }


def _image_text(
    bench: Bench, tower: Any, pictures: np.ndarray, captions: list[str], rng: Any
) -> Any:
    from PIL import Image

    def picture_features(batch: np.ndarray) -> np.ndarray:
        images = [Image.fromarray(picture) for picture in batch]
        cls = bench.encoder.encode(bench.encoder.preprocess(images)).cls
        assert cls is not None
        return cls.double().numpy()

    def text_features(texts: Any) -> np.ndarray:
        with torch.no_grad():
            return tower(list(texts)).double().numpy()

    score = image_text_score(
        pictures,
        captions,
        picture_features=picture_features,
        text_features=text_features,
        encoder="the teacher's towers",
        rng=rng,
    )
    return plain({"matched": score.matched, "wrong_pairs": score.shuffled})
