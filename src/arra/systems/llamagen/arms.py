"""The work of the claim: tokenizers trained and measured; a generator trained, drawn, judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arra.codecs.measuring import evaluate_codec
from arra.codecs.training import train_codec
from arra.codecs.vq import VQCodec
from arra.experiments.digit_grids import (
    bits_per_picture,
    draw_labels,
    label_generator,
    label_store,
    train_labels,
)
from arra.experiments.digits import Judge, digits, judged
from arra.experiments.once import once
from arra.pixels import planes
from arra.settings import SamplingConfig
from arra.systems.llamagen.recipe import CODECS, FEW, NORMALISED, Recipe
from arra.systems.llamagen.tokenizers import PlainVQ

GRID = (4, 4)


def _trained(kind: str, config: Any, training: Any, recipe: Recipe, seed: int) -> VQCodec:
    known, held_out = digits()
    codec = (VQCodec if kind == NORMALISED else PlainVQ).seeded(config, seed)
    train_codec(
        codec,
        planes(known.cropped(recipe.crop).pictures),
        training,
        generator=torch.Generator().manual_seed(seed),
        validation=planes(held_out.pictures),
    )
    return codec


def measure_tokenizers(recipe: Recipe, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """Usage over all digits and error of held-out ones, of every tokenizer."""

    def make(target: Path) -> dict[str, Any]:
        found = {}
        known, held_out = digits()
        everything = planes(np.concatenate((known.pictures, held_out.pictures)))
        for kind, width in CODECS:
            codec = _trained(kind, recipe.codec(width), recipe.tokenizer, recipe, seed)
            report = evaluate_codec(codec, planes(held_out.pictures))
            whole = evaluate_codec(codec, everything)
            found[f"{kind} {width}"] = {
                "usage": whole.usage,
                "perplexity": whole.perplexity,
                "mse": report.mse,
            }
        return found

    return once(folder / f"tokenizers-{seed}", [recipe, "tokenizers", CODECS, seed], make)


def measure_guidance(
    recipe: Recipe, judge: Judge, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """A generator's pictures at every scale of guidance, and sharpened instead of guided.

    Sharpened: no guidance, the temperature is one over the scale. It makes likely codes likelier,
    as guidance does, but knows nothing of what the class has to do with them.
    """

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        config = recipe.codec(FEW, recipe.generator_codes)
        codec = _trained(NORMALISED, config, recipe.generator_tokenizer, recipe, seed)
        generator = label_generator(codec, GRID, recipe.size, seed)
        store = label_store(codec, known.cropped(recipe.crop))
        train_labels(generator, store, recipe.batch, recipe.train, seed, target / "training")
        found: dict[str, Any] = {
            "bits": bits_per_picture(generator, label_store(codec, held_out)),
            "parameters": sum(p.numel() for p in generator.parameters()),
        }
        for scale in recipe.scales:
            plain = SamplingConfig(guidance=1.0)
            ways = {
                "guided": replace(plain, guidance=scale),
                "sharpened": replace(plain, temperature=1.0 / scale),
            }
            for name, sampling in ways.items():
                pictures = draw_labels(generator, codec, sampling, recipe.drawn, seed)
                found[f"{name} {scale:g}"] = judged(judge, pictures)
        return found

    settings = [recipe, "guidance", seed]
    return once(folder / f"guidance-{seed}", settings, make)
