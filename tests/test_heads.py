"""Heads: processes against naive loops and exact laws, guidance, and what a head begins as."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from arra.errors import InputError
from arra.heads.diffusion import DiffusionHead
from arra.heads.gaussian import GaussianHead
from arra.heads.processes import (
    TIMES,
    Diffusion,
    Flow,
    Steps,
    binned_likelihood,
    cosine_signal,
    spread,
)
from arra.networks.denoiser import Denoiser, waves

PROCESSES = {
    "epsilon, DDIM": lambda steps: Diffusion("epsilon", steps=steps),
    "v, DDIM": lambda steps: Diffusion("v", steps=steps),
    "epsilon, ancestral": lambda steps: Diffusion("epsilon", steps=steps, ancestral=True),
    "v, ancestral": lambda steps: Diffusion("v", steps=steps, ancestral=True),
    "epsilon, learned": lambda steps: Diffusion(
        "epsilon", steps=steps, ancestral=True, learned=True
    ),
    "flow": lambda steps: Flow(steps=steps),
}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head_of(name: str, spoilt: bool = True) -> DiffusionHead:
    """A small head; its zeros replaced by noise, so that it says something."""
    torch.manual_seed(0)
    head = DiffusionHead(6, 3, PROCESSES[name](8), inner=16, depth=2, repeats=2)
    if spoilt:
        for parameter in head.parameters():
            nn.init.normal_(parameter, std=0.2)
    return head


def test_signals_are_those_of_a_naive_loop():
    signal, product = cosine_signal(), 1.0
    for t in range(TIMES):
        one, two = (math.cos((x / TIMES + 0.008) / 1.008 * math.pi / 2) ** 2 for x in (t, t + 1))
        product *= 1.0 - min(1.0 - two / one, 0.999)
        assert float(signal[t]) == pytest.approx(product, rel=1e-9)


def test_steps_are_those_of_bayes():
    """Mean and variance of x_(t-1) given x_t and x_0, by conditioning a Gaussian."""
    signal = cosine_signal()[[50, 400, 700, 999]]
    steps = Steps(signal)
    for n in range(1, 4):
        before, alpha = float(signal[n - 1]), float(signal[n] / signal[n - 1])
        # x' ~ N(sqrt(before) x0, 1 - before); x = sqrt(alpha) x' + N(0, 1 - alpha)
        variance = 1.0 / (alpha / (1.0 - alpha) + 1.0 / (1.0 - before))
        x, origin = 0.7, -1.3
        mean = variance * (
            math.sqrt(alpha) / (1.0 - alpha) * x + math.sqrt(before) / (1.0 - before) * origin
        )
        at = steps.at(torch.tensor([n]), torch.device("cpu"))
        assert float(at.least.exp()) == pytest.approx(variance, rel=1e-9)
        assert float(at.most.exp()) == pytest.approx(1.0 - alpha, rel=1e-9)
        assert float(at.mean(torch.tensor(origin), torch.tensor(x))) == pytest.approx(
            mean, rel=1e-6
        )


def test_times_are_spread_from_the_first_to_the_last():
    assert spread(1) == [0]
    assert spread(TIMES) == list(range(TIMES))
    hundred = spread(100)
    assert (hundred[0], hundred[-1], len(set(hundred))) == (0, 999, 100)
    assert hundred[:4] == [0, 10, 20, 30]


@pytest.mark.parametrize("name", PROCESSES)
def test_who_knows_the_data_has_no_loss_and_draws_it(name):
    process = PROCESSES[name](20)
    data = torch.randn(64, 3, generator=random())
    noise = torch.randn(64, 3, generator=random(1))
    time = process.times(64, random(2), data.device)
    assert time.min() >= 0
    assert time.max() <= TIMES

    def exact(x, t):
        return _exact(process, x, t, data)

    losses = process.losses(exact, data, time, noise)
    if name == "epsilon, learned":  # what is left is the bound, 0 but at the first time
        late = time > 0
        assert losses[late].abs().max() < 1e-3
    else:
        assert losses.max() < 1e-6
    start = torch.randn(process.draws, 64, 3, generator=random(3))
    assert torch.allclose(process.sample(exact, start), data, atol=2e-2)


def _exact(process, x, time, data, variance=0.0):
    """What a network says that knows the law N(data, variance) of x_0 given x_t."""
    if isinstance(process, Flow):
        s = (time / TIMES)[:, None]
        kept, lost = 1.0 - s, s
    else:
        signal = process.training_steps.signal[time.long()][:, None]
        kept, lost = signal.sqrt().float(), (1.0 - signal).sqrt().float()
    gain = kept * variance / (kept**2 * variance + lost**2)
    origin = data + gain * (x - kept * data)
    noise = (x - kept * origin) / lost.clamp(min=1e-6)
    if isinstance(process, Flow):
        return noise - origin
    said = noise if process.objective == "epsilon" else kept * noise - lost * origin
    return torch.cat((said, -torch.ones_like(said)), dim=1) if process.learned else said


@pytest.mark.parametrize("name", PROCESSES)
def test_a_gaussian_law_is_drawn(name):
    process, mean, deviation = PROCESSES[name](250), torch.tensor([[0.5, -1.0]]), 0.3
    count = 6000
    start = torch.randn(process.draws, count, 2, generator=random())
    drawn = process.sample(
        lambda x, t: _exact(process, x, t, mean.expand(len(x), -1), deviation**2), start
    )
    error = 4 * deviation / math.sqrt(count)
    assert (drawn.mean(dim=0) - mean[0]).abs().max() < error + 0.01
    assert torch.allclose(drawn.std(dim=0), torch.tensor(deviation), atol=0.02)


@pytest.mark.parametrize("name", PROCESSES)
def test_guidance_is_exact(name):
    head, rows = head_of(name), 5
    condition, other = torch.randn(2, rows, 6, generator=random())
    noise = torch.randn(head.draws, rows, 3, generator=random(1))
    with torch.no_grad():
        plain = head.sample(condition, noise)
        same = head.sample(torch.cat((condition, condition)), noise, scale=3.0)
        nearly = head.sample(torch.cat((condition, other)), noise, scale=1.0 + 1e-6)
        guided = head.sample(torch.cat((condition, other)), noise, scale=3.0)
        alone = [
            head.sample(torch.stack((condition[n], other[n])), noise[:, n : n + 1], scale=3.0)
            for n in range(rows)
        ]
    assert torch.allclose(same, plain, rtol=1e-3, atol=1e-3)
    assert torch.allclose(nearly, plain, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(guided, plain, rtol=1e-2, atol=1e-2)
    assert torch.allclose(torch.cat(alone), guided, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", PROCESSES)
def test_without_temperature_a_token_follows_from_its_start(name):
    head = head_of(name)
    hidden = torch.randn(4, 6, generator=random())
    one, other = (torch.randn(head.draws, 4, 3, generator=random(n)) for n in (1, 2))
    other[0] = one[0]
    with torch.no_grad():
        cold = [head.sample(hidden, noise, temperature=0.0) for noise in (one, other)]
        warm = [head.sample(hidden, noise) for noise in (one, other)]
    assert torch.equal(*cold)
    assert torch.equal(*warm) == (head.draws == 1)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_head_begins_at_zero_and_learns_from_its_last_layer(name):
    head = head_of(name, spoilt=False)
    hidden = torch.randn(300, 6, generator=random(), requires_grad=True)
    target = torch.randn(300, 3, generator=random(1))
    head.loss(target, hidden, random=random(2)).backward()
    assert (hidden.grad == 0).all()
    moved = {n for n, p in head.network.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"outputs.weight", "outputs.bias"} or moved == {"outputs.bias"}
    assert head.network.outputs.bias.grad.abs().max() > 0


@pytest.mark.parametrize("name", PROCESSES)
def test_the_first_loss_is_known(name):
    """Who says 0 of everything errs by what the target varies; the variational bound adds what the
    released code of MAR computes of the same numbers, 0.646 bits."""
    process = PROCESSES[name](8)
    time = torch.arange(TIMES).repeat(40).float()
    data, noise = torch.randn(2, len(time), 4, generator=random())
    said = torch.zeros(len(time), 4 * process.outputs)
    found = float(process.losses(lambda x, t: said, data, time, noise).mean())
    expected = {"flow": 2.0, "epsilon, learned": 1.6467}.get(name, 1.0)
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", [*PROCESSES, "gaussian"])
def test_the_loss_is_over_the_mask_and_flows_into_the_state(name):
    head = GaussianHead(6, 3) if name == "gaussian" else head_of(name)
    head.repeats = 1
    hidden = torch.randn(8, 6, generator=random(), requires_grad=True)
    target = torch.randn(8, 3, generator=random(1))
    mask = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0], dtype=torch.bool)
    head.loss(target, hidden, mask, random(2)).backward()
    moved = hidden.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, mask)
    again = head.loss(target.masked_fill(~mask[:, None], 9.0), hidden, mask, random(2))
    assert torch.equal(again, head.loss(target, hidden, mask, random(2)))


def test_repeats_are_a_mean_over_noises():
    head = head_of("v, DDIM")
    hidden, target = torch.randn(4000, 6, generator=random()), torch.randn(4000, 3)
    with torch.no_grad():
        twice = float(head.loss(target, hidden, random=random(1)))
        head.repeats = 1
        once = float(head.loss(target, hidden, random=random(2)))
    assert twice == pytest.approx(once, rel=0.05)


def test_a_regression_draws_its_mean_and_its_error():
    torch.manual_seed(0)
    head, hidden = GaussianHead(2, 1, decay=0.9), torch.randn(4000, 2)
    target = hidden @ torch.tensor([[1.0], [-2.0]]) + 0.5 * torch.randn(4000, 1)
    optimiser = torch.optim.Adam(head.parameters(), 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        head.loss(target, hidden).backward()
        optimiser.step()
    head.eval()
    with torch.no_grad():
        drawn = head.sample(hidden, torch.randn(1, 4000, 1))
        cold = head.sample(hidden, torch.randn(1, 4000, 1), temperature=0.0)
    assert float((drawn - target).std()) == pytest.approx(0.5 * math.sqrt(2), rel=0.05)
    assert float((cold - target).std()) == pytest.approx(0.5, rel=0.05)


def test_bins_sum_to_one():
    mean, deviation = torch.tensor(0.3), torch.tensor(0.2).log()
    centres = torch.linspace(-1, 1, 256, dtype=torch.float64)
    chance = binned_likelihood(centres, mean.double(), deviation.double()).exp()
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-3)


def test_time_is_told_by_waves():
    found = waves(torch.tensor([0.0, 3.0]), count=4)
    assert torch.allclose(found[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))
    expected = [math.cos(3), math.cos(0.03), math.sin(3), math.sin(0.03)]
    assert torch.allclose(found[1], torch.tensor(expected), atol=1e-6)


def test_a_row_of_the_network_does_not_know_the_others():
    torch.manual_seed(0)
    network = Denoiser(3, 3, 6, 16, 2)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, condition, time = torch.randn(4, 3), torch.randn(4, 6), torch.tensor([1.0, 5.0, 9.0, 700.0])
    with torch.no_grad():
        found = network(x, time, condition)
        x[1:] += 1.0
        assert torch.allclose(network(x, time, condition)[0], found[0], atol=1e-6)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Diffusion("x"), "objective"),
        (lambda: Diffusion(steps=0), "steps"),
        (lambda: Diffusion(steps=TIMES + 1), "steps"),
        (lambda: Flow(steps=0), "steps"),
        (lambda: DiffusionHead(4, 2, Flow(), repeats=0), "repeats"),
    ],
)
def test_impossible_settings_are_refused(made, said):
    with pytest.raises(InputError, match=said):
        made()
