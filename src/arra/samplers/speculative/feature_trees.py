"""Trees of a drafter of features: of a shape that is given, or where it is surest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from arra.errors import InputError
from arra.networks.feature_predictor import FeaturePredictor
from arra.samplers.speculative.drafts import NO_DRAFT, Budget, Draft, Picture
from arra.samplers.speculative.features import Branches, FeatureDrafter, Tables
from arra.samplers.speculative.rules import without_replacement
from arra.samplers.speculative.trees import TreeShape, best_nodes


class StaticFeatureDrafter(FeatureDrafter):
    """Trees of one shape; siblings are drawn without replacement of laws that come with the draft
    (EAGLE; LANTERN++, arXiv 2502.06352). At temperature 0 the likeliest codes are guessed."""

    draws: ClassVar[bool] = True

    def __init__(self, network: FeaturePredictor, tables: Tables, shape: TreeShape):
        super().__init__(network, tables)
        self.shape = shape

    def _grow(
        self, pictures: Sequence[Picture], budgets: Sequence[Budget], branches: Branches
    ) -> list[Draft]:
        shape, laws = self.shape, {-1: branches.root()[:, 0]}
        guesses: list[dict[int, int]] = [{} for _ in pictures]
        self._guess((-1,), laws, guesses, pictures, budgets)
        deepest = max(min(budget.nodes, budget.depth) for budget in budgets)
        read: dict[int, int] = {-1: -1}
        for nodes in shape.levels[: deepest - 1]:
            # rows that have no such node read anything there: nobody looks at it
            codes = torch.tensor([[own.get(node, 0) for node in nodes] for own in guesses])
            above = torch.tensor([read[shape.parents[node]] for node in nodes])
            found = branches.read(codes, above.expand(len(pictures), -1))
            laws |= dict(zip(nodes, found.unbind(1), strict=True))
            read |= {node: len(read) - 1 + number for number, node in enumerate(nodes)}
            self._guess(nodes, laws, guesses, pictures, budgets)
        return [self._draft(row, own, laws) for row, own in enumerate(guesses)]

    def _guess(
        self,
        nodes: Sequence[int],
        laws: dict[int, Tensor],
        guesses: Sequence[dict[int, int]],
        pictures: Sequence[Picture],
        budgets: Sequence[Budget],
    ) -> None:
        """What comes after these nodes, where a picture has them and may have more."""
        for row, (picture, own, budget) in enumerate(zip(pictures, guesses, budgets, strict=True)):
            for node in nodes:
                children = [
                    child
                    for child in self.shape.children[node + 1]
                    if self.shape.depths[child] < budget.depth
                ][: max(budget.nodes - len(own), 0)]
                if not children or (node >= 0 and node not in own):
                    continue
                law = laws[node][row]
                if self._certain:
                    drawn = law.topk(min(len(children), len(law))).indices.tolist()
                else:
                    drawn = without_replacement(law, len(children), picture.tape)
                own |= dict(zip(children, drawn, strict=False))

    def _draft(self, row: int, own: dict[int, int], laws: dict[int, Tensor]) -> Draft:
        """The guesses of a row, by node, as a draft."""
        if not own:
            return NO_DRAFT
        nodes = sorted(own)
        places = {-1: -1, **{node: place for place, node in enumerate(nodes)}}
        parents = [places[self.shape.parents[node]] for node in nodes]
        if self._certain:
            return Draft([own[node] for node in nodes], parents)
        nothing = torch.zeros_like(laws[-1][row])  # of leaves: it is read by nobody
        found = [laws[node][row] if node in laws else nothing for node in (-1, *nodes)]
        return Draft([own[node] for node in nodes], parents, torch.stack(found))


class DynamicFeatureDrafter(FeatureDrafter):
    """Trees that grow where the drafter is surest (EAGLE-2, arXiv 2406.16858).

    On every level the likeliest successors of the `width` nodes of highest probability, that of
    their whole path, are candidates; of all candidates the best stay, as many as the budget has.
    """

    draws: ClassVar[bool] = False

    def __init__(self, network: FeaturePredictor, tables: Tables, depth: int = 5, width: int = 8):
        super().__init__(network, tables)
        if depth < 1 or width < 1:
            raise InputError(f"DynamicFeatureDrafter: depth {depth}, width {width}, expected 1 up")
        self.depth, self.width = depth, width

    def _grow(
        self, pictures: Sequence[Picture], budgets: Sequence[Budget], branches: Branches
    ) -> list[Draft]:
        depth = min(self.depth, max(min(budget.nodes, budget.depth) for budget in budgets))
        level = self._first(branches.root())
        levels, before, read = [level], 0, 0
        while len(levels) < depth:
            best = level.value.topk(min(self.width, level.value.shape[1]), dim=1).indices
            chosen = level.gather(best)
            laws = branches.read(chosen.code, chosen.under.cpu())
            number = torch.arange(best.shape[1], device=best.device).expand_as(best)
            deeper = self._after(laws, chosen.value, before + best, read + number)
            before, level = before + level.value.shape[1], deeper
            levels.append(level)
            read += best.shape[1]
        depths = [depth for depth, own in enumerate(levels, start=1) for _ in own.value[0]]
        codes, parents, values = (
            torch.cat([getattr(own, name) for own in levels], dim=1).tolist()
            for name in ("code", "parent", "value")
        )
        return [
            _tree(code, parent, value, depths, budget)
            for code, parent, value, budget in zip(codes, parents, values, budgets, strict=True)
        ]

    def _first(self, laws: Tensor) -> _Candidates:
        """The likeliest codes of laws (B, 1, V)."""
        none = torch.full_like(laws[..., 0], -1, dtype=torch.int64)
        return self._after(laws, torch.zeros_like(laws[..., 0]), none, none)

    def _after(self, laws: Tensor, value: Tensor, parent: Tensor, under: Tensor) -> _Candidates:
        """The likeliest codes of laws (B, t, V) after nodes (B, t) of these values and numbers."""
        chance, code = laws.topk(min(self.width, laws.shape[-1]), dim=2)
        parent, under = (x[..., None].expand_as(code).flatten(1) for x in (parent, under))
        # a path is never likelier than its beginning: so the best nodes are a tree
        summed = (value[..., None] + chance.log()).flatten(1)
        return _Candidates(code.flatten(1), parent, under, summed)


@dataclass(frozen=True)
class _Candidates:
    """What may stand on one level of B trees, all (B, m)."""

    code: Tensor
    parent: Tensor
    """Which candidate each follows, counted over all levels; -1 is none."""
    under: Tensor
    """The same, counted as they were read."""
    value: Tensor
    """Logarithm of the probability of the path that ends here."""

    def gather(self, index: Tensor) -> _Candidates:
        """Those at places (B, n)."""
        columns = (self.code, self.parent, self.under, self.value)
        return _Candidates(*(column.gather(1, index) for column in columns))


def _tree(
    codes: Sequence[int],
    parents: Sequence[int],
    values: Sequence[float],
    depths: Sequence[int],
    budget: Budget,
) -> Draft:
    """The best of a row's candidates."""
    nodes = best_nodes(values, depths, budget.nodes, budget.depth)
    places = {-1: -1, **{node: place for place, node in enumerate(nodes)}}
    return Draft([codes[node] for node in nodes], [places[parents[node]] for node in nodes])
