"""The work of the claim: one model trained on one kind of sequences, and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arra.codecs.patches import PatchCodec
from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digits import WORDS, Judge, MemoryStore, digits, encoded, in_turn, seeds_of
from arra.experiments.once import once
from arra.generators.backspace_batches import BackspaceBatches
from arra.generators.backspacing import BackspaceStepper, Writing, with_backspace
from arra.generators.raster import RasterGenerator
from arra.jobs.imitation import nats, tune
from arra.pixels import to_uint8
from arra.samplers.backtracking import BacktrackingSampler, Limits, standing
from arra.settings import BatchConfig, LlamaSize, SamplingConfig
from arra.systems.sequencematch.additions import FIGURES, WRITTEN, additions, corrupted
from arra.systems.sequencematch.recipe import LIKELIHOOD, Recipe
from arra.text_to_image import TextToImage
from arra.training.loop import TrainReport

PLAIN = SamplingConfig(guidance=1.0)
_TOGETHER = 300


def writer(size: LlamaSize, seed: int) -> RasterGenerator:
    """An untrained language model of figures (and of a picture of one code, which nobody draws)."""
    tokenizer = train_text_tokenizer([" ".join(FIGURES) + " + ="])
    return with_backspace(RasterGenerator.from_scratch(tokenizer, 1, (1, 1), size, seed=seed), seed)


def painter(codec: PatchCodec, size: LlamaSize, seed: int) -> RasterGenerator:
    """An untrained language model that draws digits by their names."""
    side = 8 // codec.downsample
    made = RasterGenerator.from_scratch(
        train_text_tokenizer([" ".join(WORDS)]),
        codec.vocabulary,
        (side, side),
        size,
        seed=seed,
        codec=codec.fingerprint(),
        appearance=codec.appearance(),
    )
    return with_backspace(made, seed)


def write(
    generator: RasterGenerator,
    writing: Writing,
    prompts: list[list[int]],
    arm: str,
    seed: int,
    given: list[list[int]] | None = None,
) -> list[list[int]]:
    """The actions of an arm after prompts, at temperature 1 and with the same noise in each; who
    has never seen a backspace may not use it."""
    limits = Limits(in_a_row=0) if arm == LIKELIHOOD else Limits()
    stepper = BackspaceStepper(generator, writing)
    return BacktrackingSampler(PLAIN, limits).actions(
        stepper,
        [writing.prompt(text) for text in prompts],
        seeds_of(len(prompts), seed),
        batch=_TOGETHER,
        given=given,
    )


def counted(actions: list[list[int]], end: int) -> float:
    """Backspaces of a text, on average."""
    return float(np.mean([row.count(end + 1) for row in actions]))


def undone(actions: list[list[int]], given: list[list[int]], end: int) -> float:
    """Share of texts whose last given token was taken back at once."""
    pairs = zip(actions, given, strict=True)
    return float(np.mean([row[len(first)] == end + 1 for row, first in pairs]))


def held_out_nats(generator: RasterGenerator, store: MemoryStore, writing: Writing) -> float:
    """Nats of an action of held-out data without mistakes."""
    batches = BackspaceBatches(store, writing, BatchConfig(1), pad=generator.config.vocabulary.pad)
    return nats(generator, batches.in_order(250))


def _facts(generator: RasterGenerator, report: TrainReport) -> dict[str, float]:
    return {"parameters": report.parameters, "step_seconds": report.median_step_seconds}


def train_additions(recipe: Recipe, arm: str, seed: int, folder: Path, quiet: bool) -> dict:
    """Train one model on additions, and judge its answers."""

    def make(target: Path) -> dict[str, Any]:
        generator = writer(recipe.additions.size, seed)
        known, held_out = additions(recipe.sums, recipe.asked, seed)
        writing = Writing.of_text(generator, WRITTEN, FIGURES)
        store = known.store([generator.caption_ids(text) for text in known.prompts])
        tuning = recipe.additions.of(arm).seeded(seed)
        report = tune(generator, store, writing, tuning, target / "training")
        asked = [generator.caption_ids(text) for text in held_out.prompts]
        end, answers = len(FIGURES), held_out.answers

        def right(actions: list[list[int]]) -> float:
            pairs = zip(actions, answers.tolist(), strict=True)
            return float(np.mean([standing(row, end) == answer for row, answer in pairs]))

        free = write(generator, writing, asked, arm, seed)
        found = {
            **_facts(generator, report),
            "accuracy": right(free),
            "backspaces": counted(free, end),
            "nats": held_out_nats(generator, held_out.store(asked), writing),
        }
        for name, more in (("recovery", 0), ("late recovery", 1)):
            given = corrupted(answers, seed, more)
            actions = write(generator, writing, asked, arm, seed, given)
            found[name] = right(actions)
            found[f"{name}: undone"] = undone(actions, given, end)
        return found

    return once(
        folder / f"additions-{arm}-{seed}", [recipe.additions, recipe.sums, arm, seed], make
    )


def train_pictures(
    recipe: Recipe, judge: Judge, arm: str, seed: int, folder: Path, quiet: bool
) -> dict:
    """Train one model on digits, and judge what it draws, also after a code that is wrong."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        codec = PatchCodec.fit(known.pictures, recipe.codes, seed=0)
        generator = painter(codec, recipe.pictures.size, seed)
        writing = Writing.of_pictures(generator)
        store = _store(generator, known.captions, encoded(codec, known.pictures))
        tuning = recipe.pictures.of(arm).seeded(seed)
        report = tune(generator, store, writing, tuning, target / "training")
        end, middle = codec.vocabulary, generator.units // 2

        def judged(actions: list[list[int]], labels: np.ndarray) -> tuple[float, float]:
            codes = torch.tensor([standing(row, end) for row in actions])
            pictures = to_uint8(codec.decode(codes.view(len(codes), *generator.config.grid)))
            return float((judge.classes(pictures) == labels).mean()), judge.distance(pictures)

        asked = [generator.caption_ids(word) for word in in_turn(recipe.drawn)]
        free = write(generator, writing, asked, arm, seed)
        accuracy, distance = judged(free, np.arange(recipe.drawn) % len(WORDS))
        real = encoded(codec, held_out.pictures[: recipe.drawn]).flatten(1)
        labels, words = held_out.labels[: recipe.drawn], held_out.captions[: recipe.drawn]
        given = corrupted(real, seed, last=middle)
        begun = write(
            generator, writing, [generator.caption_ids(w) for w in words], arm, seed, given
        )
        TextToImage(generator, codec).save_pretrained(target / "model")
        return {
            **_facts(generator, report),
            "accuracy": accuracy,
            "frechet": distance,
            "backspaces": counted(free, end),
            "nats": held_out_nats(generator, _unseen(generator, codec), writing),
            "recovery": judged(begun, labels)[0],
            "undone": undone(begun, given, end),
        }

    return once(folder / f"pictures-{arm}-{seed}", [recipe, arm, seed], make)


def _unseen(generator: RasterGenerator, codec: PatchCodec) -> MemoryStore:
    """All held-out digits."""
    held_out = digits()[1]
    return _store(generator, held_out.captions, encoded(codec, held_out.pictures))


def _store(generator: RasterGenerator, captions: list[str], codes: Tensor) -> MemoryStore:
    return MemoryStore([generator.caption_ids(word) for word in captions], codes)
