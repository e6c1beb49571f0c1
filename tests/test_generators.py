"""Contract of every registered generator, and facts about the raster generator."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import arra.generators  # noqa: F401  (registers)
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.generators.base import CodeGenerator
from arra.generators.batches import BatchConfig, RasterBatches, attention, collate, sequence
from arra.generators.raster import RasterGenerator
from arra.generators.vocabulary import add_image_tokens
from arra.randomness import permuted
from arra.registry import generators

CODES = [name for name in list(generators) if issubclass(generators[name], CodeGenerator)]
"""Those whose codes are indices; `test_vectors.py` has the contract of the others."""


@pytest.fixture(params=CODES)
def generator(request):
    return generators[request.param].tiny().eval()


CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "")


class SomeStore:
    """A row for each caption, with random codes below `vocabulary`; its feature names the row."""

    def __init__(self, generator, captions, vocabulary):
        self.texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in captions]
        stored = getattr(generator, "stored", None)
        count = math.prod(generator.codes_shape) if stored is None else stored.length
        rng = torch.Generator().manual_seed(0)
        self.codes = torch.randint(vocabulary, (len(captions), count), generator=rng)

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(text) for text in (self.texts[i] for i in indices)])

    def rows(self, indices, features=None):
        return SimpleNamespace(
            text_ids=[self.texts[i] for i in indices],
            codes=self.codes[indices],
            features={"row": torch.tensor(indices)[:, None]},
        )


def some_batch(generator, captions=CAPTIONS, layout="right"):
    """A batch of the generator's own making, in the order of the captions."""
    store = SomeStore(generator, captions, 16)
    config = BatchConfig(len(captions), drop_caption=0.0, layout=layout, packed_length=64)
    return generator.batches(store, config).batch(0)


def by_sample(output, batch):
    """Logits of the supervised positions, regrouped as row of the store -> (n, V)."""
    owner = batch.segment[batch.target >= 0]
    found = {int(row): output.logits[owner == i] for i, row in enumerate(batch.features["row"])}
    return [found[row] for row in sorted(found)]


def test_forward_backward_reaches_every_parameter(generator):
    generator.train()
    output = generator(some_batch(generator), layers=(1,))
    F.cross_entropy(output.logits, output.targets).backward()
    without = [name for name, p in generator.named_parameters() if p.grad is None]
    assert without == []


def test_causal(generator):
    """What comes later changes nothing that was said before."""
    if not generator.causal:
        pytest.skip("everything sees everything")
    batch = some_batch(generator)
    layers = range(1, generator.depth + 1)
    before = generator(batch, layers=layers)
    cut = batch.tokens.shape[1] // 3
    changed = batch.tokens.clone()
    changed[:, cut:] = changed[:, cut:].flip(1)
    after = generator(dataclasses.replace(batch, tokens=changed), layers=layers)
    for layer in before.hidden:
        assert torch.equal(before.hidden[layer][:, :cut], after.hidden[layer][:, :cut])
        assert not torch.equal(before.hidden[layer][:, cut:], after.hidden[layer][:, cut:])


@pytest.mark.parametrize("layout", ["left", "packed"])
def test_padding_and_packing_change_nothing(generator, layout):
    right, other = some_batch(generator), some_batch(generator, layout=layout)
    a = by_sample(generator(right), right)
    b = by_sample(generator(other), other)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=2e-6)


def steps_of(generator, codes, cache=None, logits=None):
    """Logits (B, n, V) of all codes (B, n) that a cached run gives, unit by unit."""
    pyramid, several = getattr(generator, "pyramid", None), generator.sampler == "scales"
    cells = codes.split(1, dim=1) if several else codes.unbind(1)
    units = cells if pyramid is None else pyramid.split(codes)
    found = [logits]
    for unit in units[:-1]:
        found.append(generator.step(unit, cache))
    return torch.cat(found, 1) if several else torch.stack(found, 1)


def test_cached_equals_teacher_forced(generator):
    if not generator.causal:
        pytest.skip("drawn in rounds, without a cache")
    batch, store = some_batch(generator), SomeStore(generator, CAPTIONS, 16)
    codes, stored = store.codes, getattr(generator, "stored", None)
    if stored is not None:  # of what a store has, some scales are drawn, here the usual ones
        (batch,) = generator.batches(store, BatchConfig(size=len(CAPTIONS))).in_order()
        batch = dataclasses.replace(batch, features={"row": torch.arange(len(CAPTIONS))[:, None]})
        codes = codes[:, stored.places_of(generator.pyramid.sizes)]
    with torch.no_grad():
        logits, cache = generator.prefill([generator.prompt_ids(c) for c in CAPTIONS])
        got = steps_of(generator, codes, cache, logits)
    vocabulary = getattr(generator.config, "vocabulary", None)
    first = 0 if vocabulary is None else vocabulary.offset
    for row, expected in zip(got, by_sample(generator(batch), batch), strict=True):
        pictures = expected[: row.shape[0], first : first + row.shape[1]]
        torch.testing.assert_close(row, pictures, rtol=0, atol=3e-6)


