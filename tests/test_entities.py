"""Entities of a grid: partitions, masks as layouts, and rotary positions that rotate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arra.errors import InputError
from arra.networks.rotary import axes_table, rotary_table, rotate
from arra.orders import builders
from arra.orders.entities import Entities, in_blocks

KINDS = ("token", "cell", "subsample", "scale", "image")


@st.composite
def partitions(draw, kinds=KINDS):
    """Entities of any kind, of a grid of any size."""
    kind, side = draw(st.sampled_from(kinds)), draw(st.integers(1, 4))
    grid = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if kind == "subsample":
        grid = grid[0] * side, grid[1] * side
    return Entities.of(kind, grid, side)


def places_of(grid):
    """(1, n, 1): the number of each place."""
    return torch.arange(grid[0] * grid[1]).float()[None, :, None]


@given(partitions(), st.integers(1, 3))
def test_what_is_gathered_is_restored(entities, channels):
    rows, columns = entities.grids[-1]
    values = torch.randn(2, rows * columns, channels)
    gathered = entities.gather(values)
    assert gathered.shape == (2, len(entities.places), channels)
    assert torch.equal(entities.restore(gathered), values)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_frames_lie_side_by_side_in_a_vector(frames, rows, columns, channels):
    entities = Entities.of_frames((rows, columns), frames)
    values = torch.randn(2, rows * columns, frames * channels)
    gathered = entities.gather(values)
    assert torch.equal(entities.restore(gathered), values)
    for number, where in enumerate(entities.slices):
        frame = values[:, :, number * channels : (number + 1) * channels]
        assert torch.equal(gathered[:, where], frame)
        if frames > 1:  # of a picture there is no such axis
            assert bool((entities.coordinates()[where, 0] == number).all())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_a_cell_is_a_square_in_raster_order(down, right, side):
    """The paper's rearrangement "(h k1) (w k2) -> (h w) (k1 k2)"."""
    grid = (down * side, right * side)
    found = Entities.of("cell", grid, side).gather(places_of(grid))[0, :, 0]
    squares = places_of(grid).view(down, side, right, side).permute(0, 2, 1, 3)
    assert torch.equal(found, squares.flatten())


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_members_of_a_subsample_are_far_apart(down, right, side):
    """The paper's rearrangement "(d1 h) (d2 w) -> (h w) (d1 d2)"."""
    grid = (down * side, right * side)
    found = Entities.of("subsample", grid, side).gather(places_of(grid))[0, :, 0]
    apart = places_of(grid).view(side, down, side, right).permute(1, 3, 0, 2)
    assert torch.equal(found, apart.flatten())


@given(st.integers(1, 8))
def test_extremes_are_tokens_and_the_picture(side):
    grid = (side, side)
    tokens, image = Entities.of("token", grid), Entities.of("image", grid)
    for kind in ("cell", "subsample"):
        assert Entities.of(kind, grid, 1) == tokens
        assert Entities.of(kind, grid, side) == image
    assert tokens.places == image.places == tuple(range(side * side))
    assert image.sizes == (side * side,)


def test_cells_at_the_edge_may_be_smaller():
    entities = Entities.of("cell", (3, 5), 2)
    assert entities.sizes == (4, 4, 2, 2, 2, 1)
    assert entities.places == (0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14)


def test_scales_are_means_of_the_picture():
    entities = Entities.of("scale", (4, 4))
    assert entities.grids == ((1, 1), (2, 2), (4, 4))
    values = torch.randn(1, 16, 1)
    first, second, last = entities.gather(values).split(entities.sizes, dim=1)
    torch.testing.assert_close(first, values.mean(dim=1, keepdim=True))
    quarters = values.view(2, 2, 2, 2).mean(dim=(1, 3)).flatten()[None, :, None]
    torch.testing.assert_close(second, quarters)
    assert torch.equal(last, values)
    # a cell of a smaller scale stands in the middle of what it covers
    assert entities.coordinates()[0].tolist() == [1.5, 1.5]
    assert entities.coordinates()[1].tolist() == [0.5, 0.5]


@given(partitions())
def test_each_position_belongs_to_one_entity(entities):
    owner = entities.owner()
    for number, where in enumerate(entities.slices):
        assert bool((owner[where] == number).all())
        assert where.stop - where.start == entities.sizes[number]
    assert entities.slices[-1].stop == len(entities.places) == len(owner)


def test_what_is_no_partition_is_refused():
    with pytest.raises(InputError, match="side: 3 does not divide"):
        Entities.of("subsample", (4, 4), 3)
    with pytest.raises(InputError, match="each of 4 places once"):
        Entities(((2, 2),), (0, 1, 1, 3), (4,))


# ---- what sees what ------------------------------------------------------------------------------

SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=5)


