"""Codes as a function of noise: the law that it draws, and what depends on what."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import arra.generators
import arra.samplers  # noqa: F401  (registers)
from arra.errors import InputError
from arra.registry import generators, samplers
from arra.samplers.flow import FlowSampler, TokenFlow, expected_code, picture_noise
from arra.settings import SamplingConfig

CAPTIONS = ["a red 3", "a green 7 left of a blue 5", None]
KINDS = ("raster", "grid", "scales")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def total_variation(codes, law):
    found = torch.bincount(codes, minlength=len(law)) / len(codes)
    return float((found - law).abs().sum() / 2)


def test_noise_is_carried_onto_the_law():
    codes, law = F.normalize(normal(8, 4), dim=1), (2 * normal(8, seed=1)).softmax(-1)
    found = TokenFlow()(normal(20000, 4, seed=2), law.expand(20000, 8), codes)
    drawn = torch.multinomial(law, 20 * 20000, True, generator=torch.Generator().manual_seed(3))
    floor = sum(total_variation(part, law) for part in drawn.split(20000)) / 20
    assert total_variation(found, law) <= 2 * floor


def test_certain_and_impossible_codes():
    codes, noise = normal(6, 3), normal(300, 3, seed=1)
    for code in range(6):
        sure = F.one_hot(torch.tensor(code), 6).float().expand(300, 6)
        assert bool((TokenFlow(20)(noise, sure, codes) == code).all())
    law = torch.tensor([0.5, 0.0, 0.3, 0.0, 0.2, 0.0]).expand(300, 6)
    few = TokenFlow(5)(3 * noise, law, codes)
    assert set(few.tolist()) <= {0, 2, 4}


def test_the_way_to_a_single_code_is_straight():
    code, x = normal(1, 5), normal(7, 5, seed=1)
    for time in (0.0, 0.3, 0.99):
        torch.testing.assert_close(
            expected_code(x, time, torch.zeros(7, 1), code), code.expand(7, 5)
        )


def test_the_expectation_is_that_of_the_formula():
    codes, x, law = normal(5, 3), normal(4, 3, seed=1), normal(4, 5, seed=2).softmax(-1)
    time = 0.6
    for row in range(4):
        apart = (x[row] - time * codes).square().sum(-1)
        weights = (law[row] * torch.exp(-apart / (2 * (1 - time) ** 2))).double()
        expected = (weights @ codes.double()) / weights.sum()
        found = expected_code(x, time, law.log(), codes)[row]
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=KINDS)
def teacher(request):
    generator = generators[request.param].tiny().eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.mul_(6.0 if p.ndim == 2 else 1.0)
    return generator


def sampler_of(teacher, **settings):
    return FlowSampler(normal(teacher.codes, 4), SamplingConfig(**settings), TokenFlow(25))


def test_a_picture_is_a_function_of_its_noise(teacher):
    sampler, seeds = sampler_of(teacher, guidance=2.0), [5, 6, 7]
    together = sampler(teacher, CAPTIONS, seeds)
    length = together.shape[1]
    alone = [sampler(teacher, [c], [s]) for c, s in zip(CAPTIONS, seeds, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    noise = picture_noise(seeds, length, 4)
    assert torch.equal(sampler.follow(teacher, CAPTIONS, noise), together)
    assert not torch.equal(sampler(teacher, CAPTIONS, [8, 9, 10]), together)


def test_later_noise_changes_no_earlier_code_and_what_is_given_is_read(teacher):
    sampler = sampler_of(teacher, guidance=1.0)
    noise = picture_noise([1, 2], sampler(teacher, [None], [0]).shape[1], 4)
    codes, half = sampler.follow(teacher, CAPTIONS[:2], noise), noise.shape[1] // 2
    other = noise.clone()
    other[:, half:] = normal(*other[:, half:].shape, seed=9)
    changed = sampler.follow(teacher, CAPTIONS[:2], other)
    assert torch.equal(changed[:, :half], codes[:, :half])
    assert not torch.equal(changed, codes)
    # the first codes and the rest of the noise are all that counts
    lost = noise.clone()
    lost[:, :half] = 0.0
    again = sampler.follow(teacher, CAPTIONS[:2], lost, given=codes[:, :half])
    assert torch.equal(again, codes)


def test_filters_are_part_of_the_law(teacher):
    if teacher.registered_name == "grid":
        pytest.skip("as scales")
    greedy = SamplingConfig(guidance=2.0, top_k=1)
    plain = samplers[teacher.sampler](greedy)(teacher, CAPTIONS, [1, 2, 3])
    sampler = FlowSampler(normal(teacher.codes, 4), greedy, TokenFlow(10))
    assert torch.equal(sampler(teacher, CAPTIONS, [7, 8, 9]), plain)


def test_settings_are_checked():
    with pytest.raises(InputError, match="TokenFlow"):
        TokenFlow(end=1.0)
