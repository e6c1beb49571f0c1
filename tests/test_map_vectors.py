"""Generators that draw maps coarse to fine: what sees what, caches, losses, and what is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from arra.errors import InputError
from arra.generators.pyramid_flow import PyramidFlowGenerator
from arra.generators.scale_flow import ScaleFlowGenerator
from arra.generators.vectors import Prompts, VectorConfig
from arra.heads.processes import Flow
from arra.heads.stages import jump, repeated
from arra.randomness import seeded
from arra.samplers.noise import PictureNoise
from arra.settings import BatchConfig, LlamaSize, VectorOptions
from test_vectors import SomeStore, spoilt

KINDS = (ScaleFlowGenerator, PyramidFlowGenerator)
SIZE = LlamaSize(width=32, depth=2, heads=2, feed_forward=48, rope_theta=100.0)
TEXTS = ([3, 1, 2], [], [4])
GUIDED = [[3, 1], [4], [], []]


def make(kind=ScaleFlowGenerator, grid=(4, 4), **options):
    """A generator of vectors of 3 numbers that says something."""
    given = VectorOptions(**{"steps": 3, "inner": 16, "inner_depth": 1, **options})
    with seeded(0):
        made = kind(VectorConfig(grid, 3, 6, longest=8, size=SIZE, options=given))
    return spoilt(made).eval()


def maps(generator, rows: int, seed: int = 0) -> torch.Tensor:
    shape = (rows, generator.pyramid.length, 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def states_of(generator, codes, texts=TEXTS):
    read = generator.scales.inputs(codes, generator.pyramid)
    with torch.no_grad():
        return generator._states(Prompts.of(texts, torch.device("cpu")), read)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_scale_is_read_by_finer_ones_alone(kind):
    generator = make(kind)
    codes = maps(generator, 3)
    before = states_of(generator, codes)
    for level, here in enumerate(generator.pyramid.slices):
        other = codes.clone()
        other[:, here] += torch.randn(3, here.stop - here.start, 3)
        moved = (states_of(generator, other) - before).abs().amax(dim=(0, 2)) > 0
        levels = generator.pyramid.levels()
        assert torch.equal(moved, levels > level), "every cell of every finer scale, no other"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [TEXTS, ([], [], []), ([1, 2], [3, 4], [5, 1])])
def test_cached_states_are_masked_ones(kind, texts):
    generator = make(kind)
    codes = maps(generator, 3)
    expected = generator.pyramid.split(states_of(generator, codes, texts))
    cache = generator.begin(texts, PictureNoise([1, 2, 3]).normal)
    drawn = iter(generator.pyramid.split(codes))
    found = []

    def sample(process, noise, states, rotary, scale, temperature):
        found.append(states)
        return next(drawn)

    generator.head.sample = sample
    with torch.no_grad():
        for _ in range(generator.units):
            generator.unit(cache, PictureNoise([1, 2, 3]).normal, 1.0, 1.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_a_batch_do_not_know_each_other(kind):
    generator = make(kind)
    codes, order = maps(generator, 3), [2, 0, 1]
    permuted = states_of(generator, codes[order], [TEXTS[n] for n in order])
    torch.testing.assert_close(permuted, states_of(generator, codes)[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pair_counts_only_with_guidance(kind):
    """Scale 1: what the null half says is not heard; guided until no noise: no scale is."""
    drawn = {}
    for name, scale, null, until in (
        ("plain", 1.0, [], 1.0),
        ("other null", 1.0, [5], 1.0),
        ("never", 4.0, [], 0.0),
        ("guided", 4.0, [], 1.0),
    ):
        generator, noise = make(kind, guided_until=until), PictureNoise([1, 2]).normal
        cache = generator.begin([[3, 1], [4], null, null], noise)
        with torch.no_grad():
            for _ in range(generator.units):
                generator.unit(cache, noise, scale, 1.0)
        drawn[name] = generator.drawn(cache)
    assert torch.equal(drawn["plain"], drawn["other null"])
    assert torch.equal(drawn["plain"], drawn["never"])
    assert not torch.allclose(drawn["plain"], drawn["guided"], atol=1e-2)


def test_a_ramp_of_guidance_begins_late():
    """The first unit without guidance leaves the null half's cache as it must be for the second."""
    drawn = []
    for scales in ((1.0, 3.0, 3.0), (1.0 + 1e-7, 3.0, 3.0)):
        generator, noise = make(), PictureNoise([1, 2]).normal
        cache = generator.begin(GUIDED, noise)
        with torch.no_grad():
            for scale in scales:
                generator.unit(cache, noise, scale, 1.0)
        drawn.append(generator.drawn(cache))
    torch.testing.assert_close(*drawn, rtol=1e-3, atol=1e-3)


