"""The work of the claim: models of known sequences, and generators of digits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arra.codecs.base import Codec
from arra.codecs.binary import BinaryCodec
from arra.codecs.measuring import evaluate_codec
from arra.codecs.training import train_codec
from arra.experiments.digit_grids import (
    bits_per_picture,
    draw_labels,
    label_generator,
    label_store,
    train_labels,
)
from arra.experiments.digits import Judge, MemoryStore, digits, judged
from arra.experiments.once import once
from arra.generators.grid import GridConfig, GridGenerator
from arra.generators.masked import MaskedGenerator
from arra.networks.grid_llama import divided
from arra.pixels import planes
from arra.settings import BatchConfig, GridOptions, SamplingConfig
from arra.systems.elm.recipe import GRID, KEPT, Recipe
from arra.systems.elm.synthetic import BITS, CLASSES, CODES, Source, Ties

_CELLS = GRID[0] * GRID[1]


def _store(source: Source, count: int, seed: int, split: int) -> tuple[MemoryStore, Tensor, Tensor]:
    classes, codes = source.draw(count, _CELLS, seed)
    parts = divided(codes, 2 ** (BITS // split), split)
    return MemoryStore([[c] for c in classes.tolist()], parts), classes, codes


def measure_synthetic(
    recipe: Recipe, ties: Ties, split: int, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """How far a model's laws of held-out cells are from the true ones, exactly.

    Bits a cell over the entropy (the divergence), and total variation, means over cells.
    """

    def make(target: Path) -> dict[str, Any]:
        source = Source(ties, seed)
        config = GridConfig(
            GRID,
            2 ** (BITS // split),
            split,
            CLASSES,
            size=recipe.size,
            options=GridOptions(condition="class"),
        )
        generator = GridGenerator.seeded(config, seed)
        store, _, _ = _store(source, recipe.sequences, 2 * seed + 1, split)
        train_labels(generator, store, recipe.batch, recipe.synthetic, seed, target / "training")
        tested, classes, codes = _store(source, recipe.tested, 2 * seed + 2, split)
        law = _law(generator, tested)
        truth = source.law(classes, codes)
        ratio = truth.clamp_min(1e-300).log() - law.log()
        tables = (generator.embed, generator.head)
        return {
            "excess": float((truth * ratio).sum(-1).mean()) / math.log(2),
            "variation": float((truth - law).abs().sum(-1).mean()) / 2.0,
            "least": source.least_excess(split),
            "entropy": source.entropy,
            "parameters": sum(p.numel() for p in generator.parameters()),
            "tables": sum(p.numel() for module in tables for p in module.parameters()),
        }

    settings = [recipe.size, recipe.batch, recipe.synthetic, recipe.sequences, recipe.tested]
    return once(folder / f"{ties}-{split}-{seed}", [*settings, ties, split, seed], make)


@torch.no_grad()
def _law(generator: GridGenerator, store: MemoryStore) -> Tensor:
    """(B, n, 256) float64: the product of the laws of a cell's sub-codes."""
    config = BatchConfig(len(store), drop_caption=0.0)
    batches = generator.batches(store, config)
    (batch,) = list(batches.in_order(len(store)))
    split = generator.config.split
    logs = generator(batch).logits.double().log_softmax(-1)
    logs = logs.view(len(store), _CELLS, split, -1)
    parts = divided(torch.arange(CODES), generator.config.codes, split)
    return sum(logs[:, :, m, parts[:, m]] for m in range(split)).exp()


def train_bits(recipe: Recipe, seed: int, folder: Path, quiet: bool) -> dict[str, Any]:
    """The binary autoencoder of a seed, and how good it is."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        codec = BinaryCodec.seeded(recipe.codec, seed)
        report = train_codec(
            codec,
            planes(known.cropped(recipe.crop).pictures),
            recipe.codec_training,
            generator=torch.Generator().manual_seed(seed),
            validation=planes(held_out.pictures),
        )
        codec.save_pretrained(target / "codec")
        whole = evaluate_codec(codec, planes(known.cropped(recipe.crop).pictures))
        return {"mse": report.mse, "usage": whole.usage, "perplexity": whole.perplexity}

    return once(folder / f"codec-{seed}", [recipe.codec, recipe.codec_training, seed], make)


def _split_codec(folder: Path, seed: int, split: int) -> BinaryCodec:
    """The codec of a seed whose bits make `split` codes a cell."""
    whole: BinaryCodec = Codec.from_pretrained(folder / f"codec-{seed}" / "codec")
    codec = BinaryCodec.seeded(replace(whole.config, split=split), 0)
    codec.load_state_dict(whole.state_dict())
    return codec.eval()


def measure_digits(
    recipe: Recipe, judge: Judge, split: int, masked: bool, seed: int, folder: Path, quiet: bool
) -> dict[str, Any]:
    """A generator of the codec's bits in `split` codes a cell, in raster order or masked."""

    def make(target: Path) -> dict[str, Any]:
        known, held_out = digits()
        codec = _split_codec(folder, seed, split)
        kind = MaskedGenerator if masked else GridGenerator
        generator = label_generator(codec, GRID, recipe.size, seed, kind)
        store = label_store(codec, known.cropped(recipe.crop))
        train_labels(generator, store, recipe.batch, recipe.train, seed, target / "training")
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in generator.parameters())}
        if not masked:
            found["bits"] = bits_per_picture(generator, label_store(codec, held_out))
        plain = SamplingConfig(guidance=1.0)
        ways = {"plain": plain, "guided": SamplingConfig(2.0, "steps")}
        if split == 1 and not masked:
            ways |= {f"top {k}": replace(plain, top_k=k) for k in KEPT}
        for name, sampling in ways.items():
            pictures = draw_labels(generator, codec, sampling, recipe.drawn, seed)
            found[name] = judged(judge, pictures)
        return found

    name = f"{'masked' if masked else 'raster'}-{split}-{seed}"
    return once(folder / name, [recipe, split, masked, seed], make)
