"""A flow that remembers: sequences of a caption, both forms of its network, drawing by steps."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch

from arra.errors import InputError
from arra.experiments.digits import MemoryStore
from arra.generators.trajectory import TrajectoryGenerator, from_noise
from arra.generators.trajectory_batches import TrajectoryBatches
from arra.heads.processes import TIMES, Flow
from arra.networks.gated_memory import Carried, Chunks, in_sequences
from arra.samplers.noise import PictureNoise
from arra.samplers.vectors import VectorSampler
from arra.settings import BatchConfig, SamplingConfig

WORDS = ("a red 3", "a green 7", "a blue 5")


def generator_of(**options) -> TrajectoryGenerator:
    """The tiny one with other options; its zeros replaced by noise, so that it says something."""
    config = TrajectoryGenerator.tiny().config
    config = dataclasses.replace(config, options=dataclasses.replace(config.options, **options))
    torch.manual_seed(0)
    made = TrajectoryGenerator(config, TrajectoryGenerator.tiny().tokenizer).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if not bool(parameter.any()):
                parameter.normal_(std=0.2)
    return made


def store_of(generator: TrajectoryGenerator, counts=(7, 12, 5)) -> MemoryStore:
    """So many random pictures of each caption."""
    texts = [
        generator.caption_ids(word)
        for word, count in zip(WORDS, counts, strict=True)
        for _ in range(count)
    ]
    random = torch.Generator().manual_seed(0)
    return MemoryStore(texts, torch.randn(len(texts), *generator.codes_shape, generator=random))


def some_batch(generator: TrajectoryGenerator, size: int = 12, **config):
    """A batch of three sequences of one caption each, with noise that is told."""
    store = store_of(generator, (5, 5, 5))
    batch = generator.batches(store, BatchConfig(size, drop_caption=0.0, **config)).batch(0)
    return dataclasses.replace(batch, seed=torch.tensor(3))


@pytest.mark.parametrize("size", [5, 8])
def test_an_epoch_has_every_row_once_in_sequences_of_a_caption(size):
    generator = generator_of()
    store = store_of(generator, (10, 15, 15))
    batches = generator.batches(store, BatchConfig(size, drop_caption=0.5))
    seen: list[int] = []
    for step in range(40 // size):
        batch = batches.batch(step)
        assert batch.group is not None
        rows = batches._indices(step)
        seen += rows
        texts = [store.rows([row]).text_ids[0] for row in rows]
        for number in batch.group.unique():
            here = [i for i, group in enumerate(batch.group.tolist()) if group == number]
            assert len(here) <= 5
            assert len({tuple(texts[i]) for i in here}) == 1
            kept = {int((batch.segment[i] >= 0).sum()) > generator.positions for i in here}
            assert len(kept) == 1  # a sequence loses its caption as a whole
            assert here == list(range(here[0], here[-1] + 1))
        if size == 5:
            assert bool((batch.group == 0).all())
    assert sorted(seen) == list(range(40))
    again = generator.batches(store, BatchConfig(size, drop_caption=0.5)).batch(2)
    assert torch.equal(again.tokens, batches.batch(2).tokens)
    assert torch.equal(again.group, batches.batch(2).group)


def test_captions_of_few_pictures_have_short_sequences_and_it_is_said():
    generator = generator_of()
    store = store_of(generator, (2, 7, 1))
    with pytest.warns(UserWarning, match="of 3 captions 2 have fewer"):
        batch = generator.batches(store, BatchConfig(10)).batch(0)
    assert sorted(batch.group.bincount().tolist()) == [1, 2, 2, 5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generator.batches(store_of(generator, (5, 6, 7)), BatchConfig(10)).batch(0)


def test_the_control_has_pictures_of_any_caption():
    generator = generator_of()
    store = store_of(generator, (20, 20, 20))
    batches = TrajectoryBatches(store, BatchConfig(30), None, list, 4, 5, alike=False)
    group, rows = batches.batch(0).group, batches._indices(0)
    assert group.bincount().tolist() == [5] * 6
    captions = [{row // 20 for row in rows[5 * n : 5 * n + 5]} for n in range(6)]
    assert max(map(len, captions)) > 1


def test_held_out_rows_of_a_caption_are_sequences():
    generator = generator_of()
    batches = generator.batches(store_of(generator, (7, 12, 5)), BatchConfig(4))
    group = next(batches.in_order(24)).group
    assert group.tolist() == [0] * 5 + [1] * 2 + [2] * 5 + [3] * 5 + [4] * 2 + [5] * 5


def test_times_fall_from_noise_and_are_those_of_sorted_uniform_numbers():
    time = torch.rand(5 * 4000, generator=torch.Generator().manual_seed(0))
    chunks = Chunks(torch.randperm(len(time)).view(-1, 5))
    found = from_noise(time, chunks)
    assert torch.equal(found.sort().values, time.sort().values)
    assert bool((found[chunks.order].diff(dim=1) <= 0).all())
    expected = torch.arange(5, 0, -1) / 6  # the mean of the i-th of S is i / (S + 1)
    assert torch.allclose(found[chunks.order].mean(dim=0), expected, atol=0.01)
    short = Chunks(in_sequences(torch.tensor([0, 1, 1])))
    assert from_noise(torch.tensor([0.1, 0.2, 0.3]), short).tolist() == pytest.approx(
        [0.1, 0.3, 0.2]
    )


@torch.no_grad()
def test_pictures_know_of_those_before_them_in_their_sequence():
    generator = generator_of()
    batch = some_batch(generator)
    before = generator(batch).losses.view(12, -1)
    for row in range(12):
        latents = batch.latents.clone()
        latents[row] += 1.0
        after = generator(dataclasses.replace(batch, latents=latents)).losses.view(12, -1)
        changed = ((after - before).abs() > 1e-7).any(dim=1)
        later = (batch.group == batch.group[row]) & (torch.arange(12) >= row)
        assert torch.equal(changed, later)


@torch.no_grad()
def test_a_sequence_of_one_is_no_memory():
    generator, plain = generator_of(), generator_of(sequence=1)
    plain.load_state_dict(generator.state_dict())
    batch = some_batch(generator)
    alone = dataclasses.replace(batch, group=torch.arange(12))
    assert torch.equal(plain(batch).losses, plain(alone).losses)
    assert torch.equal(plain(batch).losses, generator(alone).losses)
    assert not torch.allclose(plain(batch).losses, generator(batch).losses)


@torch.no_grad()
@pytest.mark.parametrize("decay", ["chunk", "raster"])
def test_a_sequence_at_once_is_its_pictures_one_by_one(decay):
    """The whole network, with words before the pictures."""
    generator = generator_of(read_decay=decay)
    batch = some_batch(generator, 5)
    prompts, latents = generator._read(batch)
    said, time = generator._said(prompts), torch.linspace(900.0, 10.0, 5)
    chunks = generator._chunks(prompts.real, torch.arange(5)[None])
    whole, _ = generator._velocity(latents, time, said, chunks)
    memories = [Carried() for _ in generator.blocks]
    for row in range(5):
        here = slice(row, row + 1)
        one, _ = generator._velocity(
            latents[here],
            time[here],
            generator._said(prompts[here]),
            generator._chunks(prompts.real[here], torch.zeros(1, 1, dtype=torch.int64)),
            memories,
        )
        torch.testing.assert_close(one, whole[here], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_untrained_network_loses_the_velocity_itself():
    generator = TrajectoryGenerator.tiny().eval()
    batch = some_batch(generator)
    random = batch.stream()
    assert random is not None
    generator.process.times(12, random, torch.device("cpu"))
    noise = torch.randn(batch.latents.shape, generator=random)
    expected = (noise - batch.latents).square().mean(dim=2).flatten()
    torch.testing.assert_close(generator(batch).losses, expected)


@torch.no_grad()
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("remembers", [False, True])
def test_drawing_is_the_solver_with_what_the_network_remembers(stochastic, remembers):
    generator = generator_of(steps=4, stochastic=stochastic, sequence=5 if remembers else 1)
    drawn = VectorSampler(SamplingConfig(1.0, temperature=0.7))(generator, ["a red 3"], [5])
    noise = PictureNoise([5]).normal
    flow = generator.process
    start = torch.cat([noise(4, 3)[:, None] for _ in range(flow.draws)], dim=1).transpose(0, 1)
    ids = torch.tensor([generator.prompt_ids("a red 3")])
    said = generator._said(generator_prompts(ids))
    chunks = generator._chunks(torch.ones_like(ids, dtype=torch.bool), torch.zeros(1, 1).long())
    memories = [Carried() for _ in generator.blocks] if remembers else None
    found = flow.sample(
        lambda x, t: generator._velocity(x, t, said, chunks, memories)[0], start, 0.7
    )
    torch.testing.assert_close(drawn.view_as(found), found, rtol=1e-4, atol=1e-5)


def generator_prompts(ids: torch.Tensor):
    from arra.generators.vectors import Prompts

    return Prompts(ids, torch.ones_like(ids, dtype=torch.bool))


def test_the_way_is_straight():
    """x - s v is the data and x + (1 - s) v the noise."""
    random = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 6, 3, generator=random)
    time = TIMES * torch.rand(6, generator=random)
    share = (time / TIMES)[:, None]

    def predict(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        torch.testing.assert_close(x - share * (noise - data), data)
        torch.testing.assert_close(x + (1.0 - share) * (noise - data), noise)
        return noise - data

    assert float(Flow().losses(predict, data, time, noise).abs().max()) == 0.0


@pytest.mark.parametrize("stochastic", [False, True])
def test_steps_with_the_exact_velocity_draw_a_gaussian(stochastic):
    mean, deviation = 0.7, 0.5

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        s = (time / TIMES)[:, None]
        variance = (1 - s) ** 2 * deviation**2 + s**2
        apart = (x - (1 - s) * mean) / variance
        return s * apart - (mean + (1 - s) * deviation**2 * apart)

    flow = Flow(steps=200, stochastic=stochastic)
    noise = torch.randn(flow.draws, 20_000, 1, generator=torch.Generator().manual_seed(0))
    drawn = flow.sample(velocity, noise)
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.02)
    assert float(drawn.std()) == pytest.approx(deviation, abs=0.02)


def test_what_is_no_flow_is_refused():
    config = TrajectoryGenerator.tiny().config
    options = dataclasses.replace(config.options, objective="v")
    with pytest.raises(InputError, match="'v', but a trajectory is one of flow"):
        TrajectoryGenerator(dataclasses.replace(config, options=options))
    with pytest.raises(InputError, match="sequence: 0"):
        dataclasses.replace(config.options, sequence=0)
    with pytest.raises(InputError, match="read_decay"):
        dataclasses.replace(config.options, read_decay="none")


def test_pairs_have_memories_of_their_own():
    """A scale that begins at 1 leaves the pair's memory as every scale does."""
    generator = generator_of(steps=3)
    prompts = [generator.prompt_ids("a red 3"), generator.prompt_ids(None)]
    states = []
    with torch.no_grad():
        for rows in (prompts, prompts[:1], prompts[1:]):
            noise = PictureNoise([5]).normal
            cache = generator.begin(rows, noise)
            generator.unit(cache, noise, 1.0, 1.0)
            states.append(cache.memories[0].state)
    assert np.allclose(states[0], torch.cat(states[1:]), atol=1e-5)
    assert not np.allclose(states[1], states[2], atol=1e-3)
