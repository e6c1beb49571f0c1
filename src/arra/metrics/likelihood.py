"""Held-out likelihood in bits: the least noisy comparison of generators over one shared codec.

Across codecs it says nothing: codes of a codec that throws the picture away are easy to predict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from arra.errors import InputError
from arra.generators.base import Batch, Generator, Output
from arra.metrics.bootstrap import bootstrap, ratio
from arra.metrics.measured import Interval, Measured


@dataclass(frozen=True)
class Likelihood:
    """Cross-entropy of the image tokens of N held-out pictures."""

    bits: np.ndarray
    """(N,) float64: bits of each picture."""
    tokens: np.ndarray
    """(N,) int64: image tokens of each picture."""

    @property
    def per_token(self) -> float:
        """Bits per image token."""
        return ratio(self.bits, self.tokens)

    @property
    def values(self) -> np.ndarray:
        """(N,) what each picture costs: its bits."""
        return self.bits

    def told(self) -> dict[str, float]:
        """Bits per image token, by their name in logs."""
        return {"held_out_bits": self.per_token}

    @property
    def per_picture(self) -> float:
        """Bits per picture."""
        return float(self.bits.mean())

    def measured(self, rng: np.random.Generator, codec: str) -> Measured:
        """Bits per token with an interval over pictures; `codec` names what the tokens are."""
        interval: Interval | None = None
        if len(self.bits) > 1:
            interval = bootstrap(self.bits, self.tokens, rng=rng, statistic=ratio)
        details: dict[str, float | int | str] = {
            "codec": codec,
            "bits_per_picture": round(self.per_picture, 4),
        }
        return Measured(
            "bits per image token", self.per_token, len(self.bits), "none", interval, details
        )


def picture_bits(output: Output, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Bits (B,) and image tokens (B,) of the samples of one batch.

    Only positions with `batch.image` count: text that a model may also be trained to predict is no
    part of the picture. A position that predicts several codes is one token, of all their bits.
    """
    supervised = batch.target != -100
    count = int(supervised.sum())
    codes, rest = divmod(output.logits.shape[0], max(count, 1))  # of a position
    if codes == 0 or rest:
        raise InputError(f"output: {output.logits.shape[0]} rows of logits for {count} targets")
    image = batch.image[supervised]
    rows = image.repeat_interleave(codes)
    nats = F.cross_entropy(output.logits[rows].float(), output.targets[rows], reduction="none")
    nats = nats.view(-1, codes).sum(dim=1)
    sample = batch.segment[supervised][image].cpu()
    bits = torch.zeros(batch.samples, dtype=torch.float64)
    bits.index_add_(0, sample, nats.double().cpu() / math.log(2))
    tokens = torch.bincount(sample, minlength=batch.samples)
    return bits.numpy(), tokens.numpy()


@torch.no_grad()
def held_out_bits(generator: Generator, batches: Iterable[Batch]) -> Likelihood:
    """Bits per picture of a generator over held-out batches, without dropout.

    Batches must hold each picture once, with the prompt and order of the evaluation.
    """
    was_training = generator.training
    generator.eval()
    bits, tokens = [], []
    try:
        for batch in batches:
            b, t = picture_bits(generator(batch.to(generator.device)), batch)
            bits.append(b)
            tokens.append(t)
    finally:
        generator.train(was_training)
    if not bits:
        raise InputError("held_out_bits: no batch was given")
    result = Likelihood(np.concatenate(bits), np.concatenate(tokens))
    if (result.tokens == 0).any():
        empty = int(np.argmin(result.tokens))
        raise InputError(f"held_out_bits: picture {empty} has no image token")
    if not np.isfinite(result.bits).all():
        raise InputError("held_out_bits: the likelihood of a picture is not finite")
    return result


@dataclass(frozen=True)
class VectorLoss:
    """What a law of vectors loses on N held-out pictures, whose likelihood nobody computes."""

    values: np.ndarray
    """(N,) float64: of each picture the mean over its vectors."""

    def told(self) -> dict[str, float]:
        """The mean over pictures, by its name in logs."""
        return {"held_out_loss": float(self.values.mean())}

    def measured(self, rng: np.random.Generator, codec: str) -> Measured:
        """The mean with an interval over pictures; `codec` names what the vectors are."""
        interval = bootstrap(self.values, rng=rng) if len(self.values) > 1 else None
        mean, details = float(self.values.mean()), {"codec": codec}
        name = "loss of held-out vectors"
        return Measured(name, mean, len(self.values), "none", interval, details)  # type: ignore[arg-type]


@torch.no_grad()
def held_out_loss(generator: Generator, batches: Iterable[Batch]) -> VectorLoss:
    """What a law of vectors loses on held-out batches, without dropout.

    It depends on the noise, which batches in order fix: the same rows in batches of the same size
    meet the same.
    """
    was_training = generator.training
    generator.eval()
    found = []
    try:
        for batch in batches:
            output = generator(batch.to(generator.device))
            if output.losses is None:
                raise InputError("held_out_loss: the codes are no vectors; use held_out_bits")
            sample = batch.segment[batch.image]
            total = torch.zeros(batch.samples, dtype=torch.float64)
            total.index_add_(0, sample, output.losses.double().cpu())
            found.append((total / torch.bincount(sample, minlength=batch.samples)).numpy())
    finally:
        generator.train(was_training)
    if not found:
        raise InputError("held_out_loss: no batch was given")
    losses = np.concatenate(found)
    if not np.isfinite(losses).all():
        raise InputError("held_out_loss: the loss of a picture is not finite")
    return VectorLoss(losses)


def held_out_law(generator: Generator, batches: Iterable[Batch]) -> Likelihood | VectorLoss:
    """Bits of held-out batches, or, where codes are vectors, their loss."""
    measured = held_out_loss if generator.dimensions else held_out_bits
    return measured(generator, batches)
