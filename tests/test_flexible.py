"""Any schedule: the exact checks of FlexVAR, its codec, its batches, sampling and what is given."""

from __future__ import annotations

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.losses import ReconstructionConfig, ReconstructionLoss
from arra.codecs.pyramids import DirectConfig, DirectPyramid
from arra.codecs.scalable import ScalableCodec, ScalableConfig
from arra.codecs.training import CodecTraining, train_codec
from arra.data.tokenizer import train_text_tokenizer
from arra.errors import InputError
from arra.generators.flexible import FlexibleConfig, FlexibleGenerator, resized, waves
from arra.generators.scale_batches import ScaleBatches
from arra.metrics.likelihood import held_out_bits
from arra.orders.layout import visible
from arra.orders.pyramid import Pyramid
from arra.orders.schedules import DEFAULT, STEPS, RandomSchedules, every_scale, fitted
from arra.pixels import to_unit
from arra.samplers.scales import Given, ScaleSampler
from arra.settings import BatchConfig, SamplingConfig, ScaleSize
from arra.text_to_image import TextToImage

CAPTIONS = ("a red 3", "a green 7 left of a blue 5", "")
SCHEDULES = (
    ((1, 1), (2, 2), (4, 4)),
    ((1, 1), (3, 3), (4, 4)),
    ((1, 2), (2, 3), (3, 6)),
    ((5, 2),),
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def codec_of(**changes):
    codec = ScalableCodec.seeded(dataclasses.replace(ScalableCodec.tiny().config, **changes), 0)
    table = codec.scales.codebook
    table.data.copy_(F.normalize(noise(*table.shape, seed=1), dim=1))
    return codec.eval()


@pytest.fixture(scope="module")
def generator():
    """A tiny generator; weights are enlarged, so that what is read matters."""
    tokenizer = train_text_tokenizer(["a red 3 left of a blue 5", "a green 7 above it"])
    size = ScaleSize(32, 2, 2, 48, gate=1.0, positions=16)
    made = FlexibleGenerator.from_scratch(tokenizer, codec_of(), size, seed=0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4.0)
        made.head.weight.mul_(10.0)
    return made


class SomeStore:
    """A row for each caption, with the codes of some scales."""

    def __init__(self, generator, pyramid, captions=CAPTIONS):
        self.texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in captions]
        shape = (len(captions), pyramid.length)
        self.codes = torch.randint(16, shape, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.texts)

    def text_lengths(self, indices):
        return np.array([len(self.texts[i]) for i in indices])

    def rows(self, indices, features=None):
        texts = [self.texts[i] for i in indices]
        return SimpleNamespace(text_ids=texts, codes=self.codes[list(indices)], features={})


# --- schedules ----------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9))
def test_random_schedules_are_those_of_the_paper(seed):
    law = RandomSchedules()
    sides = law.draw(np.random.default_rng(seed))
    assert sides[:2] == (1, 2)
    assert all(a < b for a, b in itertools.pairwise(sides))
    assert sum(side**2 for side in sides) <= 680
    uncapped = dataclasses.replace(law, most_cells=10**6).draw(np.random.default_rng(seed))
    assert 6 <= len(uncapped) <= 10
    assert uncapped[-1] == 16
    small = RandomSchedules.of_side(8).draw(np.random.default_rng(seed))
    assert small[0] == 1
    assert small[-1] == 8
    assert len(small) <= 5


def test_every_side_is_drawn_and_the_default_now_and_then():
    law, drawn = RandomSchedules(), []
    for seed in range(400):
        drawn.append(law.draw(np.random.default_rng(seed)))
    assert {side for sides in drawn for side in sides} == set(range(1, 17))
    assert 5 < sum(sides == DEFAULT for sides in drawn) < 45
    assert any(sides[-1] != 16 for sides in drawn), "the released code may leave out the last"


