"""How an error of a network's output becomes one of the next state (MMAR, section 3.3).

With cos f = sqrt(a_t) and sin f = sqrt(1 - a_t) one step of DDIM from t to s turns a relative error
of the output, whose target has unit variance, into one of the state that is so many times as large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from arra.heads.processes import cosine_signal

Said = Literal["epsilon", "origin", "v"]
"""What the network says: the noise, the data, or v."""
SAID: tuple[Said, ...] = ("epsilon", "origin", "v")


@dataclass(frozen=True)
class Numerics:
    """A ring of Gaussians in the plane, whose perfect denoiser is known."""

    modes: int = 8
    deviation: float = 0.05
    """Of each; the ring has radius 1."""
    points: int = 4000
    steps: int = 50
    """Of DDIM."""


def angles(signal: Tensor) -> Tensor:
    """f of a_t, in [0, pi / 2]."""
    return torch.atan2((1.0 - signal).sqrt(), signal.sqrt())


def amplification(said: Said, at: Tensor, to: Tensor) -> Tensor:
    """How many times larger the state's error is than the output's, in a step of DDIM from a_t to
    a_s: that of v is |sin(f_t - f_s)|, that of the noise 1 / cos f_t times as much, and that of the
    data 1 / sin f_t times."""
    start = angles(at)
    turned = (start - angles(to)).sin().abs()
    return {
        "epsilon": turned / start.cos(),
        "origin": turned / start.sin(),
        "v": turned,
    }[said]


def rotated_amplification(theta: float, at: Tensor, to: Tensor) -> Tensor:
    """The same where the output is u = cos theta e - sin theta x_0; least where theta is f_t, and u
    so v."""
    start = angles(at)
    return (start - angles(to)).sin().abs() / (theta - start).cos().abs()


def ddim_step(said: Said, x: Tensor, output: Tensor, at: Tensor, to: Tensor) -> Tensor:
    """x_s of x_t and what the network says of it."""
    kept, lost = at.sqrt(), (1.0 - at).sqrt()
    if said == "epsilon":
        origin, noise = (x - lost * output) / kept, output
    elif said == "origin":
        origin, noise = output, (x - kept * output) / lost
    else:
        origin, noise = kept * x - lost * output, lost * x + kept * output
    return to.sqrt() * origin + (1.0 - to).sqrt() * noise


def linear_signal(times: int = 1000) -> Tensor:
    """(T,) float64: a_t of the schedule of DDPM (arXiv 2006.11239)."""
    return (1.0 - torch.linspace(1e-4, 0.02, times, dtype=torch.float64)).cumprod(dim=0)


SCHEDULES = {"cosine": cosine_signal, "linear": linear_signal}


def denoised(x: Tensor, signal: Tensor, given: Numerics) -> Tensor:
    """(N, 2) the mean of the data given x_t (N, 2), exactly: each Gaussian's, by its share."""
    angle = torch.arange(given.modes, dtype=torch.float64) * (2 * torch.pi / given.modes)
    centre = torch.stack((angle.cos(), angle.sin()), dim=1)
    variance = signal * given.deviation**2 + 1.0 - signal
    gap = x[:, None] - signal.sqrt() * centre
    share = (-gap.square().sum(dim=2) / (2 * variance)).softmax(dim=1)
    pulled = centre + (signal.sqrt() * given.deviation**2 / variance) * gap
    return (share[..., None] * pulled).sum(dim=1)


def rounding_errors(schedule: str, given: Numerics, seed: int) -> dict[str, float]:
    """Root of the mean squared error of the end of a trajectory where nothing but the network's
    output is rounded to bfloat16, from the same noise as without rounding; by what it says."""
    signal = SCHEDULES[schedule]()
    stride = len(signal) / given.steps
    taken = [round(stride * (number + 1)) - 1 for number in range(given.steps)]
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(given.points, 2, generator=random, dtype=torch.float64)
    return {
        said: float(
            (
                _drawn(said, noise, signal, taken, given, True)
                - _drawn(said, noise, signal, taken, given, False)
            )
            .square()
            .mean()
            .sqrt()
        )
        for said in SAID
    }


def _drawn(
    said: Said, x: Tensor, signal: Tensor, taken: list[int], given: Numerics, rounded: bool
) -> Tensor:
    for number in reversed(range(len(taken))):
        at = signal[taken[number]]
        to = signal[taken[number - 1]] if number else torch.ones((), dtype=torch.float64)
        origin = denoised(x, at, given)
        noise = (x - at.sqrt() * origin) / (1.0 - at).sqrt()
        output = {
            "epsilon": noise,
            "origin": origin,
            "v": at.sqrt() * noise - (1.0 - at).sqrt() * origin,
        }[said]
        if rounded:
            output = output.bfloat16().double()
        x = ddim_step(said, x, output, at, to)
    return x