def test_cache_forks_gathers_and_truncates():
    """Going on from a manipulated cache is going on from the rows that it stands for."""
    generator = RasterGenerator.tiny().eval()
    prompts = [generator.prompt_ids("a red 3"), generator.prompt_ids("a green 7 above it")]
    first, second = torch.tensor([1, 2]), torch.tensor([3, 0])
    with torch.no_grad():
        _, cache = generator.prefill(prompts)
        generator.step(first, cache)
        plain = generator.step(second, cache)
        _, cache = generator.prefill(prompts)
        generator.step(first, cache)
        stored = cache.stored
        generator.step(torch.tensor([5, 6]), cache)
        cache.truncate(stored)
        torch.testing.assert_close(generator.step(second, cache), plain, rtol=0, atol=2e-6)
        cache.truncate(stored)
        cache.fork(2)
        cache.gather(torch.tensor([3, 0]))
        got = generator.step(second[[1, 0]], cache)
        torch.testing.assert_close(got, plain[[1, 0]], rtol=0, atol=2e-6)
        with pytest.raises(InputError, match="truncate"):
            cache.truncate(cache.stored + 1)


def test_save_and_load(generator, tmp_path):
    generator.save_pretrained(tmp_path / "model")
    again = type(generator).from_pretrained(tmp_path / "model")
    assert again.fingerprint() == generator.fingerprint()
    batch = some_batch(generator)
    assert torch.equal(again(batch).logits, generator(batch).logits)


def test_same_seed_same_weights():
    tokenizer = train_text_tokenizer(["a red 3"])
    one = RasterGenerator.from_scratch(tokenizer, 8, (2, 2), seed=4)
    state = torch.get_rng_state()
    two = RasterGenerator.from_scratch(tokenizer, 8, (2, 2), seed=4)
    other = RasterGenerator.from_scratch(tokenizer, 8, (2, 2), seed=5)
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    assert torch.equal(torch.get_rng_state(), state)  # and nobody else's randomness was touched