def test_schedules_fit_any_aspect_ratio():
    assert fitted((1, 2, 4, 8), (8, 8)) == ((1, 1), (2, 2), (4, 4), (8, 8))
    assert fitted(DEFAULT, (16, 8))[3:6] == ((4, 2), (5, 2), (6, 3))
    assert fitted((1, 3, 16), (4, 16)) == ((1, 1), (1, 3), (4, 16))
    assert every_scale((2, 3)) == ((1, 1), (1, 2), (2, 3))
    assert all(len(sides) == steps for steps, sides in STEPS.items())
    for wrong in ((), (2, 2), (0, 1), (3, 1)):
        with pytest.raises(InputError, match="growing"):
            fitted(wrong, (4, 4))


def test_places_of_some_scales_among_all():
    every = Pyramid(every_scale((3, 3)))
    assert every.places_of(((1, 1), (3, 3))) == [0, *range(5, 14)]
    with pytest.raises(InputError, match="scales"):
        every.places_of(((4, 4),))


# --- the pyramid and the codec ------------------------------------------------------------------


@pytest.mark.parametrize("normalised", [True, False])
def test_codes_are_those_of_the_averaged_latents(normalised):
    """Against loops over blocks; one hop from a scale to the next; no scale depends on others."""
    scales = DirectPyramid(DirectConfig(12, 3, normalised))
    scales.codebook.data.copy_(noise(12, 3, seed=2))
    latents, pyramid = noise(2, 3, 4, 6), Pyramid(((1, 1), (2, 3), (4, 6)))
    table = F.normalize(scales.codebook, dim=1) if normalised else scales.codebook
    expected, vectors = [], []
    for rows, columns in pyramid.sizes:
        blocks = latents.unflatten(2, (rows, -1)).unflatten(4, (columns, -1)).mean(dim=(3, 5))
        flat = blocks.flatten(2).transpose(1, 2)
        flat = F.normalize(flat, dim=2) if normalised else flat
        expected.append(torch.cdist(flat, table.expand(2, -1, -1)).argmin(dim=2))
        vectors.append(table[expected[-1]].transpose(1, 2).unflatten(2, (rows, columns)))
    steps = list(scales.quantize(latents, pyramid))
    for step, codes, state in zip(steps, expected, vectors, strict=True):
        assert torch.equal(step.codes, codes)
        torch.testing.assert_close(step.state, state)
    codes = torch.cat(expected, dim=1)
    read = [
        F.interpolate(state, size=size, mode="bicubic").flatten(2).transpose(1, 2)
        for state, size in zip(vectors, pyramid.sizes[1:], strict=False)
    ]
    torch.testing.assert_close(scales.inputs(codes, pyramid), torch.cat(read, dim=1))
    torch.testing.assert_close(scales.last(codes, pyramid), vectors[-1])
    (alone,) = scales.quantize(latents, Pyramid(((2, 3),)))
    assert torch.equal(alone.codes, expected[1])


def test_a_scale_reads_the_one_before_it_and_no_other():
    """The content path; earlier scales reach a cell through attention alone."""
    scales, pyramid = codec_of().scales, Pyramid(every_scale((4, 4)))
    codes = torch.zeros(1, pyramid.length, dtype=torch.int64)
    level = pyramid.levels()[1:]
    for changed, here in enumerate(pyramid.slices):
        other = codes.clone()
        other[:, here] = 5
        differs = (scales.inputs(other, pyramid) != scales.inputs(codes, pyramid)).any(dim=2)[0]
        assert torch.equal(differs, level == changed + 1)


