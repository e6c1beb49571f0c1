"""A reader of digit scenes: a small convolutional detector that says which digits stand where.

It is the judge of generated pictures, so it must be unrelated to what helped the generator:
it has its own architecture and objective (detection by centre points after "Objects as Points",
Zhou et al. 2019, sections 3 and 4), and never serves as a teacher. Shapes: B pictures, S pixels,
G = ceil(S / stride) cells a side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arra.data.scenes import GROUNDS, INKS, SceneConfig
from arra.errors import InputError
from arra.metrics.readings import ReadDigit, Reading
from arra.networks.part import Part
from arra.pixels import to_share
from arra.registry import Registry, readers

FEATURES = 64
COLOURS, GROUND_NAMES = tuple(INKS), tuple(GROUNDS)


@dataclass(frozen=True)
class ReaderConfig:
    """A reader for one kind of scene."""

    scene: SceneConfig = field(default_factory=SceneConfig)
    """The scenes that are read; size, digit and step set the grid of cells."""
    width: int = 32
    """Channels of the first layer; later ones have twice and three times as many."""
    threshold: float = 0.4
    """Cells with at least this objectness are digits."""
    most: int = 6
    """At most this many digits are read in a picture."""

    @property
    def stride(self) -> int:
        """Pixels per cell: 8, 4 or 2, so that a digit covers several cells and no two share one."""
        return next((s for s in (8, 4) if s <= self.scene.aside), 2)


@dataclass(frozen=True)
class ReaderOutput:
    """What the reader computes for a batch."""

    objectness: Tensor
    """(B, G, G) logits: the centre of a digit lies in this cell."""
    offset: Tensor
    """(B, 2, G, G): row and column of that centre minus the middle of the cell, in cells."""
    digit: Tensor
    """(B, 10, G, G) logits."""
    colour: Tensor
    """(B, 6, G, G) logits, in the order of `INKS`."""
    ground: Tensor
    """(B, 3) logits, in the order of `GROUNDS`."""
    features: Tensor
    """(B, 64): the mean over the cells of the last hidden layer."""


def _layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


@readers.register("scene-reader")
class SceneReader(Part):
    """Reads digits, inks, places and the background of scene pictures."""

    registry: ClassVar[Registry] = readers
    Config = ReaderConfig
    config: ReaderConfig

    def __init__(self, config: ReaderConfig):
        super().__init__(config)
        width = config.width
        # Half the side at once: layers at full size would take most of the time and add nothing.
        layers = [_layer(4, 2 * width, kernel=6, stride=2), _layer(2 * width, 2 * width)]
        channels, stride = 2 * width, 2
        while stride < config.stride:
            layers.append(_layer(channels, 3 * width, stride=2))
            channels, stride = 3 * width, 2 * stride
        # A digit covers digit / stride cells, and the last layers must see all of it.
        reach = max(1, -(-config.scene.digit // (3 * stride)))
        layers += [_layer(channels, 3 * width)]
        layers += [_layer(3 * width, 3 * width) for _ in range(reach - 1)]
        self.body = nn.Sequential(*layers, _layer(3 * width, FEATURES, kernel=1))
        self.cells = nn.Conv2d(FEATURES, 1 + 2 + 10 + len(COLOURS), 1)
        self.ground = nn.Linear(FEATURES, len(GROUND_NAMES))
        with torch.no_grad():  # digits are rare: start by expecting none
            assert self.cells.bias is not None
            self.cells.bias[0] = -3.0

    def forward(self, pictures: Tensor) -> ReaderOutput:
        """Logits for pictures (B, 3, S, S) float in [0, 1]."""
        stride = self.config.stride
        rest = -pictures.shape[-1] % stride
        if rest:
            pictures = F.pad(pictures, (0, rest, 0, rest), mode="replicate")
        # The background fills most of a scene, so its colour is the median. How far a pixel is from
        # it is ink of any colour: with that as a channel, shape need not be learnt ink by ink.
        ground = pictures.flatten(2).median(dim=2).values[:, :, None, None]
        ink = (pictures - ground).norm(dim=1, keepdim=True)
        x = torch.cat([2 * pictures - 1, ink], dim=1)
        hidden = self.body(x)
        features = hidden.mean(dim=(2, 3))
        cells = self.cells(hidden)
        objectness, offset, digit, colour = cells.split([1, 2, 10, len(COLOURS)], dim=1)
        return ReaderOutput(
            objectness.squeeze(1), offset, digit, colour, self.ground(features), features
        )

    @property
    def name(self) -> str:
        """What results call this judge: its registered name and the start of its fingerprint."""
        return f"{self.registered_name}:{self.fingerprint()[:8]}"

    @torch.no_grad()
    def read(self, pictures: np.ndarray, batch: int = 256) -> list[Reading]:
        """What stands in pictures (N, S, S, 3) uint8."""
        return [
            reading
            for pixels in self._batches(pictures, batch)
            for reading in self._readings(self(pixels))
        ]

    @torch.no_grad()
    def features(self, pictures: np.ndarray, batch: int = 256) -> np.ndarray:
        """Features (N, 64) float64 of pictures (N, S, S, 3) uint8, for distances between sets."""
        parts = [self(pixels).features.double().cpu() for pixels in self._batches(pictures, batch)]
        return torch.cat(parts).numpy() if parts else np.zeros((0, FEATURES))

    def _batches(self, pictures: np.ndarray, batch: int) -> list[Tensor]:
        side = self.config.scene.size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (side, side, 3):
            raise InputError(
                f"pictures: {pictures.dtype} {pictures.shape}, "
                f"expected uint8 (N, {side}, {side}, 3)"
            )
        if self.training:
            raise InputError("the reader is in training mode: call reader.eval() before reading")
        return [
            to_share(pictures[start : start + batch]).to(self.device)
            for start in range(0, len(pictures), batch)
        ]

    def _readings(self, output: ReaderOutput) -> list[Reading]:
        """Take the surest cell, silence the cells that a second digit cannot have, repeat."""
        scene, stride = self.config.scene, self.config.stride
        score = output.objectness.sigmoid().cpu().numpy().copy()
        offset = output.offset.cpu().numpy()
        digit = output.digit.argmax(1).cpu().numpy()
        colour = output.colour.argmax(1).cpu().numpy()
        ground = output.ground.argmax(1).tolist()
        middle = (np.arange(score.shape[1]) + 0.5) * stride
        found: list[list[ReadDigit]] = [[] for _ in score]
        everyone = np.arange(len(score))
        for _ in range(self.config.most):
            best = score.reshape(len(score), -1).argmax(axis=1)
            i, j = np.unravel_index(best, score.shape[1:])
            sure = score[everyone, i, j]
            if (sure < self.config.threshold).all():
                break
            row = middle[i] + offset[everyone, 0, i, j] * stride
            column = middle[j] + offset[everyone, 1, i, j] * stride
            for b in np.flatnonzero(sure >= self.config.threshold):
                found[b].append(
                    ReadDigit(
                        int(digit[b, i[b], j[b]]),
                        COLOURS[colour[b, i[b], j[b]]],
                        float(row[b] - scene.digit / 2),
                        float(column[b] - scene.digit / 2),
                        float(sure[b]),
                    )
                )
            # Two thirds: a generator may let digits overlap a little, which scenes never do.
            near = (abs(middle[None, :, None] - row[:, None, None]) < scene.digit * 2 / 3) & (
                abs(middle[None, None, :] - column[:, None, None]) < scene.digit * 2 / 3
            )
            score[near] = 0.0
            score[everyone, i, j] = 0.0
        return [Reading(tuple(d), GROUND_NAMES[g]) for d, g in zip(found, ground, strict=True)]
