"""What a codec is: pictures to codes and back."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from arra.codecs.streams import ByteStream
from arra.errors import InputError
from arra.networks.part import Part
from arra.registry import Registry, codecs


@dataclass(frozen=True)
class CodecOutput:
    """What one training pass of a codec gives."""

    reconstruction: Tensor
    """(B, channels, H, W), about [-1, 1]."""
    codes: Tensor
    """(B, ...), as `Codec.encode` gives them."""
    losses: dict[str, Tensor]
    """Named scalars, already weighted: their sum is the codec's own loss (its quantiser's, say).
    The error of the reconstruction is not among them: training weighs that."""
    latents: Tensor | None = None
    """(B, D, h, w) float32: what was quantised, with its gradient; None where nothing was."""
    smaller: tuple[tuple[Tensor, Tensor], ...] = ()
    """Reconstructions at further resolutions, each with what it should be like."""


class Codec(Part):
    """Pictures (B, 3, H, W) float in [-1, 1] to codes (B, ...) int64 < `vocabulary`, and back.

    Most codecs give a grid (B, h, w), one code for each square of pixels; `codes_axes` names the
    axes of others. Codes may also be vectors (`codecs.latent`).
    """

    registry: ClassVar[Registry] = codecs

    vocabulary: int
    """Number of different codes; 0 where codes are vectors."""
    dimensions: int = 0
    """C, the numbers of a code where codes are vectors, (B, h, w, C) float32; 0: codes are indices.
    """
    downsample: int
    """Pixels per row and column of the (finest) grid: h = H / downsample."""
    channels: int = 3
    """Channels of a picture: 3 of each frame, frame after frame, where pictures are clips."""
    rate: float = 1.0
    """Frames a second at which clips are shown."""
    codes_axes: tuple[str, ...] = ("h", "w")
    """Axes of a picture's codes, by the names they have in messages."""
    split: int = 1
    """Codes of a cell of the grid; where there are several, the axis "m" comes behind "h", "w"."""
    grid: tuple[int, int] | None = None
    """The (h, w) of the only pictures that the codec takes; None: pictures of any size."""
    stream: ByteStream | None = None
    """Where codes are the bytes of a file, as many as it takes: what they spell and how they end.
    None: every picture has as many codes, one a place."""

    @staticmethod
    def of_config(config: Any, seed: int) -> Codec:
        """A codec with random weights, a function of `seed`: of the class whose settings these are.

        `InputError` where no registered class, or more than one, has such settings.
        """
        found = [codecs[name] for name in codecs if codecs[name].Config is type(config)]
        if len(found) != 1:
            raise InputError(f"{type(config).__name__}: the settings of {len(found)} codecs")
        return found[0].seeded(config, seed)

    @property
    def frames(self) -> int:
        """Frames of a picture: more than one where pictures are clips."""
        return self.channels // 3

    def valid(self, codes: Tensor) -> Tensor:
        """(B,) bool: whether these codes mean a picture without any repair; most do always."""
        return torch.ones(len(codes), dtype=torch.bool)

    def size_of(self, codes: Tensor) -> tuple[int, int]:
        """Height and width in pixels of the pictures of codes (B, ...)."""
        rows, columns = self.grid or tuple(codes.shape[1:3])
        return rows * self.downsample, columns * self.downsample

    def at(self, grid: tuple[int, int]) -> Self:
        """This codec, with the same weights, for pictures of these rows and columns of codes.

        Raises `InputError` where it is made for one size.
        """
        if self.grid not in (None, grid):
            raise InputError(
                f"grid: {grid}, but this {self.registered_name} codec is made for {self.grid}"
            )
        return self

    @abstractmethod
    def encode(self, pictures: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of pictures (B, 3, H, W) in [-1, 1]; no gradient."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) clamped to [-1, 1] of codes (B, h, w); no gradient.

        Raises `InputError` when a code is negative or not below `vocabulary`.
        """

    def prompts(self, codes: Tensor, blocks: int) -> Tensor:
        """(B, p) int64: those of the codes that give the first `blocks` cells of the grid, in
        raster order, and nothing of the others; -1 behind shorter ones. What the rest of a
        half-given picture is drawn after."""
        return codes.flatten(1)[:, :blocks]

    def appearance(self) -> Tensor:
        """(vocabulary, 3 * downsample**2): what each code looks like, standardised.

        A code's picture is the middle of a grid of 3 x 3 of it. A language model whose embedding of
        codes begins as a projection of this knows from the start which codes are alike.
        """
        side, rows = self.downsample, []
        for codes in torch.arange(self.vocabulary, device=self.device).split(256):
            pictures = self.decode(codes[:, None, None].expand(-1, 3, 3))
            middle = pictures[:, :, side : 2 * side, side : 2 * side]
            rows.append(middle.flatten(1).float())
        looks = torch.cat(rows)
        return (looks - looks.mean(dim=0)) / looks.std().clamp(min=1e-6)

    def code_vectors(self) -> Tensor:
        """(vocabulary, d) float32: the vector of each code, as the decoder reads it; no gradient.

        Raises `InputError` where codes have none of their own.
        """
        raise InputError(f"a {self.registered_name} codec: its codes have no vectors")

    @abstractmethod
    def forward(self, pictures: Tensor) -> CodecOutput:
        """Reconstruction with straight-through gradient, codes and losses, for training."""

    def _check_pictures(self, pictures: Tensor) -> None:
        channels, side = self.channels, self.downsample
        shape = tuple(pictures.shape)
        if pictures.ndim != 4 or shape[1] != channels or not pictures.is_floating_point():
            raise InputError(
                f"pictures: {shape} {pictures.dtype}, "
                f"expected float (B, {channels}, H, W) in [-1, 1]"
            )
        if shape[2] % side or shape[3] % side or 0 in shape[2:]:
            raise InputError(
                f"pictures: {shape[2]} x {shape[3]} pixels, expected multiples of {side}: "
                "resize or crop them"
            )
        if self.grid is not None and (shape[2] // side, shape[3] // side) != self.grid:
            rows, columns = (side * cells for cells in self.grid)
            raise InputError(
                f"pictures: {shape[2]} x {shape[3]} pixels, expected {rows} x {columns}: this "
                "codec is made for one size"
            )

    def _check_codes(self, codes: Tensor) -> None:
        axes = self.codes_axes
        if codes.ndim != 1 + len(axes) or codes.dtype != torch.int64:
            raise InputError(
                f"codes: {tuple(codes.shape)} {codes.dtype}, expected int64 of shape "
                f"({', '.join(('B', *axes))})"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.vocabulary:
            raise InputError(
                f"codes: values from {int(codes.min())} to {int(codes.max())}, expected 0 to "
                f"{self.vocabulary - 1}: this is not a picture of this codec"
            )
