"""GEAR: soft codes, early exit, who gets which gradient, exact resume, and the claim that runs."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from arra import cli
from arra.codecs import LFQCodec, VQCodec
from arra.codecs.base import Codec
from arra.encoders import SmallEncoder
from arra.errors import InputError, TrainingDiverged
from arra.experiments import digits
from arra.generators.batches import collate, sequence, with_codes
from arra.generators.raster import RasterGenerator
from arra.networks.language_model import decoder_blocks
from arra.networks.part import weights_fingerprint
from arra.objectives.alignment import Alignment
from arra.objectives.laws import NextToken
from arra.pixels import to_unit
from arra.settings import AlignmentConfig, LlamaSize
from arra.systems.gear import claim, recipe, stages
from arra.systems.gear.routing import Guide, Routing, mixed_cross_entropy, read_softly
from arra.systems.gear.settings import GearConfig
from arra.systems.gear.tuning import tune_codec
from arra.systems.gear.views import Views, crops, picture_features
from arra.text_to_image import TextToImage
from arra.training.config import TrainConfig
from arra.training.joint import Joint
from arra.training.optimizers import build_optimizers

CAPTIONS = ["a red 3", "a green 7 above it", "a blue 5", ""]
PATCH = AlignmentConfig(target="patch", projector="mlp3", hidden=16, weight=0.5)


def toy_codec(**settings) -> VQCodec:
    """16 codes, 4 x 4 of them for 8 pixels; no code is moved by hand."""
    config = replace(VQCodec.tiny().config, dead_below=0.0, **settings)
    return VQCodec.seeded(config, 1)


def toy_generator(seed: int = 0) -> RasterGenerator:
    size = LlamaSize(width=32, depth=3, heads=2, feed_forward=48, positions=64)
    tokenizer = RasterGenerator.tiny().tokenizer
    return RasterGenerator.from_scratch(tokenizer, 16, (4, 4), size, seed=seed)


def toy_encoder() -> SmallEncoder:
    config = SmallEncoder.tiny().config
    small = replace(config, downsample=2, preprocessing=replace(config.preprocessing, size=8))
    return SmallEncoder.seeded(small, 3)


def toy_guide() -> Guide:
    generator = toy_generator()
    width = toy_encoder().config.width
    return Guide(generator, Alignment(PATCH, generator.width, width, (4, 4), seed=1))


def toy_pictures(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def toy_views(config: GearConfig, guide: Guide | None) -> Views:
    captions = [CAPTIONS[i % 4] for i in range(12)]
    encoder = None if guide is None else toy_encoder()
    return Views(toy_pictures(), captions, config, guide and guide.generator, encoder)


def toy_config(**settings) -> GearConfig:
    given = {"steps": 4, "batch": 4, "learning_rate": 1e-2, "ema": 0.5, "checkpoint_every": 2}
    return GearConfig(**{**given, **settings})


def toy_batch(generator: RasterGenerator, layout="right"):
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(16, (3, generator.units), generator=rng)
    texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in CAPTIONS[:3]]
    vocabulary = generator.config.vocabulary
    samples = [
        sequence(t, c, vocabulary, False) for t, c in zip(texts, codes.tolist(), strict=True)
    ]
    features = {"patches": torch.randn(3, 16, 5, generator=rng)}
    return collate(samples, features, vocabulary.pad, layout, packed_length=80), codes


# ---- distances and soft assignments ------------------------------------------------------------


@pytest.mark.parametrize("codec", [VQCodec.tiny(), LFQCodec.tiny()], ids=["vq", "lfq"])
def test_the_nearest_code_has_the_least_distance_and_the_limit_of_the_soft_one_is_hard(codec):
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(2, codec.width, 3, 4, generator=rng)
    distances = codec.distances(latents)
    assert distances.shape == (2, 12, codec.vocabulary)
    codes = codec.nearest(latents).flatten(1)
    assert torch.equal(distances.argmin(dim=-1), codes)
    soft = codec.soft_assignment(latents, 0.1)
    assert torch.allclose(soft, (-distances / 0.1).softmax(dim=-1), atol=1e-6)
    hard = F.one_hot(codes, codec.vocabulary).float()
    assert torch.allclose(codec.soft_assignment(latents, 1e-5), hard, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.distances(latents), distances), "in float32, whatever surrounds it"


def test_distances_are_those_of_the_definition():
    rng = torch.Generator().manual_seed(0)
    vq, lfq = VQCodec.tiny(), LFQCodec.tiny()
    z = torch.randn(1, 4, 2, 2, generator=rng)
    unit = F.normalize(z, dim=1).flatten(2)[0].T
    naive = torch.cdist(unit, F.normalize(vq.codebook, dim=1)) ** 2
    assert torch.allclose(vq.distances(z)[0], naive, atol=1e-5)
    assert 0 <= float(naive.detach().min()) <= float(naive.detach().max()) <= 4
    z = torch.randn(1, 5, 1, 2, generator=rng)
    for code in range(32):
        signs = torch.tensor([1.0 if code >> (4 - bit) & 1 else -1.0 for bit in range(5)])
        for place in range(2):
            expected = -2 * float(z[0, :, 0, place] @ signs)
            assert float(lfq.distances(z)[0, place, code]) == pytest.approx(expected, abs=1e-5)


def test_a_soft_assignment_pushes_no_row_as_a_whole_and_no_latent_along_itself():
    """Rows of the gradient with respect to distances sum to 0; the length of a latent is free."""
    codec = VQCodec.tiny()
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    latents.requires_grad_(True)
    distances = codec.distances(latents)
    distances.retain_grad()
    soft = (-distances / 0.1).softmax(dim=-1)
    (soft * torch.randn(soft.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    assert distances.grad.sum(dim=-1).abs().max() < 1e-5
    along = (latents.grad * latents).sum(dim=1)
    assert along.abs().max() < 1e-4 * (latents.grad.norm(dim=1) * latents.norm(dim=1)).max()
    assert latents.grad.abs().min() > 0


def test_too_many_sign_patterns_are_refused():
    config = replace(LFQCodec.tiny().config, bits=21)
    codec = LFQCodec.seeded(config, 0)
    with pytest.raises(InputError, match=r"bits: 21"):
        codec.soft_assignment(torch.zeros(1, 21, 1, 1), 0.1)


# ---- the generator reads mixtures --------------------------------------------------------------


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_one_hot_mixtures_are_the_codes_bit_for_bit(layout):
    generator = toy_generator().eval()
    batch, codes = toy_batch(generator, layout)
    hard = generator(batch, (1, 2))
    soft = generator(batch, (1, 2), F.one_hot(codes, 16).float())
    assert torch.equal(hard.logits, soft.logits)
    assert all(torch.equal(hard.hidden[layer], soft.hidden[layer]) for layer in (1, 2))
    blurred = generator(batch, (1,), torch.full((3, 16, 16), 1 / 16))
    assert not torch.equal(hard.logits, blurred.logits)


def test_an_early_exit_gives_the_states_and_gradients_of_a_whole_pass_and_runs_no_more():
    generator = toy_generator().eval()
    batch, _ = toy_batch(generator)
    logits = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    ran = []
    for number, block in enumerate(decoder_blocks(generator.lm), start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    found = []
    for read in (generator, generator.states):
        mine = logits.clone().requires_grad_(True)
        ran.clear()
        output = read(batch, (1, 2), mine.softmax(dim=-1))
        assert ran == ([1, 2, 3] if read is generator else [1, 2])
        total = sum(state.sin().sum() for state in output.hidden.values())
        found.append((output.hidden, torch.autograd.grad(total, mine)[0]))
    (whole, slope), (early, same) = found
    assert torch.equal(slope, same)
    assert all(torch.equal(whole[layer], early[layer]) for layer in (1, 2))
    assert generator.states(batch, (1,)).logits.shape == (0, output.logits.shape[1])
    assert generator(batch).logits.shape[0] == int((batch.target >= 0).sum())  # no hook stays
    with pytest.raises(InputError, match="no layers"):
        generator.states(batch, ())


def test_other_codes_make_the_batch_of_other_pictures():
    generator = toy_generator()
    _, codes = toy_batch(generator)
    texts = [generator.tokenizer.encode(c, add_special_tokens=False) for c in CAPTIONS[:3]]
    vocabulary = generator.config.vocabulary
    for layout in ("right", "left", "packed"):
        given, _ = toy_batch(generator, layout)
        blank = collate(
            [sequence(t, [0] * 16, vocabulary, False) for t in texts],
            given.features,
            vocabulary.pad,
            layout,
            packed_length=80,
        )
        filled = with_codes(blank, codes, vocabulary)
        assert torch.equal(filled.tokens, given.tokens)
        assert torch.equal(filled.target, given.target)
        assert not torch.equal(blank.tokens, given.tokens)


def test_a_state_that_predicts_a_place_has_not_seen_it():
    generator = toy_generator().eval()
    batch, codes = toy_batch(generator)
    other = codes.clone()
    other[:, 7] = (other[:, 7] + 1) % 16
    one = generator.states(batch, (1,)).hidden[1]
    two = generator.states(with_codes(batch, other, generator.config.vocabulary), (1,)).hidden[1]
    changed = (one != two).any(dim=-1)
    assert not changed[(batch.place >= 0) & (batch.place <= 7)].any()
    assert changed[batch.place == 8].all()


def test_the_first_cross_entropy_of_a_silent_head_is_that_of_chance():
    generator = toy_generator()
    torch.nn.init.zeros_(generator.lm.get_output_embeddings().weight)
    batch, _ = toy_batch(generator)
    rows = len(generator.lm.get_input_embeddings().weight)
    found = NextToken()(generator(batch), batch).detach()
    assert float(found) == pytest.approx(np.log(rows), abs=1e-5)


# ---- who gets which gradient -------------------------------------------------------------------


def test_alignment_reaches_every_place_but_the_last():
    """The last code is no input of any aligned state: its gradient is exactly 0."""
    codec, guide = toy_codec(), toy_guide()
    view = toy_views(toy_config(), guide)(0)
    output = codec(view.pictures)
    distances = codec.distances(output.latents)
    distances.retain_grad()
    batch = with_codes(view.prompted, output.codes.flatten(1), guide.generator.config.vocabulary)
    soft = (-distances / 0.1).softmax(dim=-1)
    guide.alignment(guide.generator.states(batch, (1,), soft), batch).backward()
    per_place = distances.grad.abs().amax(dim=(0, 2))
    assert per_place[-1] == 0
    assert per_place[:-1].min() > 0
    assert distances.grad.sum(dim=-1).abs().max() < 1e-5


def test_each_step_reaches_its_own_weights_alone():
    codec, guide, config = toy_codec(), toy_guide(), toy_config()
    routing, view = Routing(codec, guide, config), toy_views(config, guide)(0)
    assert routing.joint is not None
    before = weights_fingerprint(routing.joint)
    output, losses = routing.codec_step(0, view)
    assert losses["codec/alignment"] > 0
    assert all(p.grad is None for p in routing.joint.parameters())
    assert weights_fingerprint(routing.joint) == before
    assert all(p.requires_grad for p in routing.joint.parameters())

    for parameter in codec.parameters():
        parameter.grad = None
    fixed = codec.fingerprint()
    routing.generator_step(0, view, output.codes.flatten(1))
    assert all(p.grad is None for p in codec.parameters())
    assert codec.fingerprint() == fixed
    assert weights_fingerprint(routing.joint) != before


def _after_one_step(guide: Guide, **settings) -> str:
    codec, config = toy_codec(), toy_config(**settings)
    Routing(codec, guide, config).codec_step(0, toy_views(config, guide)(0))
    return codec.fingerprint()


def test_alignment_moves_the_codec_and_the_generators_own_losses_do_not():
    guided = _after_one_step(toy_guide())
    assert guided != _after_one_step(toy_guide(), codec_alignment=0.0)
    # the generator's own losses have any weights they like
    other = toy_guide()
    other.alignment.config = replace(PATCH, weight=7.0)
    assert guided == _after_one_step(other)
    # but when it is asked for, next-token loss gets there: the baseline that collapses
    assert guided != _after_one_step(toy_guide(), next_token=1.0)


def test_without_guidance_the_codec_learns_as_if_it_were_alone(tmp_path):
    config, guide = toy_config(codec_alignment=0.0), toy_guide()
    alone, beside = toy_codec(), toy_codec()
    tune_codec(alone, toy_views(config, None), config, tmp_path / "a", quiet=True)
    tune_codec(beside, toy_views(config, guide), config, tmp_path / "b", guide, quiet=True)
    assert alone.fingerprint() == beside.fingerprint()
    assert alone.fingerprint() != toy_codec().fingerprint()


def test_the_generators_step_is_that_of_plain_training():
    guide, config = toy_guide(), toy_config()
    other = copy.deepcopy(guide)
    view = toy_views(config, guide)(0)
    codes = toy_codec().encode(view.pictures).flatten(1)
    routing = Routing(toy_codec(), guide, config)
    routing.generator_step(0, view, codes)

    joint = Joint(other.generator, [NextToken(), other.alignment]).train()
    plain = TrainConfig(learning_rate=1e-2, betas=(0.9, 0.999), weight_decay=0.0)
    (optimizer,) = build_optimizers(joint, plain)
    batch = with_codes(view.dropped, codes, other.generator.config.vocabulary)
    total, _ = joint(batch, joint.weights(0))
    total.backward()
    torch.nn.utils.clip_grad_norm_(joint.parameters(), 1.0)
    optimizer.step()
    assert weights_fingerprint(joint) == weights_fingerprint(routing.joint)


def test_straight_through_is_exact_forward_and_soft_backward():
    codec, guide = toy_codec(), toy_guide()
    config = toy_config(read_out="straight-through")
    view = toy_views(config, guide)(0)
    output = codec(view.pictures)
    hard = read_softly(codec, output, config)
    assert torch.equal(hard, F.one_hot(output.codes.flatten(1), 16).float())
    pull = torch.randn(hard.shape, generator=torch.Generator().manual_seed(0))
    soft = read_softly(codec, output, toy_config())
    weights = list(codec.encoder.parameters())
    one = torch.autograd.grad((hard * pull).sum(), weights, retain_graph=True)
    two = torch.autograd.grad((soft * pull).sum(), weights)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_bf16_rounds_the_networks_but_not_the_reading():
    codec, guide, config = toy_codec(), toy_guide(), toy_config(precision="bf16")
    view = toy_views(config, guide)(0)
    output, losses = Routing(codec, guide, config).codec_step(0, view)
    assert output.latents.dtype == torch.float32
    assert read_softly(codec, output, config).dtype == torch.float32
    exact = Routing(toy_codec(), toy_guide(), toy_config()).codec_step(0, view)[1]
    assert losses["codec/alignment"] == pytest.approx(exact["codec/alignment"], rel=0.05)
    assert losses != exact


def test_mixed_cross_entropy_of_codes_is_the_next_token_loss_of_the_picture():
    generator = toy_generator().eval()
    batch, codes = toy_batch(generator)
    output = generator(batch)
    soft = F.one_hot(codes, 16).float()
    found = mixed_cross_entropy(output, batch, soft, generator.config.vocabulary)
    image = batch.image[batch.target >= 0]
    expected = F.cross_entropy(output.logits[image], output.targets[image])
    assert torch.allclose(found, expected, rtol=1e-6)


# ---- pictures ----------------------------------------------------------------------------------


def test_crops_are_the_picture_moved_and_the_same_for_codec_and_encoder():
    pictures = toy_pictures()
    rng = np.random.default_rng(0)
    moved = crops(pictures, 1, True, rng)
    for picture, found in zip(pictures, moved, strict=True):
        padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
        windows = [padded[y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
        windows += [window[:, ::-1] for window in windows]
        assert any((window == found).all() for window in windows)
    guide, config = toy_guide(), toy_config()
    view = toy_views(config, guide)(3)
    seen = ((view.pictures.permute(0, 2, 3, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    features = picture_features(toy_encoder(), seen)
    assert torch.equal(view.prompted.features["patches"], features["patches"])
    again = toy_views(config, guide)(3)
    assert torch.equal(again.pictures, view.pictures)
    assert torch.equal(again.dropped.tokens, view.dropped.tokens)
    assert not torch.equal(toy_views(config, guide)(4).pictures, view.pictures)


# ---- the loop ----------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one_and_a_plain_codec_comes_out(tmp_path):
    config = toy_config(adversarial=0.1, steps=4)
    wide = replace(config, l1=1.0)

    def run(folder, steps):
        codec, guide = toy_codec(entropy=0.05), toy_guide()
        routed = replace(wide, steps=steps)
        report = tune_codec(codec, toy_views(routed, guide), routed, folder, guide, quiet=True)
        return codec, guide, report

    whole, guide, report = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts, guide_of_parts, resumed = run(tmp_path / "parts", 4)
    assert (report.resumed_from, resumed.resumed_from) == (0, 2)
    assert whole.fingerprint() == parts.fingerprint()
    assert guide.generator.fingerprint() == guide_of_parts.generator.fingerprint()
    plain = [{k: v for k, v in row.items() if k != "seconds"} for row in report.history]
    assert plain[-1] == {k: v for k, v in resumed.history[-1].items() if k != "seconds"}
    assert "discriminator" in plain[-1]

    saved = Codec.from_pretrained(report.codec)
    assert saved.fingerprint() == whole.fingerprint()
    model = TextToImage.from_pretrained(tmp_path / "whole")
    assert model.codec.fingerprint() == saved.fingerprint()
    assert model.draw(["a red 3"], [0]).shape == (1, 8, 8, 3)
    other = replace(wide, temperature=0.2)
    views, again = toy_views(other, guide), toy_codec(entropy=0.05)
    with pytest.raises(InputError, match=r"GearConfig\.temperature"):
        tune_codec(again, views, other, tmp_path / "whole", toy_guide())


def test_averages_of_codec_and_generator_are_saved_and_lag_alike(tmp_path):
    def run(folder, ema):
        config, guide, codec = toy_config(steps=1, ema=ema), toy_guide(), toy_codec()
        tune_codec(codec, toy_views(config, guide), config, folder, guide, quiet=True)
        return codec, guide.generator

    last, average = run(tmp_path / "a", None), run(tmp_path / "b", 0.0)
    assert last[0].fingerprint() == average[0].fingerprint()
    halves = run(tmp_path / "c", 0.999)
    share = 1 - 2 / 11  # the decay of the first update is 2 / 11
    for before, now, mean in zip((toy_codec(), toy_generator()), last, halves, strict=True):
        for (_, a), (_, b), (_, m) in zip(
            before.named_parameters(), now.named_parameters(), mean.named_parameters(), strict=True
        ):
            assert torch.allclose(m, a + share * (b - a), atol=1e-6)


def test_a_step_that_is_not_finite_stops_before_the_weights_are_spoiled(tmp_path):
    config, guide, codec = toy_config(), toy_guide(), toy_codec()
    with torch.no_grad():
        next(iter(guide.alignment.parameters())).fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="not finite"):
        tune_codec(codec, toy_views(config, guide), config, tmp_path, guide, quiet=True)
    pairs = zip(codec.parameters(), toy_codec().parameters(), strict=True)
    assert all(torch.equal(now, before) for now, before in pairs)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("read_out", "hard"),
        ("codec_alignment", -1.0),
        ("batch", 0),
        ("ema", 1.0),
    ],
)
def test_wrong_settings_are_named(field, value):
    with pytest.raises(InputError, match=f"GearConfig.{field}"):
        GearConfig(**{field: value})


# ---- the command -------------------------------------------------------------------------------


def test_the_command_makes_a_codec_that_prepare_takes(tmp_path, capsys):
    VQCodec.tiny().save_pretrained(tmp_path / "codec")
    config = SmallEncoder.tiny().config
    small = replace(config, preprocessing=replace(config.preprocessing, size=24))
    SmallEncoder.seeded(small, 0).save_pretrained(tmp_path / "encoder")
    line = ["tune", "scenes:40", "--codec", str(tmp_path / "codec"), "--steps", "2"]
    line += ["--batch", "8", "--device", "cpu", "--llama.width", "32", "--llama.depth", "2"]
    line += ["--align.hidden", "32"]
    guided = [*line, "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "a")]
    assert cli.run([*guided, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["steps"] == 2
    assert "codec/alignment" in summary["last"]
    tuned = str(tmp_path / "a" / "codec")
    assert summary["codec"] == tuned
    prepare = ["prepare", "scenes:8", "--codec", tuned, "--out", str(tmp_path / "store")]
    assert cli.run(prepare) == 0
    assert cli.run([*line, "--control", "--out", str(tmp_path / "b")]) == 0
    assert not (tmp_path / "b" / "model").exists()
    assert cli.run([*line, "--out", str(tmp_path / "c")]) == 2
    assert "--control" in capsys.readouterr().err


# ---- the claim ---------------------------------------------------------------------------------


def results_of(gear: float, collapsed: float) -> dict:
    """What three seeds might have measured: ln Frechet distance of GEAR, entropy of the other."""
    rng = np.random.default_rng(0)

    def fresh(level: float) -> list[dict]:
        marks = ("frechet", "accuracy", "nats", "guided frechet", "guided accuracy")
        return [
            {
                "checkpoints": [dict.fromkeys(marks, np.exp(level + 0.01 * rng.normal()))] * 2,
                "alignment": 0.5,
                "parameters": 1000,
            }
            for _ in range(3)
        ]

    codecs = dict.fromkeys(recipe.TOKENIZERS, 4.0) | {recipe.COLLAPSING: collapsed}
    found: dict = {
        name: [{"l1": 0.1, "frechet": 1.0, "entropy": value + 0.01 * rng.normal()} for _ in "abc"]
        for name, value in codecs.items()
    }
    levels = {recipe.GEAR: gear, recipe.COLLAPSING: 4.0 + (4.0 - collapsed)}
    return found | {arm: fresh(levels.get(arm[0], 4.0)) for arm in recipe.ARMS}


@pytest.mark.parametrize(
    ("gear", "collapsed", "verdict"),
    [
        (3.5, 0.1, "pass"),
        (4.5, 0.1, "fail"),
        (4.0, 0.1, "inconclusive"),
        (3.5, 4.0, "fail"),
    ],
)
def test_the_verdict_follows_its_rule(gear, collapsed, verdict):
    assert claim._verdict(results_of(gear, collapsed))[0] == verdict


def test_gear_and_its_control_stand_in_their_columns():
    results = results_of(3.5, 0.1)
    rows = {row.name: row for row in claim._measures(results)}
    curve = rows["fresh generator: ln Fréchet distance, mean over the checkpoints"]
    assert curve.system.value == pytest.approx(3.5, abs=0.05)
    assert curve.control.value == pytest.approx(4.0, abs=0.05)
    gap = rows["paired difference, GEAR - control: ln Fréchet distance, mean over the checkpoints"]
    assert gap.system.value == pytest.approx(curve.system.value - curve.control.value)
    assert rows["straight-through codec: entropy of the codes (nats)"].system.value < 0.2


def test_both_stages_run_and_a_second_call_finds_everything_done(tmp_path, monkeypatch):
    known, held_out = digits.digits()
    assert (len(known.pictures), len(held_out.pictures)) == (1200, 597)
    few = digits.Digits(known.pictures[:60], known.labels[:60])
    monkeypatch.setattr(stages, "digits", lambda: (few, few))
    small = recipe.tiny()
    small = replace(small, drawn=40, tuning=replace(small.tuning, steps=1))
    judge = digits.train_judge(few, few, 1)
    assert len(judge.reference) == 9 * 60
    assert judge.distance(judge.reference) < 1e-6 < judge.distance(judge.reference // 2)
    made = stages.make_codecs(small, judge, 0, tmp_path, True)
    assert set(made) == set(recipe.TOKENIZERS)
    assert made[recipe.CONTROL] != made[recipe.WARM_UP]
    found = stages.train_fresh(small, judge, recipe.GEAR, recipe.PATCH, 0, tmp_path, True)
    assert [mark["step"] for mark in found["checkpoints"]] == [2, 4]
    monkeypatch.setattr(stages, "digits", None)
    assert stages.make_codecs(small, judge, 0, tmp_path, True) == made
    again = stages.train_fresh(small, judge, recipe.GEAR, recipe.PATCH, 0, tmp_path, True)
    assert again == found


def test_a_store_of_crops_holds_the_codes_and_features_of_each_crop():
    rng = np.random.default_rng(0)
    known = digits.Digits(toy_pictures(4), np.array([3, 1, 4, 1])).cropped(1)
    codec, encoder = toy_codec().eval(), toy_encoder()
    texts = {word: [number] for number, word in enumerate(digits.WORDS)}
    store = stages._crops(known, codec, encoder, texts)
    assert len(store) == 36
    assert store.text_lengths(range(36)).tolist() == [1] * 36
    chosen = rng.permutation(36)[:5].tolist()
    rows = store.rows(chosen)
    assert rows.text_ids == [[known.labels[row]] for row in chosen]
    for place, row in enumerate(chosen):
        picture = known.pictures[row : row + 1]
        assert torch.equal(rows.codes[place : place + 1], codec.encode(to_unit(picture)))
        alone = picture_features(encoder, picture)["patches"]
        assert torch.allclose(rows.features["patches"][place : place + 1], alone, atol=1e-5)
