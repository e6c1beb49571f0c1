"""Targets without a network, and drafters that guess on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arra.samplers.speculative.drafts import Draft
from arra.samplers.speculative.rules import without_replacement


@dataclass
class HistoryCache:
    """The units that each row has read, with `visible` as the sampler cuts it."""

    codes: Tensor
    visible: Tensor

    def gather(self, rows: Tensor) -> None:
        self.codes, self.visible = self.codes[rows], self.visible[rows]

    @property
    def rows(self) -> int:
        return len(self.codes)

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def keep(self, kept: Tensor) -> None:
        here = self.visible[:, -kept.shape[1] :]
        assert not (kept & ~here).any()
        here[:] = kept

    def take_back(self, counts: Tensor) -> None:
        left = self.visible.sum(dim=1) - counts
        self.visible &= self.visible.cumsum(dim=1) <= left[:, None]


class TableStepper:
    """Laws that are a function of caption and history alone."""

    def __init__(
        self,
        law: Callable[[str | None, tuple[int, ...]], Tensor],
        units: int,
        end: int | None = None,
    ):
        self.law, self.units, self.end = law, units, end
        self.captions: list[str | None] = []

    def prompt_ids(self, caption):
        self.captions.append(caption)
        return [len(self.captions) - 1]

    def prefill(self, prompts: Sequence[Sequence[int]]):
        rows = torch.tensor([list(prompt) for prompt in prompts])
        cache = HistoryCache(rows, torch.ones_like(rows, dtype=torch.bool))
        return self._logits([row.tolist() for row in rows]), cache

    def step(self, codes: Tensor, cache: HistoryCache):
        cache.codes = torch.cat((cache.codes, codes[:, None]), dim=1)
        cache.visible = torch.cat((cache.visible, torch.ones_like(codes[:, None]).bool()), dim=1)
        return self._logits(
            [row[seen].tolist() for row, seen in zip(cache.codes, cache.visible, strict=True)]
        )

    def step_tree(self, codes: Tensor, trees, cache: HistoryCache):
        found = []
        for row in range(len(codes)):
            before = cache.codes[row][cache.visible[row]].tolist()
            assert trees.depth[row][trees.real[row]].tolist() == [
                int(sees.sum()) - 1 for sees in trees.sees[row][trees.real[row]]
            ]
            found.append(
                self._logits([before + codes[row][sees].tolist() for sees in trees.sees[row]])
            )
        cache.codes = torch.cat((cache.codes, codes), dim=1)
        cache.visible = torch.cat((cache.visible, trees.real), dim=1)
        logits = torch.stack(found)
        return logits, torch.zeros(*logits.shape[:2], 0)

    def _logits(self, histories):
        return torch.stack(
            [self.law(self.captions[first], tuple(rest)).log() for first, *rest in histories]
        )


class RandomDrafter:
    """Trees of random shape, a function of the picture's codes alone; some guesses are right where
    `truth` (B, units) says what will come."""

    draws = False

    def __init__(self, codes: int, truth: Sequence[Sequence[int]] | None = None):
        self.codes, self.truth = codes, truth

    def begin(self, pictures, config):
        for number, picture in enumerate(pictures):
            picture.state = number

    def propose(self, pictures, budgets):
        return [self._draft(p, b) for p, b in zip(pictures, budgets, strict=True)]

    def _draft(self, picture, budget):
        numbers = torch.Generator().manual_seed(hash(tuple(picture.codes)) % 2**32)

        def pick(high):
            return int(torch.randint(high, (), generator=numbers))

        tokens, parents, depths = [], [], []
        for _ in range(pick(budget.nodes + 1)):
            parent = pick(len(tokens) + 1) - 1
            depth = 1 if parent < 0 else depths[parent] + 1
            code = pick(self.codes)
            if self.truth is not None and pick(3) > 0:
                place = len(picture.codes) + depth - 1
                if place < len(self.truth[picture.state]):
                    code = int(self.truth[picture.state][place])
            if depth <= budget.depth and (parent, code) not in set(
                zip(parents, tokens, strict=True)
            ):
                tokens.append(code)
                parents.append(parent)
                depths.append(depth)
        return Draft(tokens, parents)


class LawDrafter:
    """Full trees of so many siblings, drawn from a law of the history."""

    draws = True

    def __init__(self, law: Callable[[tuple[int, ...]], Tensor], siblings: int, depth: int):
        self.law, self.siblings, self.depth = law, siblings, depth

    def begin(self, pictures, config):
        pass

    def propose(self, pictures, budgets):
        return [self._draft(p, b) for p, b in zip(pictures, budgets, strict=True)]

    def _draft(self, picture, budget):
        tokens, parents = [], []
        laws = [self.law(tuple(picture.codes))]
        level = [(-1, tuple(picture.codes))]
        for _ in range(min(self.depth, budget.depth)):
            deeper = []
            for parent, history in level:
                for code in without_replacement(laws[parent + 1], self.siblings, picture.tape):
                    tokens.append(code)
                    parents.append(parent)
                    laws.append(self.law((*history, code)))
                    deeper.append((len(tokens) - 1, (*history, code)))
            level = deeper
        return Draft(tokens, parents, torch.stack(laws))
