"""One pass of the target over the drafts of all pictures, each with its own accepted length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from arra.orders.trees import Trees
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.speculative.drafts import Draft, Picture
from arra.samplers.speculative.guided import UnitGuidance


class Verifier:
    """The target's laws at every node of the drafts, and its cache, cut to what was accepted.

    With guidance row i of the cache has its pair without caption in row B + i; both read the same
    trees and are cut alike.
    """

    def __init__(self, stepper: Any, config: SamplingConfig, cache: Any):
        """`cache` has read the prompts."""
        self.stepper, self.config, self.cache = stepper, config, cache
        self._guidance = UnitGuidance(config, stepper.units)
        self.states: Tensor | None = None
        """(B or 2 B, T, D) what the target's head read at the nodes of the last pass, pending ones
        first; with guidance rows without caption stand behind the others."""
        self._width = 0
        self._waiting: list[int] = []

    def gather(self, rows: Sequence[int]) -> None:
        """Keep these pictures."""
        chosen = list(rows)
        if self.config.guided:
            chosen += [row + self.cache.rows // 2 for row in rows]
        self.cache.gather(torch.tensor(chosen, device=self.cache.device))

    def laws(self, pictures: Sequence[Picture], drafts: Sequence[Draft]) -> list[Tensor]:
        """Of each picture (n + 1, V): the laws of the unit before its draft and after each node."""
        device = self.cache.device
        self._waiting = [len(picture.pending) for picture in pictures]
        tokens: list[list[int]] = []
        parents: list[list[int]] = []
        for picture, draft in zip(pictures, drafts, strict=True):
            # what the target has not read yet is a chain, from the end of which the draft grows
            last = len(picture.pending) - 1
            tokens.append([*picture.pending, *draft.tokens])
            parents.append([*range(-1, last), *(last + 1 + p for p in draft.parents)])
        trees = Trees.of(parents, device)
        codes = torch.zeros(trees.real.shape, dtype=torch.int64)
        for row, own in enumerate(tokens):
            codes[row, : len(own)] = torch.tensor(own)
        codes, self._width = codes.to(device), codes.shape[1]
        if self.config.guided:
            codes, trees = torch.cat((codes, codes)), trees.twice()
        logits, self.states = self.stepper.step_tree(codes, trees, self.cache)
        if self.config.guided:
            read = torch.tensor([len(one.codes) - len(one.pending) for one in pictures])
            depth = trees.depth[: len(pictures)].cpu()
            logits = self._guidance(logits, read[:, None] + depth + 1)
        # only what somebody will look at is filtered and normalised
        wanted = [
            logits[row, waiting - 1 : len(own)]
            for row, (own, waiting) in enumerate(zip(tokens, self._waiting, strict=True))
        ]
        return list(law(torch.cat(wanted), self.config).split([len(part) for part in wanted]))

    def step(self, codes: Sequence[int], units: Sequence[int]) -> Tensor:
        """(B, V): the laws of these units, in their rows, after one more code in each."""
        new = torch.tensor(list(codes), device=self.cache.device)
        if not self.config.guided:
            return law(self.stepper.step(new, self.cache), self.config)
        logits = self.stepper.step(torch.cat((new, new)), self.cache)
        return law(self._guidance(logits, torch.tensor(list(units))), self.config)

    def kept(self, paths: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of each picture (1, n, D), or (2, n, D) with guidance: what the head read in the last
        pass at its pending units and then at the nodes of its path, which are to be kept."""
        assert self.states is not None
        states = self.states.unflatten(0, (-1, len(paths)))
        return [
            states[:, row, [*range(waiting), *(waiting + node for node in path)]]
            for row, (path, waiting) in enumerate(zip(paths, self._waiting, strict=True))
        ]

    def keep(self, paths: Sequence[Sequence[int]]) -> None:
        """Of each picture's draft keep these nodes, which lie on one path, and forget the rest."""
        kept = torch.zeros(len(paths), self._width, dtype=torch.bool)
        for row, (path, waiting) in enumerate(zip(paths, self._waiting, strict=True)):
            kept[row, :waiting] = True
            kept[row, [waiting + node for node in path]] = True
        if self.config.guided:
            kept = torch.cat((kept, kept))
        self.cache.keep(kept.to(self.cache.device))
