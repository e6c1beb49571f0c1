"""Multi-scale residual quantisation: the exact checks of VAR's quantiser, and its training."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from arra.codecs.multiscale import MultiScaleCodec, MultiScaleConfig, usage_by_scale
from arra.codecs.pyramids import ResidualConfig, ResidualPyramid, shared_phi
from arra.errors import InputError
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded

PYRAMID = Pyramid(((1, 1), (2, 2), (3, 4), (4, 6)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def residual(**settings) -> ResidualPyramid:
    """A pyramid whose codes are of the size of latents."""
    with seeded(1):
        made = ResidualPyramid(ResidualConfig(**{"vocabulary": 12, "width": 3, **settings}))
    made.codebook.data.copy_(noise(12, made.width, seed=2) * 0.7)
    return made


def naive(scales: ResidualPyramid, latents: Tensor, pyramid: Pyramid) -> tuple[list, list, list]:
    """Algorithm 1 of the paper, cell by cell; codes, sums after every scale and phi used."""
    rest, total = latents.clone(), torch.zeros_like(latents)
    codes, sums, last = [], [], len(pyramid.sizes) - 1
    for level, (rows, columns) in enumerate(pyramid.sizes):
        small = F.interpolate(rest, size=(rows, columns), mode="area") if level < last else rest
        found = torch.zeros(len(latents), rows, columns, dtype=torch.int64)
        for b in range(len(latents)):
            for i in range(rows):
                for j in range(columns):
                    gaps = [(small[b, :, i, j] - code).square().sum() for code in scales.codebook]
                    found[b, i, j] = int(torch.stack(gaps).argmin())
        h = scales.codebook[found].permute(0, 3, 1, 2)
        if level < last:
            h = F.interpolate(h, size=pyramid.grid, mode="bicubic")
        if scales.phi:
            ticks = torch.linspace(1 / 12, 11 / 12, 4)
            h = 0.5 * h + 0.5 * scales.phi[int((ticks - level / last).abs().argmin())](h)
        total, rest = total + h, rest - h
        codes.append(found.flatten(1))
        sums.append(total)
    return (
        codes,
        sums,
        [
            F.interpolate(s, size=n, mode="area").flatten(2).transpose(1, 2)
            for s, n in zip(sums, pyramid.sizes[1:], strict=False)
        ],
    )


@pytest.mark.parametrize("phi", [0, 4])
def test_against_the_algorithm_of_the_paper(phi: int) -> None:
    scales, latents = residual(phi=phi), noise(2, 3, 4, 6)
    codes, sums, read = naive(scales, latents, PYRAMID)
    steps = list(scales.quantize(latents, PYRAMID))
    for step, expected, total in zip(steps, codes, sums, strict=True):
        assert torch.equal(step.codes, expected)
        torch.testing.assert_close(step.state, total)
    inputs = scales.inputs(torch.cat(codes, dim=1), PYRAMID)
    torch.testing.assert_close(inputs, torch.cat(read, dim=1))


def test_one_function_for_quantising_teacher_forcing_and_sampling() -> None:
    """Bit for bit: sums of the quantiser, of all codes at once, and of scale after scale."""
    scales, latents = residual(), noise(2, 3, 4, 6)
    steps = list(scales.quantize(latents, PYRAMID))
    codes = torch.cat([step.codes for step in steps], dim=1)
    state, read = scales.begin(2, PYRAMID, codes.device), []
    for level, step in enumerate(steps):
        state = scales.add(state, codes[:, PYRAMID.slices[level]], level, PYRAMID)
        assert torch.equal(state, step.state)
        if level + 1 < len(steps):
            read.append(scales.read(state, level + 1, PYRAMID))
    assert torch.equal(scales.last(codes, PYRAMID), state)
    assert torch.equal(scales.inputs(codes, PYRAMID), torch.cat(read, dim=1))


def test_codes_of_a_scale_reach_the_inputs_of_finer_ones_only() -> None:
    scales = residual()
    codes = torch.zeros(1, PYRAMID.length, dtype=torch.int64)
    level = PYRAMID.levels()[PYRAMID.counts[0] :]  # of the inputs, which the first scale has not
    for changed, here in enumerate(PYRAMID.slices):
        other = codes.clone()
        other[:, here] = 5
        differs = (scales.inputs(other, PYRAMID) != scales.inputs(codes, PYRAMID)).any(dim=2)[0]
        assert torch.equal(differs, level > changed)


def test_one_scale_is_plain_vector_quantisation_with_phi() -> None:
    scales, latents, alone = residual(phi=1), noise(2, 3, 4, 6), Pyramid(((4, 6),))
    (step,) = scales.quantize(latents, alone)
    expected = torch.cdist(latents.flatten(2).transpose(1, 2), scales.codebook).argmin(dim=-1)
    assert torch.equal(step.codes, expected)
    h = scales.codebook[expected].transpose(1, 2).view(2, 3, 4, 6)
    torch.testing.assert_close(step.state, 0.5 * h + 0.5 * scales.phi[0](h))
    assert scales.inputs(step.codes, alone).shape == (2, 0, 3)


def test_the_error_never_grows_where_that_can_be_proved() -> None:
    """Without phi, with nearest enlarging, sizes that divide and a codebook that holds 0."""
    scales = residual(phi=0, enlarge="nearest")
    scales.codebook.data[3] = 0
    latents, pyramid = noise(3, 3, 8, 8), Pyramid.square((1, 2, 4, 8))
    errors = [latents.square().mean()]
    errors += [F.mse_loss(step.state, latents) for step in scales.quantize(latents, pyramid)]
    assert all(after <= before for before, after in itertools.pairwise(errors))
    assert errors[-1] < 0.6 * errors[0]


def test_scales_share_the_nearest_phi() -> None:
    assert [shared_phi(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [shared_phi(k, 4, 4) for k in range(4)] == [0, 1, 2, 3]
    assert {shared_phi(k, 5, 1) for k in range(5)} == {0}
    assert shared_phi(0, 1, 3) == 0


def codec(**settings) -> MultiScaleCodec:
    config = dataclasses.replace(MultiScaleCodec.tiny().config, **settings)
    return MultiScaleCodec.seeded(config, 0)


def test_gradients_of_the_quantiser() -> None:
    """Straight through to the latents; each loss trains one side, summed scales the codebook."""
    made, latents = codec().eval(), noise(2, 4, 4, 4).requires_grad_()
    quantized, codes, losses = made.quantize(latents)
    torch.testing.assert_close(quantized.detach(), made.lookup(codes).detach())
    (through,) = torch.autograd.grad(quantized.sum(), latents, retain_graph=True)
    assert torch.equal(through, torch.ones_like(latents))
    own = [made.scales.codebook, *made.scales.phi.parameters()]
    inside = torch.autograd.grad(
        losses["codebook"], [latents, *own], retain_graph=True, allow_unused=True
    )
    assert inside[0] is None
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in inside[1:])
    outside = torch.autograd.grad(losses["commitment"], [latents, *own], allow_unused=True)
    assert outside[1:] == (None,) * len(own)
    states = [step.state for step in made.scales.quantize(latents, made.pyramid)]
    expected = sum(2 * (latents - state) / latents.numel() for state in states) * 0.25 / len(states)
    torch.testing.assert_close(outside[0], expected.detach())


def test_the_first_codes_come_from_all_scales_alike() -> None:
    """Of 37 vectors a picture one is of the first scale: a quarter of the codes, not 1/37."""
    made = codec(sizes=((1, 1), (2, 2), (4, 4), (4, 4)), residual=ResidualConfig(64, 4, phi=0))
    latents = noise(64, 4, 4, 4)
    made.train()._revive(latents)
    means = made.scales.read(latents, 0, made.pyramid)[:, 0]
    spread = 0.15 * latents.std()
    near = torch.cdist(made.scales.codebook, means).amin(dim=1) < spread
    chance = torch.cdist(latents.flatten(2).transpose(1, 2).flatten(0, 1), means).amin(dim=1)
    assert near.sum() > 8
    assert (chance < spread).float().mean() < 0.05  # vectors of the last scale are elsewhere
    assert torch.equal(made.usage, torch.full((64,), 1 / 64))


def test_use_of_codes_by_scale() -> None:
    pyramid = Pyramid(((1, 1), (1, 2)))
    codes = torch.tensor([[3, 0, 1], [3, 1, 0]])
    assert usage_by_scale(codes, pyramid, 4) == pytest.approx([1.0, 2.0])


def test_other_sizes_than_the_pyramids_are_refused() -> None:
    with pytest.raises(InputError, match="expected 8 x 8"):
        codec().encode(torch.zeros(1, 3, 8, 12))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (MultiScaleConfig, {"commitment": -1.0}),
        (MultiScaleConfig, {"usage_decay": 1.0}),
        (MultiScaleConfig, {"dead_below": 1.0}),
        (ResidualConfig, {"vocabulary": 1}),
        (ResidualConfig, {"phi": -1}),
        (ResidualConfig, {"phi_share": 2.0}),
        (ResidualConfig, {"enlarge": "bilinear"}),
    ],
)
def test_wrong_settings_are_named(config: type, settings: dict) -> None:
    with pytest.raises(InputError, match=f"{config.__name__}.{next(iter(settings))}"):
        config(**settings)
