"""What one step of joint training looks at: the same crops for codec and encoder.

A function of (seed, step) alone, so that resuming needs no saved position. Features are made anew
for every crop: those of the whole picture would describe other pixels than the codec sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from arra.data.tokenizer import CaptionEncoder, one_line
from arra.encoders.base import Encoder
from arra.errors import InputError
from arra.generators.base import Batch
from arra.generators.batches import collate, sequence
from arra.generators.raster import RasterGenerator
from arra.objectives.alignment import Alignment
from arra.pixels import to_unit
from arra.settings import AlignmentConfig
from arra.systems.gear.settings import GearConfig


@dataclass(frozen=True)
class View:
    """One step's pictures, and the sequences that will hold their codes."""

    pictures: Tensor
    """(B, 3, S, S) float in [-1, 1]."""
    prompted: Batch | None = None
    """Their captions and features, with code 0 everywhere; None where no generator guides."""
    dropped: Batch | None = None
    """The same with some captions dropped."""


def crops(pictures: np.ndarray, most: int, flip: bool, rng: np.random.Generator) -> np.ndarray:
    """Pictures (B, S, S, 3) uint8, moved by up to `most` pixels (edges repeat) and mirrored."""
    size = pictures.shape[1]
    padded = np.pad(pictures, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    moved = np.empty_like(pictures)
    for out, whole, (top, left) in zip(
        moved, padded, rng.integers(0, 2 * most + 1, (len(pictures), 2)), strict=True
    ):
        out[:] = whole[top : top + size, left : left + size]
    if flip:
        mirrored = rng.random(len(moved)) < 0.5
        moved[mirrored] = moved[mirrored, :, ::-1]
    return moved


def picture_features(encoder: Encoder, pictures: np.ndarray) -> dict[str, Tensor]:
    """What an encoder says about pictures (B, S, S, 3) uint8, by the names that alignment uses."""
    pixels = encoder.preprocess([Image.fromarray(picture) for picture in pictures])
    found = encoder.encode(pixels.to(encoder.device))
    features: dict[str, Tensor] = {}
    if found.cls is not None:
        features["cls"] = found.cls
    if found.patches is not None:
        features |= {"patches": found.patches, "mean": found.patches.mean(dim=1)}
    return features


def alignment_with(
    config: AlignmentConfig,
    generator: RasterGenerator,
    encoder: Encoder,
    picture: np.ndarray,
    seed: int,
) -> Alignment:
    """The alignment of a generator's states with an encoder, which looks once at (1, S, S, 3)."""
    features = picture_features(encoder, picture)
    if missing := [name for name in config.feature_names if name not in features]:
        raise InputError(
            f"alignment with target {config.target!r} needs {missing[0]!r}, the encoder gives "
            f"{', '.join(features)}"
        )
    width = sum(features[name].shape[-1] for name in config.feature_names)
    return Alignment(config, generator.width, width, generator.config.grid, seed=seed)


class Views:
    """Random crops of captioned pictures in memory, step by step."""

    def __init__(
        self,
        pictures: np.ndarray,
        captions: Sequence[str],
        config: GearConfig,
        generator: RasterGenerator | None = None,
        encoder: Encoder | None = None,
    ):
        """Pictures (N, S, S, 3) uint8 and N captions.

        Sequences are made for the tokenizer and grid of `generator`, with the features of
        `encoder`; without them there are pictures alone.
        """
        if config.batch > len(pictures):
            raise InputError(
                f"GearConfig.batch: {config.batch}, but there are {len(pictures)} pictures"
            )
        if len(captions) != len(pictures):
            raise InputError(f"captions: {len(captions)} for {len(pictures)} pictures")
        if (generator is None) != (encoder is None):
            raise InputError("Views: a generator guides by an encoder's features: give both")
        self.pictures, self.config = pictures, config
        self.generator, self.encoder = generator, encoder
        self._texts: list[list[int]] = []
        if generator is not None:
            assert generator.tokenizer is not None
            encode = CaptionEncoder.of(generator.tokenizer)
            self._texts = encode([one_line(caption) for caption in captions])

    def __call__(self, step: int) -> View:
        """What step `step` (from 0) looks at."""
        config = self.config
        rng = np.random.default_rng([config.seed, 1, step])
        rows = rng.choice(len(self.pictures), config.batch, replace=False)
        seen = crops(self.pictures[rows], config.crop, config.flip, rng)
        if self.generator is None:
            return View(to_unit(seen))
        assert self.encoder is not None
        features = picture_features(self.encoder, seen)
        texts = [self._texts[row] for row in rows.tolist()]
        kept = rng.random(len(texts)) >= config.drop_caption
        some = [text if keep else [] for text, keep in zip(texts, kept, strict=True)]
        return View(to_unit(seen), self._batch(texts, features), self._batch(some, features))

    def _batch(self, texts: Sequence[Sequence[int]], features: dict[str, Tensor]) -> Batch:
        assert self.generator is not None
        vocabulary, blank = self.generator.config.vocabulary, [0] * self.generator.units
        samples = [sequence(text, blank, vocabulary, supervise_text=False) for text in texts]
        return collate(samples, features, vocabulary.pad)
