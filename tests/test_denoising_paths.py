"""Paths of tokens that heads record, and the rule that compares two of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from arra.denoising import DenoisingPath
from arra.errors import InputError
from arra.heads.diffusion import DiffusionHead
from arra.heads.gaussian import GaussianHead
from arra.heads.processes import Diffusion, Flow
from arra.randomness import seeded
from arra.samplers.speculative.paths import PathRule

ROWS, WIDTH, CHANNELS = 5, 6, 3


def head(seed: int, steps: int = 4, learned: bool = True, **others) -> DiffusionHead:
    process = Diffusion("v", steps=steps, ancestral=True, learned=learned, **others)
    with seeded(seed):
        made = DiffusionHead(WIDTH, CHANNELS, process, inner=8, depth=1)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(mean: float, deviation: float, rows: int, tokens=None) -> DenoisingPath:
    """Tokens of one number whose law is this Gaussian."""
    means, deviations = (torch.full((rows, 1), value) for value in (mean, deviation))
    drawn = means + deviations * normal(rows, 1, seed=3) if tokens is None else tokens
    return DenoisingPath(drawn, means, deviations, torch.zeros(rows).double())


# ---- what heads record --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("learned", [False, True])
@torch.inference_mode()
def test_a_path_is_a_sample_and_the_noise_of_the_last_step(steps, learned):
    one, hidden = head(1, steps, learned), normal(ROWS, WIDTH)
    noise = normal(one.draws + one.last_draws, ROWS, CHANNELS, seed=1)
    path = one.path(hidden, noise, last=0.3, temperature=0.9)
    sample = one.sample(hidden, noise[:-1], temperature=0.9)
    assert torch.equal(path.mean, sample)
    torch.testing.assert_close(path.deviation, torch.full_like(sample, 0.27))
    torch.testing.assert_close(path.tokens, sample + 0.27 * noise[-1])
    own = one.path(hidden, noise)
    assert torch.equal(own.mean, one.sample(hidden, noise[:-1]))
    assert bool((own.deviation > 0).all())
    assert own.deviation.max() < (1.0 if steps == 1 else 0.1)


def by_hand(process: Diffusion, network, hidden, noise, last: float):
    """log N(x_{t-1}; mu_t, s_t) of every step of a path, (T, M), naively; and mu, s of the last."""
    signal = process.sampling_steps.signal.tolist()
    taken = process._taken
    x, found = noise[0].double(), []
    for number in reversed(range(process.steps)):
        a, before = signal[number], signal[number - 1] if number else 1.0
        beta = 1.0 - a / before
        said = network(x.float(), torch.full((ROWS,), float(taken[number])), hidden).double()
        v, chosen = said[:, :CHANNELS], said[:, CHANNELS:]
        origin = math.sqrt(a) * x - math.sqrt(1.0 - a) * v
        mean = beta * math.sqrt(before) / (1.0 - a) * origin
        mean = mean + (1.0 - before) * math.sqrt(a / before) / (1.0 - a) * x
        deviation = torch.full_like(mean, last)
        if number:
            least = beta * (1.0 - before) / (1.0 - a)
            share = (chosen + 1.0) / 2.0
            deviation = torch.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(least)))
        x = mean + deviation * noise[process.steps - number].double()
        law = torch.distributions.Normal(mean, deviation)
        found.append(law.log_prob(x).sum(dim=1))
    return torch.stack(found), law


@torch.inference_mode()
def test_the_ratio_is_that_of_the_densities_of_both_paths():
    """Summed over all steps; only the last ones are taken at the same place, the draft's token."""
    hidden, noise = normal(ROWS, WIDTH), normal(5, ROWS, CHANNELS, seed=1)
    target, draft = head(1), head(2)
    p, q = (one.path(hidden, noise, last=0.4) for one in (target, draft))
    (steps_p, last_p), (steps_q, last_q) = (
        by_hand(one.process, one.network, hidden, noise, 0.4) for one in (target, draft)
    )
    ends = [law.log_prob(q.tokens.double()).sum(dim=1) for law in (last_p, last_q)]
    naive = steps_p[:-1].sum(dim=0) + ends[0] - steps_q[:-1].sum(dim=0) - ends[1]
    torch.testing.assert_close(PathRule().log_ratio(p, q, q.tokens), naive, rtol=0, atol=1e-5)
    scale = steps_p[:-1].sum(dim=0) - steps_q[:-1].sum(dim=0)
    torch.testing.assert_close(PathRule().log_scale(p, q), scale, rtol=0, atol=1e-5)
    assert float(scale.abs().min()) > 0.01


