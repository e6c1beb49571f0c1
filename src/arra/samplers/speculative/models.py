"""Drafts of a small model (speculative decoding, arXiv 2211.17192): chains drawn from its laws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from arra.samplers.logits import SamplingConfig
from arra.samplers.speculative.drafts import NO_DRAFT, Budget, Draft, Picture
from arra.samplers.speculative.verifier import Verifier


class ModelDrafter:
    """Guesses what another generator of the same codes would draw, with the target's settings.

    It keeps a cache of its own, in which each picture has a row; guesses are read there one by one
    and taken back, and what was drawn is read in one pass.
    """

    draws: ClassVar[bool] = True

    def __init__(self, stepper: Any):
        """`stepper` takes trees, as a target does, and has as many units and codes."""
        self.stepper = stepper
        self._config = SamplingConfig()
        self._verifier: Verifier | None = None
        self._known: list[int] = []  # of every row how many units its cache has read

    def begin(self, pictures: Sequence[Picture], config: SamplingConfig) -> None:
        self._config = config
        captions = [picture.caption for picture in pictures]
        prompts = [self.stepper.prompt_ids(caption) for caption in captions]
        if config.guided:
            prompts += [self.stepper.prompt_ids(None)] * len(captions)
        _, cache = self.stepper.prefill(prompts)
        self._verifier, self._known = Verifier(self.stepper, config, cache), [0] * len(pictures)
        for row, picture in enumerate(pictures):
            picture.state = row

    def propose(self, pictures: Sequence[Picture], budgets: Sequence[Budget]) -> list[Draft]:
        self._follow(pictures)
        lengths = [min(budget.nodes, budget.depth) for budget in budgets]
        if not any(lengths):
            return [NO_DRAFT for _ in pictures]
        verifier = self._verifier
        assert verifier is not None
        # rows of which nothing is drafted any more are read along: their caches stay in step
        behind = [
            Picture(picture.prompt, picture.caption, picture.tape, picture.codes, picture.codes[n:])
            for picture, n in zip(pictures, self._known, strict=True)
        ]
        laws = [found[-1:] for found in verifier.laws(behind, [NO_DRAFT for _ in behind])]
        verifier.keep([[] for _ in behind])
        self._known = [len(picture.codes) for picture in pictures]
        guesses: list[list[int]] = [[] for _ in pictures]
        for step in range(max(lengths)):
            for picture, own, found in zip(pictures, guesses, laws, strict=True):
                own.append(picture.tape.guess(found[-1]) if step < lengths[picture.state] else 0)
            if step + 1 < max(lengths):
                units = [n + step + 1 for n in self._known]
                after = verifier.step([own[-1] for own in guesses], units)
                laws = [torch.cat(pair) for pair in zip(laws, after.split(1), strict=True)]
        guessed = torch.full((verifier.cache.rows,), max(lengths) - 1, device=verifier.cache.device)
        verifier.cache.take_back(guessed)
        return [
            Draft(
                own[:length],
                range(-1, length - 1),
                # nothing comes after the last guess: its row is read by nobody
                torch.cat((found[:length], torch.zeros_like(found[:1]))),
            )
            if length
            else NO_DRAFT
            for own, length, found in zip(guesses, lengths, laws, strict=True)
        ]

    def _follow(self, pictures: Sequence[Picture]) -> None:
        """Let rows go whose pictures are finished."""
        rows = [picture.state for picture in pictures]
        if len(rows) < len(self._known):
            assert self._verifier is not None
            self._verifier.gather(rows)
            self._known = [self._known[row] for row in rows]
            for row, picture in enumerate(pictures):
                picture.state = row