# ---- scales --------------------------------------------------------------------------------------


def test_the_loss_is_flowars_up_to_a_constant():
    """Sum over scales of the mean loss times the scale's share of the last one's cells."""
    generator = make()
    batch = _batch(generator)
    with torch.no_grad():
        losses = generator(batch).losses
    per_scale = generator.pyramid.split(losses.view(len(batch.latents), -1))
    cells = generator.pyramid.counts
    total = sum(float(x.mean()) * n / cells[-1] for x, n in zip(per_scale, cells, strict=True))
    factor = generator.pyramid.length / cells[-1]
    assert total == pytest.approx(float(losses.mean()) * factor, rel=1e-5)
    by_tokens = float(losses.view(len(batch.latents), -1).sum(dim=1).mean()) / cells[-1]
    assert total == pytest.approx(by_tokens, rel=1e-5)


def test_the_first_loss_is_a_closed_number():
    """Of an untrained model: each scale has 1 + the mean square of its own numbers."""
    given = VectorOptions(steps=3, inner=16, inner_depth=1)
    with seeded(0):
        config = VectorConfig((4, 4), 3, 6, longest=8, size=SIZE, options=given)
        generator = ScaleFlowGenerator(config).eval()
    batch = _batch(generator, 3000)
    with torch.no_grad():
        losses = generator(batch).losses.view(3000, -1)
    averaged = generator.scales.averaged(batch.latents, generator.pyramid)
    for loss, here in zip(
        generator.pyramid.split(losses), generator.pyramid.split(averaged), strict=True
    ):
        assert float(loss.mean()) == pytest.approx(1 + float(here.square().mean()), rel=0.05)


def test_one_scale_is_a_flow_of_the_whole_picture():
    """Captions say all there is: nothing is read, and every position starts from the caption."""
    generator = make(scales=(4,))
    assert generator.grids == ((4, 4),)
    assert generator.units == 1
    batch = _batch(generator, 2)
    prompts, latents = generator._read(batch)
    random = batch.stream()
    noise = torch.randn(latents.shape, generator=random)
    with torch.no_grad():
        states, _ = generator._states(prompts, latents[:, :0])
        expected = generator.head.losses(
            Flow(), latents, noise, states, generator.inner_rotary, random
        )
        found = generator(batch).losses
    torch.testing.assert_close(found, expected.flatten())


def test_the_first_scale_may_have_many_cells():
    """Each of them starts from the caption, as VAR's single one does."""
    generator = make(scales=(2, 4))
    assert generator.grids == ((2, 2), (4, 4))
    assert states_of(generator, maps(generator, 3)).shape == (3, 20, 32)
    with pytest.raises(InputError, match="growing"):
        make(scales=(4, 2))


def test_an_exact_velocity_draws_the_scales():
    """A head that knows them gives them back in one step, whatever the noise is."""
    generator = make(steps=1)
    codes = generator.scales.averaged(torch.randn(2, 16, 3), generator.pyramid)
    noise = PictureNoise([1, 2]).normal
    cache = generator.begin([[1], [2]], noise)
    for here in generator.pyramid.split(codes):
        generator.head.network.forward = lambda x, time, states, rotary, known=here: x - known
        generator.unit(cache, noise, 1.0, 1.0)
        drawn = cache.drawn.flatten(2).transpose(1, 2)
        torch.testing.assert_close(drawn, here, rtol=1e-5, atol=1e-5)


