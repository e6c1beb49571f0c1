"""Speculative decoding of vectors: its law, its noise, and the cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from arra import cli
from arra.codecs.latent import PixelCodec
from arra.errors import InputError
from arra.files import read_json
from arra.randomness import seeded
from arra.registry import generators
from arra.samplers.noise import PictureNoise
from arra.samplers.speculative.drafts import Budget
from arra.samplers.speculative.path_noise import NoiseTape
from arra.samplers.speculative.paths import PathRule
from arra.samplers.speculative.vectors import PathConfig, SpeculativeVectorSampler
from arra.samplers.vectors import VectorSampler
from arra.settings import SamplingConfig
from arra.text_to_image import TextToImage
from path_kit import GaussianStepper

PLAIN = SamplingConfig(guidance=1.0)
KINDS = ("masked-vectors", "raster-vectors")
CAPTIONS, SEEDS = ["a red 3", "a green 7 left of a blue 5", None], [5, 6, 7]


def drawn(target, draft, how, config=PLAIN, captions=None, seeds=SEEDS, **others):
    """(B, n C), and the sampler."""
    sampler = SpeculativeVectorSampler(config, draft, how, **others)
    captions = [None] * len(seeds) if captions is None else captions
    return sampler(target, captions, seeds), sampler


def ahead(units: int, **others) -> PathConfig:
    return PathConfig(Budget(units, units), **others)


# ---- the law, through the loop ------------------------------------------------------------------


def chains(count: int, how: PathConfig):
    """Chains of four numbers by a target and a draft whose means and deviations differ."""
    target = GaussianStepper(lambda unit, x: 0.8 * x + 0.5, 0.7, 4)
    draft = GaussianStepper(lambda unit, x: 0.5 * x + 0.2, 1.0, 4)
    sampler = SpeculativeVectorSampler(PLAIN, draft, how)
    return sampler(target, [None] * count, range(count), batch=count).numpy(), sampler.statistics


def innovations(x: np.ndarray) -> np.ndarray:
    """What the target's law says is independent standard normal."""
    before = np.concatenate((np.zeros_like(x[:, :1]), x[:, :-1]), axis=1)
    return (x - 0.8 * before - 0.5) / 0.7


