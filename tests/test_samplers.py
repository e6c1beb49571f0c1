"""Samplers: laws by enumeration, guidance in batches, seeds, caches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import arra.generators
import arra.samplers  # noqa: F401  (registers)
from arra.errors import InputError
from arra.generators.backspacing import BackspaceStepper, with_backspace
from arra.guidance import guide
from arra.registry import generators, samplers
from arra.samplers.ancestral import AncestralSampler
from arra.samplers.logits import SamplingConfig, law, top_k_filter, top_p_filter
from arra.samplers.noise import PictureNoise, draw

CAPTIONS = ["a red 3", "a green 7 left of a blue 5", "a blue 5", None]
SEEDS = [11, 12, 13, 14]


# Sampler -> the generator whose steps it takes.
STEPPERS = {
    "ancestral": "raster",
    "scales": "scales",
    "masked": "masked",
    "backtracking": "raster",
    "vectors": "masked-vectors",
    "speculative": "raster",
    "noise": "grid-student",
}


def decided(name):
    """A generator whose laws depend visibly on caption and history."""
    generator = generators[name].tiny().eval()
    with torch.no_grad():
        for p in generator.parameters():
            p.mul_(6.0 if p.ndim == 2 else 1.0)
    return generator


@pytest.fixture(scope="module")
def generator():
    return decided("raster")


@pytest.mark.parametrize("name", list(samplers))
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_same_seed_same_picture_in_any_company(name, guidance):
    generator = decided(STEPPERS[name])
    if name == "backtracking":
        generator = BackspaceStepper.of_pictures(with_backspace(generator))
    sampler = samplers[name](SamplingConfig(guidance=guidance))
    if getattr(generator, "taught", False):  # draws as its teacher did
        generator.config = replace(generator.config, sampling=SamplingConfig(guidance=guidance))
    together = sampler(generator, CAPTIONS, SEEDS)
    assert torch.equal(together, sampler(generator, CAPTIONS, SEEDS))

    def same(one, other):
        if name == "vectors":  # no argmax takes the rounding of products away
            torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
        else:
            assert torch.equal(one, other)

    alone = [sampler(generator, [c], [s]) for c, s in zip(CAPTIONS, SEEDS, strict=True)]
    same(together, torch.cat(alone))
    chunks = sampler(generator, CAPTIONS, SEEDS, batch=3)
    same(together, chunks)
    order = [2, 0, 3, 1]
    mixed = sampler(generator, [CAPTIONS[i] for i in order], [SEEDS[i] for i in order])
    same(mixed, together[order])
    assert not torch.equal(together, sampler(generator, CAPTIONS, [s + 1 for s in SEEDS]))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_against_the_loop_without_a_cache(generator, guidance):
    """Every unit from a fresh forward pass of plain transformers, one picture at a time."""
    config = SamplingConfig(guidance=guidance, temperature=0.8, top_k=9, top_p=0.95)
    got = AncestralSampler(config)(generator, CAPTIONS[:2], SEEDS[:2])
    vocabulary = generator.config.vocabulary
    pictures = slice(vocabulary.offset, vocabulary.offset + vocabulary.codes)
    for caption, seed, codes in zip(CAPTIONS, SEEDS, got, strict=False):
        noise = PictureNoise([seed])
        drawn = []
        for _ in range(generator.units):
            branches = []
            for text in (caption, None):
                ids = generator.prompt_ids(text) + [c + vocabulary.offset for c in drawn]
                with torch.no_grad():
                    branches.append(generator.lm(torch.tensor([ids])).logits[:, -1, pictures])
            logits = guide(*branches, guidance)
            race = noise.exponential(vocabulary.codes, torch.device("cpu"))
            drawn.append(int(draw(law(logits, config), race)))
        assert drawn == codes.tolist()


def test_drawing_follows_the_law():
    """An exponential race draws each index with its probability (chi-squared over many draws)."""
    p = torch.tensor([0.5, 0.25, 0.15, 0.1, 0.0])
    count = 20000
    noise = PictureNoise([5]).exponential(5 * count, torch.device("cpu")).view(count, 5)
    seen = torch.bincount(draw(p.expand(count, 5), noise), minlength=5).double()
    assert seen[4] == 0
    expected = p[:4].double() * count
    assert ((seen[:4] - expected) ** 2 / expected).sum() < 16.3  # 0.1 % point at 3 degrees


def test_guidance_identities(generator):
    c, u = torch.randn(2, 7), torch.randn(2, 7)
    assert torch.equal(guide(c, u, 0.0), u)
    torch.testing.assert_close(guide(c, u, 1.0), c)
    torch.testing.assert_close(guide(c, c, 5.0), c)
    one = AncestralSampler(SamplingConfig(guidance=1.0))
    assert not one.config.guided  # a single branch
    same = AncestralSampler(SamplingConfig(guidance=4.0))(generator, [None], [3])
    assert torch.equal(same, one(generator, [None], [3]))  # caption = no caption: nothing to guide


def test_guidance_schedules():
    constant = SamplingConfig(guidance=3.0)
    assert [constant.scale(i, 5) for i in range(5)] == [3.0] * 5
    linear = SamplingConfig(guidance=3.0, guidance_schedule="linear")
    assert [linear.scale(i, 5) for i in range(5)] == [1.0, 1.5, 2.0, 2.5, 3.0]
    cosine = SamplingConfig(guidance=3.0, guidance_schedule="cosine")
    assert [round(cosine.scale(i, 3), 6) for i in range(3)] == [1.0, 2.0, 3.0]
    part = SamplingConfig(guidance=3.0, guidance_from=0.25, guidance_until=0.5)
    assert [part.scale(i, 5) for i in range(5)] == [1.0, 3.0, 3.0, 1.0, 1.0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(0, 14))
def test_top_k(values, k):
    logits = torch.tensor([values])
    kept = torch.isfinite(top_k_filter(logits, k))[0]
    if k == 0 or k >= len(values):
        assert bool(kept.all())
    else:
        least = sorted(values, reverse=True)[k - 1]
        assert kept.tolist() == [v >= torch.tensor(least).item() for v in logits[0].tolist()]


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True), st.floats(0.01, 1.0))
def test_top_p(values, p):
    logits = torch.tensor([values], dtype=torch.float64) / 10
    kept = torch.isfinite(top_p_filter(logits, p))[0].tolist()
    order = sorted(range(len(values)), key=lambda i: -values[i])
    total = sum(math.exp(v / 10) for v in values)
    expected, mass = [False] * len(values), 0.0
    for i in order:
        expected[i] = mass < p - 1e-12 or p >= 1.0 or mass == 0.0
        mass += math.exp(values[i] / 10) / total
    assert kept == expected


def test_limits_of_the_law():
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    greedy = torch.tensor([[0.0, 1.0, 0.0]])
    assert torch.equal(law(logits, SamplingConfig(top_k=1)), greedy)
    assert torch.equal(law(logits, SamplingConfig(temperature=0.0)), greedy)
    assert torch.equal(law(logits, SamplingConfig(top_p=1e-9)), greedy)
    torch.testing.assert_close(law(logits, SamplingConfig()), logits.softmax(-1))


def test_a_given_prefix_is_kept(generator):
    """Units that are given are not drawn, and what follows depends on them, not on the draw."""
    sampler = AncestralSampler()
    free = sampler(generator, CAPTIONS[:2], SEEDS[:2])
    assert torch.equal(sampler(generator, CAPTIONS[:2], SEEDS[:2], prefix=free[:, :4]), free)
    other = sampler(generator, CAPTIONS[:2], SEEDS[:2], prefix=(free[:, :4] + 1) % 16)
    assert torch.equal(other[:, :4], (free[:, :4] + 1) % 16)
    assert not torch.equal(other[:, 4:], free[:, 4:])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guidance", float("nan")),
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", float("nan")),
        ("guidance_from", 2.0),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(InputError, match=field):
        SamplingConfig(**{field: value})


def test_captions_and_seeds_must_pair(generator):
    with pytest.raises(InputError, match="1 captions and 2 seeds"):
        AncestralSampler()(generator, ["a red 3"], [1, 2])
    assert AncestralSampler()(generator, [], []).shape == (0, 9)
