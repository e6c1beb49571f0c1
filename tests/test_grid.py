"""A Llama over a grid of codes: the exact checks of LlamaGen and ELM; how parts attach to it."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.generators.grid import GridGenerator
from arra.guidance import guide
from arra.metrics.likelihood import held_out_bits
from arra.networks.grid_llama import Attention, Block, SplitEmbedding, divided, joined
from arra.networks.rotary import rotary_table, rotate
from arra.objectives.alignment import Alignment
from arra.objectives.laws import NextToken
from arra.orders.builders import raster
from arra.randomness import seeded
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise, draw
from arra.samplers.scales import Given, ScaleSampler
from arra.settings import AlignmentConfig, BatchConfig, GridOptions, LlamaSize

CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "")
CLASSES = ("3", "7", "")
FEATURES = 6
GRID = (2, 3)
SIZE = LlamaSize(width=32, depth=2, heads=2, feed_forward=48)


def words():
    return train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])


def text_encoder():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(words()), d_model=12, d_kv=6, d_ff=16, num_layers=1, num_heads=2
    )
    with seeded(3):
        return T5EncoderModel(config).eval()


def generator_of(split=1, codes=16, condition="tokens", grid=GRID, head=True, **options):
    """A tiny generator; weights are enlarged, so that what is read matters."""
    encoder = text_encoder() if condition == "features" else None
    made = GridGenerator.from_scratch(
        words(),
        codes,
        grid,
        SIZE,
        GridOptions(condition, **options),
        seed=0,
        split=split,
        longest=16,
        text_encoder=encoder,
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8.0)
        if head:
            made.head.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return made


class SomeStore:
    def __init__(self, generator, captions=None):
        kind = generator.config.options.condition
        self.captions = captions or (CLASSES if kind == "class" else CAPTIONS)
        encode = generator.tokenizer.encode
        self.texts = [encode(c, add_special_tokens=False) for c in self.captions]
        rng = torch.Generator().manual_seed(0)
        shape = (len(self.texts), *generator.codes_shape)
        self.codes = torch.randint(generator.config.codes, shape, generator=rng)
        self.features = {
            "cls": torch.randn(len(self.texts), FEATURES, generator=rng),
            "patches": torch.randn(len(self.texts), 4, FEATURES, generator=rng),
        }

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(self.texts[i]) for i in indices])

    def rows(self, indices, features=None):
        found = {name: x[indices] for name, x in self.features.items()}
        texts = [self.texts[i] for i in indices]
        return SimpleNamespace(text_ids=texts, codes=self.codes[indices], features=found)


def batch_of(generator, store=None, **settings):
    store = store or SomeStore(generator)
    config = BatchConfig(**{"size": len(store), "drop_caption": 0.0, **settings})
    return generator.batches(store, config).batch(0)


def picture_logits(generator, batch):
    """(B, n, m, V) of a batch in which every row is one sample."""
    split = generator.config.split
    return generator(batch).logits.view(batch.samples, generator.units, split, -1)


def stored_rows(batch, store):
    """Which row of the store each sample of the batch is."""
    return [
        next(i for i, x in enumerate(store.features["cls"]) if torch.equal(x, mine))
        for mine in batch.features["cls"]
    ]


# --- positions --------------------------------------------------------------------------------


def test_the_rotary_table_of_a_grid():
    table = rotary_table((3, 4), 8, 100.0)
    assert table.shape == (13, 4, 2)
    assert not table[0].any()
    assert torch.equal(table[1], torch.tensor([[1.0, 0.0]] * 4))  # cell (0, 0) stays as it is
    assert torch.equal(rotary_table((3, 4), 8, 100.0, "content")[0], table[1])
    cells = table[1:].view(3, 4, 4, 2)
    assert torch.equal(cells[:, :, :2], cells[:, :1, :2].expand(-1, 4, -1, -1))  # the row's half
    assert torch.equal(cells[:, :, 2:], cells[:1, :, 2:].expand(3, -1, -1, -1))
    for step in range(3):  # pairs turn by base ** (-2 k / (d / 2)) a cell
        for k in range(2):
            angle = step * 100.0 ** (-2 * k / 4)
            assert cells[step, 0, k].tolist() == pytest.approx([math.cos(angle), math.sin(angle)])
    with pytest.raises(InputError, match="multiple of 4"):
        rotary_table((2, 2), 6, 100.0)


def test_turning_depends_on_the_distance_of_cells_alone():
    table = rotary_table((4, 4), 8, 100.0)[1:]
    with seeded(0):
        q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(a, b):
        a, b = (4 * row + column for row, column in (a, b))
        return (rotate(q, table[None, a : a + 1]) * rotate(k, table[None, b : b + 1])).sum()

    torch.testing.assert_close(product((0, 0), (1, 2)), product((2, 1), (3, 3)))
    assert abs(product((0, 0), (1, 2)) - product((0, 0), (2, 1))) > 1e-3


def test_a_block_against_its_formula():
    """Naive attention with complex rotary positions, RMS norm and SwiGLU."""
    with seeded(0):
        block, x = Block(8, 2, 12), torch.randn(1, 5, 8)
        block.attention_norm.weight.data.uniform_(0.5, 2.0)
    table = torch.cat((torch.zeros(1, 2, 2), rotary_table((2, 2), 4, 10.0)[1:]))
    turn = torch.view_as_complex(table)

    def norm(h, weight):
        return h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def turned(h):
        return torch.view_as_real(torch.view_as_complex(h.view(5, 2, 2)) * turn).flatten(1)

    h = norm(x, block.attention_norm.weight)
    q, k, v = (h @ w.T for w in block.attention.qkv.weight.chunk(3))
    causal = torch.ones(5, 5).tril().log()
    seen = []
    for head in range(2):
        here = slice(4 * head, 4 * head + 4)
        a, b = turned(q[0, :, here].contiguous()), turned(k[0, :, here].contiguous())
        seen.append(((a @ b.T) / 2.0 + causal).softmax(-1) @ v[0, :, here])
    y = x + torch.cat(seen, -1) @ block.attention.out.weight.T
    g = norm(y, block.feed_norm.weight)
    feed = block.feed
    expected = y + (F.silu(g @ feed.gate.weight.T) * (g @ feed.up.weight.T)) @ feed.down.weight.T
    torch.testing.assert_close(block(x, table[None], None), expected)


def test_the_condition_is_seen_evenly_and_sees_evenly():
    """Zero rows: a class token's attention gives its own value, all logits to it are 0."""
    with seeded(0):
        attention, x = Attention(8, 1), torch.randn(1, 4, 8)
    table = rotary_table((1, 2), 8, 10.0)
    rows = torch.stack((table[0], table[0], table[1], table[2]))[None]
    q, k, v = (x[0] @ w.T for w in attention.qkv.weight.chunk(3))
    got = attention(x, rows, None)[0]
    torch.testing.assert_close(got[0], attention.out(v[0]))
    torch.testing.assert_close(got[1], attention.out(v[:2].mean(0)))
    first, second = (rotate(t[None, 2:, None], rows[:, 2:])[0, :, 0] for t in (q, k))
    to_codes = (first[1] @ second.T / 8**0.5).exp()
    share = 1.0 / (2.0 + to_codes.sum())  # of either condition token
    weights = torch.cat((share.expand(2), to_codes * share))
    torch.testing.assert_close(got[3], attention.out(weights @ v))