def test_averaging_before_or_after_the_last_convolution_is_the_same():
    """Its kernel is 1 x 1: the codec may average what it likes."""
    last = codec_of().encoder.layers[-1]
    h = noise(2, last.in_channels, 4, 4)
    for size in ((1, 1), (3, 3), (2, 4)):
        before = last(F.interpolate(h, size=size, mode="area"))
        after = F.interpolate(last(h), size=size, mode="area")
        torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_pictures_are_encoded_in_any_schedule_and_painted_from_the_last_scale():
    codec = codec_of()
    pictures = torch.rand(2, 3, 8, 8) * 2 - 1
    every = codec.encode(pictures)
    for sizes in (((1, 1), (2, 2), (4, 4)), ((4, 4),), every_scale((4, 4))):
        codes = codec.encode(pictures, sizes)
        assert torch.equal(codes, every[:, codec.pyramid.places_of(sizes)])
        assert torch.equal(codec.decode(codes), codec.decode(every)), "the last scale alone counts"
    wide = torch.rand(2, 3, 6, 12) * 2 - 1
    codes = codec.encode(wide, ((1, 1), (1, 2), (3, 6)))
    assert codec.at((3, 6)).decode(codes).shape == wide.shape
    assert codec.decode(codes[:, :1].expand(-1, 16)).shape == (2, 3, 8, 8), "the view left no trace"
    with pytest.raises(InputError, match="no larger"):
        codec.encode(wide, ((1, 1), (4, 6)))
    with pytest.raises(InputError, match="expected 8 x 8"):
        codec.encode(wide)
    with pytest.raises(InputError, match="too few"):
        codec.decode(every[:, :3])


def test_training_reconstructs_some_resolutions_a_function_of_the_step():
    codec = codec_of(resolutions=3)
    chosen = [codec.resolutions(step) for step in range(30)]
    assert chosen == [codec.resolutions(step) for step in range(30)]
    assert all(len(sizes) == 3 and sizes[-1] == (4, 4) for sizes in chosen)
    assert {size for sizes in chosen for size in sizes} == set(every_scale((4, 4)))
    pictures = torch.rand(2, 3, 8, 8) * 2 - 1
    output = codec.train()(pictures)
    for (made, target), (rows, _) in zip(output.smaller, chosen[0], strict=False):
        assert made.shape == target.shape == (2, 3, 2 * rows, 2 * rows)
        torch.testing.assert_close(target, F.interpolate(pictures, size=2 * rows, mode="area"))
    assert codec.eval()(pictures).smaller == ()
    terms = ReconstructionLoss(ReconstructionConfig())
    expected = F.mse_loss(output.reconstruction, pictures)
    expected = expected + sum(F.mse_loss(made, target) for made, target in output.smaller)
    torch.testing.assert_close(terms.of_all(output, pictures, 0)["l2"], expected)


def test_small_resolutions_are_compared_by_pixels_alone():
    """A picture of one code has nothing that a discriminator could look at."""
    codec = ScalableCodec.seeded(
        ScalableConfig(AutoencoderConfig(8, 8, blocks=0, decoder_blocks=0, groups=2), (4, 4)), 0
    ).train()
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    output = codec(pictures)
    weights = ReconstructionConfig(
        perceptual=1.0, adversarial=0.5, discriminator_width=8, smallest=16
    )
    terms = ReconstructionLoss(weights)
    assert [terms.looks_at(target) for _, target in output.smaller] == [False, True, True]
    found = terms.of_all(output, pictures, 0)
    expected = terms(output.reconstruction, pictures, 0)["adversarial"]
    expected = expected + sum(
        terms(made, target, 0)["adversarial"] for made, target in output.smaller[1:]
    )
    torch.testing.assert_close(found["adversarial"], expected)
    config = CodecTraining(steps=2, batch=2, reconstruction=weights, quiet=True)
    batch = (pictures * 127.5 + 127.5).to(torch.uint8)
    train_codec(codec, batch.repeat(2, 1, 1, 1), config, generator=torch.Generator())


