"""Generators of entities: causality, cache, limits, gradients, and the samplers they share."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from arra.errors import InputError
from arra.generators.blocks import BlockGenerator
from arra.generators.entities import EntityGenerator
from arra.generators.vectors import Prompts, VectorConfig
from arra.heads.processes import TIMES, Flow
from arra.networks.rotary import axes_table
from arra.objectives.laws import NextVector
from arra.orders.entities import Entities
from arra.randomness import seeded
from arra.samplers.noise import PictureNoise
from arra.settings import LlamaSize, VectorOptions
from test_vectors import some_batch, spoilt

SIZE = LlamaSize(width=32, depth=2, heads=2, feed_forward=48)
TEXT = 9


def made(kind=EntityGenerator, grid=(4, 4), frames=1, channels=3, **options):
    """A generator that says something."""
    options = VectorOptions(**{"steps": 3, **options})
    config = VectorConfig(grid, channels * frames, text=TEXT, size=SIZE, options=options)
    with seeded(0):
        return spoilt(kind(dataclasses.replace(config, frames=frames)).eval())


def noisy():
    return made(side=2)


def clean():
    return made(side=2, context="clean")


def blocks():
    return made(BlockGenerator, side=2)


def clips():
    return made(BlockGenerator, (2, 2), frames=3)


def scales():
    return made(entity="scale")


ALL = (noisy, clean, blocks, clips, scales)
COPIES = (clean, blocks, clips)


def prompts(*ids):
    return Prompts.of(ids or ([1, 2, 3], [4], []), torch.device("cpu"))


def inputs(generator, rows=3, seed=0):
    """Vectors in the order of entities, noisy ones, and times."""
    random = torch.Generator().manual_seed(seed)
    shape = (rows, generator.positions, generator.channels)
    target, noisy = torch.randn(2, *shape, generator=random)
    return target, noisy, TIMES * torch.rand(rows, generator.units, generator=random)


@pytest.mark.parametrize("make", ALL)
def test_what_is_drawn_with_the_cache_is_what_is_learnt(make):
    """Velocity of entity n after clean ones, read one by one, is that of one pass over all."""
    generator = make()
    read, (target, noisy, time) = prompts(), inputs(generator)
    with torch.no_grad():
        cache = generator.begin([[1, 2, 3], [4], []], PictureNoise([0]).normal)
        for number, where in enumerate(generator.entities.slices):
            if number:
                generator.remember(cache, cache.drawn[-1])
            _, mean = generator.network.captions(read.ids, read.real)
            cached = generator._velocity(cache, noisy[:, where], time[:, number], mean)
            context = generator.context(target, None)
            here, now = noisy, time
            if context is None:  # then what is before is clean where the noisy ones stand
                here, now = target.clone(), torch.zeros_like(time)
                here[:, where], now[:, number] = noisy[:, where], time[:, number]
            whole, _ = generator.say(read, here, now, context)
            torch.testing.assert_close(cached, whole[:, where], rtol=1e-4, atol=2e-5)
            cache.drawn.append(target[:, where])


@pytest.mark.parametrize("make", [noisy, scales])
def test_noisy_context_is_read_by_later_entities_only(make):
    generator = make()
    _, x, time = inputs(generator)
    with torch.no_grad():
        before, _ = generator.say(prompts(), x, time)
        for number, where in enumerate(generator.entities.slices):
            other, later = x.clone(), time.clone()
            other[:, where] += 1.0
            later[:, number] *= 0.5
            for after in (
                generator.say(prompts(), other, time),
                generator.say(prompts(), x, later),
            ):
                assert torch.equal(after[0][:, : where.start], before[:, : where.start])
                moved = (after[0] - before).abs().amax(dim=(0, 2))
                assert bool((moved[where.start :] > 0).all())


@pytest.mark.parametrize("make", COPIES)
def test_of_two_copies_noisy_entities_see_clean_ones_before_them(make):
    """d out_i / d clean_j = 0 for j >= i, d out_i / d noisy_j = d out_i / d t_j = 0 for j != i."""
    generator = make()
    target, x, time = inputs(generator)
    target.requires_grad_(True)
    x.requires_grad_(True)
    time.requires_grad_(True)
    _, its_time = generator.context(target, None)
    said, _ = generator.say(prompts(), x, time, (target, its_time))
    slices = generator.entities.slices
    for number, where in enumerate(slices):
        gradients = torch.autograd.grad(
            said[:, where].square().sum(), (target, x, time), retain_graph=True
        )
        of_clean, of_noisy = (
            [bool(gradient[:, there].abs().sum() > 0) for there in slices]
            for gradient in gradients[:2]
        )
        assert of_clean == [other < number for other in range(len(slices))]
        assert of_noisy == [other == number for other in range(len(slices))]
        of_time = (gradients[2].abs().sum(dim=0) > 0).tolist()
        assert of_time == [other == number for other in range(len(slices))]


@pytest.mark.parametrize("make", [blocks, clips])
def test_a_clean_past_knows_neither_time_nor_caption(make):
    """So both rows of a guided pair remember the same."""
    generator = make()
    target, *_ = inputs(generator, rows=1)
    with torch.no_grad():
        cache = generator.begin([[1, 2, 3], []], PictureNoise([0]).normal)
        for where in generator.entities.slices[:-1]:
            cache.drawn.append(target[:, where])
            generator.remember(cache, cache.drawn[-1])
    words = 3
    for memory in cache.memories:
        for stored in memory.stored:
            assert stored.shape[2] == words + generator.entities.slices[-1].start
            pair = stored[:, :, words:]
            torch.testing.assert_close(pair[0], pair[1], rtol=0, atol=1e-6)
            assert not torch.allclose(stored[0, :, :words], stored[1, :, :words])


def test_a_conditioned_past_does():
    generator = clean()
    with torch.no_grad():
        cache = generator.begin([[1, 2, 3], []], PictureNoise([0]).normal)
        cache.drawn.append(torch.randn(1, 4, 3))
        generator.remember(cache, cache.drawn[-1])
    one, other = cache.memories[0].stored[0][:, :, 3:]
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("kind", [EntityGenerator, BlockGenerator])
def test_one_entity_is_a_plain_flow(kind):
    """No context: a transformer that sees all, told one time; its loss is that of SiT."""
    generator = made(kind, side=4)
    assert generator.units == 1
    batch = some_batch_of(generator)
    random = batch.stream()
    target = batch.latents[:, list(generator.entities.places)]
    share = torch.rand(3, generator=random)[:, None, None]
    noise = torch.randn(target.shape, generator=random)
    x = (1 - share) * target + share * noise
    network, read = generator.network, generator._read(batch)[0]
    with torch.no_grad():
        words, mean = network.captions(read.ids, read.real)
        state = torch.cat((words, network.inputs(x) + network.places), dim=1)
        told = mean + network.times(TIMES * share[:, 0, 0])
        length, prefix = state.shape[1], words.shape[1]
        sees = torch.ones(3, length, length, dtype=torch.bool)
        sees[:, :prefix, prefix:] = False
        sees[:, :, :prefix] &= read.real[:, None]
        sees |= (
            torch.eye(length, dtype=torch.bool)
            & ~torch.nn.functional.pad(read.real, (0, length - prefix), value=True)[:, :, None]
        )
        table = axes_table(generator.entities.coordinates(), 16, SIZE.rope_theta)
        still = torch.tensor([1.0, 0.0]).expand(prefix, *table.shape[1:])
        rotary = torch.cat((still, table))[None]
        neutral = torch.cat((torch.ones(2 * 32), torch.zeros(4 * 32))).expand(3, prefix, -1)
        for block in network.blocks:
            set_ = block.set(torch.nn.functional.silu(told))[:, None].expand(
                -1, length - prefix, -1
            )
            state = block.moved(
                state, torch.cat((neutral, set_), dim=1), rotary, sees[:, None], None
            )
        said = network.last(state[:, prefix:], told)
        expected = (said - (noise - target)).square().mean(dim=2)
        found = generator(batch).losses.view(3, -1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_copy_of_the_only_block_has_no_say():
    """The copy is left out where nobody would read it; with it all is the same, and no gradient."""
    generator = made(BlockGenerator, side=4)
    target, x, time = inputs(generator)
    assert generator.context(target, None) is None
    target.requires_grad_(True)
    without, _ = generator.say(prompts(), x, time)
    with_copy, _ = generator.say(prompts(), x, time, (target, None))
    torch.testing.assert_close(with_copy, without, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(with_copy.square().sum(), target)
    assert not bool(gradient.any())


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("objective", ["flow", "v", "epsilon"])
def test_at_the_start_the_loss_is_the_target_squared(make, objective):
    """Networks begin by saying 0, whatever the context is."""
    generator = type(made := make())(
        dataclasses.replace(
            made.config, options=dataclasses.replace(made.config.options, objective=objective)
        )
    )
    batch = some_batch_of(generator)
    losses = generator(batch).losses.view(3, -1)
    random, target = batch.stream(), generator.entities.gather(batch.latents)
    generator.process.times(3 * generator.units, random, torch.device("cpu"))
    noise = torch.randn(target.shape, generator=random)
    if objective == "epsilon":
        torch.testing.assert_close(losses, noise.square().mean(dim=2))
    elif objective == "flow":
        torch.testing.assert_close(losses, (noise - target).square().mean(dim=2))
    NextVector()(generator(batch), batch).backward()


def some_batch_of(generator):
    """Three captions of different lengths and random vectors, with noise that is told."""
    generator.tokenizer = _Ids()
    return some_batch(generator, ("123", "45", ""))


class _Ids:
    """Digits as ids."""

    def encode(self, caption, add_special_tokens=False):
        return [int(letter) for letter in caption]


def test_every_entity_has_a_time_of_its_own():
    generator = noisy()
    _, x, time = inputs(generator)
    same = time[:, :1].expand_as(time)
    with torch.no_grad():
        one, _ = generator.say(prompts(), x, time)
        other, _ = generator.say(prompts(), x, same)
    where = generator.entities.slices
    assert torch.allclose(one[:, where[0]], other[:, where[0]], atol=1e-6)
    assert not torch.allclose(one[:, where[1]], other[:, where[1]], atol=1e-3)


def test_time_zero_is_a_time():
    """Context in sampling stands at time 0, which training never draws: near it all is smooth."""
    generator = noisy()
    _, x, time = inputs(generator)
    with torch.no_grad():
        zero, near = (generator.say(prompts(), x, time * share)[0] for share in (0.0, 1e-5))
    assert bool(torch.isfinite(zero).all())
    torch.testing.assert_close(zero, near, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", ALL)
def test_positions_of_a_batch_say_where_they_stand(make):
    """What is learnt at a position is about the place that the batch names: alignment's is too."""
    generator = make()
    batch = some_batch_of(generator)
    places = batch.place[:, -generator.positions :]
    assert torch.equal(places, torch.tensor(generator.entities.places).expand_as(places))
    assert bool((batch.place[:, : -generator.positions] == -1).all())
    assert sum(rows * columns for rows, columns in generator.grids) == generator.positions


