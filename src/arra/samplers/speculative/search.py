"""Monte-Carlo tree search for likely continuations in a table of tri-grams (ADED)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Row = Callable[[int, int], Mapping[int, float]]
"""The successors of a pair with their chances."""


@dataclass(frozen=True)
class SearchConfig:
    """How long is searched and what for."""

    iterations: int = 150
    """Walks down the tree."""
    horizon: int = 4
    """Pairs of a walk, the last two codes that are there included."""
    c1: float = 32.0
    c2: float = 8.0
    """Of exploration: (c1 + ln((N + c2 + 1) / c2)) P sqrt(N) / (1 + n)."""
    kept: int = 24
    """Sequences that are drafted, those that were visited most."""
    released_scores: bool = False
    """Score walks as the released code does: of a step (a, b) -> (b, c) it counts the chance of b
    after (a, b), not that of c."""


@dataclass
class Node:
    """A pair of codes that a walk came to."""

    first: int
    second: int
    prior: float = 0.0
    """The chance with which the pair before has `second` as its successor."""
    visits: int = 0
    value: float = 0.0
    """Sum of the scores of the walks through it."""
    children: list[Node] = field(default_factory=list)


def _selected(node: Node, config: SearchConfig) -> Node:
    """The child that PUCT prefers; one that was never visited comes first."""
    weight = config.c1 + math.log((node.visits + config.c2 + 1.0) / config.c2)
    weight *= math.sqrt(node.visits)
    best, highest = node.children[0], -math.inf
    for child in node.children:
        if child.visits == 0:
            return child
        score = child.value / child.visits + weight * child.prior / (1 + child.visits)
        if score > highest:
            best, highest = child, score
    return best


def search(first: int, second: int, row: Row, config: SearchConfig) -> Node:
    """The searched tree below a pair. A function of its arguments alone: children stand by rising
    chance and code, and rollouts are random numbers of the pair.

    A leaf gets all of its successors at once, and the walk goes on to the last, the likeliest.
    """
    root, numbers = Node(first, second), random.Random(f"{first} {second}")

    def score(node: Node, successor: int) -> float:
        chances = row(node.first, node.second)
        return chances.get(node.second if config.released_scores else successor, 0.0)

    for _ in range(config.iterations):
        path, total = [root], 1.0
        while len(path) < config.horizon and path[-1].children:
            child = _selected(path[-1], config)
            total += score(path[-1], child.second)
            path.append(child)
        leaf = path[-1]
        if len(path) < config.horizon and (found := row(leaf.first, leaf.second)):
            ordered = sorted(found.items(), key=lambda item: (item[1], item[0]))
            leaf.children = [Node(leaf.second, code, chance) for code, chance in ordered]
            total += score(leaf, leaf.children[-1].second)
            path.append(leaf.children[-1])
        total += _rollout(path[-1], config.horizon - len(path), row, score, numbers)
        for node in path:
            node.visits += 1
            node.value += total
    return root


def _rollout(
    node: Node,
    steps: int,
    row: Row,
    score: Callable[[Node, int], float],
    numbers: random.Random,
) -> float:
    """Score of up to so many steps from a node, successors drawn by their chances."""
    total = 0.0
    for _ in range(steps):
        found = row(node.first, node.second)
        if not found:
            break
        code = numbers.choices(list(found), list(found.values()))[0]
        total += score(node, code)
        node = Node(node.second, code)
    return total


def best(chances: Mapping[int, float]) -> int:
    """The likeliest successor, of equal ones the smallest."""
    return min(chances, key=lambda code: (-chances[code], code))


def sequences(root: Node, row: Row, kept: int) -> list[list[int]]:
    """What to draft: the codes of the `kept` nodes that were visited most, each followed by the
    likeliest successor of its last pair; ordered by visits."""
    found: list[tuple[int, list[int], Node]] = []
    stack: list[tuple[Node, list[int]]] = [(root, [])]
    while stack:
        node, codes = stack.pop()
        if node.visits:
            found.append((node.visits, codes, node))
        stack += [(child, [*codes, child.second]) for child in node.children]
    found.sort(key=lambda entry: (-entry[0], len(entry[1]), entry[1]))
    drafted = []
    for _, codes, node in found[:kept]:
        after = row(node.first, node.second)
        drafted.append([*codes, best(after)] if after else codes)
    return drafted
