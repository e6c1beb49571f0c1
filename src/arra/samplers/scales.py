"""Sampling scale by scale: one pass gives the laws of all cells of a scale, drawn independently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from arra.errors import InputError
from arra.guidance import guide_pairs
from arra.registry import samplers
from arra.samplers.ancestral import Stepper, check_request, prompts_of
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise, draw


@dataclass(frozen=True)
class Given:
    """Codes that are not drawn: those of a picture that is painted on, or edited."""

    codes: Tensor
    """(B, L) int64."""
    kept: Tensor
    """(B, L) bool: which of them stand; the others are drawn (`Pyramid.kept` makes this of a mask
    over the picture)."""

    def __post_init__(self) -> None:
        if self.codes.shape != self.kept.shape or self.kept.dtype != torch.bool:
            raise InputError(
                f"Given.kept: {tuple(self.kept.shape)} {self.kept.dtype}, expected bool of the "
                f"shape of codes, {tuple(self.codes.shape)}"
            )

    @classmethod
    def beginning(cls, codes: Tensor, length: int) -> Self:
        """The first n of `length` codes stand, (B, n) int64: scales of a small picture, say, of
        which larger ones are to be drawn."""
        rows, given = codes.shape
        if given > length:
            raise InputError(f"Given.beginning: {given} codes of {length}")
        kept = (torch.arange(length, device=codes.device) < given).expand(rows, -1)
        return cls(torch.nn.functional.pad(codes, (0, length - given)), kept)

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(self.codes[rows], self.kept[rows])


@samplers.register("scales")
class ScaleSampler:
    """Draws pictures scale by scale with a KV cache and guidance in one batch.

    VAR's schedule of guidance, t = cfg k / (K - 1) in (1 + t) c - t u, is the schedule "linear"
    with `guidance` = 1 + cfg: none at the first scale.
    """

    def __init__(self, config: SamplingConfig | None = None):
        self.config = config or SamplingConfig()

    @torch.inference_mode()
    def __call__(
        self,
        stepper: Stepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        given: Given | None = None,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, L) int64 of all scales, one picture per caption and seed.

        The stepper's units are scales: its logits are (B, n, V), its codes (B, n).

        Picture i depends on caption i, seed i, what is given of it and the settings only, not on
        the batch it is drawn in. `on_unit` is called with the number of pictures after each scale.
        """
        check_request(captions, seeds, batch)
        if given is not None and len(given.codes) != len(captions):
            raise InputError(f"given: {len(given.codes)} pictures, expected {len(captions)}")
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            part = None if given is None else given[here]
            drawn.append(self._batch(stepper, captions[here], seeds[here], part, on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, 0, dtype=torch.int64)

    def _batch(
        self,
        stepper: Stepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        given: Given | None,
        on_unit: Callable[[int], None] | None,
    ) -> Tensor:
        guided = self.config.guided
        logits, cache = stepper.prefill(prompts_of(stepper, captions, guided))
        noise = PictureNoise(seeds)
        scales: list[Tensor] = []
        for unit in range(stepper.units):
            if unit > 0:
                last = scales[-1]
                logits = stepper.step(torch.cat((last, last)) if guided else last, cache)
            if guided:
                logits = guide_pairs(logits, self.config.scale(unit, stepper.units))
            race = noise.exponential(logits.shape[1] * logits.shape[2], logits.device)
            codes = draw(law(logits, self.config), race.view(logits.shape))
            if given is not None:
                here = slice(start := sum(s.shape[1] for s in scales), start + codes.shape[1])
                kept = given.kept[:, here].to(codes.device)
                codes = torch.where(kept, given.codes[:, here].to(codes.device), codes)
            scales.append(codes)
            if on_unit is not None:
                on_unit(len(captions))
        return torch.cat(scales, dim=1)