def test_who_knows_the_picture_draws_it():
    """With the true velocity (x - data) / s Euler's way ends at the data, entity by entity."""
    generator = made(side=2, steps=8)
    data = torch.randn(1, 16, 3, generator=torch.Generator().manual_seed(5))

    def velocity(cache, x, time, mean):
        here = generator.entities.gather(data)[:, generator.entities.slices[len(cache.drawn)]]
        return (x - here) / (time[:, None, None] / TIMES)

    generator._velocity = velocity
    noise = PictureNoise([3]).normal
    with torch.no_grad():
        cache = generator.begin([[1]], noise)
        for _ in range(generator.units):
            generator.unit(cache, noise, 1.0, 1.0)
    torch.testing.assert_close(generator.drawn(cache), data, rtol=1e-4, atol=1e-4)


def test_one_step_with_the_true_velocity_is_the_data():
    data, noise = torch.randn(2, 5, 3)
    for share in (0.04, 0.5, 1.0):
        x = (1 - share) * data + share * noise
        torch.testing.assert_close(x - share * (noise - data), data, rtol=1e-5, atol=1e-5)


def test_the_drift_of_the_stochastic_flow():
    """v - s score with score = -((1 - s) v + x) / s is (2 - s) v + x (SiT, xAR's sampler), and
    without score and noise the stochastic way is Euler's."""
    v, x = torch.randn(2, 100, 3, dtype=torch.float64)
    for s in (0.04, 0.3, 1.0):
        score = -((1 - s) * v + x) / s
        torch.testing.assert_close(v - s * score, (2 - s) * v + x)


def test_the_stochastic_flow_keeps_the_law():
    """Of standard normal data the posterior's velocity is known; all along the way the variance
    is (1 - s)^2 + s^2, and so 1 at the end."""
    random = torch.Generator().manual_seed(0)
    flow, seen = Flow(steps=250, stochastic=True), {}

    def velocity(x, time):
        s = time[:, None] / TIMES
        seen[float(time[0]) / TIMES] = float(x.var())
        return (2 * s - 1) / ((1 - s).square() + s.square()) * x

    drawn = flow.sample(velocity, torch.randn(250, 20_000, 1, generator=random))
    for s, variance in seen.items():
        assert variance == pytest.approx((1 - s) ** 2 + s**2, rel=0.06)
    assert float(drawn.var()) == pytest.approx(1.0, rel=0.06)


def test_clips_are_frames_side_by_side():
    generator = clips()
    assert generator.codes_shape == (2, 2, 9)
    assert generator.units == 3
    assert generator.grids == ((2, 2),) * 3
    assert generator.entities == Entities.of_frames((2, 2), 3)
    with pytest.raises(InputError, match="frames: 4, which does not divide"):
        VectorConfig((2, 2), 9, frames=4)