def test_plain_transformers_loads_the_checkpoint(tmp_path):
    """The folder is a language model: same logits, and only the picture rows were added."""
    generator = RasterGenerator.tiny().eval()
    generator.save_pretrained(tmp_path / "model")
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = torch.tensor([generator.prompt_ids("a red 3 left of a blue 5")])
    text = "<|bos|>a red 3 left of a blue 5<|boi|>"
    assert tokenizer.encode(text, add_special_tokens=False) == ids[0].tolist()
    logits, _ = generator.prefill(ids.tolist())
    vocabulary = generator.config.vocabulary
    plain = lm(ids).logits[:, -1, vocabulary.offset : vocabulary.offset + vocabulary.codes]
    torch.testing.assert_close(plain, logits, rtol=0, atol=2e-6)
    assert sum(p.numel() for p in lm.parameters()) == sum(p.numel() for p in generator.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_extending_a_language_model_keeps_its_text(tied):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = train_text_tokenizer(["a red 3 left of a blue 5"])
    size = len(tokenizer)
    # like many released models: more embedding rows than tokens
    lm = GPT2LMHeadModel(
        GPT2Config(vocab_size=size + 5, n_embd=16, n_layer=2, n_head=2, tie_word_embeddings=tied)
    ).eval()
    ids = torch.tensor([tokenizer.encode("a red 3", add_special_tokens=False)])
    before = lm(ids).logits[..., :size].clone()
    generator = RasterGenerator.from_language_model(lm, tokenizer, 32, (2, 2)).eval()
    after = generator.lm(ids).logits[..., :size]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
    assert generator.config.vocabulary.codes == 32
    output = generator(some_batch(generator, ["a red 3", "a blue 5"]))
    assert output.logits.shape[-1] >= generator.config.vocabulary.size


def test_image_tokens_are_added_once():
    tokenizer = train_text_tokenizer(["a red 3"])
    first = add_image_tokens(tokenizer, 8)
    assert add_image_tokens(tokenizer, 8) == first
    assert tokenizer.decode([first.offset + 7]) == "<|image:7|>"
    for codes in (4, 16):
        with pytest.raises(InputError, match="picture tokens"):
            add_image_tokens(train_twice(), codes)


def train_twice():
    tokenizer = train_text_tokenizer(["a red 3"])
    add_image_tokens(tokenizer, 8)
    tokenizer.add_tokens(["something else"])
    return tokenizer


def test_hidden_states_are_the_blocks_outputs(generator):
    """Layer 1 is the first block's output, the last layer stands before the final norm."""
    batch = some_batch(generator)
    seen = {}
    for number, block in enumerate(generator.decoder_blocks(), start=1):
        block.register_forward_hook(lambda m, i, o, n=number: seen.__setitem__(n, o))
    output = generator(batch, layers=(1, generator.depth))
    for layer in (1, generator.depth):
        assert torch.equal(output.hidden[layer], seen[layer])
    with pytest.raises(InputError, match="layer 9"):
        generator(batch, layers=(9,))


def test_initial_loss_is_near_the_uniform_one(generator):
    """A fresh model knows nothing: ln V nats (up to the spread of a small random head)."""
    batch = some_batch(generator)
    output = generator(batch)
    loss = F.cross_entropy(output.logits, output.targets).item()
    assert abs(loss - math.log(output.logits.shape[-1])) < 0.15


class FakeStore:
    """Twenty rows whose codes name the row."""

    def __len__(self):
        return 20

    def text_lengths(self, indices):
        return np.asarray(indices) % 5

    def rows(self, indices, features=None):
        return SimpleNamespace(
            text_ids=[[7] * (i % 5) for i in indices],
            codes=torch.tensor(indices)[:, None, None].expand(-1, 2, 2),
            features={"cls": torch.tensor(indices, dtype=torch.float32)[:, None]},
        )


def rows_of(batch, vocabulary):
    return [
        int(batch.target[i][batch.image[i]][0]) - vocabulary.offset
        for i in range(len(batch.tokens))
    ]


def test_batches_cover_an_epoch_once_and_depend_on_the_step_alone():
    vocabulary = add_image_tokens(train_text_tokenizer(["a red 3"]), 20)
    config = BatchConfig(size=4, bucket=2, drop_caption=0.5, seed=3)
    batches = RasterBatches(FakeStore(), vocabulary, config)
    forward = [batches.batch(step) for step in range(10)]
    for epoch in (0, 5):
        seen = [r for b in forward[epoch : epoch + 5] for r in rows_of(b, vocabulary)]
        assert sorted(seen) == list(range(20))
    again = RasterBatches(FakeStore(), vocabulary, config)
    for step in (9, 0, 4):
        assert torch.equal(again.batch(step).tokens, forward[step].tokens)
    for batch in forward:  # every sample has its own features ...
        assert batch.features["cls"][:, 0].tolist() == rows_of(batch, vocabulary)
    shuffled = RasterBatches(FakeStore(), vocabulary, BatchConfig(size=4, shuffle_features=True))
    pairs = set()
    for step in range(10):  # ... and in the control that of one other sample, always the same
        batch = shuffled.batch(step)
        pairs |= set(
            zip(rows_of(batch, vocabulary), batch.features["cls"][:, 0].tolist(), strict=True)
        )
    assert len(pairs) == 20
    assert all(mine != other for mine, other in pairs)


@pytest.mark.parametrize(("size", "chapter"), [(4, 8), (3, 7), (1, 1), (4, 20)])
def test_an_epoch_in_chapters_is_still_a_permutation(monkeypatch, size, chapter):
    """Of a store too large to be held in order, no row comes twice, and epochs differ."""
    monkeypatch.setattr("arra.generators.batches.CHAPTER", chapter)
    vocabulary = add_image_tokens(train_text_tokenizer(["a red 3"]), 20)
    config = BatchConfig(size=size, bucket=2, seed=3)
    batches, per_epoch = RasterBatches(FakeStore(), vocabulary, config), 20 // size
    epochs = []
    for epoch in range(2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        epochs.append([r for step in steps for r in rows_of(batches.batch(step), vocabulary)])
        assert len(set(epochs[-1])) == len(epochs[-1]) == per_epoch * size
    assert epochs[0] != epochs[1]
    last = rows_of(
        RasterBatches(FakeStore(), vocabulary, config).batch(2 * per_epoch - 1), vocabulary
    )
    assert last == epochs[1][-size:]


@given(st.integers(1, 3000), st.integers(0, 2**32))
def test_a_permutation_without_memory_is_one(count, seed):
    everything = permuted(np.arange(count), count, np.random.default_rng(seed))
    assert np.array_equal(np.sort(everything), np.arange(count))
    places = np.arange(count)[::-3]
    some = permuted(places, count, np.random.default_rng(seed))
    assert np.array_equal(some, everything[places])


def test_a_permutation_without_memory_mixes_well():
    """Over many keys every item comes to every place as often: chi-squared, 29 x 29 cells."""
    table = np.zeros((29, 29))
    for seed in range(4000):
        table[np.arange(29), permuted(np.arange(29), 29, np.random.default_rng(seed))] += 1
    expected = 4000 / 29
    chi = ((table - expected) ** 2 / expected).sum()
    freedom = 28**2
    assert abs(chi - freedom) < 5 * (2 * freedom) ** 0.5
    far = permuted(np.arange(10**5), 10**9, np.random.default_rng(0))
    assert abs(np.corrcoef(far[:-1], far[1:])[0, 1]) < 0.02
    assert abs(far.mean() / 10**9 - 0.5) < 0.01


def test_processes_and_micro_batches_share_an_epoch():
    vocabulary = add_image_tokens(train_text_tokenizer(["a red 3"]), 20)
    batches = RasterBatches(FakeStore(), vocabulary, BatchConfig(size=2, seed=1))
    parts = [batches.batch(1, part, 4) for part in range(4)]
    expected = [batches.batch(step) for step in range(4, 8)]
    for one, two in zip(parts, expected, strict=True):
        assert rows_of(one, vocabulary) == rows_of(two, vocabulary)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), min_size=1, max_size=6),
    st.booleans(),
)
def test_sequences_follow_the_layout_of_the_order(shapes, supervise_text):
    """Targets and places of a sequence are those of the raster layout."""
    from arra.orders.builders import raster

    vocabulary = add_image_tokens(train_text_tokenizer(["a red 3"]), 16)
    samples = [
        sequence([7] * text, list(range(units)), vocabulary, supervise_text)
        for text, units in shapes
    ]
    for (text, units), sample in zip(shapes, samples, strict=True):
        layout = raster(text + 2, units)
        assert sample.place == layout.target.tolist()
        assert len(sample.tokens) == len(layout)
        for position, place in enumerate(sample.place):
            if place >= 0:
                assert sample.target[position] == sample.tokens[position + 1]
        assert sample.target[-1] == vocabulary.end
        assert (sample.target[0] == -100) == (not supervise_text)
    batch = collate(samples, {}, vocabulary.pad, "packed", packed_length=32)
    mask, position = attention(batch)
    if mask is not None:
        for row, number in zip(mask[:, 0], range(len(mask)), strict=True):
            segment = batch.segment[number]
            for q in range(len(segment)):
                for k in range(len(segment)):
                    real = segment[q] == segment[k] and segment[q] >= 0
                    expected = bool(real and k <= q) or (q == k and segment[q] < 0)
                    assert bool(row[q, k]) == expected


