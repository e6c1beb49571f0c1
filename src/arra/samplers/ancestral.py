"""Ancestral sampling: one unit after the other, each drawn from its law given those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.registry import samplers
from arra.samplers.logits import SamplingConfig, guide, law
from arra.samplers.noise import PictureNoise, draw


class Stepper(Protocol):
    """What the sampler needs of a generator: prompts are read once, then unit follows unit.

    One that also has `choose(logits, scale, config, race)`, which guides, filters and draws at
    once, is asked for the codes.
    """

    @property
    def units(self) -> int: ...

    def prompt_ids(self, caption: str | None) -> list[int]: ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]: ...

    def step(self, codes: Tensor, cache: Any) -> Tensor: ...


@samplers.register("ancestral")
class AncestralSampler:
    """Draws pictures unit by unit with a KV cache and guidance in one batch."""

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
        prefix: Tensor | None = None,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, units) int64, one picture per caption and seed.

        Picture i depends on caption i, seed i and the settings only, not on the batch it is drawn
        in. `prefix` (B, p) holds first codes that are given rather than drawn. `on_unit` is called
        with the number of pictures after each unit of theirs.
        """
        if len(captions) != len(seeds):
            raise InputError(f"{len(captions)} captions and {len(seeds)} seeds: expected as many")
        if batch < 1:
            raise InputError(f"batch: {batch}, expected at least 1")
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            given = None if prefix is None else prefix[here]
            drawn.append(self._batch(stepper, captions[here], seeds[here], given, on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, stepper.units, dtype=torch.int64)

    def _batch(
        self,
        stepper: Stepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        prefix: Tensor | None,
        on_unit: Callable[[int], None] | None,
    ) -> Tensor:
        prompts = [stepper.prompt_ids(caption) for caption in captions]
        guided = self.config.guided
        if guided:  # the pair of a picture shares one batch: rows i and B + i
            prompts += [stepper.prompt_ids(None)] * len(captions)
        logits, cache = stepper.prefill(prompts)
        races = PictureNoise(seeds).ahead(stepper.units, logits.shape[-1], logits.device)
        codes: list[Tensor] = []
        for unit, race in enumerate(races):
            if unit > 0:
                last = codes[-1]
                logits = stepper.step(torch.cat((last, last)) if guided else last, cache)
            if prefix is not None and unit < prefix.shape[1]:
                codes.append(prefix[:, unit].to(logits.device))
            else:
                codes.append(self._choose(stepper, logits, unit, race))
            if on_unit is not None:
                on_unit(len(captions))
        return torch.stack(codes, dim=1)

    def _choose(self, stepper: Stepper, logits: Tensor, unit: int, race: Tensor) -> Tensor:
        """(B,) int64 drawn from the logits of B pictures, or of their pairs."""
        guided, scale = self.config.guided, self.config.scale(unit, stepper.units)
        choose = getattr(stepper, "choose", None)
        if choose is not None:
            return choose(logits, scale, self.config, race)
        if guided:
            conditional, unconditional = logits.float().chunk(2)
            logits = guide(conditional, unconditional, scale) if scale != 1.0 else conditional
        return draw(law(logits, self.config), race)
