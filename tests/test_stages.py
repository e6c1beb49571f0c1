"""Stages of growing resolution: the algebra of their joints, paths, clock and samples."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from arra.errors import InputError
from arra.heads.processes import TIMES, Flow, Segment
from arra.heads.stages import GAMMA, block_noise, coarser, jump, repeated, stages

LEVELS = (2 / 3, 1 / 3)


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def white(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=random(seed), dtype=torch.float64)


@pytest.mark.parametrize(("number", "level"), enumerate(LEVELS, start=1))
def test_a_jump_keeps_the_law(number, level):
    """Its mean is (1 - s) of the enlarged picture, its covariance s^2 of the identity, exactly."""
    found = stages(3)[number]
    assert found.kept == pytest.approx(1 / (1 + level), rel=1e-12)
    assert found.added == pytest.approx(math.sqrt(3) * level / (1 + level), rel=1e-12)
    assert found.start == pytest.approx(2 * level / (1 + level), rel=1e-12)
    assert found.kept * (1 - level) == pytest.approx(1 - found.start, rel=1e-12)
    ones, eye = torch.ones(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    covariance = (found.kept * level) ** 2 * ones
    covariance += found.added**2 * ((1 + GAMMA) * eye - GAMMA * ones)
    torch.testing.assert_close(covariance, found.start**2 * eye, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [GAMMA, 0.2, 0.05])
def test_block_noise_has_its_covariance(gamma):
    """As a linear map of white noise, and any gamma repairs the jump; none does so for nothing."""
    basis = torch.eye(4, dtype=torch.float64).view(4, 1, 2, 2)
    root = block_noise(basis, gamma).view(4, 4)
    ones, eye = torch.ones(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(root.T @ root, (1 + gamma) * eye - gamma * ones)
    found, level = stages(3, gamma=gamma)[1], 2 / 3
    total = (found.kept * level) ** 2 * ones + found.added**2 * root.T @ root
    torch.testing.assert_close(total, found.start**2 * eye)
    assert stages(3, gamma=1e-12)[1].kept < 1e-5  # all is lost: there is no repair without gamma


def test_blocks_of_the_strongest_noise_have_no_mean():
    noise = block_noise(white(2, 3, 8, 6))
    assert float(torch.nn.functional.avg_pool2d(noise, 2).abs().max()) < 1e-12


def test_what_training_has_is_where_sampling_comes():
    """The end of a stage, jumped, is the start of the next, with noises of one pyramid."""
    clean, fine = white(2, 3, 4, 4), white(2, 3, 8, 8, seed=1)
    for before, after in pairwise(stages(3)):
        end = before.end * coarser(fine) + (1 - before.end) * clean
        start = after.start * fine + (1 - after.start) * repeated(clean)
        torch.testing.assert_close(jump(end, fine, after), start, rtol=1e-12, atol=1e-12)


def test_coarser_noise_is_white():
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    root = coarser(basis).view(16, 4)
    torch.testing.assert_close(root.T @ root, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_clock_is_shared_without_gaps_or_overlap(count):
    found = stages(count)
    clocks = [stage.clock for stage in found]
    assert clocks[0][0] == 1.0
    assert clocks[-1][1] == 0.0
    assert all(one[1] == two[0] for one, two in pairwise(clocks))
    total = sum(stage.start - stage.end for stage in found)
    for stage, (first, last) in zip(found, clocks, strict=True):
        assert first - last == pytest.approx((stage.start - stage.end) / total, rel=1e-9)
    assert [stage.end for stage in found] == pytest.approx(
        [1 - (k + 1) / count for k in range(count)]
    )
    assert (found[0].start, found[0].kept, found[0].added) == (1.0, 0.0, 1.0)


def test_one_stage_is_a_flow():
    """Bit for bit: times, losses and samples."""
    (stage,) = stages(1)
    flow, segment = Flow(steps=5), Segment(*stage.clock, steps=5)
    data, noise = torch.randn(2, 7, 3, generator=random())
    time = flow.times(7, random(1), data.device)
    assert torch.equal(segment.times(7, random(1), data.device), time)

    def network(x, t):
        return x.sin() * t[:, None] / TIMES

    assert torch.equal(*(p.losses(network, data, time, noise) for p in (flow, segment)))
    assert torch.equal(*(p.sample(network, noise[None]) for p in (flow, segment)))


def test_a_way_is_straight_and_its_ends_are_its_own():
    segment, (end, start) = Segment(0.8, 0.3, steps=1), torch.randn(2, 50, 3, generator=random())
    seen = []

    def network(x, time):
        seen.append((x, time))
        return start - end

    times = segment.times(50, random(1), end.device)
    assert 300.0 <= float(times.min()) < float(times.max()) <= 800.0
    assert float(segment.losses(network, end, times, start).max()) < 1e-6
    for clock, expected in ((800.0, start), (300.0, end)):
        segment.losses(network, end, torch.full((50,), clock), start)
        torch.testing.assert_close(seen[-1][0], expected)
    drawn = segment.sample(network, start[None])
    torch.testing.assert_close(drawn, end, rtol=1e-5, atol=1e-5)
    assert float(seen[-1][1][0]) == pytest.approx(800.0)


def test_saying_nothing_costs_the_way_squared():
    end, start = torch.randn(2, 50, 3, generator=random())
    losses = Segment(0.8, 0.3).losses(lambda x, t: 0 * x, end, torch.full((50,), 500.0), start)
    torch.testing.assert_close(losses, (start - end).square().mean(dim=1))


@pytest.mark.parametrize("steps", [20, 80])
def test_a_gaussian_law_is_drawn(steps):
    """Pictures of 4 x 4 with known mean and covariance in two stages whose velocities are known:
    the error falls with the number of steps."""
    basis = torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)
    root = basis + 0.8 * repeated(torch.nn.functional.avg_pool2d(basis, 2))
    mean, root = white(1, 1, 4, 4, seed=3), 0.5 * root.view(16, 16)
    covariance = root.T @ root
    down = torch.nn.functional.avg_pool2d(basis, 2).view(16, 4)
    up = repeated(torch.eye(4, dtype=torch.float64).view(4, 1, 2, 2)).view(4, 16)
    first, second = stages(2)
    noise = 2 * down  # coarse noise of fine noise
    eye = torch.eye(16, dtype=torch.float64)
    # start and end of both stages, as linear maps of the picture and the fine noise
    ways = (
        ((0 * down, noise), ((1 - first.end) * down, first.end * noise)),
        (((1 - second.start) * down @ up, second.start * eye), (eye, 0 * eye)),
    )
    moments = (torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    for number, (begin, end) in enumerate(ways):
        if number:
            moments = _jumped(moments, second, up)
        moments = _flowed(moments, begin, end, mean.flatten(), covariance, steps)
    error = float((moments[1] - covariance).norm() / covariance.norm())
    assert float((moments[0] - mean.flatten()).abs().max()) < 4.0 / steps
    assert error < 4.0 / steps


def _jumped(moments, stage, up):
    """Mean and covariance after a jump."""
    mean, covariance = moments
    root = block_noise(torch.eye(16, dtype=torch.float64).view(16, 1, 4, 4)).view(16, 16)
    added = stage.added**2 * root.T @ root
    return stage.kept * mean @ up, stage.kept**2 * up.T @ covariance @ up + added


def _flowed(moments, begin, end, mean, covariance, steps):
    """Mean and covariance after Euler's steps with the exact velocity E[start - end | x], which is
    affine in x."""
    current, spread = moments
    for number in range(steps):
        r = 1.0 - number / steps
        place, noise = (r * one + (1 - r) * two for one, two in zip(begin, end, strict=True))
        way, push = (one - two for one, two in zip(begin, end, strict=True))
        law = place.T @ covariance @ place + noise.T @ noise
        cross = place.T @ covariance @ way + noise.T @ push
        gain = torch.linalg.pinv(law, rtol=1e-12, hermitian=True) @ cross
        step = torch.eye(len(law), dtype=torch.float64) - gain / steps
        current = current - (mean @ way + (current - mean @ place) @ gain) / steps
        spread = step.T @ spread @ step
    return current, spread


@pytest.mark.parametrize("cuts", [(0.5, 0.5, 0.0), (0.5, 0.2, 0.1), (1.0, 0.5, 0.0), (0.5, 0.0)])
def test_levels_fall_to_nothing(cuts):
    with pytest.raises(InputError, match="stages"):
        stages(3, cuts)
    with pytest.raises(InputError, match="Segment"):
        Segment(0.2, 0.5)


def final_spread(blur: float, steps: int = 400) -> float:
    """Deviation of a block's mean after the second of two stages that reads where the first ended,
    in that of training's ways: the exact velocity of Gaussian data, followed in small steps.

    Of the mean x of a block, the noise n of the first stage, and the noise upon what is read,
    everything is a linear map of (x, n, b), all standard normal.
    """
    before, after = stages(2)
    told = np.array([1.0 - before.end, before.end, blur])  # what is read
    start = np.array([1.0 - after.start, after.start / 2, 0.0])  # the mean of its four is n / 2
    end = np.array([1.0, 0.0, 0.0])

    def cov(one, other):
        return float(one @ other)

    # the state of the sample as a linear map of the same three, moved by E[start - end | x_r, read]
    state = start.copy()
    for number in range(steps):
        r = 1.0 - number / steps
        path = r * start + (1.0 - r) * end
        known = np.array([[cov(path, path), cov(path, told)], [cov(told, path), cov(told, told)]])
        target = np.array([cov(start - end, path), cov(start - end, told)])
        weight = np.linalg.lstsq(known, target, rcond=1e-10)[0]
        state = state - (weight[0] * state + weight[1] * told) / steps
    return float(np.linalg.norm(state))


def test_who_reads_where_it_begins_cannot_vary():
    """A stage that is told where the last one ended knows its own start; noise upon it helps."""
    assert final_spread(0.5) == pytest.approx(1.0, abs=0.01)
    assert final_spread(0.0) < 0.9
