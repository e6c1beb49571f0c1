"""Drawing pictures whose codes are vectors, unit by unit, from noise that is the picture's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.randomness import Noise
from arra.registry import samplers
from arra.samplers.ancestral import check_request, prompts_of
from arra.samplers.logits import SamplingConfig
from arra.samplers.noise import PictureNoise


class VectorStepper(Protocol):
    """What the sampler needs of a generator of vectors.

    What a unit is, how many vectors it has and how much noise it takes is the generator's matter:
    all of it is a function of prompt, noise, scale and temperature.
    """

    @property
    def units(self) -> int: ...

    def prompt_ids(self, caption: str | None) -> list[int]: ...

    def begin(self, prompts: Sequence[Sequence[int]], noise: Noise) -> Any:
        """Read prompts, B or, with guidance, 2 B: the pair of row i, without caption, is B + i."""

    def unit(self, cache: Any, noise: Noise, scale: float, temperature: float) -> None:
        """Draw the next unit of B pictures into the cache, with guidance of this scale (1: none)
        and noise times `temperature`."""

    def drawn(self, cache: Any) -> Tensor:
        """(B, n, C) the vectors of B whole pictures, in the order of the codec."""


def for_vectors(config: SamplingConfig) -> SamplingConfig:
    """The same; `InputError` where it filters units."""
    for name, off in (("top_k", 0), ("top_p", 1.0)):
        if (value := getattr(config, name)) != off:
            raise InputError(
                f"SamplingConfig.{name}: {value}, but this generator draws vectors, whose law "
                "has no list of units; use temperature"
            )
    return config


@samplers.register("vectors")
class VectorSampler:
    """Draws pictures unit by unit; both rows of a guided pair see the same noise."""

    def __init__(self, config: SamplingConfig | None = None):
        self.config = for_vectors(config or SamplingConfig())

    @torch.inference_mode()
    def __call__(
        self,
        stepper: VectorStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Vectors (B, n C) float32, one picture per caption and seed.

        Picture i depends on caption i, seed i and the settings only, not on the batch it is drawn
        in, up to the rounding of matrix products. `on_unit` is called with the number of pictures
        after each unit.
        """
        check_request(captions, seeds, batch)
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            drawn.append(self._batch(stepper, captions[here], seeds[here], on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, 0)

    def _batch(
        self,
        stepper: VectorStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        on_unit: Callable[[int], None] | None,
    ) -> Tensor:
        config, noise = self.config, PictureNoise(seeds).normal
        cache = stepper.begin(prompts_of(stepper, captions, config.guided), noise)
        for unit in range(stepper.units):
            stepper.unit(cache, noise, config.scale(unit, stepper.units), config.temperature)
            if on_unit is not None:
                on_unit(len(captions))
        return stepper.drawn(cache).flatten(1)
