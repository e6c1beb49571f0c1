"""AVC-LM small: a language model writes the bytes of H.264 clips of moving digits.

    python -m arra.systems.jpeg_lm.moving OUT

does by the jobs of the commands what a user does with videos of their own: a folder of videos, a
store, a run; and writes `moving.png` and `moving.json`. It goes on where it was stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arra.data.rows import Clips
from arra.data.store import PreparedStore
from arra.data.subset import Subset, split_rows
from arra.experiments.moving_digits import moving_digits, write_videos
from arra.files import atomic_file, write_json
from arra.generators.fast import decoding
from arra.jobs.model import StartingPoint
from arra.jobs.options import CodecOptions, SourceOptions, TokenizerOptions
from arra.jobs.preparing import Preparation, run_preparation
from arra.jobs.training import Training, run_training
from arra.jobs.validation import plain_batches
from arra.metrics.likelihood import held_out_bits
from arra.pixels import strips
from arra.samplers.ancestral import AncestralSampler
from arra.settings import BatchConfig, LlamaSize, SamplingConfig, Sizes
from arra.text_to_image import TextToImage
from arra.training.config import TrainConfig


@dataclass(frozen=True)
class MovingRecipe:
    """What is written, trained and drawn."""

    count: int = 4000
    """Clips of digits."""
    frames: int = 8
    side: int = 32
    """Pixels of a frame each way."""
    videos: str | None = None
    """Videos of somebody's own in the place of digits."""
    clips: Clips | None = None
    """How these are cut."""
    codec: str | None = None
    """Folder of a codec of clips; unless given, one of H.264 files is made."""
    codec_options: CodecOptions = field(default_factory=lambda: CodecOptions(vocabulary=512))
    size: LlamaSize = field(
        default_factory=lambda: LlamaSize(
            width=128, depth=4, heads=4, feed_forward=352, positions=1024, tied=True
        )
    )
    batch: int = 16
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=800,
            learning_rate=3e-3,
            optimizer="muon",
            muon_scale=3.0,
            weight_decay=0.05,
            warmup=25,
            schedule="cosine",
            checkpoint_every=400,
            keep=1,
            log_every=20,
        )
    )
    held_out_share: float = 0.05
    drawn: int = 100
    """Clips drawn of captions, to count whole files."""
    shown: int = 4
    """Clips of each kind in the picture."""
    sampling: SamplingConfig = field(
        default_factory=lambda: SamplingConfig(guidance=1.0, top_k=50, top_p=0.9)
    )


def demonstrate(recipe: MovingRecipe, out: Path) -> dict[str, Any]:
    """Prepare, train, draw; returns the numbers, and writes them and the picture to `out`."""
    started = time.monotonic()
    store = _store(recipe, out)
    trained = run_training(
        Training(
            out / "store",
            out / "run",
            StartingPoint(sizes=Sizes(llama=recipe.size)),
            align=(),
            batch=BatchConfig(recipe.batch),
            training=recipe.train,
            held_out_share=recipe.held_out_share,
            samples=0,
        )
    )
    model = TextToImage.from_pretrained(out / "run", "cpu")
    kept, rest = split_rows(len(store), recipe.held_out_share)
    sets = {"training": Subset(store, kept)}
    if len(rest):
        sets["held-out"] = Subset(store, rest)
    asked = sets.get("held-out", sets["training"])
    captions = asked.captions([n % len(asked) for n in range(recipe.drawn)])
    codes = model.draw_codes(captions, range(recipe.drawn), recipe.sampling)
    table, names, halves = [], [], {}
    for name, rows in sets.items():
        real = rows.rows(range(recipe.shown)).codes
        table.append(model.paint(real))
        names.append(f"{name}, through the codec")
        begun, halves[name] = _completed(model, rows, recipe)
        table.append(begun)
        names.append(f"{name}, from frame {model.frames // 2}")
    table.append(model.paint(codes[: recipe.shown]))
    names.append("drawn from captions")
    _write_picture(out / "moving.png", table)
    found = {
        "clips": len(store),
        "frames": model.frames,
        "codes": _mean_length(store, model),
        "parameters": trained.report.parameters,
        "train_seconds": trained.report.seconds,
        "bits": {name: _bits(model, rows) for name, rows in sets.items()},
        "whole": float(model.codec.valid(codes).float().mean()),
        "whole_from_half": halves,
        "rows": names,
        "captions": captions[: recipe.shown],
        "seconds": time.monotonic() - started,
    }
    write_json(out / "moving.json", found)
    return found


def _store(recipe: MovingRecipe, out: Path) -> PreparedStore:
    videos = recipe.videos or str(out / "videos")
    if recipe.videos is None and not (out / "videos").is_dir():
        write_videos(moving_digits(recipe.count, recipe.frames, recipe.side), out / "videos")
    return run_preparation(
        Preparation(
            videos,
            out / "store",
            size=recipe.side,
            codec=recipe.codec,
            train_codec="avc",
            tokenizer_options=TokenizerOptions("word"),
            codec_options=recipe.codec_options,
            reading=SourceOptions(clips=recipe.clips or Clips(recipe.frames)),
        )
    ).store


def _completed(model: TextToImage, rows: Subset, recipe: MovingRecipe) -> tuple[np.ndarray, float]:
    """Clips (shown, H, W, 3 T) that go on from the first half of the frames of real ones, and the
    share of whole files among those that go on from the first `drawn` rows."""
    places = [n % len(rows) for n in range(recipe.drawn)]
    assert model.codec.grid is not None
    cells = model.codec.grid[0] * model.codec.grid[1]
    given = model.codec.prompts(rows.rows(places).codes, model.frames // 2 * cells)
    way = decoding(model.generator, model.generator.units)
    sampler = AncestralSampler(recipe.sampling)
    seeds = range(recipe.drawn)
    codes = sampler(way.stepper, rows.captions(places), seeds, prefix=given)
    codes = codes.view(recipe.drawn, *model.generator.codes_shape)
    return model.paint(codes[: recipe.shown]), float(model.codec.valid(codes).float().mean())


def _bits(model: TextToImage, rows: Subset, most: int = 200) -> float:
    """Bits of a clip: of its codes, caption given."""
    batches = plain_batches(rows, model.generator, 50, most)
    return held_out_bits(model.generator, batches).per_picture


def _mean_length(store: PreparedStore, model: TextToImage, most: int = 500) -> float:
    """Codes of a clip, its end included."""
    codes = store.rows(range(min(most, len(store)))).codes
    assert model.codec.stream is not None
    return float((codes != model.codec.stream.end).sum(1).float().mean()) + 1


def _write_picture(path: Path, table: Sequence[np.ndarray], zoom: int = 2) -> None:
    """Clips (n, H, W, 3 T) of each entry below each other, as strips of their frames."""
    lines = np.concatenate([strips(clips) for clips in table])
    lines = np.pad(lines, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=90)
    image = Image.fromarray(lines.reshape(-1, *lines.shape[2:]))
    large = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    with atomic_file(path) as temporary:
        large.save(temporary, format="PNG")


def tiny() -> MovingRecipe:
    """To see that it runs; nobody should read its numbers."""
    return MovingRecipe(
        count=12,
        frames=4,
        size=LlamaSize(width=16, depth=1, heads=2, feed_forward=16, positions=1024),
        batch=4,
        train=replace(MovingRecipe().train, steps=2, checkpoint_every=2, warmup=0),
        held_out_share=0.25,
        drawn=3,
        shown=2,
    )


if __name__ == "__main__":
    print(demonstrate(MovingRecipe(), Path(sys.argv[1])))
