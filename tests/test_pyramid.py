"""The order of scales: positions, layout and what each cell covers, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from arra.errors import InputError
from arra.experiments.layout_plot import mask_colours, plot_layout
from arra.orders.builders import causal
from arra.orders.layout import NO_TARGET
from arra.orders.pyramid import Pyramid

SIDE = st.integers(1, 5)
PYRAMIDS = st.builds(Pyramid, st.lists(st.tuples(SIDE, SIDE), min_size=1, max_size=4).map(tuple))
VAR = Pyramid.square((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))


@settings(max_examples=25, deadline=None)
@given(PYRAMIDS)
def test_positions_against_a_loop(pyramid):
    found = [
        (level, row, column)
        for level, (rows, columns) in enumerate(pyramid.sizes)
        for row in range(rows)
        for column in range(columns)
    ]
    assert len(found) == pyramid.length
    together = torch.cat((pyramid.levels()[:, None], pyramid.cells()), dim=1)
    assert together.tolist() == [list(entry) for entry in found]
    places = torch.arange(pyramid.length)
    assert [part.tolist() for part in pyramid.split(places[None])] == [
        [places[here].tolist()] for here in pyramid.slices
    ]


@settings(max_examples=25, deadline=None)
@given(PYRAMIDS, st.integers(0, 3))
def test_every_scale_sees_itself_the_coarser_ones_and_the_text(pyramid, prefix):
    layout = pyramid.layout(prefix)
    level = [-1] * prefix + pyramid.levels().tolist()
    sees = layout.sees()
    for q, query in enumerate(level):
        for k, key in enumerate(level):
            assert bool(sees[q, k]) == (key <= query)
    assert layout.target[:prefix].tolist() == [NO_TARGET] * prefix
    assert layout.target[prefix:].tolist() == list(range(pyramid.length))
    assert torch.equal(layout.place, layout.target)


def test_the_pyramid_of_the_paper():
    """680 positions; a row of the mask sees all cells up to its scale."""
    assert VAR.length == 680
    seen = VAR.layout().sees().sum(dim=1)
    total = 0
    for here, count in zip(VAR.slices, VAR.counts, strict=True):
        total += count
        assert set(seen[here].tolist()) == {total}
    assert int(seen.sum()) == 286_434  # query-key pairs, as M-VAR counts them


def test_scales_of_one_cell_are_plain_causal_order():
    one = Pyramid(((1, 1),) * 5)
    assert torch.equal(one.layout().sees(), causal(5).sees())


@settings(max_examples=25, deadline=None)
@given(PYRAMIDS)
def test_a_cell_covers_what_area_downsampling_averages(pyramid):
    """Each column of the identity is a picture with one place lit."""
    count = pyramid.counts[-1]
    lit = torch.eye(count).view(count, 1, *pyramid.grid)
    touched = [F.adaptive_avg_pool2d(lit, size).flatten(1).T > 0 for size in pyramid.sizes]
    assert torch.equal(pyramid.covers(), torch.cat(touched))


def test_what_a_mask_keeps():
    pyramid = Pyramid(((1, 1), (2, 2), (4, 4)))
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, :, :2] = True  # the left half of the first picture, nothing of the second
    kept = pyramid.kept(mask)
    assert kept[0].tolist() == [True] + [True, False] * 2 + [True, True, False, False] * 4
    assert not kept[1].any()
    assert not pyramid.kept(mask, forced=0)[0, 0]  # exactly half is not more than half
    assert pyramid.kept(mask, forced=4)[0, :5].all()
    with pytest.raises(InputError, match="mask"):
        pyramid.kept(mask[:, :2])


@pytest.mark.parametrize("sizes", [(), ((0, 1),), ((1, 2, 3),)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(InputError, match=r"Pyramid\.sizes"):
        Pyramid(sizes)


def test_the_picture_of_a_layout_shows_its_mask(tmp_path):
    layout = Pyramid(((1, 1), (1, 2), (2, 2))).layout(prefix=2)
    colours = mask_colours(layout)
    assert ((colours == 1.0).all(axis=2) == ~layout.sees().numpy()).all()
    last = colours[-1]  # sees everything: two of text, then three scales
    assert len(np.unique(last, axis=0)) == 4
    assert (last[0] == last[1]).all()
    plot_layout(layout, tmp_path / "mask.png", "three scales")
    assert Image.open(tmp_path / "mask.png").size[0] > 100