def test_loaded_weights_begin_at_aligned_addresses(tmp_path):
    """Where a weight begins decides in which order some CPU kernels add, and so the last bit."""
    generator = RasterGenerator.tiny().eval()
    generator.save_pretrained(tmp_path / "model")
    again = RasterGenerator.from_pretrained(tmp_path / "model")
    assert {parameter.data_ptr() % 64 for parameter in again.parameters()} == {0}


@pytest.mark.parametrize("compiled", [False, True])
def test_checkpointed_activations_change_no_bit(compiled):
    """Loss, hidden states and every gradient, with dropout, and with losses on hidden states."""
    results, saved = [], []
    for checkpointed in (False, True):
        generator = RasterGenerator.tiny().train()
        for block in generator.decoder_blocks():
            block.self_attn.attention_dropout = 0.3
            if compiled:  # as `compile_blocks` leaves it
                block.forward = block.forward
        batch = some_batch(generator)
        before = [vars(block).get("forward") for block in generator.decoder_blocks()]
        context = generator.checkpointed_activations() if checkpointed else nullcontext()
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, sizes=sizes: sizes.append(tensor.numel()) or tensor,
            lambda tensor: tensor,
        )
        torch.manual_seed(5)
        with context, hooks:
            output = generator(batch, layers=(1, 2))
            loss = F.cross_entropy(output.logits, output.targets)
            loss = loss + sum(state.square().mean() for state in output.hidden.values())
            kept = sum(sizes)
            loss.backward()
        results.append([loss, *output.hidden.values(), *(p.grad for p in generator.parameters())])
        saved.append(kept)
        assert [vars(block).get("forward") for block in generator.decoder_blocks()] == before
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert saved[1] < 0.7 * saved[0]
