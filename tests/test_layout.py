"""Every builder against the four-line loop that defines it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arra.errors import InputError
from arra.orders import builders
from arra.orders.layout import FOREVER, PADDING, Layout, packed
from arra.orders.trees import Trees


def naive(length, sees):
    """The mask that a double loop over `sees(query, key)` gives."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    for q in range(length):
        for k in range(length):
            mask[q, k] = sees(q, k)
    return mask


@given(st.integers(1, 6), st.integers(1, 9))
def test_raster(prefix, units):
    layout = builders.raster(prefix, units)
    assert torch.equal(layout.sees(), naive(prefix + units, lambda q, k: k <= q))
    predicting = (layout.target >= 0).nonzero().flatten().tolist()
    assert predicting == list(range(prefix - 1, prefix + units - 1))
    # the output at a position predicts the unit that stands at the next one
    for position in predicting:
        assert layout.target[position] == layout.place[position + 1]


@given(st.integers(0, 6), st.integers(1, 9))
def test_prefix(prefix, length):
    got = builders.prefixed(prefix, length).sees()
    assert torch.equal(got, naive(length, lambda q, k: k <= q or (k < prefix and q < prefix)))


@given(st.integers(1, 9), st.integers(1, 9))
def test_window(length, window):
    got = builders.sliding_window(length, window).sees()
    assert torch.equal(got, naive(length, lambda q, k: q - window < k <= q))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.booleans())
def test_units(sizes, forget):
    rank = [r for r, size in enumerate(sizes) for _ in range(size)]
    expected = naive(len(rank), lambda q, k: rank[q] == rank[k] if forget else rank[k] <= rank[q])
    assert torch.equal(builders.units(sizes, forget).sees(), expected)


@given(st.integers(1, 4), st.integers(1, 3))
def test_clean_and_noisy(blocks, size):
    block = [b for b in range(blocks) for _ in range(2 * size)]
    clean = [c for _ in range(blocks) for c in [False] * size + [True] * size]

    def sees(q, k):
        if block[q] == block[k]:
            return clean[q] == clean[k]
        return block[k] < block[q] and clean[k]

    assert torch.equal(builders.clean_and_noisy(blocks, size).sees(), naive(len(block), sees))


@given(st.data(), st.integers(1, 10))
def test_tree(data, nodes):
    parents = [data.draw(st.integers(-1, i - 1)) for i in range(nodes)]

    def is_ancestor(q, k):
        while q not in (-1, k):
            q = parents[q]
        return q == k

    assert torch.equal(builders.tree(parents).sees(), naive(nodes, is_ancestor))


@given(st.data(), st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any))
def test_trees_of_several_rows(data, sizes):
    """Each row is its own tree; padding sees itself alone, and nobody sees it."""
    parents = [[data.draw(st.integers(-1, i - 1)) for i in range(size)] for size in sizes]
    trees = Trees.of(parents)
    for row, own in enumerate(parents):
        size, extra = len(own), max(sizes) - len(own)
        expected = torch.eye(max(sizes), dtype=torch.bool)
        if own:
            expected[:size, :size] = builders.tree(own).sees()
        assert torch.equal(trees.sees[row], expected)
        assert trees.real[row].tolist() == [True] * size + [False] * extra
        above = [int(sees.sum()) - 1 for sees in trees.sees[row]]
        assert trees.depth[row].tolist() == above
    twice = trees.twice()
    assert torch.equal(twice.sees[len(sizes) :], trees.sees)


@given(st.lists(st.integers(1, 6) | st.none(), min_size=1, max_size=8))
def test_erasing(delays):
    erased = [FOREVER if d is None else i + d for i, d in enumerate(delays)]
    got = builders.erasing(torch.tensor(erased)).sees()
    assert torch.equal(got, naive(len(delays), lambda q, k: k <= q < erased[k]))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_packed_samples_do_not_meet(sizes, extra):
    row = packed([builders.raster(1, n) for n in sizes])
    row = row.padded(len(row) + extra)
    segment, order = row.segment.tolist(), row.order().tolist()
    expected = naive(
        len(row),
        lambda q, k: (
            q == k if PADDING in (segment[q], segment[k]) else segment[q] == segment[k] and k <= q
        ),
    )
    assert torch.equal(row.sees(), expected)
    assert order == [i for n in sizes for i in range(n + 1)] + [0] * extra


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_that_is_real(side):
    layout = builders.raster(3, 4)
    wide = layout.padded(10, side)
    real = (wide.segment != PADDING).nonzero().flatten()
    assert torch.equal(wide.sees()[real][:, real], layout.sees())
    others = (wide.segment == PADDING).nonzero().flatten()
    assert not wide.sees()[real][:, others].any()


def test_errors_name_what_is_wrong():
    with pytest.raises(InputError, match="prefix"):
        builders.raster(0, 4)
    with pytest.raises(InputError, match="node 1"):
        builders.tree([-1, 1])
    column = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InputError, match="dies"):
        Layout(column, column, column, column, column)