# --- codes of a cell --------------------------------------------------------------------------


@pytest.mark.parametrize(("base", "split"), [(2, 8), (4, 4), (16, 2), (256, 1), (2, 30)])
def test_codes_of_a_cell_are_digits(base, split):
    codes = torch.randint(base, (5, 3, split), generator=torch.Generator().manual_seed(0))
    assert torch.equal(divided(joined(codes, base), base, split), codes)
    assert joined(torch.tensor([1, 0, 1, 0]), 2) == 10


def test_tables_and_heads_are_small_where_codes_are_split():
    """m 2^c D for the tables, as much for the heads, m D^2 for what mixes the vectors."""
    for split, bits in ((1, 8), (2, 4), (4, 2), (8, 1)):
        made = generator_of(split, 2**bits)
        names = ("embed.", "head.")
        found = sum(p.numel() for n, p in made.named_parameters() if n.startswith(names))
        mixing = split * SIZE.width**2 if split > 1 else 0
        assert found == 2 * split * 2**bits * SIZE.width + mixing


def test_one_code_a_cell_is_a_plain_table_and_a_plain_head():
    embed = SplitEmbedding(5, 1, 8)
    codes = torch.tensor([[[3], [0]]])
    assert torch.equal(embed(codes), embed.tables(codes[..., 0]))
    several = SplitEmbedding(5, 2, 8)
    first, second = several.tables.weight[:5], several.tables.weight[5:]
    expected = several.mix(torch.cat((first[3], second[1])))
    torch.testing.assert_close(several(torch.tensor([3, 1])), expected)


