"""Codes as a function of noise: Distilled Decoding's drop-in for the categorical draw.

A law over codes is a mixture of points at their vectors. A rectified flow carries a normal variable
onto it along x_t = (1 - t) e + t c, and its velocity is known in closed form, without a network
(arXiv 2412.17153, section 3.1). So the noise and what was drawn before decide a code, and noise
alone a whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from arra.errors import InputError
from arra.guidance import guide_pairs
from arra.registry import samplers
from arra.samplers.ancestral import Stepper, check_request, prompts_of
from arra.samplers.logits import SamplingConfig, law
from arra.samplers.noise import PictureNoise
from arra.samplers.vectors import VectorSampler, VectorStepper


@dataclass(frozen=True)
class TokenFlow:
    """How a flow is followed."""

    steps: int = 100
    """Of Euler; fewer than about 50 draw visibly another law, and Heun's method is no better."""
    end: float = 0.999
    """Time at which it stops: the velocity has a pole at 1."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0.0 < self.end < 1.0:
            raise InputError(f"TokenFlow: {self}, expected steps of at least 1, an end in (0, 1)")

    @torch.no_grad()
    def __call__(self, noise: Tensor, probabilities: Tensor, codes: Tensor) -> Tensor:
        """(...) int64 the codes that noise (..., d) is carried to, by laws (..., V) over code
        vectors (V, d). Distributed as the law when the noise is normal; of probability 0: never."""
        shape, x = noise.shape[:-1], noise.to(codes.dtype).flatten(0, -2)
        law = probabilities.to(codes.dtype).expand(*shape, -1).flatten(0, -2)
        log_law = law.log()
        times = torch.linspace(0.0, self.end, self.steps + 1, dtype=torch.float64).tolist()
        for time, after in pairwise(times):
            # Euler's step along (E[c | x] - x) / (1 - t)
            share = (after - time) / (1.0 - time)
            x = torch.lerp(x, expected_code(x, time, log_law, codes), share)
        nearness = x @ codes.T - 0.5 * codes.square().sum(dim=-1)
        return nearness.masked_fill(law <= 0, -math.inf).argmax(dim=-1).view(shape)


def expected_code(x: Tensor, time: float, log_law: Tensor, codes: Tensor) -> Tensor:
    """(n, d) E[c | x_t] at x (n, d), of the log of laws (n, V) over code vectors (V, d).

    The weight of a code is p exp(-|x - t c|^2 / 2 (1 - t)^2), and the velocity is (E[c | x_t] - x)
    / (1 - t).
    """
    sharp = 1.0 / (1.0 - time) ** 2
    # |x|^2 is the same for all codes, and drops out
    offset = (0.5 * sharp * time**2) * codes.square().sum(dim=-1)
    logits = torch.addmm(log_law - offset, x, codes.T, alpha=time * sharp)
    return logits.softmax(dim=-1) @ codes


class NoiseStepper(Stepper, Protocol):
    """A stepper that tells how many codes a picture has."""

    @property
    def codes_shape(self) -> tuple[int, ...]: ...


class FlowSampler:
    """Draws the pictures of any generator of codes, by places or by scales, from noise (B, L, d).

    Guidance, temperature and filters are part of the law that the flow ends in.
    """

    def __init__(
        self, codes: Tensor, config: SamplingConfig | None = None, flow: TokenFlow | None = None
    ):
        """`codes` (V, d): the vectors of all codes."""
        self.codes, self.config, self.flow = codes, config or SamplingConfig(), flow or TokenFlow()

    def __call__(
        self,
        stepper: NoiseStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, L) int64, one picture per caption and seed; see `picture_noise`."""
        check_request(captions, seeds, batch)
        length, drawn = math.prod(stepper.codes_shape), []
        for start in range(0, len(captions), batch):
            here = slice(start, start + batch)
            noise = picture_noise(seeds[here], length, self.codes.shape[1])
            drawn.append(self.follow(stepper, captions[here], noise, on_unit=on_unit))
        return torch.cat(drawn) if drawn else torch.empty(0, length, dtype=torch.int64)

    @torch.inference_mode()
    def follow(
        self,
        stepper: Stepper,
        captions: Sequence[str | None],
        noise: Tensor,
        given: Tensor | None = None,
        units: int | None = None,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, n) int64 of the first `units` units (None: all), from noise (B, L, d).

        The first codes may be `given`, (B, p): they are read and not drawn. Code i depends on the
        noise up to i alone.
        """
        guided, units = self.config.guided, stepper.units if units is None else units
        logits, cache = stepper.prefill(prompts_of(stepper, captions, guided))
        noise, table = noise.to(logits.device), self.codes.to(logits.device)
        found: list[Tensor] = []
        known = 0 if given is None else given.shape[1]
        for unit in range(units):
            if unit > 0:
                last = found[-1]
                logits = stepper.step(torch.cat((last, last)) if guided else last, cache)
            if guided:
                logits = guide_pairs(logits, self.config.scale(unit, stepper.units))
            shape = logits.shape[:-1]  # (B,) of a generator that draws code by code, or (B, n)
            at = sum(codes[0].numel() for codes in found)
            stop = at + math.prod(shape[1:])
            if given is not None and stop <= known:
                found.append(given[:, at:stop].to(logits.device).reshape(shape))
            else:
                here = noise[:, at:stop].reshape(*shape, -1)
                codes = self.flow(here, law(logits, self.config), table)
                if given is not None and at < known:
                    codes[:, : known - at] = given[:, at:known].to(logits.device)
                found.append(codes)
            if on_unit is not None:
                on_unit(len(captions))
        return torch.cat([codes.reshape(len(noise), -1) for codes in found], dim=1)


def picture_noise(seeds: Sequence[int], length: int, dimensions: int) -> Tensor:
    """(B, L, d) float32: the noise of which pictures with these seeds are functions."""
    return PictureNoise(seeds).normal(length, dimensions)


class MapStepper(VectorStepper, Protocol):
    """A stepper whose pictures are a function of noise; what it draws are codes."""

    @property
    def sampling(self) -> SamplingConfig: ...


@samplers.register("noise")
class NoiseSampler:
    """Draws pictures of a generator that has learnt a map of noise, with the settings learnt."""

    def __init__(self, config: SamplingConfig | None = None):
        """None: whatever settings the map was learnt with."""
        self.config = config

    def __call__(
        self,
        stepper: MapStepper,
        captions: Sequence[str | None],
        seeds: Sequence[int],
        *,
        batch: int = 64,
        on_unit: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Codes (B, L) int64, one picture per caption and seed. Raises `InputError` for other
        settings than those of the map, which are part of it."""
        check_settings(self.config, stepper.sampling)
        plain = VectorSampler(SamplingConfig(guidance=1.0))
        drawn = plain(stepper, captions, seeds, batch=batch, on_unit=on_unit)
        return drawn.to(torch.int64)


def check_settings(asked: SamplingConfig | None, learnt: SamplingConfig) -> None:
    """`InputError` where other settings are asked for (None: whatever) than a map was learnt with,
    of which they are part."""
    if asked is None or asked == learnt:
        return
    other = asdict(asked)
    found = [
        f"{name} {value!r} and not {other[name]!r}"
        for name, value in asdict(learnt).items()
        if value != other[name]
    ]
    raise InputError(
        "SamplingConfig: the settings of a distilled generator are those with which its teacher "
        f"drew, {', '.join(found)}; ask for these"
    )
