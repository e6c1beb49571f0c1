"""The linear-time scan: two forms, a state that is carried, and blocks that mix with it (M-VAR)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from arra.codecs.multiscale import MultiScaleCodec
from arra.data.tokenizer import train_text_tokenizer
from arra.generators.scales import ScaleGenerator
from arra.networks.adaln import Block, Sight
from arra.networks.scan import Scan, ScanMemory, chunked_scan, recurrent_scan, runs_of
from arra.orders.pyramid import Pyramid
from arra.randomness import seeded
from arra.settings import BatchConfig, ScaleSize, ScanSize
from test_scales import SomeStore, picture_logits

SIZE = ScanSize(state=5, conv=3, expand=2)
PAPER = Pyramid.square((1, 2, 3, 4, 5, 6, 8, 10, 13, 16))


def some(length=23, rows=2, heads=3, width=4, state=5, seed=0):
    """x, decay, b, c and a state, float64."""
    rng = torch.Generator().manual_seed(seed)
    shapes = ((rows, length, heads, width), (rows, length, heads), (rows, length, state))
    x, decay, b = (torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes)
    c = torch.randn(shapes[2], generator=rng, dtype=torch.float64)
    before = torch.randn(rows, heads, width, state, generator=rng, dtype=torch.float64)
    return x, -decay.abs(), b, c, before


def layer(seed=0):
    """A scan in float64 with weights that matter."""
    with seeded(seed):
        made = Scan(12, 2, SIZE)
    with torch.no_grad():
        made.step_bias.fill_(0.3)
        made.log_rate.copy_(torch.linspace(-2.0, 0.5, len(made.log_rate)))
    return made.double()


@pytest.mark.parametrize("chunk", [1, 4, 23, 64])
def test_chunks_equal_the_recurrence(chunk):
    x, decay, b, c, before = some()
    expected, last = recurrent_scan(x, decay, b, c, before)
    found, state = chunked_scan(x, decay, b, c, before, chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-10)


def test_gradients_of_both_forms_agree_and_strong_decay_stays_finite():
    values = [v.requires_grad_() for v in some()]
    weight = torch.randn(2, 23, 3, 4, dtype=torch.float64)
    one = torch.autograd.grad((recurrent_scan(*values)[0] * weight).sum(), values)
    two = torch.autograd.grad((chunked_scan(*values, chunk=8)[0] * weight).sum(), values)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    x, decay, b, c, _ = (v.detach().float() for v in some())
    x, decay = x.requires_grad_(), (decay * 1e4).requires_grad_()
    chunked_scan(x, decay, b, c)[0].sum().backward()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(decay.grad).all()


def test_without_decay_it_is_linear_attention():
    """y_t = sum_{s <= t} (c_t . b_s) x_s: the dense formula."""
    x, decay, b, c, _ = some()
    found, _ = chunked_scan(x, torch.zeros_like(decay), b, c, chunk=7)
    weight = (c @ b.transpose(1, 2)).tril()
    torch.testing.assert_close(found, torch.einsum("rts,rshp->rthp", weight, x))


def naive(scan, x):
    """Mamba-2's layer position by position, from its formulas."""
    projected = x @ scan.into.weight.T
    inner, state, heads = scan.inner, scan.state, scan.heads
    z, mixed, dt = projected.split((inner, inner + 2 * state, heads), dim=-1)
    taps = scan.conv.shape[-1]
    found, past = [], torch.zeros(len(x), taps, mixed.shape[-1], dtype=x.dtype)
    memory = torch.zeros(len(x), heads, inner // heads, state, dtype=x.dtype)
    for t in range(x.shape[1]):
        past = torch.cat((past[:, 1:], mixed[:, t : t + 1]), dim=1)
        seen = F.silu((past * scan.conv[:, 0].T).sum(dim=1) + scan.conv_bias)
        value, b, c = seen.split((inner, state, state), dim=-1)
        value = value.view(len(x), heads, -1)
        step = F.softplus(dt[:, t] + scan.step_bias)
        for h in range(heads):
            keep = torch.exp(-step[:, h] * scan.log_rate[h].exp())
            new = step[:, h, None, None] * value[:, h, :, None] * b[:, None, :]
            memory[:, h] = keep[:, None, None] * memory[:, h] + new
        y = torch.einsum("rhpn,rn->rhp", memory, c) + scan.skip[:, None] * value
        y = y.flatten(1) * F.silu(z[:, t])
        y = y / (y.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * scan.norm_weight
        found.append(y @ scan.out.weight.T)
    return torch.stack(found, dim=1)


def test_the_layer_against_its_formulas():
    scan, x = layer(), torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(scan(x), naive(scan, x), rtol=0, atol=1e-10)


def test_scale_by_scale_with_a_state_is_the_whole_and_is_the_prefix_computed_anew():
    scan, pyramid = layer(), Pyramid.square((1, 2, 4, 8))
    x = torch.randn(2, pyramid.length, 12, dtype=torch.float64)
    whole, memory, parts = scan(x), ScanMemory(), []
    for here in pyramid.slices:
        parts.append(scan(x[:, here], memory=memory))
        again = scan(x[:, : here.stop])[:, here]  # as the released code does
        torch.testing.assert_close(parts[-1], again, rtol=0, atol=1e-10)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-10)
    assert memory.length == pyramid.length


def test_carrying_the_state_is_exact():
    """The same for the scan alone, in float64."""
    x, decay, b, c, _ = some(85)
    whole, last = chunked_scan(x, decay, b, c)
    state, parts = None, []
    for here in Pyramid.square((1, 2, 4, 8)).slices:
        part, state = chunked_scan(x[:, here], decay[:, here], b[:, here], c[:, here], state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-10)


def test_it_is_causal_and_padding_leaves_no_trace():
    scan, x = layer(), torch.randn(2, 9, 12, dtype=torch.float64)
    before, other = scan(x), x.clone()
    other[:, 5] += 1.0
    changed = (scan(other) != before).any(dim=2).any(dim=0)
    assert changed.tolist() == [False] * 5 + [True] * 4
    padded = torch.cat((torch.randn(2, 3, 12, dtype=torch.float64), x), dim=1)
    real = torch.tensor([[False] * 3 + [True] * 9] * 2)
    torch.testing.assert_close(scan(padded, real)[:, 3:], before, rtol=0, atol=1e-10)


def test_samples_are_found_in_packed_rows():
    segment = torch.tensor([[0, 0, 2, -1], [1, 1, 1, -1]])
    assert runs_of(segment, 3).tolist() == [[0, 1, -1], [4, 5, 6], [2, -1, -1]]


# --- blocks and generators --------------------------------------------------------------------


def block(mixer, seed=0):
    with seeded(seed):
        return Block(12, 2, 16, True, 0.0, mixer, SIZE)


def test_attention_within_scales_is_one_attention_a_scale():
    """The block-diagonal mask is each scale as its own sequence."""
    made, pyramid = block("intra"), Pyramid.square((1, 2, 3))
    x, condition = torch.randn(2, pyramid.length, 12), torch.randn(2, 12)
    mask = pyramid.layout(forget=True).sees()[None, None]
    parts = [made(x[:, here], condition, None) for here in pyramid.slices]
    torch.testing.assert_close(made(x, condition, mask), torch.cat(parts, dim=1))
    spans = Sight(spans=pyramid.counts)
    torch.testing.assert_close(made(x, condition, mask), made(x, condition, spans))


def test_pairs_that_attention_compares():
    assert PAPER.length == 680
    counts = [int(PAPER.layout(forget=forget).sees().sum()) for forget in (True, False)]
    assert counts == [110_468, 286_434]
    text = Pyramid.square((1, 2)).layout(prefix=3, forget=True).sees()
    assert text[:, :3].all()  # captions do not die
    assert text[4:, 3].tolist() == [False] * 4


def test_branches_in_their_order():
    """Gates, then scales, then shifts, of attention, scan and feed-forward."""
    made, x, condition = block("intra+scan"), torch.randn(2, 5, 12), torch.randn(2, 12)
    parts = made.set(F.silu(condition))[:, None].chunk(9, dim=-1)

    def norm(h, i):
        return F.layer_norm(h, (12,), eps=1e-6) * (1 + parts[3 + i]) + parts[6 + i]

    y = x + parts[0] * made.attention(norm(x, 0), None)
    y = y + parts[1] * made.scan(norm(y, 1))
    hidden = F.gelu(made.inside(norm(y, 2)), approximate="tanh")
    expected = y + parts[2] * made.outside(hidden)
    torch.testing.assert_close(made(x, condition, Sight()), expected)


def generator_of(mixer, prefix=True, sizes=None):
    """A tiny generator with enlarged weights, so that what is read matters."""
    config = MultiScaleCodec.tiny().config
    if sizes is not None:
        config = dataclasses.replace(config, sizes=sizes)
    codec = MultiScaleCodec.seeded(config, 0)
    codec.scales.codebook.data.normal_(generator=torch.Generator().manual_seed(1))
    tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
    size = ScaleSize(32, 2, 2, 48, gate=1.0, positions=16, mixer=mixer, scan=ScanSize(8, 3, 1))
    made = ScaleGenerator.from_scratch(tokenizer, codec, size, seed=0, prefix=prefix).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
        made.head.weight.mul_(10.0)
        for part in made.blocks:
            if part.scan is not None:
                part.scan.step_bias.fill_(0.5)
                part.scan.log_rate.fill_(-2.0)
    return made


def batch_of(generator, **settings):
    config = BatchConfig(**{"size": 3, "drop_caption": 0.0, "bucket": 1, **settings})
    return generator.batches(SomeStore(generator), config).batch(0)


def cached(generator, batch):
    """Logits (B, L, V) of the batch's codes, scale by scale, and the cache."""
    store = SomeStore(generator)
    codes = torch.stack([batch.tokens[i][batch.place[i] >= 0] for i in range(3)])
    row = [store.codes.tolist().index(one) for one in codes.tolist()]
    with torch.no_grad():
        logits, cache = generator.prefill([store.texts[i] for i in row])
        found = [logits]
        for here in generator.pyramid.split(codes)[:-1]:
            found.append(generator.step(here, cache))
    return torch.cat(found, dim=1), codes, cache


MIXERS = ("intra+scan", "intra", "scan")


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("mixer", MIXERS)
def test_cached_steps_equal_teacher_forcing(mixer, prefix):
    generator = generator_of(mixer, prefix)
    batch = batch_of(generator)
    expected = picture_logits(generator, batch)
    torch.testing.assert_close(cached(generator, batch)[0], expected, rtol=0, atol=3e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("layout", ["left", "packed"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_padding_and_packing_change_nothing(mixer, layout):
    generator = generator_of(mixer)
    right = batch_of(generator)
    other = batch_of(generator, layout=layout, packed_length=64)
    found = generator(other).logits
    owner = other.segment[other.target >= 0]
    expected = generator(right).logits
    mine = right.segment[right.target >= 0]
    for sample in range(3):
        torch.testing.assert_close(
            found[owner == sample], expected[mine == sample], rtol=0, atol=2e-5
        )


def test_a_cache_goes_back_and_copies_its_rows():
    generator = generator_of("intra+scan")
    expected, codes, cache = cached(generator, batch_of(generator))
    pyramid, first = generator.pyramid, generator.pyramid.split(codes)
    with torch.no_grad():
        cache.truncate(1, pyramid)
        again = generator.step(first[1], cache)
        torch.testing.assert_close(again, expected[:, pyramid.slices[2]], rtol=0, atol=3e-5)
        cache.truncate(0, pyramid)
        cache.fork(2)
        cache.gather(torch.tensor([5, 0]))
        got = generator.step(first[0][[2, 0]], cache)
        wanted = expected[:, pyramid.slices[1]][[2, 0]]
        torch.testing.assert_close(got, wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_scale_is_told_by_coarser_scales_only(mixer):
    generator = generator_of(mixer)
    batch, pyramid = batch_of(generator), generator.pyramid
    before, level = picture_logits(generator, batch), pyramid.levels()
    for changed in range(len(pyramid.sizes)):
        tokens = batch.tokens.clone()
        here = (batch.place >= 0) & (level[batch.place.clamp(min=0)] == changed)
        tokens[here] = (tokens[here] + 1) % generator.scales.vocabulary
        after = picture_logits(generator, dataclasses.replace(batch, tokens=tokens))
        told = (before != after).any(dim=2).any(dim=0)
        assert not told[level <= changed].any()
        assert told[level > changed].any() == (changed < len(pyramid.sizes) - 1)


def changed_inputs(made, gates, at):
    """Which positions of a scale of four feel a change of one of them; gates may be closed."""
    x, condition = torch.randn(1, 5, 12), torch.zeros(1, 12)
    with torch.no_grad():
        made.set.weight.zero_()
        made.set.bias.zero_()
        for branch in gates:
            made.set.bias[12 * branch : 12 * branch + 12] = 1.0
    mask = Pyramid.square((1, 2)).layout(forget=True).sees()[None, None]
    other = x.clone()
    other[:, at] += torch.randn(12)
    with torch.no_grad():
        changed = made(x, condition, mask) != made(other, condition, mask)
    return changed.any(dim=2)[0].tolist()


def test_earlier_cells_of_a_scale_learn_of_later_ones_by_attention_alone():
    made = block("intra+scan")
    assert changed_inputs(made, (0, 1, 2), at=4) == [False, True, True, True, True]
    assert changed_inputs(made, (1, 2), at=4) == [False] * 4 + [True]  # the scan alone
    # what lies before the scale reaches it through the scan alone
    assert changed_inputs(made, (0, 1, 2), at=0) == [True] * 5
    assert changed_inputs(made, (0, 2), at=0) == [True] + [False] * 4


def test_one_scale_and_a_closed_scan_is_var():
    """K = 1: the same weights, the same logits."""
    both = generator_of("intra+scan", prefix=False, sizes=((4, 4),))
    plain = generator_of("attention", prefix=False, sizes=((4, 4),))
    width = both.width
    state = {name: value for name, value in both.state_dict().items() if ".scan." not in name}
    kept = torch.cat([torch.arange(width) + width * part for part in (0, 2, 3, 5, 6, 8)])
    with torch.no_grad():
        for number, made in enumerate(both.blocks):
            made.set.weight[width : 2 * width] = 0.0
            for name in ("weight", "bias"):
                key = f"blocks.{number}.set.{name}"
                state[key] = getattr(made.set, name)[kept]
    plain.load_state_dict(state)
    batch = batch_of(both)
    torch.testing.assert_close(both(batch).logits, plain(batch).logits)