# ---- stages --------------------------------------------------------------------------------------


def test_stages_join():
    """Training's ways: what the end of one is, jumped with the finer noise, is the next's start."""
    generator = make(PyramidFlowGenerator, stages=3)
    assert generator.grids == ((1, 1), (2, 2), (4, 4))
    latents = torch.randn(2, 16, 3)
    ways = generator.ways(latents, torch.Generator().manual_seed(3))
    fine = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    end = ways[1].end.transpose(1, 2).unflatten(2, (2, 2))
    start = ways[2].start.transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(jump(end, fine, generator.stages[2]), start, rtol=1e-5, atol=1e-5)
    assert torch.equal(ways[2].end, latents)
    assert all(torch.equal(way.read, way.end) for way in ways)
    blurred = make(PyramidFlowGenerator, stages=3, blur=0.5)
    others = blurred.ways(latents.repeat(2000, 1, 1), torch.Generator().manual_seed(3))
    for way in others:
        upon = way.read - way.end
        assert float(upon.std()) == pytest.approx(0.5, rel=0.05)
        assert abs(float((upon * way.end).mean())) < 0.02


@pytest.mark.parametrize("blur", [0.0, 0.5])
def test_an_exact_velocity_draws_in_one_step_a_stage(blur):
    generator = make(PyramidFlowGenerator, stages=3, steps=1, blur=blur)
    latents = torch.randn(2, 16, 3)
    clean = generator._grids(generator.scales.averaged(latents, generator.pyramid))
    noise = PictureNoise([1, 2]).normal
    cache = generator.begin([[1], [2]], noise)
    for stage, here in zip(generator.stages, clean, strict=True):
        before = repeated(clean[cache.level - 1]) if cache.level else 0 * here

        def network(x, time, states, rotary, stage=stage, here=here, before=before):
            grid = x.transpose(1, 2).unflatten(2, here.shape[2:])
            white = (grid - (1 - stage.start) * before) / stage.start
            end = stage.end * white + (1 - stage.end) * here
            return x - end.flatten(2).transpose(1, 2)

        generator.head.network.forward = network
        generator.unit(cache, noise, 1.0, 1.0)
        if not blur and cache.level < generator.units:
            assert torch.equal(cache.read, cache.drawn)
    torch.testing.assert_close(generator.drawn(cache), latents, rtol=1e-4, atol=1e-4)


def test_the_head_is_told_the_shared_clock():
    generator = make(PyramidFlowGenerator, stages=3, steps=2)
    told = []
    plain = generator.head.network.forward

    def network(x, time, states, rotary):
        told.append(float(time[0]))
        return plain(x, time, states, rotary)

    generator.head.network.forward = network
    noise = PictureNoise([1]).normal
    cache = generator.begin([[1]], noise)
    with torch.no_grad():
        for _ in range(3):
            generator.unit(cache, noise, 1.0, 1.0)
    clocks = [stage.clock for stage in generator.stages]
    expected = [1000 * t for a, b in clocks for t in (a, (a + b) / 2)]
    assert told == pytest.approx(expected)


def test_stages_are_as_many_as_the_grid_has():
    assert make(PyramidFlowGenerator, (6, 6)).grids == ((3, 3), (6, 6))
    assert make(PyramidFlowGenerator, (5, 4)).grids == ((5, 4),)
    with pytest.raises(InputError, match="objective v"):
        make(PyramidFlowGenerator, objective="v")


def _batch(generator, rows: int = 6):
    """Random pictures with captions of ids of this generator, without a tokenizer."""
    texts = [TEXTS[n % 3] for n in range(rows)]

    class Known(SomeStore):
        def __init__(self):
            self.texts = texts
            shape = (rows, *generator.codes_shape)
            self.codes = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    batches = generator.batches(Known(), BatchConfig(rows, drop_caption=0.0))
    return replace(batches.batch(0), seed=torch.tensor(3))
