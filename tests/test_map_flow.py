"""Heads over maps, and the pyramid of vectors and the rotary places that they stand on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from arra.codecs.pyramids import VectorPyramid
from arra.errors import InputError
from arra.heads.map_flow import MapHead
from arra.heads.processes import TIMES, Diffusion, Flow, Segment
from arra.networks.map_denoiser import MapDenoiser
from arra.networks.rotary import rotary_table
from arra.orders.pyramid import Pyramid, halved_sizes

SCALES = Pyramid.square((1, 2, 4, 8))
TOLD = ("spatial", "pooled", "crossed")


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head_of(told: str = "spatial", spoilt: bool = True, **more) -> MapHead:
    """A small head over maps; its zeros replaced by noise, so that it says something."""
    torch.manual_seed(0)
    head = MapHead(6, 3, inner=16, depth=2, told=told, **more)
    for parameter in head.parameters() if spoilt else ():
        nn.init.normal_(parameter, std=0.2)
    return head.eval()


def table(size: tuple[int, int] = (2, 3)) -> torch.Tensor:
    return rotary_table(size, 16, 100.0, span=(4, 6))[1:]


# ---- the pyramid of vectors ----------------------------------------------------------------------


def test_scales_halve():
    assert halved_sizes((16, 16)) == ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16))
    assert halved_sizes((6, 5)) == ((1, 1), (2, 2), (3, 3), (6, 5))
    assert halved_sizes((12, 8), 5) == ((3, 2), (6, 4), (12, 8))
    assert halved_sizes((8, 8), 2) == ((4, 4), (8, 8))
    assert halved_sizes((1, 1)) == halved_sizes((1, 1), 3) == ((1, 1),)


def test_scales_are_means_and_means_of_means():
    latents = torch.randn(2, 64, 3, generator=random())
    maps = SCALES.split(VectorPyramid(3).averaged(latents, SCALES))
    grid = latents.view(2, 8, 8, 3)
    for level, side in enumerate((1, 2, 4)):
        step = 8 // side
        for row in range(side):
            for column in range(side):
                block = grid[:, row * step :][:, :step, column * step :][:, :, :step]
                mean = block.mean(dim=(1, 2))
                torch.testing.assert_close(maps[level][:, row * side + column], mean)
    assert torch.equal(maps[3], latents)
    again = VectorPyramid(3).averaged(maps[2], Pyramid.square((1, 2, 4)))
    torch.testing.assert_close(again, torch.cat(maps[:3], dim=1))


def test_what_a_scale_reads_is_smoothed_and_made_in_two_steps():
    """Not the scale itself, enlarged: bicubic to the whole size, then averaged down."""
    pyramid, codes = VectorPyramid(3), torch.randn(2, 85, 3, generator=random())
    read = pyramid.inputs(codes, SCALES)
    assert read.shape == (2, 84, 3)
    four = SCALES.split(codes)[2].transpose(1, 2).unflatten(2, (4, 4))
    whole = F.interpolate(four, (8, 8), mode="bicubic")
    torch.testing.assert_close(read[:, -64:], whole.flatten(2).transpose(1, 2))
    two = SCALES.split(codes)[1].transpose(1, 2).unflatten(2, (2, 2))
    back = F.interpolate(F.interpolate(two, (8, 8), mode="bicubic"), (2, 2), mode="area")
    assert not torch.allclose(back, two, atol=1e-2)
    flat = torch.full((1, 85, 3), 0.7)
    torch.testing.assert_close(pyramid.inputs(flat, SCALES), flat[:, 1:])


def test_nearest_repeats_and_the_last_scale_is_the_picture():
    pyramid, codes = VectorPyramid(2, "nearest"), torch.randn(1, 85, 2, generator=random())
    read = SCALES.split(torch.cat((codes[:, :1], pyramid.inputs(codes, SCALES)), dim=1))
    four = SCALES.split(codes)[2].view(4, 4, 2)
    assert torch.equal(read[3].view(8, 8, 2)[::2, 1::2], four)
    last = pyramid.last(codes, SCALES)
    assert torch.equal(last.flatten(2).transpose(1, 2), codes[:, -64:])


def test_the_same_place_turns_alike_at_all_sizes():
    """Cell (i, j) of a grid half as large stands where cell (2 i, 2 j) does."""
    large, small = (rotary_table(size, 16, 100.0, span=(8, 8))[1:] for size in ((8, 8), (4, 4)))
    large = large.view(8, 8, 8, 2)
    torch.testing.assert_close(small.view(4, 4, 8, 2), large[::2, ::2])
    assert torch.equal(rotary_table((8, 8), 16, 100.0)[1:], large.flatten(0, 1))


# ---- heads over maps -----------------------------------------------------------------------------


@pytest.mark.parametrize("told", TOLD)
def test_a_head_begins_at_zero_and_its_first_loss_is_known(told):
    """Who says 0 errs by the velocity squared: E |e - x|^2 = 1 + var x, vector by vector."""
    head = head_of(told, spoilt=False)
    target = 0.5 * torch.randn(4000, 6, 3, generator=random())
    noise = torch.randn(target.shape, generator=random(1))
    states = torch.randn(4000, 6, 6, generator=random(2))
    with torch.no_grad():
        losses = head.losses(Flow(), target, noise, states, table(), random(3))
    torch.testing.assert_close(losses, (noise - target).square().mean(dim=2))
    assert float(losses.mean()) == pytest.approx(1.25, rel=0.02)


def test_a_map_has_one_time_and_its_loss_is_that_of_a_loop():
    head, process = head_of(), Flow()
    target, noise = torch.randn(2, 5, 6, 3, generator=random())
    states = torch.randn(5, 6, 6, generator=random(1))
    with torch.no_grad():
        losses = head.losses(process, target, noise, states, table(), random(2))
        times = process.times(5, random(2), target.device)
        for row in range(5):
            share = times[row] / TIMES
            noisy = (1 - share) * target[row] + share * noise[row]
            said = head.network(noisy[None], times[row : row + 1], states[row : row + 1], table())
            expected = (said[0] - (noise[row] - target[row])).square().mean(dim=1)
            torch.testing.assert_close(losses[row], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("told", TOLD)
def test_who_is_told_what(told):
    """Without attention a position knows its own state alone, or the mean of all."""
    network = head_of(told).network
    for block in network.blocks:
        nn.init.zeros_(block.mixer.out.weight)
    x, states = torch.randn(1, 6, 3, generator=random()), torch.randn(1, 6, 6, generator=random(1))
    other = states.clone()
    other[:, 2] += 1.0
    with torch.no_grad():
        moved = [network(x, torch.tensor([300.0]), s, table()) for s in (states, other)]
        changed = (moved[1] - moved[0]).abs().amax(dim=2)[0] > 1e-6
        swapped = network(x, torch.tensor([300.0]), states[:, [1, 0, 2, 3, 4, 5]], table())
    assert changed.tolist() == ([n == 2 for n in range(6)] if told == "spatial" else [True] * 6)
    assert torch.allclose(swapped, moved[0], atol=1e-5) == (told == "pooled")


@pytest.mark.parametrize("told", TOLD)
def test_positions_of_a_map_see_each_other_and_maps_do_not(told):
    network = head_of(told).network
    x = torch.randn(3, 6, 3, generator=random())
    states, time = torch.randn(3, 6, 6, generator=random(1)), torch.tensor([100.0, 500.0, 900.0])
    other = x.clone()
    other[0, 5] += 1.0
    with torch.no_grad():
        one, two = (network(y, time, states, table()) for y in (x, other))
        order = [2, 0, 1]
        permuted = network(x[order], time[order], states[order], table())
    assert bool(((one - two)[0].abs().amax(dim=1) > 0).all())
    assert torch.equal(one[1:], two[1:])
    torch.testing.assert_close(permuted, one[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("told", TOLD)
def test_the_loss_flows_into_states_and_every_weight(told):
    head = head_of(told)
    target, noise = torch.randn(2, 4, 6, 3, generator=random())
    states = torch.randn(4, 6, 6, generator=random(1), requires_grad=True)
    head.losses(Flow(), target, noise, states, table(), random(2)).mean().backward()
    assert bool((states.grad != 0).any(dim=2).all())
    assert all(p.grad is not None and bool(p.grad.any()) for p in head.parameters())


@pytest.mark.parametrize(
    "process", [Flow(steps=6), Flow(steps=6, stochastic=True), Segment(0.7, 0.2)]
)
def test_guidance_is_exact(process):
    head = head_of()
    one, other = torch.randn(2, 4, 6, 6, generator=random())
    noise = torch.randn(process.draws, 4, 6, 3, generator=random(1))

    def sample(*states, scale=3.0, head=head):
        with torch.no_grad():
            return head.sample(process, noise, torch.cat(states), table(), scale)

    plain = sample(one)
    torch.testing.assert_close(sample(one, other, scale=1.0), plain, rtol=0, atol=0)
    torch.testing.assert_close(sample(one, one), plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(sample(one, other), plain, atol=1e-2)
    never = head_of(guided_until=0.0)  # guidance counts from no noise on: that is never
    torch.testing.assert_close(sample(one, other, head=never), plain, rtol=0, atol=0)
    half = sample(one, other, head=head_of(guided_until=0.5))
    assert not torch.allclose(half, plain, atol=1e-2)
    assert not torch.allclose(half, sample(one, other), atol=1e-2)


def test_diffusion_leads_to_maps_too():
    head, process = head_of(), Diffusion("v", steps=4)
    target, noise = torch.randn(2, 4, 6, 3, generator=random())
    states = torch.randn(4, 6, 6, generator=random(1))
    with torch.no_grad():
        assert head.losses(process, target, noise, states, table(), random(2)).shape == (4, 6)
        assert head.sample(process, noise[None], states, table()).shape == (4, 6, 3)


def test_unknown_ways_of_telling_are_refused():
    with pytest.raises(InputError, match=r"told.*'added'.*spatial"):
        MapDenoiser(3, 3, 6, 16, 1, "added")
