"""Solvers of diffusers on our processes: the law they lead to, and what they cannot follow."""

from __future__ import annotations

import pytest
import torch

from arra.errors import InputError
from arra.heads.processes import TIMES, Diffusion, Flow, cosine_signal
from arra.heads.solvers import Solved

pytest.importorskip("diffusers", reason="needs diffusers: pip install 'arra[diffusers]'")

MEAN, SPREAD = 0.7, 0.3


def exact_flow(x, time):
    """The velocity of Gaussian data."""
    share = (time / TIMES)[:, None]
    gap = (x - (1.0 - share) * MEAN) / ((1.0 - share) ** 2 * SPREAD**2 + share**2)
    return share * gap - (MEAN + (1.0 - share) * SPREAD**2 * gap)


def exact_diffusion(objective):
    def predict(x, time):
        signal = cosine_signal()[time.long()].to(x)[:, None]
        gap = (x - signal.sqrt() * MEAN) / (signal * SPREAD**2 + 1.0 - signal)
        origin, noise = MEAN + signal.sqrt() * SPREAD**2 * gap, (1.0 - signal).sqrt() * gap
        if objective == "epsilon":
            return noise
        return signal.sqrt() * noise - (1.0 - signal).sqrt() * origin

    return predict


CASES = {
    "flow": (Flow, exact_flow),
    "v": (lambda steps: Diffusion("v", steps=steps), exact_diffusion("v")),
    "epsilon": (lambda steps: Diffusion("epsilon", steps=steps), exact_diffusion("epsilon")),
}


def off(process, predict):
    """By how much the deviation of samples is wrong, and their mean."""
    noise = torch.randn(1, 20_000, 1, generator=torch.Generator().manual_seed(0))
    drawn = process.sample(predict, noise)
    true = SPREAD * float(noise.std())
    return abs(float(drawn.std()) - true), abs(float(drawn.mean()) - MEAN)


@pytest.mark.parametrize("solver", ["dpm++", "unipc"])
@pytest.mark.parametrize("case", list(CASES))
def test_fewer_steps_for_the_same_law(case, solver):
    made, predict = CASES[case]
    for steps in (8, 20):
        plain, _ = off(made(steps=steps), predict)
        solved, mean = off(Solved(made(steps=steps), solver), predict)
        assert solved < 0.75 * plain
        assert mean < 0.01
    assert off(Solved(made(steps=200), solver), predict)[0] < 0.002


def test_steps_are_evaluations():
    calls = []

    def predict(x, time):
        calls.append(float(time[0]))
        return exact_flow(x, time)

    Solved(Flow(steps=7), "dpm++").sample(predict, torch.randn(1, 3, 1))
    assert len(calls) == 7
    assert calls[0] == pytest.approx(TIMES, rel=0.01)
    assert calls == sorted(calls, reverse=True)


def test_training_is_the_process_own():
    process = Diffusion("v", steps=5)
    solved = Solved(process, "unipc")
    data, noise = torch.randn(6, 2), torch.randn(6, 2)
    random = torch.Generator().manual_seed(1)
    time = solved.times(6, random, torch.device("cpu"))
    expected = process.losses(exact_diffusion("v"), data, time, noise)
    assert torch.equal(solved.losses(exact_diffusion("v"), data, time, noise), expected)


def test_our_ddim_is_that_of_diffusers():
    from diffusers import DDIMScheduler

    process = Diffusion("v", steps=20)
    signal = process.training_steps.signal
    before = torch.cat((torch.ones(1, dtype=signal.dtype), signal[:-1]))
    scheduler = DDIMScheduler(
        trained_betas=(1.0 - signal / before).numpy(),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    noise = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0))
    x, taken = noise[0].double(), [*reversed(process._taken)]
    for number, time in enumerate(taken):  # its own times are others, so one step after the other
        scheduler.num_inference_steps = 1
        following = taken[number + 1] if number + 1 < len(taken) else -1
        scheduler.config.num_train_timesteps = time - following
        said = exact_diffusion("v")(x, torch.full((50,), float(time)))
        x = scheduler.step(said, time, x).prev_sample
    ours = process.sample(exact_diffusion("v"), noise)
    torch.testing.assert_close(ours, x.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("process", "why"),
    [
        (Flow(steps=5, stochastic=True), "adds noise"),
        (Diffusion("v", steps=5, ancestral=True), "adds noise"),
        (Diffusion("v", steps=5, schedule="zero-terminal"), "nothing of the data"),
        (Diffusion("epsilon", steps=5, learned=True), "learned variance"),
    ],
)
def test_what_cannot_be_followed_is_refused(process, why):
    with pytest.raises(InputError, match=why):
        Solved(process, "dpm++")
