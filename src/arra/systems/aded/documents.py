"""Documents whose law is known: one language, and in each document habits of its own.

In the language a pair of letters has a few possible successors. A document settles on one of them,
drawn by the language's chances, for every pair, and mostly keeps to it: so a table of tri-grams
knows what is possible, and only the document itself what it does.
"""

from __future__ import annotations

import numpy as np

from arra.systems.aded.recipe import Recipe


def language(recipe: Recipe, seed: int) -> np.ndarray:
    """(V, V, S) the S different successors of each pair of letters."""
    random = np.random.default_rng([seed, 0])
    order = random.random((recipe.codes, recipe.codes, recipe.codes)).argsort(axis=2)
    return order[..., : len(recipe.chances)]


def documents(recipe: Recipe, seed: int, held_out: bool) -> np.ndarray:
    """(N, length) int64 letters; training documents, or those to complete."""
    random = np.random.default_rng([seed, 1 + held_out])
    count = recipe.completed if held_out else recipe.documents
    successors, pairs = language(recipe, seed), recipe.codes**2
    bounds = np.cumsum(recipe.chances)

    def settled(shape: tuple[int, ...]) -> np.ndarray:
        drawn = np.searchsorted(bounds, random.random(shape), side="right")
        return np.minimum(drawn, len(bounds) - 1).astype(np.int8)

    habits, rows = settled((count, pairs)), np.arange(count)
    found = np.empty((count, recipe.length), dtype=np.int64)
    found[:, :2] = random.integers(recipe.codes, size=(count, 2))
    for place in range(2, recipe.length):
        before, last = found[:, place - 2], found[:, place - 1]
        habit = habits[rows, before * recipe.codes + last]
        keeps = random.random(count) < recipe.faithful
        which = np.where(keeps, habit, settled((count,)))
        found[:, place] = successors[before, last, which]
    return found
