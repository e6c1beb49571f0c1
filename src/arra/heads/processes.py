"""From data to noise and back: Gaussian diffusion in steps, and straight flow.

x_0 is data, e standard normal noise. Diffusion has x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e at times t
of 0 to T - 1 (a_t is the cumulated product that papers write with a bar), flow x_s = (1 - s) x_0 +
s e at times s between 0 and 1. What a network predicts of x_t is the process's objective.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from typing import Literal, Self

import torch
from torch import Tensor, nn

from arra.denoising import DenoisingPath
from arra.errors import InputError

Predict = Callable[[Tensor, Tensor], Tensor]
"""What the network says of (M, ...) noisy data at times (M,)."""
Objective = Literal["epsilon", "v"]
DiffusionSchedule = Literal["cosine", "zero-terminal"]
TIMES = 1000
"""T; the time embedding of networks is made for times up to it."""
_LAST = 0.04
"""Where a stochastic way ends: the score grows without bound towards the data."""


def normal(
    shape: Sequence[int], random: torch.Generator | None, device: torch.device | str
) -> Tensor:
    """Standard normal numbers of a stream, wherever it lies, or of torch's own, on `device`."""
    return torch.randn(tuple(shape), generator=random, device=_place(random, device)).to(device)


def _place(random: torch.Generator | None, device: torch.device | str) -> torch.device | str:
    return device if random is None else random.device