def test_training_at_all_sizes_makes_coarse_scales_pictures():
    """The part that makes the method work: without it a small latent is decoded badly."""
    rng = torch.Generator().manual_seed(3)
    corners = torch.rand(256, 3, 2, 2, generator=rng)
    pictures = F.interpolate(corners, size=8, mode="bilinear").mul(255).to(torch.uint8)
    target = F.interpolate(to_unit(pictures), size=4, mode="area")
    errors = {}
    for count in (1, 4):
        codec = codec_of(resolutions=count, direct=DirectConfig(64, 4))
        config = CodecTraining(steps=150, batch=16, lr=8e-3, quiet=True)
        train_codec(codec, pictures, config, generator=torch.Generator().manual_seed(0))
        half = codec.encode(to_unit(pictures), ((2, 2),))
        errors[count] = float(F.mse_loss(codec.at((2, 2)).decode(half), target))
    assert errors[4] < 0.7 * errors[1]


# --- places -------------------------------------------------------------------------------------


def test_the_table_of_places():
    table = waves(6, 8)
    for j, y, x in itertools.product(range(3), (0, 3, 7), (0, 2, 5)):
        rate = 10000 ** (-2 * j / 6)
        assert float(table[2 * j, y, x]) == pytest.approx(math.sin(y * rate), abs=1e-6)
        assert float(table[2 * j + 1, y, x]) == pytest.approx(math.cos(x * rate), abs=1e-6)
    assert torch.equal(resized(table, (8, 8)), table)
    blocks = table.unflatten(1, (4, 2)).unflatten(3, (2, 4)).mean(dim=(2, 4))
    torch.testing.assert_close(resized(table, (4, 2)), blocks, rtol=0, atol=1e-6)
    torch.testing.assert_close(resized(table, (16, 8)), table.repeat_interleave(2, dim=1))


def test_nothing_tells_the_step(generator):
    """A scale has the same embedding in whichever schedule, and there is no embedding of levels;
    only where a picture begins is told."""
    second = generator.scheduled(((1, 1), (3, 3))).where()[1:]
    third = generator.scheduled(((1, 1), (2, 2), (3, 3))).where()[5:]
    assert torch.equal(second, third)
    alone = generator.scheduled(((3, 3),)).where()
    torch.testing.assert_close(alone - generator.start, third)
    names = {name for name, _ in generator.named_parameters()}
    assert "table" in names
    assert not names & {"levels", "places"}


