"""Two steps of a student with some units of its teacher's own between them.

What a student says last is what it knows least. Its teacher can draw some of the units in the
middle, each given all before it, from the same noise; the student says the rest (Distilled
Decoding, arXiv 2412.17153, where the pre-trained model takes part in sampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.samplers.ancestral import check_request, prompts_of
from arra.samplers.flow import (
    FlowSampler,
    MapStepper,
    NoiseStepper,
    TokenFlow,
    check_settings,
    picture_noise,
)
from arra.samplers.logits import SamplingConfig


class StudentStepper(MapStepper, Protocol):
    """A map of noise to codes that can go on from any number of known codes."""

    @property
    def vectors(self) -> Tensor:
        """(V, d), of the codes."""

    @property
    def positions(self) -> int:
        """L."""

    @property
    def bounds(self) -> Sequence[int]:
        """How many codes are known after 0, 1, ... of the teacher's units."""

    def go_on(self, cache: Any, known: int) -> None:
        """Keep the first `known` codes, predict the others."""

    def take(self, cache: Any, codes: Tensor) -> None:
        """Put codes (B, n) in the place of the first n."""


@dataclass(frozen=True)
class Help:
    """Who draws which units between the two steps."""

    teacher: NoiseStepper
    first: int
    """The first unit that the teacher draws; those before it are the student's."""
    until: int
    """The unit from which on the student says the rest."""
    flow: TokenFlow = field(default_factory=TokenFlow)
    """As when the student's pairs were made."""

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.until <= self.teacher.units:
            raise InputError(
                f"teacher's units: {self.first} to {self.until}, expected a growing pair of 0 to "
                f"{self.teacher.units}, the units of the teacher"
            )

    def passes(self, units: int) -> int:
        """Passes that draw a picture of so many units; the teacher reads what it did not draw."""
        return self.until + (self.first > 0) + (self.until < units)


class HelpedSampler:
    """Draws pictures of a student with help, which are a function of their noise as of either."""

    def __init__(self, help: Help, config: SamplingConfig | None = None):
        """`config` None: whatever settings the student learnt."""
        self.help, self.config = help, config

    @torch.inference_mode()
    def __call__(
        self,
        stepper: StudentStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, L) int64, one picture per caption and seed. Raises `InputError` for other
        settings than those that the student learnt."""
        check_settings(self.config, stepper.sampling)
        check_request(captions, seeds, batch)
        drawn = []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            drawn.append(self._batch(stepper, captions[here], seeds[here]))
            for _ in range(stepper.units if on_unit is not None else 0):
                assert on_unit is not None
                on_unit(len(drawn[-1]))
        return torch.cat(drawn) if drawn else torch.empty(0, stepper.positions, dtype=torch.int64)

    def _batch(
        self, stepper: StudentStepper, captions: Sequence[str | None], seeds: Sequence[int]
    ) -> Tensor:
        help, bounds = self.help, stepper.bounds
        noise = picture_noise(seeds, stepper.positions, stepper.vectors.shape[1])
        cache = stepper.begin(prompts_of(stepper, captions, False), lambda *_: noise)
        if help.first > 0:
            stepper.go_on(cache, 0)
        given = stepper.drawn(cache)[:, : bounds[help.first]]
        sampler = FlowSampler(stepper.vectors, stepper.sampling, help.flow)
        codes = sampler.follow(help.teacher, captions, noise, given=given, units=help.until)
        stepper.take(cache, codes)
        if (known := bounds[help.until]) < stepper.positions:
            stepper.go_on(cache, known)
        return stepper.drawn(cache)
