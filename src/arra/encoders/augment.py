"""Random views of tiny pictures. Nothing is mirrored: a mirrored digit is another sign."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly a view differs from its picture."""

    shift: float = 0.12
    """Largest shift along each axis, as a share of the side."""
    scale: float = 0.12
    """The picture is enlarged or reduced by a factor up to 1 + scale either way."""
    contrast: float = 0.15
    """Largest relative change of contrast."""
    colour: float = 0.10
    """Largest change of each channel's gain and offset, in units of the pixel range's half."""
    noise: float = 0.05
    """Standard deviation of pixel noise, in units of the normalised pixels."""
    cutout: float = 0.5
    """Share of views in which a square of a third of the side is blanked."""


def random_view(pixels: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """A random view (B, 3, S, S) of normalised pixels (B, 3, S, S), each picture on its own."""
    batch, _, size, _ = pixels.shape

    def uniform(*shape: int) -> Tensor:
        draw = torch.rand(*shape, generator=generator, device=generator.device)
        return (2 * draw - 1).to(pixels.device)

    theta = torch.zeros(batch, 2, 3, device=pixels.device)
    zoom = (1 + config.scale) ** uniform(batch)
    theta[:, 0, 0] = theta[:, 1, 1] = zoom
    # affine_grid spans the picture by [-1, 1], so a shift of the whole side is 2
    theta[:, :, 2] = 2 * config.shift * uniform(batch, 2)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    view = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)

    middle = view.mean(dim=(1, 2, 3), keepdim=True)
    view = middle + (view - middle) * (1 + config.contrast * uniform(batch, 1, 1, 1))
    gain, offset = uniform(batch, 3, 1, 1), uniform(batch, 3, 1, 1)
    view = view * (1 + config.colour * gain) + config.colour * offset
    noise = torch.randn(view.shape, generator=generator, device=generator.device)
    view = view + config.noise * noise.to(view.device)
    return view * _cutout(batch, size, config.cutout, uniform)


def _cutout(batch: int, size: int, share: float, uniform) -> Tensor:  # type: ignore[no-untyped-def]
    """(B, 1, S, S) float: 0 inside the blanked square (DeVries and Taylor, 1708.04552), else 1."""
    places = torch.arange(size) + 0.5
    centre = (uniform(batch, 2) + 1) / 2 * size
    places = places.to(centre.device)
    near = (places - centre[:, :, None]).abs() < size / 6
    hole = near[:, 0, :, None] & near[:, 1, None, :]
    chosen = (uniform(batch) + 1) / 2 < share
    return 1.0 - (hole & chosen[:, None, None]).unsqueeze(1).float()
