"""What codes of a pyramid mean: how they add up to latents, and what each scale reads of the rest.

One place for the arithmetic that has three callers: a codec that quantises, a generator's input
under teacher forcing, and sampling, where scales come one by one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.codecs.quantized import most_similar
from arra.errors import InputError
from arra.orders.pyramid import Pyramid


class CodePyramid(nn.Module, ABC):
    """Codes to latents, scale by scale; what has been said so far is a `state` of B rows.

    B pictures, D dimensions of a code, n cells of a scale, H x W the last one. VAR's state is the
    sum of all scales on the last grid; a pyramid whose scales each show the whole picture (FlexVAR)
    or codes without a grid (raster order) are other subclasses. Nothing is kept between calls, and
    the pyramid is an argument: some systems change it from picture to picture.
    """

    vocabulary: int
    """Number of different codes."""
    width: int
    """D."""

    @abstractmethod
    def begin(self, rows: int, pyramid: Pyramid, device: torch.device) -> Tensor:
        """The state of `rows` pictures of which nothing is known, float32."""

    @abstractmethod
    def add(self, state: Tensor, codes: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """The state after scale `level` was drawn: `codes` (B, n) int64."""

    @abstractmethod
    def read(self, state: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        """(B, n, D) what the cells of scale `level` see of the state."""

    def inputs(self, codes: Tensor, pyramid: Pyramid) -> Tensor:
        """(B, L - n_0, D) what all scales but the first read, from codes (B, L)."""
        state, read = self.begin(len(codes), pyramid, codes.device), []
        for level, here in enumerate(pyramid.split(codes)[:-1]):
            state = self.add(state, here, level, pyramid)
            read.append(self.read(state, level + 1, pyramid))
        return torch.cat(read, dim=1) if read else state.new_empty(len(codes), 0, self.width)

    def last(self, codes: Tensor, pyramid: Pyramid) -> Tensor:
        """The state after all scales, from codes (B, L): what a decoder takes."""
        state = self.begin(len(codes), pyramid, codes.device)
        for level, here in enumerate(pyramid.split(codes)):
            state = self.add(state, here, level, pyramid)
        return state

    def frozen(self) -> Self:
        """The same with buffers in the place of parameters: saved, moved, and never trained."""
        for module in self.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach().clone())
        return self


@dataclass(frozen=True)
class ResidualConfig:
    """Codebook and smoothing of a residual pyramid."""

    vocabulary: int = 1024
    """Number of codes; all scales share them."""
    width: int = 8
    """Dimensions of a code."""
    phi: int = 4
    """Convolutions that smooth an enlarged scale; scales share the nearest one. 0 is none."""
    phi_share: float = 0.5
    """Share of the smoothed in (1 - share) h + share conv(h)."""
    enlarge: Literal["bicubic", "nearest"] = "bicubic"
    """How a scale is brought to the size of the last."""

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, Any], ...] = (
            ("vocabulary", self.vocabulary >= 2, "at least 2"),
            ("width", self.width >= 1, "at least 1"),
            ("phi", self.phi >= 0, "at least 0"),
            ("phi_share", 0 <= self.phi_share <= 1, "0 to 1"),
            ("enlarge", self.enlarge in ("bicubic", "nearest"), "bicubic or nearest"),
        )
        for name, fine, expected in checks:
            if not fine:
                raise InputError(
                    f"ResidualConfig.{name}: {getattr(self, name)!r}, expected {expected}"
                )


@dataclass(frozen=True)
class ResidualStep:
    """One scale of quantisation."""

    vectors: Tensor
    """(B, n, D) what was left to say, without a gradient."""
    codes: Tensor
    """(B, n) int64."""
    state: Tensor
    """(B, D, H, W) the sum of the scales up to this one, with its gradient."""


class ResidualPyramid(CodePyramid):
    """Every scale says what the coarser ones left over (VAR, arXiv 2404.02905, algorithms 1 and 2).

    The state is the sum of the enlarged scales, (B, D, H, W); the residual is averaged down to a
    scale's size, its nearest codes are enlarged, smoothed by phi, and added.
    """

    def __init__(self, config: ResidualConfig):
        super().__init__()
        self.config = config
        self.vocabulary, self.width = config.vocabulary, config.width
        limit = 1.0 / config.vocabulary
        codes = torch.empty(config.vocabulary, config.width).uniform_(-limit, limit)
        self.codebook = nn.Parameter(codes)
        self.phi = nn.ModuleList(
            nn.Conv2d(config.width, config.width, 3, padding=1) for _ in range(config.phi)
        )

    def begin(self, rows: int, pyramid: Pyramid, device: torch.device) -> Tensor:
        return torch.zeros(rows, self.width, *pyramid.grid, device=device)

    def add(self, state: Tensor, codes: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        rows, columns = pyramid.sizes[level]
        grid = F.embedding(codes, self.codebook).transpose(1, 2).unflatten(2, (rows, columns))
        return state + self._smooth(self._enlarge(grid, pyramid.grid), level, len(pyramid.sizes))

    def read(self, state: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        size = pyramid.sizes[level]
        small = state if size == pyramid.grid else F.interpolate(state, size=size, mode="area")
        return small.flatten(2).transpose(1, 2)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(...) int64: the nearest code of vectors (..., D)."""
        # -|z - e|^2 / 2 without |z|^2, which is the same for all codes
        return most_similar(vectors, self.codebook, -0.5 * self.codebook.square().sum(dim=1))

    def quantize(self, latents: Tensor, pyramid: Pyramid) -> Iterator[ResidualStep]:
        """Scale by scale the codes of latents (B, D, H, W); gradients reach codebook and phi."""
        latents = latents.detach()
        state = self.begin(len(latents), pyramid, latents.device)
        for level in range(len(pyramid.sizes)):
            with torch.no_grad():
                vectors = self.read(latents - state, level, pyramid)
                codes = self.nearest(vectors)
            state = self.add(state, codes, level, pyramid)
            yield ResidualStep(vectors, codes, state)

    def _enlarge(self, grid: Tensor, size: tuple[int, int]) -> Tensor:
        if grid.shape[2:] == size:
            return grid
        return F.interpolate(grid, size=size, mode=self.config.enlarge)

    def _smooth(self, grid: Tensor, level: int, levels: int) -> Tensor:
        """phi, after enlarging, at the last scale too."""
        if not self.phi:
            return grid
        share = self.config.phi_share
        conv = self.phi[shared_phi(level, levels, len(self.phi))]
        return (1.0 - share) * grid + share * conv(grid)


