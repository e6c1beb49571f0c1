"""What is looked at during training: held-out bits, and pictures of a few fixed captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from arra.data.store import PreparedStore
from arra.data.subset import Subset
from arra.files import atomic_file
from arra.generators.base import Batch, Generator
from arra.metrics.likelihood import held_out_law
from arra.pixels import strips
from arra.report import Pictures
from arra.report.grid import draw_grid
from arra.settings import BatchConfig, Sampler, SamplingConfig
from arra.text_to_image import TextToImage

Rows = PreparedStore | Subset
_SHOWN = 90  # characters of a caption above its picture


def plain_batches(
    rows: Rows, generator: Generator, size: int = 64, most: int | None = None
) -> Iterator[Batch]:
    """The first `most` rows, each once, with their captions, in order, padded on the right."""
    return generator.batches(rows, BatchConfig(size=1), ()).in_order(size, most)


class HeldOut:
    """A validator: bits per image token of rows that training never sees, or the loss of their
    vectors."""

    def __init__(self, rows: Rows, most: int = 512, batch: int = 64):
        self.rows, self.most, self.batch = rows, most, batch

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        batches = plain_batches(self.rows, generator, self.batch, self.most)
        return held_out_law(generator, batches).told()


class Samples:
    """A validator: pictures of the same captions and seeds each time, in `samples/`."""

    def __init__(
        self,
        rows: Rows,
        store: PreparedStore,
        count: int,
        sampling: SamplingConfig,
        sampler: Sampler = "auto",
    ):
        self.captions, places = distinct_captions(rows, count)
        self.codec, self.sampling, self.sampler = store.codec(), sampling, sampler
        self.codes = rows.rows(places).codes

    def __call__(self, generator: Generator, step: int, folder: Path) -> dict[str, float]:
        model = TextToImage(generator, self.codec.to(generator.device))
        seeds = range(len(self.captions))
        drawn = model.draw(self.captions, seeds, self.sampling, sampler=self.sampler)
        real = model.paint(self.codes)
        rows = {"real, through the codec": real, f"step {step}": drawn}
        write_grid(folder / "samples" / f"step-{step:08d}.png", self.captions, rows)
        return {}


def distinct_captions(rows: Rows, count: int) -> tuple[list[str], list[int]]:
    """The first `count` different captions, and the rows where they stand."""
    found: dict[str, int] = {}
    for start in range(0, len(rows), 256):
        here = range(start, min(start + 256, len(rows)))
        for place, caption in zip(here, rows.captions(here), strict=True):
            found.setdefault(caption, place)
        if len(found) >= count:
            break
    kept = list(found.items())[:count]
    return [caption for caption, _ in kept], [place for _, place in kept]


def write_grid(
    path: Path,
    captions: Sequence[str],
    rows: dict[str, np.ndarray],
    most: int = 24,
) -> None:
    """A PNG of pictures (N, H, W, 3) uint8 below their captions, one line for each of `rows`; of
    clips (N, H, W, 3 T) all frames side by side."""
    short = [text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…" for text in captions]
    shown = {name: strips(pictures) for name, pictures in rows.items()}
    grid = draw_grid(Pictures(short, shown), {name: name for name in rows}, most=most)
    with atomic_file(path) as temporary:
        grid.save(temporary, format="PNG")