@pytest.mark.parametrize(("split", "codes"), [(1, 16), (2, 4), (4, 2)])
def test_the_first_loss_is_uniform_and_only_the_head_learns_from_it(split, codes):
    generator = generator_of(split, codes, head=False)
    batch = batch_of(generator)
    loss = NextToken()(generator(batch), batch)
    assert loss.item() == pytest.approx(math.log(codes), abs=1e-6)
    loss.backward()
    moved = {name for name, p in generator.named_parameters() if p.grad.any()}
    assert moved == {"head.weight"}


def test_the_law_of_a_cell_is_the_product_of_its_codes():
    """Bits of a picture: sums over the cells and over the codes of a cell, by enumeration."""
    generator = generator_of(2, 4)
    store = SomeStore(generator)
    batch = batch_of(generator, store)
    found = held_out_bits(generator, [batch])
    logs = picture_logits(generator, batch).log_softmax(-1).detach()
    cells = joined(store.codes.flatten(1, 2)[stored_rows(batch, store)], 4)
    product = (logs[:, :, 0, :, None] + logs[:, :, 1, None, :]).flatten(2)  # (B, n, 16)
    torch.testing.assert_close(product.exp().sum(-1), torch.ones(3, 6))
    nats = -product.gather(2, cells[..., None]).sum((1, 2))
    np.testing.assert_allclose(found.bits, nats / math.log(2), rtol=1e-5)
    assert found.tokens.tolist() == [6] * 3  # bits a cell, whatever it is split into


# --- order ------------------------------------------------------------------------------------


def test_sequences_follow_the_layout_of_the_order():
    generator = generator_of(2, 4)
    store, batches = SomeStore(generator), generator.batches(SomeStore(generator), BatchConfig(3))
    for text, codes in zip(store.texts, store.codes.flatten(1).tolist(), strict=True):
        sample = batches._sample(text, codes)
        layout = raster(max(len(text), 1), generator.units)
        assert sample.place == layout.target.tolist()[:-1]
        assert sample.read == layout.place.tolist()[:-1]
        for position, place in enumerate(sample.place):
            cell = codes[2 * place : 2 * place + 2]
            assert sample.target[position] == (cell[0] * 4 + cell[1] if place >= 0 else -100)
    with pytest.raises(InputError, match="2 for each of 6 cells"):
        batches._sample([7], [0] * 6)
    with pytest.raises(InputError, match="supervise_text"):
        generator.batches(store, BatchConfig(3, supervise_text=True))


@pytest.mark.parametrize("condition", ["tokens", "class", "features"])
@pytest.mark.parametrize(("split", "codes"), [(1, 16), (2, 4)])
def test_a_cell_is_told_by_the_cells_before_it_and_by_the_condition(condition, split, codes):
    generator = generator_of(split, codes, condition)
    store = SomeStore(generator)
    batch = batch_of(generator, store)
    before = picture_logits(generator, batch)
    for changed in range(generator.units - 1):
        here = batch.read == changed
        tokens = torch.where(here, (batch.tokens + 1) % codes**split, batch.tokens)
        after = picture_logits(generator, dataclasses.replace(batch, tokens=tokens))
        same = (before == after).flatten(2).all(2).all(0)
        assert same.tolist() == [cell <= changed for cell in range(generator.units)]
    text = (batch.read < 0) & (batch.segment >= 0)
    tokens = torch.where(text, 8, batch.tokens)
    after = picture_logits(generator, dataclasses.replace(batch, tokens=tokens))
    assert (before != after).flatten(2).any(2).all()