def shared_phi(level: int, levels: int, convs: int) -> int:
    """Which of `convs` convolutions scale `level` of `levels` uses: the one whose tick is nearest.

    Ticks are those of the released code: even in [0, 1], four of them nearer to its ends.
    """
    edge = 1 / 3 / convs if convs == 4 else 1 / 2 / convs
    # numpy's rounding decides the third of ten scales, which lies just between two ticks
    ticks = np.linspace(edge, 1 - edge, convs)
    return int(np.abs(ticks - level / max(levels - 1, 1)).argmin())


@dataclass(frozen=True)
class DirectConfig:
    """Codebook of a direct pyramid."""

    vocabulary: int = 1024
    """Number of codes; all scales share them."""
    width: int = 8
    """Dimensions of a code."""
    normalised: bool = True
    """Whether latents and codes are compared, and codes read, at unit length."""

    def __post_init__(self) -> None:
        for name, least in (("vocabulary", 2), ("width", 2 if self.normalised else 1)):
            if (value := getattr(self, name)) < least:
                raise InputError(f"DirectConfig.{name}: {value}, expected at least {least}")


@dataclass(frozen=True)
class DirectStep:
    """One scale of quantisation."""

    vectors: Tensor
    """(B, D, h, w) the averaged latents, with their gradient, of unit length where codes are."""
    codes: Tensor
    """(B, n) int64."""
    state: Tensor
    """(B, D, h, w) their codes, with the codebook's gradient."""