class Process(nn.Module, ABC):
    """A way from data to noise."""

    outputs = 1
    """Numbers that the network gives for each number of the data."""
    draws: int
    """Normal numbers that a sample takes for each number of the data: the start is the first."""

    @abstractmethod
    def times(self, count: int, random: torch.Generator | None, device: torch.device) -> Tensor:
        """(count,) float32 times of training, between 0 and `TIMES`."""

    @abstractmethod
    def losses(self, predict: Predict, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """(M,) the loss of each row of data (M, C), with noise of its shape."""

    @abstractmethod
    def sample(self, predict: Predict, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Data (M, C) from noise (draws, M, C)."""

    @property
    def pathless(self) -> str:
        """Why a sample has no path of Gaussian steps; empty where `path` says it."""
        return (
            "the steps of its head add no noise of a known deviation; draw by ancestral diffusion "
            "(--vectors.objective v --vectors.stochastic)"
        )

    def path(
        self, predict: Predict, noise: Tensor, temperature: float = 1.0, last: float | None = None
    ) -> DenoisingPath:
        """Data (M, C) from noise (draws + 1, M, C), every step of which is a Gaussian, the last
        one of deviation `last`; and what these were."""
        raise InputError(f"path: {self.pathless}")


class Diffusion(Process):
    """Gaussian diffusion (DDPM, arXiv 2006.11239) with the cosine schedule (IDDPM, 2102.09672), or
    with one that ends in noise alone (`zero_terminal_signal`), which needs v.

    Objectives: "epsilon", the noise; or "v" = sqrt(a_t) e - sqrt(1 - a_t) x_0 (2202.00512), whose
    x_0 stays of its size where a_t is nearly 0 and nothing of the data is left.

    `learned`: the network gives a second number v for the variance, log s^2 = f log b_t + (1 - f)
    log b~_t with f = (v + 1) / 2, trained by the variational bound, in bits a number (IDDPM, as
    MAR has it); otherwise it is b~_t, the posterior's.
    """

    def __init__(
        self,
        objective: Objective = "v",
        *,
        steps: int = 100,
        ancestral: bool = False,
        learned: bool = False,
        schedule: DiffusionSchedule = "cosine",
    ):
        """`steps` of sampling, at most T: ancestral, every step with new noise, or, without, the
        deterministic ones of DDIM (arXiv 2010.02502), which start from the noise."""
        super().__init__()
        if objective not in ("epsilon", "v"):
            raise InputError(f"Diffusion.objective: {objective!r}, expected 'epsilon' or 'v'")
        if not 1 <= steps <= TIMES:
            raise InputError(f"Diffusion.steps: {steps}, expected 1 to {TIMES}")
        if schedule == "zero-terminal" and (objective != "v" or learned):
            raise InputError(
                f"Diffusion.schedule: {schedule}, whose last times hold nothing of the data, with "
                f"objective {objective!r}{' and a learned variance' * learned}; expected 'v' alone"
            )
        self.objective, self.steps = objective, steps
        self.ancestral, self.learned = ancestral, learned
        self.outputs = 2 if learned else 1
        self.draws = steps if ancestral else 1
        cosine = schedule == "cosine"
        signal = cosine_signal() if cosine else zero_terminal_signal()
        self.training_steps = Steps(signal)
        self._taken = spread(steps) if cosine else trailing(steps)
        self.sampling_steps = Steps(signal[self._taken])

    def times(self, count: int, random: torch.Generator | None, device: torch.device) -> Tensor:
        drawn = torch.randint(TIMES, (count,), generator=random, device=_place(random, device))
        return drawn.float().to(device)

    def losses(self, predict: Predict, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        at = time.long().cpu()
        signal = self.training_steps.signal[at][:, None].to(data)
        noisy = signal.sqrt() * data + (1.0 - signal).sqrt() * noise
        target = noise
        if self.objective == "v":
            target = signal.sqrt() * noise - (1.0 - signal).sqrt() * data
        said, spread = self._said(predict(noisy, time))
        squared = (said - target).square().mean(dim=1)
        if spread is None:
            return squared
        return squared + self._bound(data, noisy, said.detach(), spread, at)

    def _said(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the network says of the noise (or v), and of the variance."""
        output = output.float()
        if not self.learned:
            return output, None
        first, second = output.chunk(2, dim=1)
        return first, second

    def _origin(self, noisy: Tensor, said: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
        """x_0 and the noise, of what the network said of x_t at a_t."""
        kept, lost = signal.sqrt(), (1.0 - signal).sqrt()
        if self.objective == "epsilon":
            return (noisy - lost * said) / kept, said
        return kept * noisy - lost * said, lost * noisy + kept * said

    def _bound(
        self, data: Tensor, noisy: Tensor, said: Tensor, spread: Tensor, at: Tensor
    ) -> Tensor:
        """(M,) bits a number: the divergence of the model's step from the true one, and at the
        first time the likelihood of the data in bins of 2 / 255."""
        step = self.training_steps.at(at, data.device)
        origin, _ = self._origin(noisy, said, step.signal)
        variance = step.between(spread)
        mean, true = step.mean(origin, noisy), step.mean(data, noisy)
        gap = (true - mean).square() * torch.exp(-variance)
        divergence = 0.5 * (-1.0 + variance - step.least + torch.exp(step.least - variance) + gap)
        first = -binned_likelihood(data, mean, 0.5 * variance)
        chosen = torch.where((at == 0)[:, None].to(data.device), first, divergence)
        return chosen.float().mean(dim=1) / math.log(2.0)

    def sample(self, predict: Predict, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Ancestral: `temperature` scales the noise of every step, not the start. DDIM: the
        start."""
        x = noise[0] if self.ancestral else temperature * noise[0]
        for number in reversed(range(self.steps)):
            step, origin, direction, variance = self._seen(predict, x, number)
            if not self.ancestral:
                kept, lost = step.before.sqrt(), (1.0 - step.before).sqrt()
                x = (kept * origin + lost * direction).float()
                continue
            mean = step.mean(origin, x)
            if number:
                fresh = noise[self.steps - number]
                mean = mean + temperature * torch.exp(0.5 * variance) * fresh
            x = mean.float()
        return x

    @property
    def pathless(self) -> str:
        return "" if self.ancestral else super().pathless

    def path(
        self, predict: Predict, noise: Tensor, temperature: float = 1.0, last: float | None = None
    ) -> DenoisingPath:
        """What `sample` draws with the first of this noise (steps + 1, M, C), plus the noise of the
        last step, which samplers of diffusion leave out: without it the law of a token given its
        path is a point, and no two models agree on one.

        Its deviation is `last` times the temperature. None: that of the logarithm that stands for
        the first step's in `Steps` (with a learned variance, what the network chose), 0.006 for the
        cosine schedule.
        """
        x, spent = noise[0], torch.zeros(noise.shape[1], dtype=torch.float64, device=noise.device)
        for number in reversed(range(self.steps)):
            step, origin, _, variance = self._seen(predict, x, number)
            mean = step.mean(origin, x)
            deviation = torch.exp(0.5 * variance).expand_as(mean)
            if last is not None and number == 0:
                deviation = torch.full_like(mean, last)
            deviation = temperature * deviation
            x = (mean + deviation * noise[self.steps - number]).float()
            if number:
                spent = spent + deviation.log().sum(dim=1)
        return DenoisingPath(x, mean.float(), deviation.float(), spent)

    def _seen(
        self, predict: Predict, x: Tensor, number: int
    ) -> tuple[Steps, Tensor, Tensor, Tensor]:
        """Of sampling step `number`, from x: its numbers, x_0 and noise as the network has them,
        and the logarithm of its variance."""
        time = torch.full((len(x),), float(self._taken[number]), device=x.device)
        said, spread = self._said(predict(x, time))
        step = self.sampling_steps.at(torch.tensor([number]), x.device)
        variance = step.least if spread is None else step.between(spread)
        return step, *self._origin(x, said, step.signal), variance


class Flow(Process):
    """A straight way from data to noise (rectified flow, arXiv 2209.03003): the network gives the
    velocity v = e - x_0; a sample follows it from the noise in steps of equal length (Euler).

    `stochastic`: a sample follows the stochastic equation with the same marginal laws and diffusion
    s (SiT, arXiv 2401.08740; xAR's and ARFlow's sampler): dx = (v - s score) ds + sqrt(2 s) dw with
    score = -((1 - s) v + x) / s, from s = 1 down to `_LAST` and then, without noise, to 0.
    """

    def __init__(
        self,
        *,
        steps: int = 50,
        logit: bool = False,
        stochastic: bool = False,
    ):
        """`steps`: evaluations of the network; `logit`: times of training are the logistic function
        of normal numbers (SD3, arXiv 2403.03206), not uniform."""
        super().__init__()
        if steps < 1 + stochastic:
            raise InputError(f"Flow.steps: {steps}, expected {1 + stochastic} or more")
        self.steps, self.logit, self.stochastic = steps, logit, stochastic
        self.draws = steps if stochastic else 1

    def times(self, count: int, random: torch.Generator | None, device: torch.device) -> Tensor:
        place = _place(random, device)
        if self.logit:
            share = torch.randn(count, generator=random, device=place).sigmoid()
        else:
            share = torch.rand(count, generator=random, device=place)
        return TIMES * share.to(device)

    def losses(self, predict: Predict, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        share = (time / TIMES)[:, None]
        noisy = (1.0 - share) * data + share * noise
        return (predict(noisy, time).float() - (noise - data)).square().mean(dim=1)

    def sample(self, predict: Predict, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """`temperature` scales the start, or, stochastic, the noise of every step."""
        x = noise[0] if self.stochastic else temperature * noise[0]
        for number, share in enumerate(self.shares):
            velocity = predict(x, torch.full((len(x),), TIMES * share, device=x.device)).float()
            fresh = noise[number + 1] if number + 1 < self.draws else None
            x = self.step(number, x, velocity, None if fresh is None else temperature * fresh)
        return x

    @property
    def shares(self) -> list[float]:
        """The times s at which a sample asks the network, from noise to data."""
        if self.stochastic:
            return torch.linspace(1.0, _LAST, self.steps).tolist()
        return [1.0 - number / self.steps for number in range(self.steps)]

    def step(self, number: int, x: Tensor, velocity: Tensor, fresh: Tensor | None) -> Tensor:
        """What x becomes in step `number`, by the velocity there; stochastic steps but the last
        take `fresh` noise of its shape."""
        if not self.stochastic:
            return x - velocity / self.steps
        share, *following = self.shares[number:]
        drift = (2.0 - share) * velocity + x  # v - s score
        if not following:
            return x - share * drift
        assert fresh is not None
        length = share - following[0]
        return x - length * drift + (2.0 * share * length) ** 0.5 * fresh


class Segment(Flow):
    """A part of the way from noise to data: from where it starts to where it ends, straight
    (E-CAR, arXiv 2412.14170; the algebra of pyramidal flow, arXiv 2410.05954).

    What `Flow` calls noise is the start here, what it calls data the end; the network gives start -
    end. It is told times of a clock that several segments share: `first` at the start, `last` at
    the end, in shares of `TIMES`.
    """

    def __init__(self, first: float, last: float, *, steps: int = 8):
        super().__init__(steps=steps)
        if not 0.0 <= last < first <= 1.0:
            raise InputError(f"Segment: from {first} to {last}, expected 1 or less, falling, to 0")
        self.first, self.last = first, last

    def times(self, count: int, random: torch.Generator | None, device: torch.device) -> Tensor:
        return self._told(super().times(count, random, device))

    def losses(self, predict: Predict, data: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        local = (time - TIMES * self.last) / (self.first - self.last)
        return super().losses(lambda x, _: predict(x, time), data, local, noise)

    def sample(self, predict: Predict, noise: Tensor, temperature: float = 1.0) -> Tensor:
        return super().sample(lambda x, time: predict(x, self._told(time)), noise, temperature)

    def _told(self, local: Tensor) -> Tensor:
        """The shared clock's time of one that runs from `TIMES` to 0 within the segment."""
        return TIMES * self.last + (self.first - self.last) * local


class Steps:
    """The steps between some times, from each to the one before it; the first leads to the data.

    All are float64, (n,); of `at`, (M, 1). The variance of the first step is 0: as its logarithm
    stands that of the second (IDDPM).
    """

    def __init__(self, signal: Tensor):
        self.signal = signal
        self.before = torch.cat((torch.ones(1, dtype=signal.dtype), signal[:-1]))
        beta = 1.0 - signal / self.before
        self.clean = beta * self.before.sqrt() / (1.0 - signal)
        self.noisy = (1.0 - self.before) * (1.0 - beta).sqrt() / (1.0 - signal)
        self.most = beta.log()
        posterior = beta * (1.0 - self.before) / (1.0 - signal)
        second = posterior[1:2] if len(signal) > 1 else beta
        self.least = torch.cat((second, posterior[1:])).log()

    def at(self, index: Tensor, device: torch.device) -> Self:
        """Those of some times (M,)."""
        chosen = copy(self)
        for name, values in vars(self).items():
            setattr(chosen, name, values[index][:, None].to(device))
        return chosen

    def mean(self, origin: Tensor, noisy: Tensor) -> Tensor:
        """Of the step before, given x_0 and x_t."""
        return self.clean * origin + self.noisy * noisy

    def between(self, chosen: Tensor) -> Tensor:
        """The logarithm of the variance that a network chose, between the posterior's (-1) and
        that of the noise that was added (1)."""
        share = (chosen + 1.0) / 2.0
        return share * self.most + (1.0 - share) * self.least


def cosine_signal(times: int = TIMES, most: float = 0.999) -> Tensor:
    """(T,) float64: a_t of the cosine schedule, no step losing more than `most` of its variance."""

    def level(share: Tensor) -> Tensor:
        return torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()

    at = torch.arange(times, dtype=torch.float64)
    beta = (1.0 - level((at + 1) / times) / level(at / times)).clamp(max=most)
    return (1.0 - beta).cumprod(dim=0)


def spread(steps: int, times: int = TIMES) -> list[int]:
    """So many times, evenly spread from the first to the last (IDDPM)."""
    stride = (times - 1) / (steps - 1) if steps > 1 else 0.0
    return [round(number * stride) for number in range(steps)]


def zero_terminal_signal(times: int = TIMES, least: float = 0.00085, most: float = 0.012) -> Tensor:
    """(T,) float64: a_t of the schedule of latent diffusion (square roots of b_t evenly spaced),
    shifted and scaled so that the last is 0 and the first stays (arXiv 2305.08891, algorithm 1)."""
    beta = torch.linspace(least**0.5, most**0.5, times, dtype=torch.float64).square()
    root = (1.0 - beta).cumprod(dim=0).sqrt()
    return ((root - root[-1]) * (root[0] / (root[0] - root[-1]))).square()


def trailing(steps: int, times: int = TIMES) -> list[int]:
    """So many times, evenly spaced, the last one among them (2305.08891, table 2)."""
    return [round(times * (number + 1) / steps) - 1 for number in range(steps)]


def binned_likelihood(data: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Logarithm of the probability of each number's bin, 2 / 255 wide, under a Gaussian; those
    beyond +-0.999 have the rest of the line (IDDPM, for pictures of 8 bits)."""

    def below(x: Tensor) -> Tensor:  # the normal distribution, nearly
        return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))

    sharp = torch.exp(-log_deviation)
    upper, lower = below(sharp * (data - mean + 1 / 255)), below(sharp * (data - mean - 1 / 255))
    probability = torch.where(data > 0.999, 1.0 - lower, upper - lower)
    probability = torch.where(data < -0.999, upper, probability)
    return probability.clamp(min=1e-12).log()