@torch.inference_mode()
def test_the_ratio_of_deviations_knows_nothing_of_the_last_step():
    hidden, noise, rule = normal(ROWS, WIDTH), normal(5, ROWS, CHANNELS, seed=1), PathRule()
    target, draft = head(1), head(2)
    one, other = (target.path(hidden, noise, last=last) for last in (0.1, 0.7))
    assert torch.equal(one.log_scale, other.log_scale)
    q = draft.path(hidden, noise, last=0.1)
    assert torch.equal(rule.log_scale(one, q), -rule.log_scale(q, one))
    assert float(rule.log_scale(one, q).abs().min()) > 0
    fixed = [head(seed, learned=False).path(hidden, noise, last=0.1) for seed in (1, 2)]
    assert not torch.allclose(fixed[0].tokens, fixed[1].tokens)
    assert float(rule.log_scale(*fixed).abs().max()) == 0.0
    assert float(head(1, steps=1).path(hidden, noise[:2]).log_scale.abs().max()) == 0.0


@pytest.mark.parametrize("kind", ["diffusion", "gaussian"])
@torch.inference_mode()
def test_both_of_a_guided_pair_see_the_same_noise(kind):
    one = head(1)
    if kind == "gaussian":
        with seeded(0):
            one = GaussianHead(WIDTH, CHANNELS)
    hidden = normal(ROWS, WIDTH)
    noise = normal(one.draws + one.last_draws, ROWS, CHANNELS, seed=1)
    alone = one.path(hidden, noise, last=0.2)
    scale = torch.linspace(0.0, 4.0, ROWS)[:, None]
    pairs = one.path(torch.cat((hidden, hidden)), noise, scale, last=0.2)
    torch.testing.assert_close(pairs.tokens, alone.tokens)
    torch.testing.assert_close(pairs.log_scale, alone.log_scale)
    mixed = torch.cat((hidden, normal(ROWS, WIDTH, seed=2)))
    for row, strength in enumerate(scale.flatten().tolist()):
        single = one.path(mixed, noise, strength, last=0.2)
        varied = one.path(mixed, noise, scale, last=0.2)
        torch.testing.assert_close(varied.mean[row], single.mean[row])


def test_a_way_without_noise_has_no_path():
    for process in (Flow(), Flow(stochastic=True), Diffusion("v")):
        one = DiffusionHead(WIDTH, CHANNELS, process, inner=8)
        assert "ancestral" in one.pathless
        with pytest.raises(InputError, match="ancestral"):
            one.path(normal(ROWS, WIDTH), normal(2, ROWS, CHANNELS))
    with pytest.raises(InputError, match="temperature 0"):
        head(1).path(normal(ROWS, WIDTH), normal(5, ROWS, CHANNELS), temperature=0.0)


def test_shared_noise_brings_tokens_nearer_by_twice_the_deviations():
    """E|x_q - x_p|^2 of independent noise, less that of shared noise, is 2 sum s_p s_q."""
    count, process = 200_000, Diffusion("v", steps=1, ancestral=True)

    def drawn(mean: float, last: float, seed: int) -> torch.Tensor:
        """Of a network that knows that x_0 is `mean`."""
        signal = float(process.sampling_steps.signal[0])

        def predict(x, time):
            return (math.sqrt(signal) * x - mean) / math.sqrt(1.0 - signal)

        noise = torch.stack((normal(count, 2, seed=9), normal(count, 2, seed=seed)))
        return process.path(predict, noise, last=last).tokens

    target, shared, alone = drawn(0.3, 0.5, 1), drawn(0.0, 0.7, 1), drawn(0.0, 0.7, 2)
    near, far = ((target - other).square().sum(dim=1).mean() for other in (shared, alone))
    assert float(far - near) == pytest.approx(2 * 2 * 0.5 * 0.7, rel=0.02)
    assert float(near) == pytest.approx(2 * (0.3**2 + 0.2**2), rel=0.02)


# ---- the rule -----------------------------------------------------------------------------------

P, Q = (0.3, 0.8), (-0.2, 1.1)


def variation(one=P, other=Q) -> float:
    x = np.linspace(-12, 12, 200_001)
    return float(
        np.abs(stats.norm.pdf(x, *one) - stats.norm.pdf(x, *other)).sum() * (x[1] - x[0]) / 2
    )


