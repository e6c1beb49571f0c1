"""Next-scale generation: the exact checks of VAR, sampling, and how alignment attaches."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from arra.codecs.multiscale import MultiScaleCodec
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.generators.scales import ScaleGenerator
from arra.guidance import guide
from arra.metrics.likelihood import held_out_bits
from arra.networks.adaln import Attention, Block, DropPath
from arra.objectives.alignment import Alignment
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise, draw
from arra.samplers.scales import Given, ScaleSampler
from arra.settings import AlignmentConfig, BatchConfig, ScaleSize

CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "")
FEATURES = 6


def generator_of(prefix=True, sizes=None, normalised=True):
    """A tiny generator; weights are enlarged, so that what is read matters."""
    config = MultiScaleCodec.tiny().config
    if sizes is not None:
        config = dataclasses.replace(config, sizes=sizes)
    codec = MultiScaleCodec.seeded(config, 0)
    codec.scales.codebook.data.normal_(generator=torch.Generator().manual_seed(1))
    tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
    size = ScaleSize(32, 2, 2, 48, normalised=normalised, gate=1.0, positions=16)
    made = ScaleGenerator.from_scratch(tokenizer, codec, size, seed=0, prefix=prefix).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
        made.head.weight.mul_(10.0)  # which begins small
    return made


@pytest.fixture(scope="module")
def generator():
    return generator_of()


class SomeStore:
    def __init__(self, generator, captions=CAPTIONS):
        self.texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in captions]
        rng = torch.Generator().manual_seed(0)
        shape = (len(captions), generator.pyramid.length)
        self.codes = torch.randint(generator.scales.vocabulary, shape, generator=rng)
        self.features = {
            "cls": torch.randn(len(captions), FEATURES, generator=rng),
            "patches": torch.randn(len(captions), 16, FEATURES, generator=rng),
        }

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(text) for text in (self.texts[i] for i in indices)])

    def rows(self, indices, features=None):
        found = {name: x[indices] for name, x in self.features.items()}
        texts = [self.texts[i] for i in indices]
        return SimpleNamespace(text_ids=texts, codes=self.codes[indices], features=found)


def batch_of(generator, **settings):
    config = BatchConfig(**{"size": 3, "drop_caption": 0.0, **settings})
    return generator.batches(SomeStore(generator), config).batch(0)


def picture_logits(generator, batch):
    """(B, L, V) of a batch in which every row is one sample."""
    return generator(batch).logits.view(batch.samples, generator.pyramid.length, -1)


def test_a_scale_is_told_by_coarser_scales_only(generator):
    """Other codes of scale j change no logits of scales up to j, and those of all finer ones."""
    batch, pyramid = batch_of(generator), generator.pyramid
    before, level = picture_logits(generator, batch), pyramid.levels()
    for changed in range(len(pyramid.sizes)):
        tokens = batch.tokens.clone()
        here = (batch.place >= 0) & (level[batch.place.clamp(min=0)] == changed)
        tokens[here] = (tokens[here] + 1) % generator.scales.vocabulary
        after = picture_logits(generator, dataclasses.replace(batch, tokens=tokens))
        same = (before == after).all(dim=2).all(dim=0)
        assert torch.equal(same, level <= changed)


def test_captions_reach_every_cell_and_nothing_tells_them_of_the_picture(generator):
    batch = batch_of(generator)
    text = (batch.place < 0) & (batch.segment >= 0)
    before, other = generator(batch, (2,)), batch.tokens.clone()
    other[~text] = 0
    assert torch.equal(
        generator(dataclasses.replace(batch, tokens=other), (2,)).hidden[2][text],
        before.hidden[2][text],
    )
    other = torch.where(text, 5, batch.tokens)
    after = picture_logits(generator, dataclasses.replace(batch, tokens=other))
    differs = (after != picture_logits(generator, batch)).any(dim=2)
    silent = [i for i in range(3) if not (text & (batch.segment == i)).any()]
    assert len(silent) == 1
    assert not differs[silent].any()
    assert differs[[i for i in range(3) if i not in silent]].all()


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("normalised", [True, False])
def test_cached_steps_equal_teacher_forcing(prefix, normalised):
    generator = generator_of(prefix, ((1, 1), (2, 2), (2, 3), (4, 4)), normalised)
    batch, store = batch_of(generator, bucket=1), SomeStore(generator)
    expected = picture_logits(generator, batch)
    codes = torch.stack([batch.tokens[i][batch.place[i] >= 0] for i in range(3)])
    row = [store.codes.tolist().index(one) for one in codes.tolist()]
    with torch.no_grad():
        logits, cache = generator.prefill([store.texts[i] for i in row])
        found = [logits]
        for here in generator.pyramid.split(codes)[:-1]:
            found.append(generator.step(here, cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.05  # of the untrained, enlarged head


def test_one_scale_is_predicted_at_once_from_the_caption():
    """K = 1: the only input is the condition, spread over all cells."""
    generator = generator_of(sizes=((4, 4),))
    batch = batch_of(generator)
    other = torch.where(batch.place >= 0, 3, batch.tokens)
    changed = dataclasses.replace(batch, tokens=other)
    assert torch.equal(generator(batch).logits, generator(changed).logits)
    logits, _ = generator.prefill([[], []])
    assert logits.shape == (2, 16, 16)
    assert (logits[0] == logits[1]).all()


def test_truncating_forking_and_gathering_a_cache(generator):
    """Going on from a manipulated cache is going on from the rows that it stands for."""
    prompts = [generator.prompt_ids(c) for c in CAPTIONS[:2]]
    first, second = torch.tensor([[1], [2]]), torch.tensor([[3, 4, 5, 6], [0, 1, 2, 3]])
    with torch.no_grad():
        _, cache = generator.prefill(prompts)
        before = generator.step(first, cache)
        plain = generator.step(second, cache)
        cache.truncate(1, generator.pyramid)
        torch.testing.assert_close(generator.step(second, cache), plain, rtol=0, atol=2e-6)
        cache.truncate(0, generator.pyramid)
        torch.testing.assert_close(generator.step(first, cache), before, rtol=0, atol=2e-6)
        cache.fork(2)
        cache.gather(torch.tensor([3, 0]))
        got = generator.step(second[[1, 0]], cache)
        torch.testing.assert_close(got, plain[[1, 0]], rtol=0, atol=2e-6)
        with pytest.raises(InputError, match="truncate"):
            cache.truncate(9, generator.pyramid)


def test_a_saved_generator_needs_no_codec(generator, tmp_path):
    generator.save_pretrained(tmp_path / "model")
    again = ScaleGenerator.from_pretrained(tmp_path / "model")
    assert torch.equal(again.scales.codebook, generator.scales.codebook)
    assert not any("codebook" in name for name, _ in again.named_parameters())
    assert again.prompt_ids("a red 3") == generator.prompt_ids("a red 3")
    seeds = [1, 2, 3]
    expected = ScaleSampler()(generator, CAPTIONS, seeds)
    assert torch.equal(ScaleSampler()(again, CAPTIONS, seeds), expected)


def test_long_captions_and_other_stores_are_refused(generator):
    with pytest.raises(InputError, match=r"ScaleSize\.positions"):
        generator.prefill([[5] * 17])
    store = SomeStore(generator)
    store.codes = store.codes[:, 1:]
    with pytest.raises(InputError, match="the pyramid"):
        generator.batches(store, BatchConfig(3)).batch(0)
    with pytest.raises(InputError, match="supervise_text"):
        generator.batches(SomeStore(generator), BatchConfig(3, supervise_text=True))


def test_likelihood_is_that_of_all_codes(generator):
    batch = batch_of(generator)
    found = held_out_bits(generator, [batch])
    logits = picture_logits(generator, batch).log_softmax(dim=-1)
    codes = torch.stack([batch.tokens[i][batch.place[i] >= 0] for i in range(3)])
    nats = -logits.gather(2, codes[..., None]).sum(dim=(1, 2))
    np.testing.assert_allclose(found.bits, nats.detach() / np.log(2), rtol=1e-5)
    assert found.tokens.tolist() == [generator.pyramid.length] * 3


# --- sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_sampling_against_the_loop_without_a_cache(generator, schedule):
    """Every scale from fresh teacher-forced passes, one picture at a time."""
    settings = SamplingConfig(2.5, schedule, temperature=0.8, top_k=9, top_p=0.95)
    got = ScaleSampler(settings)(generator, CAPTIONS[:2], [7, 8])
    pyramid, vocabulary = generator.pyramid, generator.scales.vocabulary
    for caption, seed, codes in zip(CAPTIONS, [7, 8], got, strict=False):
        noise, drawn = PictureNoise([seed]), torch.zeros(1, pyramid.length, dtype=torch.int64)
        for level, here in enumerate(pyramid.slices):
            branches = []
            for text in (caption, ""):
                store = SomeStore(generator, [text])
                store.codes = drawn
                batch = generator.batches(store, BatchConfig(1, drop_caption=0.0)).batch(0)
                branches.append(picture_logits(generator, batch)[:, here])
            scale = 1.0 + 1.5 * (level / 3 if schedule == "linear" else 1.0)
            logits = guide(*branches, scale)
            race = noise.exponential(logits[0].numel(), logits.device).view(logits.shape)
            drawn[:, here] = draw(law(logits, settings), race)
        assert drawn[0].tolist() == codes.tolist()
        assert int(codes.max()) < vocabulary


def test_the_ramp_of_guidance_is_the_papers(generator):
    """(1 + t) c - t u with t = cfg k / (K - 1); nothing at the first scale or for t = 0."""
    cfg, units = 1.5, generator.units
    settings = SamplingConfig(1.0 + cfg, "linear")
    c, u = torch.randn(2, 5), torch.randn(2, 5)
    for k in range(units):
        t = cfg * k / (units - 1)
        torch.testing.assert_close(guide(c, u, settings.scale(k, units)), (1 + t) * c - t * u)
    free = ScaleSampler(SamplingConfig(1.0))(generator, CAPTIONS, [1, 2, 3])
    ramp = ScaleSampler(settings)(generator, CAPTIONS, [1, 2, 3])
    assert torch.equal(free[:, 0], ramp[:, 0])
    assert not torch.equal(free, ramp)
    assert torch.equal(free[2], ramp[2])  # an empty caption is the null condition: nothing to guide


def test_given_codes_stay_and_what_is_drawn_follows_them(generator):
    """In-painting: cells under the mask are drawn, knowing the rest."""
    sampler = ScaleSampler(SamplingConfig(2.0))
    free = sampler(generator, CAPTIONS, [1, 2, 3])
    mask = torch.zeros(3, *generator.pyramid.grid, dtype=torch.bool)
    mask[:, :, :2] = True
    kept = generator.pyramid.kept(mask)
    assert torch.equal(sampler(generator, CAPTIONS, [1, 2, 3], given=Given(free, kept)), free)
    other = (free + 1) % 16
    painted = sampler(generator, CAPTIONS, [1, 2, 3], given=Given(other, kept), batch=2)
    assert torch.equal(painted[kept], other[kept])
    assert not torch.equal(painted[~kept], free[~kept])
    edited = sampler(generator, ("a blue 5",) * 3, [1, 2, 3], given=Given(free, kept))
    assert torch.equal(edited[kept], free[kept])  # another caption: the rest of the picture is new
    assert not torch.equal(edited, free)
    with pytest.raises(InputError, match="given: 2 pictures"):
        sampler(generator, CAPTIONS, [1, 2, 3], given=Given(free[:2], kept[:2]))
    with pytest.raises(InputError, match=r"Given\.kept"):
        Given(free, kept[:, 1:])


def test_drawn_codes_add_up_to_what_the_codec_decodes(generator):
    """f_hat of sampling, of teacher forcing and of the codec: the same numbers."""
    with torch.inference_mode():
        logits, cache = generator.prefill([generator.prompt_ids("a red 3")])
        drawn = [logits.argmax(dim=-1)]
        for _ in range(generator.units - 1):
            drawn.append(generator.step(drawn[-1], cache).argmax(dim=-1))
    codes, pyramid = torch.cat(drawn, dim=1), generator.pyramid
    state = generator.scales.add(cache.states[-1], drawn[-1], generator.units - 1, pyramid)
    codec = MultiScaleCodec.tiny()
    codec.scales.load_state_dict(generator.scales.state_dict())
    assert torch.equal(codec.lookup(codes), state)


# --- alignment --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["cls", "patch"])
def test_alignment_reaches_its_block_and_those_before(target):
    generator = ScaleGenerator.tiny()
    config = AlignmentConfig(layers=(1,), target=target)
    objective = Alignment(config, generator.width, FEATURES, generator.pyramid.sizes, seed=1)
    batch = batch_of(generator, layout="packed", packed_length=64)
    objective(generator(batch, (1,)), batch).backward()
    reached = {
        name for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert {name for name in reached if name.startswith(("blocks.1", "norm", "head"))} == set()
    assert {"read_in.weight", "text.weight", "blocks.0.set.weight", "places"} <= reached
    assert all(parameter.grad.any() for parameter in objective.parameters())


def test_a_cell_is_aligned_with_the_patches_that_it_covers():
    """A change of a quarter of the patches: a cell feels as much of it as it covers."""
    generator = ScaleGenerator.tiny()
    pyramid, batch = generator.pyramid, batch_of(generator)
    config = AlignmentConfig(target="patch", projector="pool", similarity="mse")
    objective = Alignment(config, generator.width, FEATURES, pyramid.sizes)
    seen = {}
    for value in (0.0, 1.0):
        patches = torch.zeros(3, 4, 4, FEATURES)
        patches[:, :2, :2] = value
        filled = dataclasses.replace(batch, features={"patches": patches.flatten(1, 2)})
        sample, place = batch.segment[batch.image], batch.place[batch.image]
        seen[value], _ = objective._target(filled, sample, place)
    felt = (seen[1.0] - seen[0.0]).mean(dim=1)[batch.segment[batch.image] == 0]
    corner = torch.zeros(4, 4, dtype=torch.bool)
    corner[:2, :2] = True
    covers = pyramid.covers().float()
    share = covers @ corner.flatten().float() / covers.sum(dim=1)
    torch.testing.assert_close(felt, share)


# --- the network ------------------------------------------------------------------------------


def test_a_block_against_its_formula():
    with seeded(0):
        block, x, condition = Block(8, 2, 16, True), torch.randn(2, 5, 8), torch.randn(2, 8)
    g1, g2, s1, s2, b1, b2 = block.set(F.silu(condition))[:, None].chunk(6, dim=-1)

    def attend(h):
        weight, bias = block.attention.qkv.weight, block.attention
        q, k, v = (h @ w.T for w in weight.chunk(3))
        q, v = q + bias.query_bias, v + bias.value_bias
        found = []
        for head in range(2):
            here = slice(4 * head, 4 * head + 4)
            cosine = F.cosine_similarity(q[:, :, None, here], k[:, None, :, here], dim=-1)
            found.append((4.0 * cosine).softmax(dim=-1) @ v[..., here])
        return block.attention.out(torch.cat(found, dim=-1))

    def norm(h):
        return (h - h.mean(-1, keepdim=True)) / (
            h.var(-1, keepdim=True, correction=0) + 1e-6
        ) ** 0.5

    y = x + g1 * attend(norm(x) * (1 + s1) + b1)
    hidden = F.gelu(block.inside(norm(y) * (1 + s2) + b2), approximate="tanh")
    torch.testing.assert_close(block(x, condition, None), y + g2 * block.outside(hidden))
    positions = condition[:, None].expand(-1, 5, -1)
    torch.testing.assert_close(block(x, positions, None), block(x, condition, None))


def test_sharpness_is_bounded_and_plain_attention_is_a_quarter():
    with seeded(0):
        sharp, plain, x = Attention(8, 2, True), Attention(8, 2, False), torch.randn(1, 4, 8)
    sharp.log_sharpness.data.fill_(50.0)
    bounded = sharp(x, None)
    sharp.log_sharpness.data.fill_(np.log(100.0))
    torch.testing.assert_close(sharp(x, None), bounded)
    q, k, v = (x @ w.T for w in plain.qkv.weight.chunk(3))
    heads = [(t[..., :4], t[..., 4:]) for t in (q, k, v)]
    seen = [
        (0.25 * qh @ kh.transpose(1, 2) / 2.0).softmax(dim=-1) @ vh
        for qh, kh, vh in zip(*heads, strict=True)
    ]
    torch.testing.assert_close(plain(x, None), plain.out(torch.cat(seen, dim=-1)))


def test_dropped_branches_keep_the_mean():
    drop, x = DropPath(0.25), torch.ones(4000, 2)
    assert torch.equal(drop.eval()(x), x)
    with seeded(0):
        found = drop.train()(x)
    assert sorted(found.unique().tolist()) == pytest.approx([0.0, 4 / 3])
    assert torch.equal(found[:, 0], found[:, 1])
    assert abs(found.mean() - 1.0) < 0.05


def test_sizes_of_the_paper():
    """73728 d^3 parameters in the blocks, to a few per cent; 310 million at depth 16."""
    size = ScaleSize.of_depth(16)
    with torch.device("meta"):
        block = Block(size.width, size.heads, size.feed_forward, size.normalised)
    count = sum(p.numel() for p in block.parameters()) * size.depth
    assert abs(count / (73728 * 16**3) - 1) < 0.01
    assert Pyramid.square((1, 2, 3)).length == 14


def test_what_reads_begins_as_large_as_is_asked_for():
    """ScaleSize.inputs: pictures, captions and the null condition; nothing else changes."""
    one = ScaleGenerator.tiny()
    config = dataclasses.replace(one.config, size=dataclasses.replace(one.config.size, inputs=10.0))
    with seeded(0):
        large = ScaleGenerator(config)
    with seeded(0):
        plain = ScaleGenerator(one.config)
    states = plain.state_dict()
    grown = {name for name, value in large.state_dict().items() if not value.equal(states[name])}
    assert grown == {"text.weight", "null", "read_in.weight"}
    torch.testing.assert_close(large.read_in.weight, 10.0 * plain.read_in.weight)
