"""Contract of every registered generator of vectors, of their batches and their sampler."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import arra.generators
import arra.objectives.laws  # noqa: F401
from arra.errors import InputError
from arra.generators.rounds import drawn_after
from arra.registry import generators, objectives
from arra.samplers.noise import PictureNoise
from arra.samplers.vectors import VectorSampler
from arra.settings import BatchConfig, SamplingConfig, VectorOptions

NAMES = [name for name in list(generators) if generators[name].sampler == "vectors"]
CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "")


@pytest.fixture(params=NAMES)
def generator(request):
    return generators[request.param].tiny().eval()


def spoilt(generator):
    """Its zeros replaced by noise, so that it says something."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in generator.parameters():
            if not bool(parameter.any()):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=random))
    return generator


class SomeStore:
    """A row for each caption, with random vectors; its feature names the row."""

    def __init__(self, generator, captions=CAPTIONS):
        self.texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in captions]
        shape = (len(captions), *generator.codes_shape)
        self.codes = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(self.texts[i]) for i in indices])

    def rows(self, indices, features=None):
        return SimpleNamespace(
            text_ids=[self.texts[i] for i in indices],
            codes=self.codes[list(indices)],
            features={"row": torch.tensor(list(indices))[:, None]},
        )


def some_batch(generator, captions=CAPTIONS):
    """A batch of the generator's own making, with noise that is told."""
    config = BatchConfig(len(captions), drop_caption=0.0)
    batch = generator.batches(SomeStore(generator, captions), config).batch(0)
    return dataclasses.replace(batch, seed=torch.tensor(3))


def test_every_parameter_learns(generator):
    spoilt(generator).train()
    batch = some_batch(generator)
    output = generator(batch, layers=(1,))
    assert output.losses.shape == (int(batch.image.sum()),)
    sum(objectives[law]()(output, batch) for law in generator.laws).backward()
    without = [name for name, p in generator.named_parameters() if p.grad is None]
    assert without == []


ANOTHER = {
    "objective": "v", "noise_schedule": "zero-terminal", "entity": "token", "context": "clean",
    "read_decay": "raster", "told": "pooled", "scales": (1, 4), "guided_until": 0.5,
    "reading": 0.25, "least": 0.5, "asking": 0.25, "solver": "unipc",
}  # fmt: skip
"""A value that is not the default, where it is no count and no switch."""


def test_options_that_it_does_not_read_are_refused(generator):
    plain = VectorOptions()
    for option in dataclasses.fields(plain):
        if option.name in generator.reads:
            continue
        value = getattr(plain, option.name)
        other = ANOTHER[option.name] if option.name in ANOTHER else type(value)(value + 1)
        config = dataclasses.replace(
            generator.config, options=dataclasses.replace(plain, **{option.name: other})
        )
        with pytest.raises(InputError, match=rf"VectorOptions\.{option.name}: .* has no use of it"):
            type(generator)(config)


def test_every_option_is_read_by_some_generator():
    read = {name for kind in NAMES for name in generators[kind].reads}
    assert read == {option.name for option in dataclasses.fields(VectorOptions)}


def test_an_untrained_generator_predicts_zero(generator):
    """Networks and heads begin at zero, so the first loss is what is asked for, squared."""
    losses = generator(some_batch(generator, CAPTIONS * 16)).losses
    assert 0.8 < float(losses.mean()) < 2.4  # e of a diffusion 1, the velocity e - x of a flow 2


def test_states_stand_at_the_positions_of_the_batch(generator):
    batch = some_batch(generator)
    output = generator(batch, layers=range(1, generator.depth + 1))
    assert sorted(output.hidden) == list(range(1, generator.depth + 1))
    for states in output.hidden.values():
        assert states.shape == (*batch.tokens.shape, generator.width)
    assert int(batch.place.max()) + 1 <= sum(h * w for h, w in generator.grids)
    with pytest.raises(InputError, match="layer 9"):
        generator(batch, layers=(9,))


def test_blocks_are_as_many_as_layers(generator):
    blocks = generator.decoder_blocks()
    assert len(blocks) >= generator.depth  # layers of an encoder are blocks, too
    assert all(any(True for _ in block.parameters()) for block in blocks)


def test_padding_changes_nothing(generator):
    spoilt(generator)
    batch = some_batch(generator)

    def padded(x, value):
        return torch.nn.functional.pad(x, (5, 0), value=value)

    wider = dataclasses.replace(
        batch,
        tokens=padded(batch.tokens, 0),
        segment=padded(batch.segment, -1),
        position=padded(batch.position, 0),
        target=padded(batch.target, -100),
        image=padded(batch.image, False),
        place=padded(batch.place, -1),
        read=padded(batch.read, -1),
    )
    one, other = generator(batch).losses, generator(wider).losses
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_caption_matters(generator):
    spoilt(generator)
    batch = some_batch(generator)
    other = dataclasses.replace(
        batch, tokens=batch.tokens.where(batch.tokens <= 4, batch.tokens - 1)
    )
    assert not torch.equal(batch.tokens, other.tokens)
    assert not torch.allclose(generator(batch).losses, generator(other).losses)


