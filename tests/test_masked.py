"""Masked prediction: which cells are hidden, what is learnt from them, and drawing in rounds."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from arra.generators.masked import MaskedGenerator
from arra.objectives.laws import NextToken
from arra.randomness import seeded
from arra.samplers.logits import SamplingConfig
from arra.samplers.masked import MaskedSampler
from arra.settings import BatchConfig, GridOptions, LlamaSize
from test_grid import SIZE, SomeStore, batch_of, stored_rows, words

SETTINGS = SamplingConfig(guidance=1.0)


def generator_of(split=2, codes=4, rounds=4, condition="tokens"):
    options = GridOptions(condition, rounds=rounds)
    made = MaskedGenerator.from_scratch(
        words(), codes, (2, 3), SIZE, options, seed=0, split=split, longest=16
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8.0)
        made.hidden.mul_(8.0)
        made.head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return made


def test_hidden_cells_are_predicted_and_the_others_are_read():
    generator = generator_of()
    store = SomeStore(generator)
    batches = generator.batches(store, BatchConfig(3, drop_caption=0.0))
    counts = []
    for step in range(40):
        batch = batches.batch(step)
        assert torch.equal(batch.image, batch.target >= 0)
        assert torch.equal(batch.image, batch.place >= 0)
        assert not (batch.image & (batch.read >= 0)).any()
        cell = torch.maximum(batch.place, batch.read)
        assert ((cell >= 0).sum(1) == 6).all()
        codes = store.codes.view(3, 6, 2)[stored_rows(batch, store)]
        whole = (codes[..., 0] * 4 + codes[..., 1]).gather(1, cell.clamp(min=0))
        assert torch.equal(batch.target[batch.image], whole[batch.image])
        counts += batch.image.sum(1).tolist()
    possible = {max(1, math.floor(6 * math.cos(math.pi / 2 * t / 4) + 1e-9)) for t in range(4)}
    assert set(counts) == possible
    again = generator.batches(store, BatchConfig(3, drop_caption=0.0)).batch(39)
    assert torch.equal(again.place, batch.place)  # a function of the step alone


def test_what_is_hidden_is_not_read_and_what_is_read_has_no_weight():
    generator = generator_of()
    batch = batch_of(generator)
    before = generator(batch).logits
    other = torch.where(batch.image, (batch.tokens + 1) % 16, batch.tokens)
    assert torch.equal(generator(dataclasses.replace(batch, tokens=other)).logits, before)
    seen = batch.read >= 0
    if seen.any():
        other = torch.where(seen, (batch.tokens + 1) % 16, batch.tokens)
        assert not torch.equal(generator(dataclasses.replace(batch, tokens=other)).logits, before)
    assert before.shape == (2 * int(batch.image.sum()), 4)
    loss = NextToken()(generator(batch), batch)
    loss.backward()
    assert generator.hidden.grad.any()


def test_every_cell_sees_every_other():
    """The logits of the first cell depend on the last one, given that both are not hidden alike."""
    generator = generator_of(rounds=2)
    codes = torch.randint(4, (1, 6, 2), generator=torch.Generator().manual_seed(0))
    codes[0, 0] = -1
    with torch.no_grad():
        _, cache = generator.prefill([generator.prompt_ids("a red 3")])
        one = generator.step(codes, cache)
        codes[0, 5] = (codes[0, 5] + 1) % 4
        two = generator.step(codes, cache)
    assert not torch.equal(one[0, 0], two[0, 0])


@pytest.mark.parametrize("condition", ["tokens", "class"])
def test_a_step_is_the_pass_of_training(condition):
    """Rows of any caption lengths, padded on the left there and on the right here."""
    generator = generator_of(condition=condition)
    store = SomeStore(generator)
    batch = batch_of(generator, store)
    rows = stored_rows(batch, store)
    known = store.codes.view(3, 6, 2)[rows].clone()
    place = torch.stack([(batch.place[i] == c).any() for i in range(3) for c in range(6)])
    known[place.view(3, 6)] = -1
    with torch.no_grad():
        _, cache = generator.prefill([generator.prompt(store.texts[i]) for i in rows])
        logits = generator.step(known, cache)
        expected = generator(batch)
    sample = batch.segment[batch.image]
    mine = logits[sample, batch.place[batch.image]].flatten(0, 1)
    torch.testing.assert_close(mine, expected.logits, rtol=0, atol=2e-5)


def test_the_first_loss_is_uniform():
    made = MaskedGenerator.from_scratch(words(), 4, (2, 3), SIZE, seed=0, split=2)
    output = made(batch_of(made))
    assert F.cross_entropy(output.logits, output.targets).item() == pytest.approx(math.log(4))


class Watched:
    """A stepper with a known law: cell i has code i % V, the surer the larger i is."""

    units = 4

    def __init__(self, cells=8, codes=5):
        self.logits = torch.zeros(cells, 1, codes)
        for cell in range(cells):
            self.logits[cell, 0, cell % codes] = 2.0 + cell
        self.seen: list[torch.Tensor] = []

    def prompt_ids(self, caption):
        return [0]

    def prefill(self, prompts):
        return self.logits.expand(len(prompts), -1, -1, -1), None

    def step(self, codes, cache):
        self.seen.append(codes.clone())
        return self.logits.expand(len(codes), -1, -1, -1)


def test_the_surest_cells_stay_and_the_schedule_is_a_cosine():
    stepper = Watched()
    sampler = MaskedSampler(dataclasses.replace(SETTINGS, temperature=0.0))
    codes = sampler(stepper, ["x", "y"], [1, 2])
    assert torch.equal(codes[0], torch.arange(8) % 5)
    # of cells that are certain alike (the law is one-hot) the order is free: only count them
    hidden = [int((seen[0, :, 0] < 0).sum()) for seen in stepper.seen]
    assert hidden == [math.floor(8 * math.cos(math.pi / 2 * t / 4)) for t in (1, 2, 3)]
    for before, after in zip(stepper.seen, stepper.seen[1:], strict=False):
        kept = before >= 0
        assert torch.equal(before[kept], after[kept])  # what is known stays


def test_less_sure_cells_are_hidden_again():
    """With little noise in the choice the cell of the flattest law comes last."""
    late = np.zeros(8)
    for seed in range(40):
        stepper = Watched()
        MaskedSampler(dataclasses.replace(SETTINGS, temperature=1.0))(stepper, ["x"], [seed])
        late += (stepper.seen[-1][0, :, 0] < 0).numpy()
    assert late[0] > 2 * late[5:].max()


def test_guidance_pairs_rows_and_pictures_do_not_depend_on_their_company():
    generator = generator_of()
    sampler = MaskedSampler(SamplingConfig(guidance=2.5, guidance_schedule="steps"))
    captions, seeds = ["a red 3", "a green 7 left of a blue 5", None], [3, 4, 5]
    together = sampler(generator, captions, seeds)
    assert together.shape == (3, 12)
    assert 0 <= int(together.min()) <= int(together.max()) < 4
    alone = torch.cat([sampler(generator, [c], [s]) for c, s in zip(captions, seeds, strict=True)])
    assert torch.equal(together, alone)
    free = MaskedSampler(SETTINGS)(generator, captions, seeds)
    assert torch.equal(free[2], together[2])  # the null condition has nothing to be guided by
    assert not torch.equal(free[:2], together[:2])


def test_learning_what_is_hidden_from_the_rest():
    """Pictures of one code each: a cell tells all others, which raster order learns more slowly."""
    size = LlamaSize(width=32, depth=2, heads=2, feed_forward=48)
    made = MaskedGenerator.from_scratch(words(), 4, (2, 2), size, seed=0)
    store = SomeStore(made, ["a red 3"] * 32)
    store.codes = torch.arange(32)[:, None, None].expand(-1, 2, 2) % 4
    batches = made.batches(store, BatchConfig(32, drop_caption=0.0))
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    with seeded(0):
        for step in range(120):
            output = made.train()(batches.batch(step))
            loss = F.cross_entropy(output.logits, output.targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        _, cache = made.eval().prefill([made.prompt_ids("a red 3")])
        known = torch.full((1, 4, 1), -1)
        known[0, 3] = 2
        logits = made.step(known, cache)
    assert (logits.softmax(-1)[0, :3, 0, 2] > 0.9).all()