@pytest.mark.parametrize("condition", ["tokens", "class", "features"])
@pytest.mark.parametrize(("split", "codes"), [(1, 16), (3, 4)])
def test_cached_steps_equal_teacher_forcing(condition, split, codes):
    generator = generator_of(split, codes, condition)
    store = SomeStore(generator)
    batch = batch_of(generator, store)
    expected = picture_logits(generator, batch)
    rows = stored_rows(batch, store)
    cells = store.codes.view(3, generator.units, split)[rows]
    with torch.no_grad():
        logits, cache = generator.prefill([generator.prompt(store.texts[i]) for i in rows])
        found = [logits]
        for cell in range(generator.units - 1):
            found.append(generator.step(cells[:, cell], cache))
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("condition", ["tokens", "class", "features"])
@pytest.mark.parametrize("layout", ["left", "packed"])
def test_padding_and_packing_change_nothing(condition, layout):
    generator = generator_of(2, 4, condition)
    length = 160 if condition == "features" else 64
    right = batch_of(generator)
    other = batch_of(generator, layout=layout, packed_length=length)
    one, two = (generator(b).logits for b in (right, other))
    owners = [b.segment[b.target >= 0].repeat_interleave(2) for b in (right, other)]
    for sample in range(3):
        mine, same = one[owners[0] == sample], two[owners[1] == sample]
        torch.testing.assert_close(mine, same, rtol=0, atol=2e-5)


def test_a_cache_forks_gathers_and_truncates():
    generator = generator_of(2, 4)
    prompts = [generator.prompt_ids(c) for c in CAPTIONS[:2]]
    first, second = torch.tensor([[1, 0], [2, 3]]), torch.tensor([[3, 3], [0, 1]])
    with torch.no_grad():
        _, cache = generator.prefill(prompts)
        generator.step(first, cache)
        plain = generator.step(second, cache)
        cache.truncate(1)
        torch.testing.assert_close(generator.step(second, cache), plain, rtol=0, atol=2e-6)
        cache.truncate(1)
        cache.fork(2)
        cache.gather(torch.tensor([3, 0]))
        got = generator.step(second[[1, 0]], cache)
        torch.testing.assert_close(got, plain[[1, 0]], rtol=0, atol=2e-5)
        with pytest.raises(InputError, match="truncate"):
            cache.truncate(9)


# --- conditions -------------------------------------------------------------------------------


def test_the_null_condition_is_what_dropped_captions_are_trained_with():
    generator = generator_of()
    store = SomeStore(generator)
    dropped = batch_of(generator, store, drop_caption=1.0)
    logits = picture_logits(generator, dropped)[:, 0]
    free, _ = generator.prefill([generator.prompt_ids(None)])
    torch.testing.assert_close(logits, free.expand_as(logits), rtol=0, atol=2e-6)
    assert generator.prompt_ids(None) == generator.prompt_ids("") == [generator.config.text]


def test_a_class_is_one_token():
    generator = generator_of(condition="class")
    assert len(generator.prompt_ids("3")) == 1
    with pytest.raises(InputError, match="a class is one token"):
        generator.prompt_ids("a red 3")
    assert generator.condition.table.num_embeddings == len(generator.tokenizer) + 1


def test_words_have_an_order_and_captions_a_longest_length():
    generator = generator_of()
    one, two = (generator.prefill([generator.prompt_ids(c)])[0] for c in ("a red 3", "3 red a"))
    assert (one - two).abs().max() > 1e-3
    with pytest.raises(InputError, match="17 tokens: this model takes 16"):
        generator.prefill([[7] * 17])


def test_text_features_are_the_encoders_and_the_null_ones_are_saved(tmp_path):
    generator = generator_of(condition="features")
    condition, ids = generator.condition, generator.prompt_ids("a red 3")
    assert ids[-1] == condition.encoder.config.eos_token_id
    with torch.no_grad():
        read = condition.encoder(torch.tensor([ids])).last_hidden_state
        inside = F.gelu(read @ condition.inside.weight.T, approximate="tanh")
        expected = inside @ condition.outside.weight.T
        order = torch.arange(len(ids))[None]
        got = condition(torch.tensor([ids]), order, torch.zeros_like(order))
    torch.testing.assert_close(got, expected)
    assert "condition.null" in generator.state_dict()
    assert "null" not in dict(condition.named_parameters())
    assert not any("encoder" in name for name in generator.state_dict())
    generator.save_pretrained(tmp_path / "model")
    again = GridGenerator.from_pretrained(tmp_path / "model")
    assert again.fingerprint() == generator.fingerprint()
    for prompts in ([ids], [generator.prompt_ids(None)]):
        assert torch.equal(again.prefill(prompts)[0], generator.prefill(prompts)[0])
    free = generator_of(condition="features").condition
    free._encoder.clear()
    with pytest.raises(InputError, match="no text encoder"):
        free(torch.tensor([ids]), order, torch.zeros_like(order))