def test_rows_do_not_know_each_other(generator):
    """Pictures of a batch are drawn as if each were alone, whatever the others are."""
    spoilt(generator)
    sampler = VectorSampler(SamplingConfig(2.0))
    together = sampler(generator, ["a red 3", "a green 7", None], [1, 2, 3])
    assert together.shape == (3, int(np.prod(generator.codes_shape)))
    assert bool(torch.isfinite(together).all())
    alone = torch.cat(
        [
            sampler(generator, [caption], [seed])
            for caption, seed in (("a red 3", 1), ("a green 7", 2), (None, 3))
        ]
    )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_guidance_of_scale_one_is_none(generator):
    """Bit for bit: with pairs in the cache, and without."""
    spoilt(generator)
    prompts = [generator.prompt_ids("a red 3"), generator.prompt_ids(None)]
    drawn = []
    for rows in (1, 2):
        noise = PictureNoise([5]).normal
        cache = generator.begin(prompts[:rows], noise)
        for _ in range(generator.units):
            generator.unit(cache, noise, 1.0, 1.0)
        drawn.append(generator.drawn(cache))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-5, atol=1e-5)


def test_guidance_towards_the_same_is_none(generator):
    """Where both rows of a pair are alike, no scale matters."""
    spoilt(generator)
    none = generator.prompt_ids(None)
    drawn = []
    for scale in (1.0, 3.0):
        noise = PictureNoise([5]).normal
        cache = generator.begin([none, none], noise)
        for _ in range(generator.units):
            generator.unit(cache, noise, scale, 1.0)
        drawn.append(generator.drawn(cache))
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-3, atol=1e-3)


def test_held_out_batches_meet_the_same_noise(generator):
    spoilt(generator)
    batches = generator.batches(SomeStore(generator, CAPTIONS * 3), BatchConfig(4))
    found = [
        torch.cat([generator(batch).losses for batch in batches.in_order(4)]) for _ in range(2)
    ]
    assert torch.equal(*found)


def test_a_pace_changes_passes_and_no_weight(generator):
    spoilt(generator)
    other = generator.paced(steps=5)
    assert other.config.options.steps == 5
    weights = other.state_dict()
    for name, weight in generator.state_dict().items():
        assert weights[name].data_ptr() == weight.data_ptr()
    sampler = VectorSampler(SamplingConfig(2.0))
    drawn = [sampler(g, ["a red 3"], [1]) for g in (generator, other, other.paced(steps=3))]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    with pytest.raises(InputError, match="steps: 0"):
        generator.paced(steps=0)
    with pytest.raises(InputError, match="one pass"):
        generators["raster"].tiny().paced(steps=3)


def test_indices_are_refused(generator):
    store = SomeStore(generator)
    store.codes = torch.zeros(3, 4, dtype=torch.int64)
    with pytest.raises(InputError, match="kl or pixels"):
        generator.batches(store, BatchConfig(2)).batch(0)
    with pytest.raises(InputError, match="top_k"):
        VectorSampler(SamplingConfig(top_k=5))


# ---- masked autoregression -----------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "rounds"), [(16, 4), (16, 16), (16, 1), (5, 3), (256, 64)])
def test_every_cell_is_drawn_once(cells, rounds):
    done, counts = 0, []
    for round in range(1, rounds + 1):
        stop = drawn_after(round, rounds, cells, done)
        counts.append(stop - done)
        done = stop
    assert sum(counts) == cells
    assert min(counts) >= 1
    if (cells, rounds) == (16, 4):
        assert counts == [2, 3, 5, 6]
    if rounds == cells:
        assert counts == [1] * cells


def test_hidden_cells_are_not_read():
    generator = spoilt(generators["masked-vectors"].tiny().eval())
    batch = some_batch(generator)
    prompts, latents = generator._read(batch)
    hidden = torch.tensor([[True, False, True, False]]).expand(len(latents), -1)
    states, _ = generator._states(prompts, latents, hidden)
    other = torch.where(hidden[..., None], latents + 1.0, latents)
    assert torch.equal(states, generator._states(prompts, other, hidden)[0])
    known = latents.clone()
    known[:, 1] += 1.0
    changed = generator._states(prompts, known, hidden)[0]
    assert bool(((changed - states).abs().amax(dim=2) > 0).all())


def test_all_pictures_of_a_batch_hide_as_many_cells():
    generator = generators["masked-vectors"].tiny()
    counts = some_batch(generator, CAPTIONS * 4).image.sum(dim=1)
    assert len(set(counts.tolist())) == 1