class DirectPyramid(CodePyramid):
    """Every scale shows the whole picture at its own size (FlexVAR, arXiv 2502.20313, section 3).

    The state is the newest scale alone, (B, D, h, w): a scale replaces the one before. The codes of
    a scale are those of the averaged, unquantised latents, and so do not depend on which other
    scales there are; what the next scale reads are code vectors, enlarged in one step and not
    brought back to unit length.
    """

    def __init__(self, config: DirectConfig):
        super().__init__()
        self.config = config
        self.vocabulary, self.width = config.vocabulary, config.width
        limit = 1.0 / config.vocabulary
        codes = torch.empty(config.vocabulary, config.width).uniform_(-limit, limit)
        self.codebook = nn.Parameter(F.normalize(codes, dim=1) if config.normalised else codes)

    @property
    def table(self) -> Tensor:
        """(vocabulary, D) the codes as they are compared and read."""
        return F.normalize(self.codebook, dim=1) if self.config.normalised else self.codebook

    def begin(self, rows: int, pyramid: Pyramid, device: torch.device) -> Tensor:
        return torch.zeros(rows, self.width, *pyramid.sizes[0], device=device)

    def add(self, state: Tensor, codes: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        return self.grid(codes, pyramid.sizes[level])

    def read(self, state: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        size = pyramid.sizes[level]
        if state.shape[2:] != size:
            state = F.interpolate(state, size=size, mode="bicubic")
        return state.flatten(2).transpose(1, 2)

    def last(self, codes: Tensor, pyramid: Pyramid) -> Tensor:
        return self.grid(pyramid.split(codes)[-1], pyramid.grid)

    def grid(self, codes: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, D, h, w) the vectors of codes (B, n) of one scale of this size."""
        return F.embedding(codes, self.table).transpose(1, 2).unflatten(2, size)

    def nearest(self, vectors: Tensor) -> Tensor:
        """(...) int64: the code of vectors (..., D), which may have any length."""
        table = self.table
        if self.config.normalised:  # the length of a vector scales all cosines alike
            return most_similar(vectors, table)
        return most_similar(vectors, table, -0.5 * table.square().sum(dim=1))

    def quantize(self, latents: Tensor, pyramid: Pyramid) -> Iterator[DirectStep]:
        """Scale by scale the codes of latents (B, D, H, W), each independent of the others."""
        for size in pyramid.sizes:
            vectors = latents
            if latents.shape[2:] != size:
                vectors = F.interpolate(latents, size=size, mode="area")
            if self.config.normalised:
                vectors = F.normalize(vectors, dim=1)
            codes = self.nearest(vectors.detach().flatten(2).transpose(1, 2))
            yield DirectStep(vectors, codes, self.grid(codes, size))


class VectorPyramid(CodePyramid):
    """Every scale is the picture's latents averaged to its size, and codes are vectors, (B, n, D)
    (FlowAR, arXiv 2412.15205, section 3.2): nothing is quantised.

    The state is the newest scale alone, (B, D, h, w). What the next scale reads of it is "bicubic":
    enlarged to the last scale's size and averaged down from there, as FlowAR's code has it; or
    "nearest": every vector at all cells that it covers, of scales that double exactly.
    """

    vocabulary = 0

    def __init__(self, width: int, enlarge: Literal["bicubic", "nearest"] = "bicubic"):
        super().__init__()
        self.width, self.enlarge = width, enlarge

    def begin(self, rows: int, pyramid: Pyramid, device: torch.device) -> Tensor:
        return torch.zeros(rows, self.width, *pyramid.sizes[0], device=device)

    def add(self, state: Tensor, codes: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        return codes.transpose(1, 2).unflatten(2, pyramid.sizes[level])

    def read(self, state: Tensor, level: int, pyramid: Pyramid) -> Tensor:
        size = pyramid.sizes[level]
        if self.enlarge == "nearest":
            state = F.interpolate(state, size=size, mode="nearest")
        else:
            whole = F.interpolate(state, size=pyramid.grid, mode="bicubic")
            state = F.interpolate(whole, size=size, mode="area")
        return state.flatten(2).transpose(1, 2)

    def last(self, codes: Tensor, pyramid: Pyramid) -> Tensor:
        return self.add(codes, pyramid.split(codes)[-1], len(pyramid.sizes) - 1, pyramid)

    def averaged(self, latents: Tensor, pyramid: Pyramid) -> Tensor:
        """(B, L, D) all scales of latents (B, n, D) of the last one."""
        whole = latents.transpose(1, 2).unflatten(2, pyramid.grid)
        small = [F.interpolate(whole, size=size, mode="area") for size in pyramid.sizes[:-1]]
        return torch.cat([x.flatten(2).transpose(1, 2) for x in (*small, whole)], dim=1)