# --- the generator ------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SCHEDULES)
def test_cached_steps_equal_teacher_forcing_in_any_schedule(generator, sizes):
    view = generator.scheduled(sizes)
    store = SomeStore(generator, view.pyramid)
    (batch,) = view.batches(store, BatchConfig(3, drop_caption=0.0)).in_order()
    with torch.no_grad():
        expected = view(batch).logits.view(3, view.pyramid.length, -1)
        logits, cache = view.prefill(store.texts)
        found = [logits]
        for here in view.pyramid.split(store.codes)[:-1]:
            found.append(view.step(here, cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=0, atol=2e-5)
    assert expected.std() > 0.05
    assert generator.pyramid.sizes == generator.config.sizes, "the view left no trace"


def test_batches_of_random_schedules(generator):
    """A pure function of step and seed; the codes are the stored ones of the scales drawn."""
    store = SomeStore(generator, generator.stored)
    batches = generator.batches(store, BatchConfig(3, drop_caption=0.0))
    seen = set()
    for step in range(12):
        batch = batches.batch(step, 1, 2)
        again = generator.batches(store, BatchConfig(3, drop_caption=0.0)).batch(step, 1, 2)
        assert all(torch.equal(x, again.tensors()[name]) for name, x in batch.tensors().items())
        seen.add(sizes := batches.sizes(step))
        assert torch.equal(batches.batch(step, 0, 2).place.unique(), batch.place.unique())
        here = generator.stored.places_of(sizes)
        for row in range(3):
            picture = batch.place[row] >= 0
            assert batch.place[row][picture].tolist() == here
            codes = batch.tokens[row][picture]
            assert torch.equal(codes, batch.target[row][picture])
            assert codes.tolist() in store.codes[:, here].tolist()
    assert len(seen) > 1
    other = generator.batches(store, BatchConfig(3, drop_caption=0.0, seed=1))
    assert [other.sizes(s) for s in range(12)] != [batches.sizes(s) for s in range(12)]


def test_a_batch_of_a_schedule_is_read_as_by_a_model_of_that_schedule(generator):
    store = SomeStore(generator, generator.stored)
    batches = generator.batches(store, BatchConfig(3, drop_caption=0.0))
    for step in range(6):
        sizes, batch = batches.sizes(step), batches.batch(step)
        view, plain = generator.scheduled(sizes), SomeStore(generator, Pyramid(sizes))
        plain.codes = store.codes[:, generator.stored.places_of(sizes)]
        expected = ScaleBatches(plain, view.pyramid, BatchConfig(3, drop_caption=0.0)).batch(step)
        assert torch.equal(generator(batch).logits, view(expected).logits)


def test_a_scale_is_told_by_coarser_scales_only(generator):
    """Other codes of scale j change no logits of scales up to j, and those of all finer ones."""
    view = generator.scheduled(((1, 1), (2, 2), (3, 3), (4, 4)))
    store = SomeStore(generator, view.pyramid)
    level = view.pyramid.levels()

    def logits():
        (batch,) = view.batches(store, BatchConfig(3)).in_order()
        with torch.no_grad():
            return view(batch).logits.view(3, len(level), -1)

    before, codes = logits(), store.codes
    for changed, here in enumerate(view.pyramid.slices):
        store.codes = codes.clone()
        store.codes[:, here] = (codes[:, here] + 1) % 16
        same = (before == logits()).all(dim=2).all(dim=0)
        assert torch.equal(same, level <= changed)


def test_one_scale_is_predicted_at_once_and_vars_schedule_has_vars_mask(generator):
    view = generator.scheduled(((4, 4),))
    store = SomeStore(generator, view.pyramid)
    (batch,) = view.batches(store, BatchConfig(3)).in_order()
    other = dataclasses.replace(batch, tokens=torch.where(batch.place >= 0, 3, batch.tokens))
    assert torch.equal(view(batch).logits, view(other).logits)
    pyramid = Pyramid(fitted(DEFAULT, (16, 16)))
    assert pyramid.length == 680
    ends = np.cumsum([side * side for side in DEFAULT])
    mask = torch.zeros(680, 680, dtype=torch.bool)
    for start, end in zip((0, *ends[:-1]), ends, strict=True):
        mask[start:end, :end] = True
    assert torch.equal(pyramid.layout().sees(), mask)
    assert torch.equal(visible(torch.zeros(680), pyramid.levels()), mask)


def test_gradients_reach_every_weight(generator):
    store = SomeStore(generator, generator.stored)
    batch = generator.batches(store, BatchConfig(3, drop_caption=0.0)).batch(0)
    output = generator(batch, (1,))
    generator.zero_grad()
    F.cross_entropy(output.logits, output.targets).backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    generator.zero_grad()


def test_likelihood_is_that_of_the_default_scales(generator):
    store = SomeStore(generator, generator.stored)
    batches = generator.batches(store, BatchConfig(3))
    found = held_out_bits(generator, list(batches.in_order()))
    assert found.tokens.tolist() == [generator.pyramid.length] * 3


def test_settings_that_cannot_be(generator):
    config = generator.config
    with pytest.raises(InputError, match="need a table"):
        dataclasses.replace(config, table=0)
    with pytest.raises(InputError, match="stored scales"):
        dataclasses.replace(config, sizes=((7, 7),))
    fixed = FlexibleGenerator.seeded(dataclasses.replace(config, table=0, schedules=None), 0)
    with pytest.raises(InputError, match="one schedule"):
        fixed.scheduled(((4, 4),))
    assert isinstance(config, FlexibleConfig)


# --- drawing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SCHEDULES[1:3])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_picture_is_the_same_in_any_company(generator, sizes, guidance):
    view = generator.scheduled(sizes)
    sampler = ScaleSampler(SamplingConfig(guidance, "linear"))
    together = sampler(view, CAPTIONS, [5, 6, 7])
    assert together.shape == (3, view.pyramid.length)
    for row in range(3):
        assert torch.equal(sampler(view, CAPTIONS[row : row + 1], [5 + row])[0], together[row])


def test_the_ramp_of_the_released_code():
    """t = cfg i / min(N - 1, 9): guidance exceeds cfg late in long schedules."""
    for units in (1, 6, 10, 13):
        settings_ = SamplingConfig(3.5, "linear", guidance_units=9)
        for i in range(units):
            t = 2.5 * i / min(max(units - 1, 1), 9)
            assert settings_.scale(i, units) == pytest.approx(1.0 + t)
        plain = SamplingConfig(3.5, "linear")
        assert plain.scale(units - 1, units) == (3.5 if units > 1 else 1.0)
    assert SamplingConfig(3.5, "linear", guidance_units=9).scale(12, 13) > 3.5
    with pytest.raises(InputError, match="guidance_units"):
        SamplingConfig(guidance_units=-1)


def test_a_small_picture_is_refined(generator):
    """Its scales stand, larger ones are drawn; other small pictures give other large ones."""
    sizes = ((1, 1), (2, 2), (3, 3), (4, 4))
    view, codec = generator.scheduled(sizes), codec_of()
    small = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    first = codec.encode(small, sizes[:2])
    beginning = Given.beginning(first, view.pyramid.length)
    drawn = ScaleSampler()(view, CAPTIONS, [1, 2, 3], given=beginning)
    assert torch.equal(drawn[:, :5], first)
    other = Given.beginning((first + 1) % 16, view.pyramid.length)
    assert not torch.equal(
        ScaleSampler()(view, CAPTIONS, [1, 2, 3], given=other)[:, 5:], drawn[:, 5:]
    )
    assert torch.equal(ScaleSampler()(view, CAPTIONS, [1, 2, 3], given=beginning), drawn)
    with pytest.raises(InputError, match="beginning"):
        Given.beginning(first, 3)


def test_a_picture_is_expanded(generator):
    """Its half of a wide canvas stands at every scale, the rest is drawn."""
    view, codec = generator.scheduled(((1, 1), (1, 2), (2, 4), (4, 8))), codec_of()
    canvas = torch.rand(3, 3, 8, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = codec.encode(canvas, view.pyramid.sizes)
    mask = (torch.arange(8) < 4).expand(3, 4, 8)
    kept = view.pyramid.kept(mask, forced=0)
    drawn = ScaleSampler()(view, CAPTIONS, [1, 2, 3], given=Given(codes, kept))
    assert torch.equal(drawn[kept], codes[kept])
    assert [int(scale[0].sum()) for scale in view.pyramid.split(kept)] == [0, 1, 4, 16]
    assert (drawn != codes)[~kept].any()
    assert codec.at((4, 8)).decode(drawn).shape == canvas.shape


def test_pictures_of_any_schedule_from_one_checkpoint(generator, tmp_path):
    codec = codec_of()
    config = dataclasses.replace(generator.config, codec=codec.fingerprint())
    made = FlexibleGenerator(config, generator.tokenizer)
    made.load_state_dict(generator.state_dict())
    TextToImage(made, codec).save_pretrained(tmp_path / "model")
    model = TextToImage.from_pretrained(tmp_path / "model", "cpu")
    sampling = SamplingConfig(1.0)
    assert model.draw(CAPTIONS[:2], [1, 2], sampling).shape == (2, 8, 8, 3)
    short = model.scheduled((1, 4))
    assert short.draw(CAPTIONS[:2], [1, 2], sampling).shape == (2, 8, 8, 3)
    wide = model.scheduled((1, 2, 4), (3, 5))
    assert wide.size == (6, 10)
    assert wide.draw(CAPTIONS[:2], [1, 2], sampling).shape == (2, 6, 10, 3)
    assert np.array_equal(
        model.scheduled((1, 2, 4)).draw(CAPTIONS[:2], [1, 2], sampling),
        model.draw(CAPTIONS[:2], [1, 2], sampling),
    )