def test_dropout_is_for_training_only():
    generator = generator_of(token_dropout=0.5, dropout=0.5, drop_path=0.5)
    batch = batch_of(generator)
    assert torch.equal(generator(batch).logits, generator(batch).logits)
    generator.train()
    with seeded(0):
        assert not torch.equal(generator(batch).logits, generator(batch).logits)


# --- sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear"])
@pytest.mark.parametrize(("split", "codes"), [(1, 16), (2, 4)])
def test_sampling_against_the_loop_without_a_cache(schedule, split, codes):
    """Every cell from fresh teacher-forced passes, one picture at a time."""
    generator = generator_of(split, codes)
    settings = SamplingConfig(2.5, schedule, temperature=0.8, top_k=3, top_p=0.95)
    got = ScaleSampler(settings)(generator, CAPTIONS[:2], [7, 8])
    for caption, seed, picture in zip(CAPTIONS, [7, 8], got, strict=False):
        noise = PictureNoise([seed])
        drawn = torch.zeros(1, *generator.codes_shape, dtype=torch.int64)
        flat = drawn.view(1, generator.units, split)
        for cell in range(generator.units):
            branches = []
            for text in (caption, ""):
                store = SomeStore(generator, [text])
                store.codes = drawn
                branches.append(picture_logits(generator, batch_of(generator, store))[:, cell])
            scale = settings.scale(cell, generator.units)
            race = noise.exponential(split * codes, torch.device("cpu")).view(1, split, codes)
            flat[:, cell] = draw(law(guide(*branches, scale), settings), race)
        assert picture.tolist() == drawn.flatten().tolist()


def test_guidance_and_filters_at_their_ends():
    generator = generator_of(2, 4)
    seeds = [1, 2]
    plain = ScaleSampler(SamplingConfig(1.0))(generator, CAPTIONS[:2], seeds)
    greedy = ScaleSampler(SamplingConfig(1.0, temperature=0.0))(generator, CAPTIONS[:2], seeds)
    assert not torch.equal(plain, greedy)
    for settings in (SamplingConfig(1.0, top_k=1), SamplingConfig(1.0, top_p=1e-9)):
        assert torch.equal(ScaleSampler(settings)(generator, CAPTIONS[:2], seeds), greedy)
    free = [ScaleSampler(SamplingConfig(s))(generator, [None], [5]) for s in (1.0, 6.0)]
    assert torch.equal(*free)  # condition and null condition are one: nothing to guide


def test_a_given_beginning_is_continued_by_the_law_of_teacher_forcing():
    generator = generator_of(2, 4)
    store = SomeStore(generator)
    codes, kept = store.codes.flatten(1), torch.zeros(3, 12, dtype=torch.bool)
    kept[:, :8] = True
    sampler = ScaleSampler(SamplingConfig(1.0, temperature=0.0))
    got = sampler(generator, CAPTIONS, [1, 2, 3], given=Given(codes, kept))
    assert torch.equal(got[:, :8], codes[:, :8])
    batch = batch_of(generator, store)
    likely = picture_logits(generator, batch).argmax(-1)[:, 4]
    assert torch.equal(got[stored_rows(batch, store), 8:10], likely)


# --- alignment --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cls", "patch"])
def test_alignment_reaches_its_block_and_those_before(target):
    generator = generator_of(2, 4)
    config = AlignmentConfig(layers=(1,), target=target)
    objective = Alignment(config, generator.width, FEATURES, generator.grids, seed=1)
    batch = batch_of(generator, layout="packed", packed_length=64)
    objective(generator(batch, (1,)), batch).backward()
    reached = {
        name for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert not any(name.startswith(("blocks.1", "norm", "head")) for name in reached)
    assert {"embed.tables.weight", "condition.table.weight", "blocks.0.feed.up.weight"} <= reached
    assert all(parameter.grad.any() for parameter in objective.parameters())


def test_sizes_of_the_paper():
    """Parameters that the models are named after: 16384 codes and 1001 classes."""
    for name, millions in (("111M", 111), ("343M", 343), ("775M", 775)):
        size = LlamaSize.named(name)
        with torch.device("meta"):
            block = Block(size.width, size.heads, size.feed_forward)
        count = sum(p.numel() for p in block.parameters()) * size.depth
        count += (2 * 16384 + 1001 + 1) * size.width
        assert abs(count / millions / 1e6 - 1) < 0.01