@given(SIZES, st.integers(0, 3))
def test_an_entity_sees_itself_and_what_is_before(sizes, prefix):
    layout = in_blocks(sizes, prefix=prefix)
    sees, owner = (
        layout.sees(),
        [-1] * prefix
        + Entities(((1, sum(sizes)),), tuple(range(sum(sizes))), tuple(sizes)).owner().tolist(),
    )
    for query, mine in enumerate(owner):
        assert sees[query].tolist() == [other <= mine for other in owner]
        assert int(sees[query].sum()) == prefix + sum(sizes[: mine + 1])
    assert torch.equal(layout.target[prefix:], torch.arange(sum(sizes)))


@given(SIZES, st.integers(0, 3))
def test_a_noisy_entity_sees_clean_ones_before_it_and_itself(sizes, prefix):
    """SCAM as ACDiT's paper and code have it, and words that all see."""
    owner = [number for number, size in enumerate(sizes) for _ in range(size)]
    role = [("word", -1)] * prefix + [("clean", n) for n in owner] + [("noisy", n) for n in owner]

    def expected(query, key):
        (what, mine), (seen, other) = role[query], role[key]
        if seen == "word":
            return True
        if seen == "clean":
            return (what == "clean" and other <= mine) or (what == "noisy" and other < mine)
        return what == "noisy" and other == mine

    sees = in_blocks(sizes, clean=True, prefix=prefix).sees()
    for query in range(len(role)):
        assert sees[query].tolist() == [expected(query, key) for key in range(len(role))]


@given(st.integers(1, 5), st.integers(1, 3))
def test_two_copies_are_those_of_the_builder_in_another_order(blocks, size):
    whole = builders.clean_and_noisy(blocks, size).sees()
    at = torch.arange(2 * blocks * size).view(
        blocks, 2, size
    )  # a block's noisy copy, its clean one
    order = torch.cat((at[:, 1].flatten(), at[:, 0].flatten()))
    assert torch.equal(in_blocks([size] * blocks, clean=True).sees(), whole[order][:, order])


@given(st.integers(1, 6), st.integers(1, 3))
def test_two_copies_cost_so_many_pairs_of_blocks(blocks, size):
    """What a sparse kernel computes: N (N + 1) / 2 + N (N - 1) / 2 + N = N^2 + N."""
    sees = in_blocks([size] * blocks, clean=True).sees()
    pairs = sees.view(2 * blocks, size, 2 * blocks, size).any(dim=3).any(dim=1)
    assert int(pairs.sum()) == blocks**2 + blocks
    assert int(sees.sum()) == int(pairs.sum()) * size**2  # whole blocks only


def test_flex_attention_takes_the_same_mask():
    """The rule as a function of indices, for kernels that skip what is hidden."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    layout = in_blocks([2, 1, 3], clean=True, prefix=2)

    def rule(batch, head, query, key):
        born = layout.now[key] <= layout.now[query]
        return born & (layout.now[query] < layout.dies[key])

    made = flex.create_mask(rule, None, None, len(layout), len(layout), device="cpu")
    assert torch.equal(made[0, 0], layout.sees())


# ---- rotary positions ----------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_rotary_positions_are_a_rotation(axes):
    """Norms stay, and a logit depends on the distance along each axis alone."""
    torch.manual_seed(0)
    where = torch.randint(0, 9, (40, axes)).float()
    query, key = torch.randn(2, 1, 40, 2, 16, dtype=torch.float64).float()

    def turned(x, shift):
        return rotate(x, axes_table(where + shift, 16, 100.0)[None])

    torch.testing.assert_close(turned(query, 0).norm(dim=-1), query.norm(dim=-1))
    logits = [
        torch.einsum("rqhd,rkhd->rhqk", turned(query, shift), turned(key, shift))
        for shift in (torch.zeros(axes), torch.tensor([3.0, -5.0, 7.0])[:axes])
    ]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(turned(query, 0), query)


def test_rotary_positions_of_two_axes_are_those_of_a_grid():
    where = Entities.of("token", (3, 5)).coordinates()
    torch.testing.assert_close(
        axes_table(where, 16, 100.0), rotary_table((3, 5), 16, 100.0)[1:], rtol=0, atol=1e-6
    )


def test_an_axis_has_rotary_positions_of_its_own():
    """Of three axes, moved along one: only its pairs turn, as those of one axis do."""
    still, moved = torch.zeros(1, 3), torch.tensor([[0.0, 4.0, 0.0]])
    changed = axes_table(moved, 16, 100.0) != axes_table(still, 16, 100.0)
    assert changed.any(dim=-1)[0].tolist() == [False] * 2 + [True] * 3 + [False] * 3
    alone = axes_table(torch.tensor([[4.0]]), 6, 100.0)
    assert torch.equal(axes_table(moved, 16, 100.0)[:, 2:5], alone)


def test_heads_that_are_too_small_for_the_axes():
    with pytest.raises(InputError, match="6 or more"):
        axes_table(torch.zeros(2, 3), 4, 100.0)
