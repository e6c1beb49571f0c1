"""Ancestral sampling: one unit after the other, each drawn from its law given those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.guidance import guide_pairs
from arra.registry import samplers
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise, draw

Choice = tuple[int, int, float, SamplingConfig]
"""How one code is drawn: the row of its logits, that of those without caption (-1: no guidance),
the scale of guidance, and the rest."""


class Stepper(Protocol):
    """What the sampler needs of a generator: prompts are read once, then unit follows unit.

    One that also has `choose(logits, scale, config, race)`, which guides, filters and draws at
    once, is asked for the codes. One that has a code `end` draws nothing after it: the rest of the
    picture's codes is that code, too.
    """

    @property
    def units(self) -> int: ...

    def prompt_ids(self, caption: str | None) -> list[int]: ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Any]: ...

    def step(self, codes: Tensor, cache: Any) -> Tensor: ...


def check_request(captions: Sequence[str | None], seeds: Sequence[int], batch: int) -> None:
    """`InputError` unless there is a seed for each caption and `batch` is a number of pictures."""
    if len(captions) != len(seeds):
        raise InputError(f"{len(captions)} captions and {len(seeds)} seeds: expected as many")
    if batch < 1:
        raise InputError(f"batch: {batch}, expected at least 1")


class Reader(Protocol):
    """What reads captions as prompts."""

    def prompt_ids(self, caption: str | None) -> list[int]: ...


def prompts_of(
    stepper: Reader, captions: Sequence[str | None], guided: bool
) -> list[Sequence[int]]:
    """Prompts of the captions; with guidance the pair of row i, without caption, is row B + i."""
    prompts: list[Sequence[int]] = [stepper.prompt_ids(caption) for caption in captions]
    return prompts + [stepper.prompt_ids(None)] * len(captions) if guided else prompts


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
        in. `prefix` (B, p) holds first codes that are given rather than drawn, -1 where one is
        drawn. `on_unit` is called with the number of pictures after each unit of theirs.
        """
        check_request(captions, seeds, batch)
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
        guided = self.config.guided
        logits, cache = stepper.prefill(prompts_of(stepper, captions, guided))
        races = PictureNoise(seeds).ahead(stepper.units, logits.shape[-1], logits.device)
        end: int | None = getattr(stepper, "end", None)
        codes: list[Tensor] = []
        for unit, race in enumerate(races):
            if unit > 0:
                last = codes[-1]
                if end is not None and bool((last == end).all()):
                    codes += [last] * (stepper.units - unit)
                    if on_unit is not None:
                        on_unit(len(captions) * (stepper.units - unit))
                    break
                logits = stepper.step(torch.cat((last, last)) if guided else last, cache)
            given = None if prefix is None or unit >= prefix.shape[1] else prefix[:, unit]
            codes.append(self._next(stepper, logits, unit, race, given))
            if end is not None and unit > 0:
                codes[-1] = torch.where(codes[-2] == end, end, codes[-1])
            if on_unit is not None:
                on_unit(len(captions))
        return torch.stack(codes, dim=1)

    def _next(
        self, stepper: Stepper, logits: Tensor, unit: int, race: Tensor, given: Tensor | None
    ) -> Tensor:
        """(B,) int64: the codes that are given, and those drawn where none is."""
        if given is None:
            return self._choose(stepper, logits, unit, race)
        given = given.to(logits.device)
        if bool((given >= 0).all()):
            return given
        return torch.where(given >= 0, given, self._choose(stepper, logits, unit, race))

    def _choose(self, stepper: Stepper, logits: Tensor, unit: int, race: Tensor) -> Tensor:
        """(B,) int64 drawn from the logits of B pictures, or of their pairs."""
        guided, scale = self.config.guided, self.config.scale(unit, stepper.units)
        choose = getattr(stepper, "choose", None)
        if choose is not None:
            return choose(logits, scale, self.config, race)
        return draw(law(guide_pairs(logits, scale) if guided else logits, self.config), race)


def choose_each(logits: Tensor, choices: Sequence[Choice], race: Tensor) -> Tensor:
    """(n,) int64: codes drawn from rows of `logits`, each in its own way, by a race (n, V).

    Of each the code that it would get alone.
    """
    drawn = torch.empty(len(choices), dtype=torch.int64, device=logits.device)
    alike: dict[tuple[bool, float, SamplingConfig], list[int]] = {}
    for number, (_, unconditional, scale, config) in enumerate(choices):
        alike.setdefault((unconditional >= 0, scale, config), []).append(number)
    for (guided, scale, config), numbers in alike.items():
        rows = [choices[number][0] for number in numbers]
        rows += [choices[number][1] for number in numbers] if guided else []
        found = logits[rows]
        chosen = torch.tensor(numbers, device=logits.device)
        chances = law(guide_pairs(found, scale) if guided else found, config)
        drawn[chosen] = draw(chances, race[chosen])
    return drawn
