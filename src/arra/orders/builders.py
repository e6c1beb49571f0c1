"""Builders of layouts: one function per order of generation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from arra.errors import InputError
from arra.orders.layout import FOREVER, NO_TARGET, Layout, same_moments


def raster(prefix: int, units: int) -> Layout:
    """Left to right: `prefix` text and control tokens, then `units` picture tokens in raster order.

    The last prefix token (begin-of-image) predicts unit 0, unit i predicts unit i + 1, the last
    unit predicts nothing of the picture: n = `units` positions predict image content, which are
    ARRA's HYBNEXT positions (arXiv 2503.07334, section 3).
    """
    if prefix < 1 or units < 1:
        raise InputError(f"raster: expected prefix >= 1 and units >= 1, got {prefix} and {units}")
    length = prefix + units
    steps = torch.arange(length)
    place = torch.full((length,), -1, dtype=torch.int64)
    place[prefix:] = torch.arange(units)
    target = torch.full((length,), NO_TARGET, dtype=torch.int64)
    target[prefix - 1 : length - 1] = torch.arange(units)
    forever = torch.full((length,), FOREVER, dtype=torch.int64)
    return Layout(torch.zeros(length, dtype=torch.int64), steps, forever, place, target)


def causal(length: int) -> Layout:
    """Every position sees itself and all before it."""
    return same_moments(torch.arange(length))


def prefixed(prefix: int, length: int) -> Layout:
    """A prefix that sees itself in both directions, then a causal rest."""
    now = torch.arange(length)
    now[:prefix] = 0
    return same_moments(now)


def sliding_window(length: int, window: int) -> Layout:
    """Causal, but each position is seen only by itself and the `window` - 1 after it."""
    if window < 1:
        raise InputError(f"sliding_window: window {window}, expected at least 1")
    now = torch.arange(length)
    return same_moments(now, now + window)


def units(sizes: Sequence[int], forget: bool = False) -> Layout:
    """Units of several positions (scales, cells, pictures): full sight inside a unit and back.

    With `forget` a unit is seen only by itself.
    """
    now = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(list(sizes)))
    return same_moments(now, now + 1 if forget else None)


def clean_and_noisy(blocks: int, size: int) -> Layout:
    """Blocks with a noisy and a clean copy: noisy block b sees clean blocks before b and itself.

    Positions: for each block its noisy copy, then its clean copy.
    """
    now, dies = [], []
    for block in range(blocks):
        now += [2 * block] * size + [2 * block + 1] * size
        dies += [2 * block + 1] * size + [FOREVER] * size
    return same_moments(torch.tensor(now), torch.tensor(dies))


def tree(parents: Sequence[int]) -> Layout:
    """A draft tree: every node sees its ancestors and itself. `parents[i]` < i, or -1 for a root.

    An Euler tour gives each node the moment at which it is entered and the one at which it is left.
    """
    enter, leave = euler_tour(parents)
    return same_moments(torch.tensor(enter), torch.tensor(leave))


def euler_tour(parents: Sequence[int]) -> tuple[list[int], list[int]]:
    """`now` and `dies` of the nodes of a draft tree, as `tree` has them."""
    children: list[list[int]] = [[] for _ in parents]
    roots: list[int] = []
    for node, parent in enumerate(parents):
        if not -1 <= parent < node:
            raise InputError(f"tree: parent of node {node} is {parent}, expected -1 to {node - 1}")
        (roots if parent == -1 else children[parent]).append(node)
    enter, leave = [0] * len(parents), [0] * len(parents)
    moment = 0
    stack = [(node, False) for node in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            leave[node] = moment
            continue
        enter[node] = moment
        moment += 1
        stack.append((node, True))
        stack.extend((child, False) for child in reversed(children[node]))
    return enter, leave


def erasing(erased_at: Tensor) -> Layout:
    """Causal, with tokens taken back: position i is unseen from moment `erased_at[i]` on.

    `erased_at` (T,) int64, `FOREVER` for a token that stays (the backspace of SequenceMatch).
    """
    return same_moments(torch.arange(len(erased_at)), erased_at)