def outcome(rule: PathRule, p: DenoisingPath, q: DenoisingPath, seed: int = 0):
    """(M,) what the rule makes of drafted tokens of one number, the share that stays, and the mean
    number of proposals."""
    random = torch.Generator().manual_seed(seed)
    stays = torch.rand(len(q), generator=random, dtype=torch.float64) < rule.acceptance(p, q)
    out, tries = q.tokens.clone(), []
    for row in (~stays).nonzero().flatten().tolist():
        here = slice(row, row + 1)
        found = rule.residual(p[here], q[here], random)
        out[row] = found.token
        tries.append(found.tries)
    return out.flatten().numpy(), float(stays.double().mean()), float(np.mean(tries or [0]))


@torch.inference_mode()
def test_one_step_is_drawn_exactly():
    count = 10_000
    p, q = gaussian(*P, count), gaussian(*Q, count)
    drawn, stays, tries = outcome(PathRule(), p, q)
    assert stats.kstest(drawn, stats.norm(*P).cdf).pvalue > 0.01
    assert drawn.mean() == pytest.approx(0.3, abs=0.03)
    assert drawn.std() == pytest.approx(0.8, abs=0.02)
    assert stays == pytest.approx(1.0 - variation(), abs=0.015)
    assert tries == pytest.approx(1.0 / variation(), rel=0.08)
    bent, most, _ = outcome(PathRule(temperature=42.0), p, q)
    assert most > 0.7  # the exponents no longer count, the heights still do
    assert stats.kstest(bent, stats.norm(*P).cdf).pvalue < 1e-6


def test_proposals_are_accepted_as_often_as_the_laws_differ():
    """E_p[a] = 1 - integral of min(p, q)."""
    p, q = gaussian(*P, 200_000), gaussian(*Q, 200_000)
    ratio = PathRule().log_ratio(p, q, p.tokens)
    accepted = (1.0 - torch.exp(-ratio)).clamp(min=0.0)
    assert float(accepted.mean()) == pytest.approx(variation(), abs=0.003)


def test_what_the_draft_agrees_on_stays():
    p = gaussian(*P, 1000)
    assert bool((PathRule().acceptance(p, p) == 1.0).all())


def test_an_inner_temperature_divides_the_exponents_alone():
    p, q = gaussian(*P, 9), gaussian(*Q, 9)
    whole, tempered = (PathRule().log_ratio(p, q, q.tokens, t) for t in (1.0, 42.0))
    height = math.log(Q[1] / P[1])
    torch.testing.assert_close(tempered - height, (whole - height) / 42.0**2)
    torch.testing.assert_close(
        whole, (p.log_density(q.tokens) - q.log_density(q.tokens)), rtol=0, atol=1e-12
    )


def test_where_no_proposal_is_accepted_the_last_one_stays():
    """The laws are nearly one, so that few proposals belong to the residual."""
    p, q = gaussian(0.0, 1.0, 1), gaussian(0.0, 1.0 + 1e-9, 1)
    found = PathRule(tries=40).residual(p, q, torch.Generator().manual_seed(1))
    assert (found.found, found.tries) == (False, 40)
    assert float(found.token.abs()) > 0.0


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"tries": 0}])
def test_rules_are_checked(wrong):
    with pytest.raises(InputError, match=f"PathRule.{next(iter(wrong))}"):
        PathRule(**wrong)


def two_steps(spread: float, shift: float, noise: torch.Tensor) -> DenoisingPath:
    """Paths of a process of two steps whose network says so of x_0 and its variance."""
    process = Diffusion("v", steps=2, ancestral=True, learned=True)

    def predict(x, time):
        return torch.cat((shift - 0.5 * x, torch.full_like(x, spread)), dim=1)

    return process.path(predict, noise, last=0.4)


@torch.inference_mode()
def test_given_the_shared_noise_the_rule_without_deviations_is_exact():
    """With a learned variance the paper's ratio is not: S is far from 1."""
    count = 8_000
    noise, other = (normal(3, count, 1, seed=seed) for seed in (0, 1))
    p, q = two_steps(-0.9, 0.0, noise), two_steps(-0.6, 0.1, noise)
    truth = two_steps(-0.9, 0.0, other).tokens.flatten().numpy()
    assert float(PathRule().log_scale(p, q).mean()) > 0.2
    exact, _, _ = outcome(PathRule(scaled=False), p, q)
    bent, _, _ = outcome(PathRule(), p, q)
    assert stats.ks_2samp(exact, truth).pvalue > 0.01
    assert stats.ks_2samp(bent, truth).pvalue < 1e-4
