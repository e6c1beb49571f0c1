"""From a picture of any size to the pixels that an encoder reads, the same way for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from arra.errors import InputError
from arra.resizing import Resample, resampling

Fit = Literal["stretch", "crop", "pad"]

_LARGEST_SIDE = 8192
_SIDES = ("height", "width")


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become pixels (B, 3, size, size): resized by PIL, scaled to [0, 1], normalised.

    PIL's filters widen with the reduction (they antialias), and work on 8-bit pixels; other
    libraries' resizing differs visibly, so features are only comparable under one description.
    """

    size: int = 224
    """Side of the square that the encoder reads, in pixels."""
    fit: Fit = "stretch"
    """How a picture that is not square becomes one. "stretch": both sides are resized to `size`.
    "crop": the shorter side is resized to `edge` and the centre is cut out. "pad": the longer side
    is resized to `size`, and zeros (after normalisation) are added at the right and the bottom."""
    edge: int = 0
    """With fit "crop": length of the shorter side before cropping; 0 means `size`."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each channel, of pixels in [0, 1]."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Each channel is divided by this afterwards."""
    resample: Resample = "bicubic"
    """PIL's filter for resizing."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= _LARGEST_SIDE:
            raise InputError(
                f"Preprocessing.size: {self.size}, expected 1 to {_LARGEST_SIDE} pixels"
            )
        if self.fit not in ("stretch", "crop", "pad"):
            raise InputError(f"Preprocessing.fit: {self.fit!r}, expected stretch, crop or pad")
        if self.edge and (self.fit != "crop" or not self.size <= self.edge <= _LARGEST_SIDE):
            raise InputError(
                f"Preprocessing.edge: {self.edge}, expected 0, or {self.size} or more with 'crop'"
            )
        resampling(self.resample, "Preprocessing.resample")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(math.isfinite(value) for value in values):
                raise InputError(f"Preprocessing.{name}: {values}, expected three finite numbers")
        if min(self.std) <= 0:
            raise InputError(f"Preprocessing.std: {self.std}, expected numbers above 0")

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Pixels (B, 3, size, size) float32 of pictures of any size and mode."""
        if not images:
            return torch.empty(0, 3, self.size, self.size)
        fitted = [self.resize(image) for image in images]
        if self.fit != "pad":
            return self.normalise(torch.from_numpy(np.stack(fitted))).contiguous()
        pixels = torch.zeros(len(images), 3, self.size, self.size)
        for out, array in zip(pixels, fitted, strict=True):
            out[:, : array.shape[0], : array.shape[1]] = self.normalise(torch.from_numpy(array))
        return pixels

    def resize(self, image: Image.Image) -> np.ndarray:
        """(size, size, 3) uint8 of one picture; with fit "pad" one side may be shorter."""
        image = image if image.mode == "RGB" else image.convert("RGB")
        width, height = image.size
        if self.fit == "stretch":
            target = (self.size, self.size)
        elif self.fit == "pad":
            scale = self.size / max(width, height)
            target = (max(int(width * scale + 0.5), 1), max(int(height * scale + 0.5), 1))
        else:
            edge, short = self.edge or self.size, min(width, height)
            target = (int(edge * width / short), int(edge * height / short))
        if target != (width, height):
            image = image.resize(target, resampling(self.resample, "Preprocessing.resample"))
        array = np.array(image)
        if self.fit == "crop":
            top, left = (array.shape[0] - self.size) // 2, (array.shape[1] - self.size) // 2
            array = np.ascontiguousarray(array[top : top + self.size, left : left + self.size])
        return array

    def normalise(self, pictures: Tensor) -> Tensor:
        """(..., 3, h, w) float32 of pictures (..., h, w, 3) uint8 that need no resizing."""
        mean = torch.tensor(self.mean, device=pictures.device)[:, None, None]
        std = torch.tensor(self.std, device=pictures.device)[:, None, None]
        return pictures.movedim(-1, -3).float().div_(255.0).sub_(mean).div_(std)

    def identity(self) -> dict[str, Any]:
        """The description as plain values, with the library that resizes."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {**plain, "edge": self.edge or self.size, "antialias": True, "library": "pillow"}

    @classmethod
    def from_processor(cls, settings: Mapping[str, Any], where: str) -> Preprocessing:
        """From the settings of a `transformers` image processor (`preprocessor_config.json`).

        Raises `InputError` naming the setting that is missing or not understood. A processor that
        gives sequences of patches of many shapes (SigLIP 2 NaFlex) becomes the largest square that
        its patch budget allows.
        """
        size, fit, edge = _geometry(settings, where)
        factor = settings.get("rescale_factor") or 1 / 255
        if not isinstance(factor, (int, float)) or not math.isfinite(factor):
            raise InputError(f"{where}: rescale_factor {factor!r}, expected a number")
        # (255 f x - mean) / std for x in [0, 1] is (x - mean / 255 f) / (std / 255 f)
        gain = 255.0 if settings.get("do_rescale") is False else 255 * factor
        mean, std = settings.get("image_mean"), settings.get("image_std")
        if settings.get("do_normalize") is False:
            mean, std = 0.0, 1.0
        if mean is None or std is None:
            raise InputError(f"{where}: no image_mean and image_std; pass a Preprocessing yourself")
        code = settings.get("resample")
        try:
            resample = Image.Resampling(2 if code is None else code).name.lower()
        except ValueError:
            raise InputError(f"{where}: resample {code!r} is no filter of PIL") from None
        return cls(
            size=size,
            fit=fit,
            edge=edge,
            mean=_three(mean, gain, "image_mean", where),
            std=_three(std, gain, "image_std", where),
            resample=resample,  # type: ignore[arg-type]
        )


def _three(values: Any, factor: float, name: str, where: str) -> tuple[float, float, float]:
    numbers = list(values) if isinstance(values, (list, tuple)) else [values] * 3
    if len(numbers) != 3 or not all(isinstance(n, (int, float)) for n in numbers):
        raise InputError(f"{where}: {name} {values!r}, expected three numbers")
    # a factor of 1 must not disturb the digits of the published mean and deviation
    a, b, c = (n if math.isclose(factor, 1.0) else n / factor for n in map(float, numbers))
    return a, b, c


def _geometry(settings: Mapping[str, Any], where: str) -> tuple[int, Fit, int]:
    """(size, fit, edge) from the `size` and `crop_size` of an image processor."""
    if settings.get("max_num_patches"):
        patches = _lengths({"n": settings["max_num_patches"]}, "max_num_patches", where)["n"]
        patch = _lengths({"n": settings.get("patch_size")}, "patch_size", where)["n"]
        return math.isqrt(patches) * patch, "stretch", 0
    if not settings.get("size") or settings.get("do_resize") is False:
        raise InputError(f"{where}: no size to resize to; pass a Preprocessing yourself")
    cropped = bool(settings.get("do_center_crop"))
    # A bare number means the shorter side where a crop follows, else both sides.
    size = _lengths(settings["size"], "size", where, ("shortest_edge",) if cropped else _SIDES)
    if cropped:
        crop = _lengths(settings.get("crop_size"), "crop_size", where, _SIDES)
        if set(crop) != set(_SIDES) or crop["height"] != crop["width"]:
            raise InputError(f"{where}: crop_size {settings['crop_size']!r}, expected a square")
        if set(size) == {"shortest_edge"}:
            return crop["height"], "crop", size["shortest_edge"]
        if size == crop:
            return crop["height"], "stretch", 0
    elif set(size) == {"longest_edge"}:
        return size["longest_edge"], "pad", 0
    elif set(size) == set(_SIDES) and size["height"] == size["width"]:
        return size["height"], "stretch", 0
    raise InputError(
        f"{where}: cannot make a square of size {settings['size']!r}; pass a Preprocessing yourself"
    )


def _lengths(values: Any, name: str, where: str, bare: tuple[str, ...] = ("n",)) -> dict[str, int]:
    """Named lengths above 0; a bare number is the length of each name in `bare`."""
    named = values if isinstance(values, Mapping) else dict.fromkeys(bare, values)
    found = {key: value for key, value in named.items() if value is not None}
    if not found or not all(type(v) is int and 0 < v <= _LARGEST_SIDE for v in found.values()):
        raise InputError(
            f"{where}: {name} {values!r}, expected whole numbers of 1 to {_LARGEST_SIDE}"
        )
    return found
