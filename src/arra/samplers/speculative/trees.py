"""Shapes of draft trees that are chosen before anything is drafted."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from arra.errors import InputError


@dataclass(frozen=True)
class TreeShape:
    """A fixed tree: which node comes after which."""

    parents: tuple[int, ...]
    """Of every node one before it, -1 right after the last unit; nodes stand level by level, and
    siblings in the order in which they are guessed."""

    def __post_init__(self) -> None:
        depths: list[int] = []
        for node, parent in enumerate(self.parents):
            if not -1 <= parent < node:
                raise InputError(f"TreeShape: parent of node {node} is {parent}, expected before")
            depths.append(0 if parent < 0 else depths[parent] + 1)
        if not depths or depths != sorted(depths):
            raise InputError("TreeShape: expected nodes, one level after the other")

    @classmethod
    def chain(cls, nodes: int) -> Self:
        """One guess after another."""
        return cls(tuple(range(-1, nodes - 1)))

    @classmethod
    def likely(cls, nodes: int, depth: int, acceptance: float = 0.5) -> Self:
        """The `nodes` that are reached most often where each guess stays with a chance of
        `acceptance` if those beside it, guessed before, did not: a tree that is broad at its root
        and along its first guesses, as those of EAGLE are."""
        if nodes < 1 or depth < 1 or not 0.0 < acceptance < 1.0:
            raise InputError(
                f"TreeShape: {nodes} nodes of depth {depth}, acceptance {acceptance}; expected 1 "
                "or more of each, and a chance between 0 and 1"
            )
        # paths of ranks with their chances: the best one next, of equal ones the shortest
        waiting: list[tuple[float, int, tuple[int, ...]]] = [(-acceptance, 1, (0,))]
        chosen: list[tuple[int, ...]] = []
        while waiting and len(chosen) < nodes:
            chance, length, path = heapq.heappop(waiting)
            chosen.append(path)
            beside = (*path[:-1], path[-1] + 1)
            heapq.heappush(waiting, (chance * (1.0 - acceptance), length, beside))
            if length < depth:
                heapq.heappush(waiting, (chance * acceptance, length + 1, (*path, 0)))
        chosen.sort(key=lambda path: (len(path), path))
        places = {path: node for node, path in enumerate(chosen)}
        return cls(tuple(places.get(path[:-1], -1) for path in chosen))

    def __len__(self) -> int:
        return len(self.parents)

    @cached_property
    def children(self) -> tuple[tuple[int, ...], ...]:
        """Those of node i at i + 1; the first ones at 0."""
        found: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents):
            found[parent + 1].append(node)
        return tuple(map(tuple, found))

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Nodes above each."""
        found: list[int] = []
        for parent in self.parents:
            found.append(0 if parent < 0 else found[parent] + 1)
        return tuple(found)

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """The nodes after which something is guessed, by depth: others are never read."""
        inner = [node for node in range(len(self)) if self.children[node + 1]]
        most = max((self.depths[node] for node in inner), default=-1)
        return tuple(
            tuple(node for node in inner if self.depths[node] == depth) for depth in range(most + 1)
        )


def best_nodes(values: Sequence[float], depths: Sequence[int], nodes: int, depth: int) -> list[int]:
    """The `nodes` of highest value among those of at most `depth` nodes' path, in their order.

    Where no node is worth more than its parent, which stands before it, they are a tree.
    """
    possible = [n for n, value in enumerate(values) if depths[n] <= depth and value > -float("inf")]
    return sorted(sorted(possible, key=lambda n: -values[n])[:nodes])
