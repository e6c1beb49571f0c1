"""How time and memory grow: with tokens of a picture, batch, model width, rows of a store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arra.experiments.speed.counted import added_memory
from arra.experiments.speed.measure import Case, Contender

if TYPE_CHECKING:
    from arra.generators.raster import RasterGenerator

QUESTION = "How do time and memory grow with tokens, batch, model and data?"
_CODES = 256
_CAPTION = "a red 3"
_MEMORY = "added memory (MiB)"


def cases(budget: str, folder: Path) -> Iterator[Callable[[], Case]]:
    """One curve a subject; memory is that of a process of its own."""
    tiny = budget == "tiny"
    for side in (2, 3, 4) if tiny else (8, 16, 32, 64):
        yield partial(_drawing, "tokens of a picture, drawing", side**2, side, 1, tiny)
        yield partial(_training, "tokens of a picture, training", side**2, side, 1, 64, tiny)
    for batch in (1, 2, 3) if tiny else (1, 4, 16, 64):
        yield partial(
            _drawing, "pictures of a batch, drawing", batch, 2 if tiny else 8, batch, tiny
        )
        yield partial(_training, "pictures of a batch, training", batch, 2, batch, 64, tiny)
    for width in (32, 64, 96) if tiny else (64, 128, 256, 512):
        yield partial(_training, "width of the model, training", width, 2, 16, width, tiny)
    for rows in (64, 128, 256) if tiny else (10**3, 10**4, 10**5, 10**6):
        yield partial(_rows, rows, folder, tiny)


def _generator(side: int, width: int) -> RasterGenerator:
    from arra.data.tokenizer import train_text_tokenizer
    from arra.generators.raster import RasterGenerator
    from arra.settings import LlamaSize

    size = LlamaSize(
        width=width,
        depth=2,
        heads=max(1, width // 32),
        feed_forward=width * 11 // 4,
        positions=side**2 + 16,
    )
    tokenizer = train_text_tokenizer([_CAPTION])
    return RasterGenerator.from_scratch(tokenizer, _CODES, (side, side), size, seed=0)


def _case(
    series: str, at: int, unit: str, make: Callable[..., Callable[[], Any]], arguments: tuple
) -> Case:
    """The call that `make` returns; memory, where it is asked for, is that of the same call."""
    *texts, tiny = arguments

    def facts() -> Mapping[str, float]:
        return {_MEMORY: added_memory(make, *map(str, texts))}

    one = Contender(
        "arra", make.__doc__ or "", make(*map(str, texts)), facts=None if tiny else facts
    )
    return Case(f"{series}: {at}", unit, 1, (one,), series=series, at=float(at))


def _drawing(series: str, at: int, side: int, batch: int, tiny: bool) -> Case:
    return _case(series, at, "drawing", drawing, (side, batch, tiny))


def drawing(side: str, batch: str) -> Callable[[], Any]:
    """Two blocks of width 64 draw `batch` pictures of `side` x `side` codes, without guidance, as
    `arra generate` does."""
    from arra.generators.fast import decoding
    from arra.samplers.ancestral import AncestralSampler
    from arra.settings import SamplingConfig

    generator = _generator(int(side), 64).eval()
    captions, seeds = [_CAPTION] * int(batch), list(range(int(batch)))
    sampler = AncestralSampler(SamplingConfig(guidance=1.0))
    stepper = decoding(generator, generator.units, prompt=16, decoder="fast").stepper
    return lambda: sampler(stepper, captions, seeds)


def _training(series: str, at: int, side: int, batch: int, width: int, tiny: bool) -> Case:
    return _case(series, at, "training step", training, (side, batch, width, tiny))


def training(side: str, batch: str, width: str) -> Callable[[], Any]:
    """A step of two blocks: forward, backward, clipping and AdamW, in float32."""
    import torch

    from arra.generators.batches import collate, sequence
    from arra.objectives.laws import NextToken
    from arra.training.config import TrainConfig
    from arra.training.joint import Joint
    from arra.training.optimizers import build_optimizers

    generator = _generator(int(side), int(width))
    vocabulary, config = generator.config.vocabulary, TrainConfig(steps=1)
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(_CODES, (int(batch), int(side) ** 2), generator=rng).tolist()
    batched = collate([sequence([1], row, vocabulary, False) for row in codes], {}, vocabulary.pad)
    joint = Joint(generator, [NextToken()]).train()
    optimizers = build_optimizers(joint, config)

    def step() -> None:
        total, _ = joint(batched, joint.weights(0))
        total.backward()
        torch.nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def _rows(rows: int, folder: Path, tiny: bool) -> Case:
    path = folder / f"rows-{rows}"
    write_rows(path, rows)
    return _case("rows of a store, opening", rows, "opening", opening, (path, tiny))


def opening(folder: str) -> Callable[[], Any]:
    """Open a store, shuffle its rows and draw 32 training batches of 32."""
    from arra.data.store import PreparedStore
    from arra.data.tokenizer import train_text_tokenizer
    from arra.generators.batches import RasterBatches
    from arra.generators.vocabulary import add_image_tokens
    from arra.settings import BatchConfig

    vocabulary = add_image_tokens(train_text_tokenizer([_CAPTION]), _CODES)

    def run() -> RasterBatches:
        batches = RasterBatches(PreparedStore.open(folder), vocabulary, BatchConfig(size=32))
        for step in range(32):
            batches.batch(step)
        return batches

    return run


def write_rows(folder: Path, rows: int) -> None:
    """A store of made-up rows (64 codes, 64 features, short texts) by the real writer."""
    import numpy as np

    from arra.data.shards import RowBlock, ShardForm, write_shard
    from arra.data.store import FORMAT, MANIFEST, SHARDS, Provenance, Settings, ShardEntry
    from arra.files import sha256_of_file, write_json

    shutil.rmtree(folder, ignore_errors=True)
    (folder / SHARDS).mkdir(parents=True)
    rng, form = np.random.default_rng(0), ShardForm((8, 8), _CODES, {"cls": (64,)})
    entries, most = [], 1 << 14
    for number, start in enumerate(range(0, rows, most)):
        stop = min(start + most, rows)
        names = [f"{row:09d}" for row in range(start, stop)]
        block = RowBlock(
            names,
            names,
            [[1] * (1 + row % 7) for row in range(start, stop)],
            rng.integers(_CODES, size=(stop - start, 8, 8)),
            {"cls": rng.standard_normal((stop - start, 64), dtype=np.float32).astype(np.float16)},
        )
        path = folder / SHARDS / f"{number:06d}.arrow"
        written = write_shard(path, form, [block])
        entries.append(ShardEntry(path.name, start, stop, written, sha256_of_file(path)))
    settings = Settings({"vocabulary": _CODES}, {}, ("cls",), "float16", {}, {}, {}, most, most)
    shapes = form.feature_shapes
    made = Provenance(FORMAT, "", settings, (8, 8), shapes, rows, 0, tuple(entries))
    write_json(folder / MANIFEST, made)