@pytest.mark.parametrize("nodes", [1, 2, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_the_law_of_chains_is_the_targets(nodes, shared):
    count = 2000
    x, counted = chains(count, ahead(nodes, shared=shared))
    noise = innovations(x)
    for unit in range(4):
        assert stats.kstest(noise[:, unit], stats.norm.cdf).pvalue > 1e-3, unit
    # 16 numbers, none of them more than 4 of their standard errors away
    assert np.abs(np.cov(noise.T) - np.eye(4)).max() < 4 * np.sqrt(2 / count)
    assert np.abs(noise.mean(axis=0)).max() < 4 / np.sqrt(count)
    assert counted.fallbacks == 0
    assert 0.5 < counted.acceptance < 0.9
    assert counted.drawn == 4 * count
    assert counted.passes < 4 * count


def test_a_tempered_rule_draws_another_law():
    x, counted = chains(2000, ahead(2, rule=PathRule(temperature=42.0)))
    assert stats.kstest(innovations(x)[:, 1], stats.norm.cdf).pvalue < 1e-6
    assert counted.acceptance > 0.65


# ---- the cut ------------------------------------------------------------------------------------


def test_a_pass_ends_at_the_first_rejection():
    target = GaussianStepper(lambda unit, x: 0.5 * x, 1.0, 6)
    draft = GaussianStepper(lambda unit, x: 0.5 * x + 90.0 * (unit == 2), 1.0, 6)
    x, sampler = drawn(target, draft, ahead(4), seeds=[3], traced=True)
    # one alone; 1 to 4 are drafted and 2 is rejected; 3 and 4 are drafted again, 5 is the target's
    assert [len(one) for one in target.passes] == [1, 5, 3]
    assert [[unit for _, unit in one] for one in target.passes] == [[0], [1, 2, 3, 4, 5], [3, 4, 5]]
    counted = sampler.statistics
    assert (counted.passes, counted.drawn, counted.drafted) == (3, 6, 6)
    assert (counted.tested, counted.accepted, counted.replaced) == (4, 3, 1)
    assert counted.units_per_pass == 2.0
    assert [one.accepted.tolist() for one in counted.judged] == [[True, False], [True, True]]
    # noise belongs to the unit: what follows the replaced one is what the target makes of it
    plain, _ = drawn(target, target, ahead(0), seeds=[3])
    assert torch.equal(x[:, :2], plain[:, :2])
    rest, other = x[0, 3:] - 0.5 * x[0, 2:5], plain[0, 3:] - 0.5 * plain[0, 2:5]
    torch.testing.assert_close(rest, other)


@pytest.mark.parametrize(("share", "alone"), [(0.0, 0), (0.05, 1), (0.5, 3), (1.0, 6)])
def test_the_target_begins_alone(share, alone):
    target, draft = (GaussianStepper(lambda unit, x: x, 1.0, 6) for _ in range(2))
    drawn(target, draft, ahead(2, prefill=share), seeds=[1])
    asked = [[unit for _, unit in one] for one in target.passes]
    assert asked[:alone] == [[unit] for unit in range(alone)]
    assert all(len(one) > 1 for one in asked[alone : alone + 1] if one != [5])


# ---- generators ---------------------------------------------------------------------------------


def generator(kind: str, seed: int, **options):
    """A small one of ancestral diffusion, whose cells depend on each other and on the caption."""
    tiny = generators[kind].tiny()
    changed = {"objective": "v", "stochastic": True, "steps": 4, **options}
    config = replace(tiny.config, grid=(3, 3), options=replace(tiny.config.options, **changed))
    with seeded(seed):
        made = type(tiny)(config, tiny.tokenizer)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.08 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    return generator(request.param, 0), generator(request.param, 1)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_target_that_drafts_for_itself_draws_its_pictures(pair, guidance):
    """Those of plain drawing, too, but for the noise of the last step."""
    target, _ = pair
    config = SamplingConfig(guidance, guidance_schedule="linear")
    plain = VectorSampler(config)(target, CAPTIONS, SEEDS)
    for nodes in (0, 1, 4):
        how = ahead(nodes, last=0.02)
        found, sampler = drawn(target, target, how, config, CAPTIONS)
        if nodes == 0:
            alone = found
        torch.testing.assert_close(found, alone, rtol=0, atol=2e-5)
        assert sampler.statistics.replaced == 0
        assert (sampler.statistics.units_per_pass > 1.2) == (nodes > 0)
    scatter = (alone - plain).square().mean().sqrt()
    assert 0.005 < float(scatter) < 0.1  # the noise, and what later cells make of it
    nearly, _ = drawn(target, target, ahead(0, last=1e-6), config, CAPTIONS)
    torch.testing.assert_close(nearly, plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_picture_depends_on_no_company(pair, guidance):
    """Though some are rejected early, and others late."""
    target, draft = pair
    config, how = SamplingConfig(guidance), ahead(4, last=0.4)
    together, sampler = drawn(target, draft, how, config, CAPTIONS)
    assert 0 < sampler.statistics.accepted < sampler.statistics.tested
    for row, (caption, seed) in enumerate(zip(CAPTIONS, SEEDS, strict=True)):
        alone, _ = drawn(target, draft, how, config, [caption], [seed])
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=2e-5)


def test_cells_of_a_round_stay_or_are_replaced_one_by_one():
    """A round with a rejected cell is kept, the rounds after it are not."""
    target, draft = generator("masked-vectors", 0), generator("masked-vectors", 1)
    assert target.unit_sizes == [2, 3, 4]
    _, sampler = drawn(target, draft, ahead(2, last=0.4, prefill=0.0), traced=True)
    counted, sizes = sampler.statistics, target.unit_sizes
    mixed = [one for one in counted.judged if 0 < int(one.accepted.sum()) < len(one.accepted)]
    assert mixed
    assert counted.replaced == counted.tested - counted.accepted
    assert counted.drawn == len(sizes) * len(SEEDS)


def test_progress_is_told_for_every_unit(pair):
    target, draft = pair
    told: list[int] = []
    sampler = SpeculativeVectorSampler(PLAIN, draft, ahead(3))
    sampler(target, CAPTIONS, SEEDS, batch=2, on_unit=told.append)
    assert told == [2] * target.units + [1] * target.units
    assert sampler(target, [], []).numel() == 0


def test_the_noise_of_a_vector_is_that_of_plain_drawing():
    sizes, draws = [2, 3], (4, 1)
    tape = NoiseTape(PictureNoise(SEEDS), SEEDS, sizes, draws, 2)
    streams = PictureNoise(SEEDS)
    plain = torch.cat([streams.normal(4, size, 2).transpose(1, 2) for size in sizes], dim=1)
    assert tape._made.shape == (3, 5, 5, 2)
    for _ in sizes:
        tape._make()
    assert torch.equal(tape._made[:, :, :4], plain)
    assert float(tape._made[:, :, 4].std()) == pytest.approx(1.0, abs=0.4)


# ---- what is refused ----------------------------------------------------------------------------


def test_what_cannot_be_drafted_is_refused(pair):
    target, draft = pair
    with pytest.raises(InputError, match="temperature: 0"):
        drawn(target, draft, ahead(2), SamplingConfig(temperature=0.0))
    with pytest.raises(InputError, match="top_k"):
        drawn(target, draft, ahead(2), SamplingConfig(top_k=3))
    with pytest.raises(InputError, match="same rounds and steps"):
        drawn(target, draft.paced(steps=3), ahead(2))
    for kind in KINDS:
        assert "ancestral" in generators[kind].tiny().undraftable(8)
        assert generator(kind, 0).undraftable(8) == ""


@pytest.mark.parametrize("wrong", [{"prefill": 1.5}, {"last": 0.0}])
def test_settings_are_checked(wrong):
    with pytest.raises(InputError, match=f"PathConfig.{next(iter(wrong))}"):
        PathConfig(**wrong)


# ---- the command --------------------------------------------------------------------------------


def saved(folder, kind: str, seed: int, **options):
    """A checkpoint whose vectors are squares of pixels."""
    codec = PixelCodec.tiny()
    made = generator(kind, seed, **options)
    changed = replace(made.config, dimensions=codec.dimensions, codec=codec.fingerprint())
    with seeded(seed):
        made = type(made)(changed, made.tokenizer)
    TextToImage(made, codec).save_pretrained(folder)
    return folder


def run(*arguments: object) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_draws_vectors_with_a_small_model(kind, tmp_path, capsys):
    large, small = (saved(tmp_path / str(seed), kind, seed) for seed in range(2))
    wanted = ("generate", large, "a red 3", "--out", tmp_path / "out")
    draft = ("--sampler", "speculative", "--drafter", "model", "--draft-nodes", 2)
    assert run(*wanted, *draft, "--draft-from", small) == 0
    assert "units a pass of the model" in capsys.readouterr().out
    record = read_json(tmp_path / "out" / "generation.json")
    assert record["drafter"]
    assert run(*wanted, *draft, "--draft-from", large) == 3
    assert "drafter" in capsys.readouterr().err
    assert run(*wanted, *draft, "--draft-from", small, "--draft-last", 0.1) == 3
    assert run(*wanted, *draft, "--draft-from", small) == 0  # all are there
    capsys.readouterr()
    assert run(*wanted, "--sampler", "speculative") == 2
    assert "--drafter model" in capsys.readouterr().err
    other = saved(tmp_path / "other", next(k for k in KINDS if k != kind), 0)
    assert run(*wanted, *draft, "--draft-from", other) == 2
    assert "two of one kind" in capsys.readouterr().err
    flow = saved(tmp_path / "flow", kind, 0, objective="flow", stochastic=False)
    assert run(*wanted, *draft, "--draft-from", flow) == 2
    assert "ancestral" in capsys.readouterr().err
    faster = ("--steps", 3, "--out", tmp_path / "fast")  # the draft keeps up
    assert run(*wanted[:-2], *draft, "--draft-from", small, *faster) == 0
