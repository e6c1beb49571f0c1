"""A codec, an encoder and a source for tests of the store; a module, so that workers can import it.

They have registries of their own: the library's contract tests are not about them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from arra.codecs.base import Codec, CodecOutput
from arra.data.blocks import BlockRow
from arra.encoders.base import Encoder, Features
from arra.errors import InputError
from arra.registry import Registry

SIDE = 8
test_codecs = Registry("codec")
test_encoders = Registry("encoder")


@test_codecs.register("store-test-codec")
class PatchCodec(Codec):
    """Each 4 x 4 patch becomes the index of the largest of `vocabulary` random projections."""

    @dataclass(frozen=True)
    class Config:
        vocabulary: int = 300
        seed: int = 0

    registry: ClassVar[Registry] = test_codecs
    downsample = 4

    def __init__(self, config: Any):
        super().__init__(config)
        self.vocabulary = config.vocabulary
        generator = torch.Generator().manual_seed(config.seed)
        self.weight = nn.Parameter(torch.randn(self.vocabulary, 3, 4, 4, generator=generator))

    def encode(self, pictures: Tensor) -> Tensor:
        return nn.functional.conv2d(pictures, self.weight, stride=4).argmax(dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, pictures: Tensor) -> CodecOutput:
        raise NotImplementedError


@test_encoders.register("store-test-encoder")
class PatchEncoder(Encoder):
    """Four patches of a linear map; the CLS vector is their largest entries."""

    @dataclass(frozen=True)
    class Config:
        width: int = 16
        gain: float = 1.0

    registry: ClassVar[Registry] = test_encoders

    def __init__(self, config: Any):
        super().__init__(config)
        generator = torch.Generator().manual_seed(7)
        weight = torch.randn(config.width, 3, 4, 4, generator=generator) / 7
        self.weight = nn.Parameter(weight * config.gain)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        small = [np.asarray(image.resize((8, 8))) for image in images]
        return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255

    def encode(self, pixels: Tensor) -> Features:
        patches = nn.functional.conv2d(pixels, self.weight, stride=4).flatten(2).transpose(1, 2)
        return Features(cls=patches.amax(dim=1), patches=patches)

    def identity(self) -> dict[str, Any]:
        return {"name": self.registered_name, "fingerprint": self.fingerprint(), "size": (8, 8)}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a store, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class BrokenRow(InputError):
    """A bad row as a source raises it."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class NotedRow(BlockRow):
    """A row with remarks."""

    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoiseSource:
    """Pictures of noise, row by row; some rows are bad, and one can kill its process."""

    rows: int = 100
    bad: tuple[int, ...] = ()
    seed: int = 0
    killer: int = -1
    """Reading this row kills the process with SIGKILL, unless `marker` exists; and makes it."""
    marker: str = ""
    noted: tuple[int, ...] = ()
    problems: tuple[BrokenRow, ...] = ()

    def __len__(self) -> int:
        return self.rows

    def picture(self, index: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, index])
        return generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)

    def caption(self, index: int) -> str:
        return " ".join(["a picture", "of noise", f"number {index}"][: index % 3 + 1])

    def read(self, index: int) -> BlockRow:
        if index == self.killer and not (self.marker and Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if index in self.bad:
            raise BrokenRow(f"noise/{index}.png", "is not a picture")
        image = Image.fromarray(self.picture(index))
        if index in self.noted:
            return NotedRow(
                f"noise/{index}.png", image, self.caption(index), notes=("upside down",)
            )
        return BlockRow(f"noise/{index}.png", image, self.caption(index))

    def identity(self) -> dict[str, Any]:
        return {"kind": "noise", "seed": self.seed, "bad": self.bad}
