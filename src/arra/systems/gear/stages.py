"""The two stages of the claim, each a job that goes on where it stopped.

Stage one makes the teacher and the four codecs of a seed; stage two trains a fresh generator on one
of them and judges it. For one seed all arms share the teacher, the warm-up, the crops, the initial
weights, the order of the data and the noise of sampling.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arra.codecs.base import Codec
from arra.codecs.measuring import evaluate_codec
from arra.codecs.training import train_codec
from arra.codecs.vq import VQCodec
from arra.data.tokenizer import CaptionEncoder, train_text_tokenizer
from arra.encoders.base import Encoder
from arra.encoders.training import train_encoder
from arra.experiments.digits import WORDS, Digits, Judge, MemoryStore, digits, encoded
from arra.experiments.once import once
from arra.files import read_json
from arra.generators.base import Generator
from arra.generators.batches import RasterBatches, collate, sequence
from arra.generators.fast import decoding
from arra.generators.raster import RasterGenerator
from arra.metrics.likelihood import held_out_bits
from arra.objectives.base import Objective
from arra.objectives.laws import NextToken
from arra.pixels import to_uint8, to_unit
from arra.samplers.ancestral import AncestralSampler
from arra.settings import SamplingConfig
from arra.systems.gear.recipe import CONTROL, TOKENIZERS, WARM_UP, Recipe
from arra.systems.gear.routing import Guide
from arra.systems.gear.tuning import tune_codec
from arra.systems.gear.views import Views, alignment_with, picture_features
from arra.training.loop import train

LATEST = 100
"""Steps at the end over which the alignment of a fresh generator is averaged."""


def make_codecs(recipe: Recipe, judge: Judge, seed: int, folder: Path, quiet: bool) -> Any:
    """Teacher and codecs of one seed in `folder`; what was measured of each codec."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        teacher = _teacher(recipe, known, seed, quiet)
        teacher.save_pretrained(target / "teacher")
        found = {}
        for name in TOKENIZERS:
            codec: Any
            if name == WARM_UP:
                codec = _warm_up(recipe, known, held_out, seed, quiet)
            else:
                codec = Codec.from_pretrained(target / WARM_UP)
                _tune(recipe, name, codec, teacher, known, seed, folder / "tuning" / name, quiet)
            codec.save_pretrained(target / name)
            found[name] = _measure(codec, judge, held_out)
        return found

    settings = [recipe.codec, recipe.warm_up, recipe.teacher, recipe.teacher_training]
    settings += [recipe.size, recipe.tuning, recipe.patch, seed]
    return once(folder / "codecs", settings, make)


