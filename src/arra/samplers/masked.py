"""Drawing hidden codes in rounds, the surest first (MaskGIT, arXiv 2202.04200, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from arra.guidance import guide_pairs
from arra.registry import samplers
from arra.samplers.ancestral import Stepper, check_request, prompts_of
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise, draw


@samplers.register("masked")
class MaskedSampler:
    """Round t of T draws all hidden cells, and hides again those that are least sure.

    A cell's sureness is the mean over its codes of ln p + temperature (1 - t / T) g with a Gumbel
    variable g. floor(n cos(pi / 2 t / T)) of n cells stay hidden after round t, at least one fewer
    than before. The stepper's `step` takes codes (B, n, m) with -1 where they are hidden, and gives
    logits (B, n, m, V).
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
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, n m) int64, one picture per caption and seed.

        Picture i depends on caption i, seed i and the settings only, not on the batch it is drawn
        in. `on_unit` is called with the number of pictures after each round.
        """
        check_request(captions, seeds, batch)
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            drawn.append(self._batch(stepper, captions[here], seeds[here], on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, 0, dtype=torch.int64)

    def _batch(
        self,
        stepper: Stepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        on_unit: Callable[[int], None] | None,
    ) -> Tensor:
        guided, rounds = self.config.guided, stepper.units
        logits, cache = stepper.prefill(prompts_of(stepper, captions, guided))
        noise = PictureNoise(seeds)
        rows, cells, split, codes = logits.shape
        rows = len(captions)
        known = torch.full((rows, cells, split), -1, dtype=torch.int64, device=logits.device)
        for unit in range(rounds):
            if unit > 0:
                logits = stepper.step(torch.cat((known, known)) if guided else known, cache)
            if guided:
                logits = guide_pairs(logits, self.config.scale(unit, rounds))
            chances = law(logits.flatten(0, 2), self.config)
            race = noise.exponential(cells * split * codes, logits.device)
            found = draw(chances, race.view(-1, codes)).view(rows, cells, split)
            sure = chances.gather(1, found.view(-1, 1)).view(rows, cells, split).log()
            gumbel = -noise.exponential(cells * split, logits.device).clamp(min=1e-20).log()
            cool = self.config.temperature * (1.0 - (unit + 1) / rounds)
            sure = (sure + cool * gumbel.view(rows, cells, split)).mean(dim=2)
            known = self._kept(known, found, sure, (unit + 1) / rounds)
            if on_unit is not None:
                on_unit(rows)
        return known.flatten(1)

    def _kept(self, known: Tensor, found: Tensor, sure: Tensor, done: float) -> Tensor:
        """What is known after a round: all but the cells that are hidden again."""
        hidden = known[..., 0] < 0
        filled = torch.where(hidden[..., None], found, known)
        if done >= 1.0 or not bool(hidden.any()):
            return filled
        left = hidden.sum(dim=1)
        again = torch.full_like(left, int(hidden.shape[1] * math.cos(math.pi / 2 * done) + 1e-9))
        again = torch.minimum(again, (left - 1).clamp(min=0))
        order = sure.masked_fill(~hidden, float("inf")).argsort(dim=1).argsort(dim=1)
        return filled.masked_fill((order < again[:, None])[..., None], -1)