def _crops(
    known: Digits, codec: Codec, teacher: Encoder, texts: dict[str, list[int]]
) -> MemoryStore:
    """All crops of digits with the codes and features of each: those of the very crop."""
    pictures = known.pictures
    with torch.no_grad():
        chunks = np.array_split(pictures, -(-len(pictures) // 512))
        found = [picture_features(teacher, chunk) for chunk in chunks]
    features = {name: torch.cat([f[name] for f in found]) for name in found[0]}
    return MemoryStore(
        [texts[caption] for caption in known.captions], encoded(codec, pictures), features
    )


def train_fresh(
    recipe: Recipe,
    judge: Judge,
    tokenizer: str,
    how: str,
    seed: int,
    folder: Path,
    quiet: bool,
) -> Any:
    """A fresh generator on the codec `tokenizer`, trained as `how` says, with its judgement."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        codec = Codec.from_pretrained(folder / "codecs" / tokenizer)
        teacher = Encoder.from_pretrained(folder / "codecs" / "teacher")
        generator = _generator(recipe, seed)
        assert generator.tokenizer is not None
        ids = CaptionEncoder.of(generator.tokenizer)(WORDS)
        texts = dict(zip(WORDS, ids, strict=True))
        store = _crops(known.cropped(recipe.tuning.crop), codec, teacher, texts)
        objectives: list[Objective] = [NextToken()]
        alignment = recipe.alignment(how)
        names: tuple[str, ...] = ()
        if alignment is not None:
            picture, names = known.pictures[:1], alignment.feature_names
            objectives.append(alignment_with(alignment, generator, teacher, picture, seed))
        batch = replace(recipe.batch, seed=seed)
        batches = RasterBatches(store, generator.config.vocabulary, batch, names)
        watch = _Watch(recipe, judge, codec, held_out, seed)
        report = train(
            generator,
            objectives,
            batches,
            replace(recipe.train, seed=seed),
            folder / "training" / f"{tokenizer}-{how}",
            validators=[watch],
        )
        last = [row["alignment"] for row in report.history if "alignment" in row]
        count = max(LATEST // recipe.train.log_every, 1)
        return {
            "checkpoints": report.validation,
            "alignment": float(np.mean(last[-count:])) if last else None,
            "step_seconds": report.median_step_seconds,
            "parameters": report.parameters,
        }

    made = read_json(folder / "codecs" / "report.json")["settings"]
    settings = [recipe.size, recipe.batch, recipe.train, recipe.alignment(how), made]
    settings += [recipe.drawn, recipe.guidance, tokenizer, seed]
    return once(folder / "fresh" / f"{tokenizer}-{how}", settings, make)


# ---- stage one ---------------------------------------------------------------------------------


def _teacher(recipe: Recipe, known: Digits, seed: int, quiet: bool) -> Encoder:
    training = replace(recipe.teacher_training, seed=seed)
    pictures = torch.from_numpy(known.pictures)
    return train_encoder(recipe.teacher, pictures, training, known.captions, quiet=quiet).encoder


def _warm_up(recipe: Recipe, known: Digits, held_out: Digits, seed: int, quiet: bool) -> VQCodec:
    codec = VQCodec.seeded(recipe.codec, seed)
    # steps that the later stages do not take: their crops are others
    views = Views(known.pictures, known.captions, replace(recipe.tuning, seed=seed + 1_000_003))
    train_codec(
        codec,
        lambda step: views(step).pictures,
        replace(recipe.warm_up, quiet=quiet),
        generator=torch.Generator().manual_seed(seed),
        validation=torch.from_numpy(held_out.pictures),
    )
    return codec


def _tune(
    recipe: Recipe,
    name: str,
    codec: Any,
    teacher: Encoder,
    known: Digits,
    seed: int,
    folder: Path,
    quiet: bool,
) -> None:
    config = replace(recipe.tuned(name), seed=seed)
    if name == CONTROL:
        tune_codec(
            codec, Views(known.pictures, known.captions, config), config, folder, quiet=quiet
        )
        return
    generator = _generator(recipe, seed)
    guide = Guide(
        generator, alignment_with(recipe.patch, generator, teacher, known.pictures[:1], seed)
    )
    views = Views(known.pictures, known.captions, config, generator, teacher)
    tune_codec(codec, views, config, folder, guide, quiet=quiet)


def _measure(codec: Codec, judge: Judge, held_out: Digits) -> dict[str, float]:
    """Error of held-out pictures, and what their codes are like."""
    report = evaluate_codec(codec, torch.from_numpy(held_out.pictures))
    painted = _painted(codec, judge.reference)
    gap = painted.astype(np.float64) - judge.reference
    return {
        "l1": float(np.abs(gap).mean()) / 127.5,
        "frechet": judge.distance(painted),
        "entropy": math.log(report.perplexity),
        "usage": report.usage,
    }


def _painted(codec: Codec, pictures: np.ndarray) -> np.ndarray:
    codes = codec.encode(to_unit(pictures))
    return to_uint8(codec.decode(codes))


# ---- stage two ---------------------------------------------------------------------------------


def _generator(recipe: Recipe, seed: int) -> RasterGenerator:
    tokenizer = train_text_tokenizer(WORDS, kind="word")
    side = recipe.teacher.preprocessing.size // recipe.codec.autoencoder.downsample
    codes = recipe.codec.vocabulary
    return RasterGenerator.from_scratch(tokenizer, codes, (side, side), recipe.size, seed=seed)


class _Watch:
    """A validator: held-out cross-entropy, and drawn pictures before the judge."""

    def __init__(self, recipe: Recipe, judge: Judge, codec: Codec, held_out: Digits, seed: int):
        self.recipe, self.judge, self.codec, self.held_out = recipe, judge, codec.eval(), held_out
        self.seeds = [seed * 1_000_003 + picture for picture in range(recipe.drawn)]

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        assert isinstance(generator, RasterGenerator)
        found = {"nats": self._nats(generator), **self._drawn(generator, 1.0, "")}
        if step == self.recipe.train.steps:
            found |= self._drawn(generator, self.recipe.guidance, "guided ")
        return found

    def _nats(self, generator: RasterGenerator) -> float:
        """Cross-entropy of the codes of held-out pictures, in nats a code."""
        vocabulary = generator.config.vocabulary
        assert generator.tokenizer is not None
        texts = CaptionEncoder.of(generator.tokenizer)(self.held_out.captions)
        codes = self.codec.encode(to_unit(self.held_out.pictures)).flatten(1).tolist()
        samples = [
            sequence(text, code, vocabulary, supervise_text=False)
            for text, code in zip(texts, codes, strict=True)
        ]
        batches = [
            collate(samples[start : start + 200], {}, vocabulary.pad)
            for start in range(0, len(samples), 200)
        ]
        return held_out_bits(generator, batches).per_token * math.log(2)

    def _drawn(self, generator: RasterGenerator, guidance: float, prefix: str) -> dict[str, float]:
        asked = np.arange(len(self.seeds)) % len(WORDS)
        captions = [WORDS[digit] for digit in asked]
        sampler = AncestralSampler(SamplingConfig(guidance=guidance))
        codes = sampler(decoding(generator, 500).stepper, captions, self.seeds, batch=500)
        pictures = to_uint8(self.codec.decode(codes.view(len(codes), *generator.config.grid)))
        right = self.judge.classes(pictures) == asked
        return {
            f"{prefix}frechet": self.judge.distance(pictures),
            f"{prefix}accuracy": float(right.mean()),
        }
