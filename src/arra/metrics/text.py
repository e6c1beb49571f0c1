"""Text ability of a language model: how well it predicts plain text, in perplexity.

A model whose vocabulary was extended is asked about text tokens only: the new rows take part in no
softmax, so that the numbers before and after can be compared, down to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arra.errors import InputError
from arra.generators.raster import RasterGenerator
from arra.metrics.bootstrap import bootstrap, ratio
from arra.metrics.measured import Measured


@dataclass(frozen=True)
class TextLikelihood:
    """Cross-entropy of N pieces of text."""

    nats: np.ndarray
    """(N,) float64: nats of each piece."""
    tokens: np.ndarray
    """(N,) int64: predicted tokens of each piece."""

    @property
    def perplexity(self) -> float:
        """exp of the mean cross-entropy of a token."""
        return math.exp(ratio(self.nats, self.tokens))

    def measured(self, rng: np.random.Generator) -> Measured:
        """Nats per token with an interval over pieces, and the perplexity."""
        interval = None
        if len(self.nats) > 1:
            interval = bootstrap(self.nats, self.tokens, rng=rng, statistic=ratio)
        value = ratio(self.nats, self.tokens)
        details: dict[str, float | int | str] = {"perplexity": round(self.perplexity, 4)}
        return Measured("nats per text token", value, len(self.nats), "none", interval, details)


@torch.no_grad()
def text_likelihood(
    generator: RasterGenerator, pieces: Sequence[Sequence[int]], batch: int = 8
) -> TextLikelihood:
    """How well `generator` predicts pieces of text, each a list of ids without control tokens.

    Every piece begins with the token that begins texts, if the model has one; otherwise its first
    token is given. Raises `InputError` without a piece that has something to predict.
    """
    vocabulary, start = generator.config.vocabulary, generator.text_start
    prefix = [] if start is None else [start]
    rows = [row for piece in pieces if len(row := [*prefix, *piece]) > 1]
    if not rows:
        raise InputError("text: nothing to predict; expected pieces of two tokens or more")
    was_training = generator.training
    generator.eval()
    nats, tokens = [], []
    try:
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            length = max(map(len, some))
            ids = torch.full((len(some), length), vocabulary.pad)
            target = torch.full((len(some), length), -100)
            for number, row in enumerate(some):
                ids[number, : len(row)] = torch.tensor(row)
                target[number, : len(row) - 1] = torch.tensor(row[1:])
            logits = _text_logits(generator, ids.to(generator.device))
            target = target.to(logits.device)
            loss = F.cross_entropy(logits.mT.float(), target, reduction="none")
            nats.append(loss.double().sum(dim=1).cpu().numpy())
            tokens.append((target >= 0).sum(dim=1).cpu().numpy())
    finally:
        generator.train(was_training)
    return TextLikelihood(np.concatenate(nats), np.concatenate(tokens))


def _text_logits(generator: RasterGenerator, ids: Tensor) -> Tensor:
    """(B, T, V) logits with those of picture tokens at minus infinity."""
    logits = generator.text_logits(ids)
    v = generator.config.vocabulary
    drawn = [v.begin, v.end, *range(v.offset, min(v.offset + v.codes, logits.shape[-1]))]
    kept = [i for i in drawn if i < logits.shape[-1]]
    return logits.index_fill(-1, torch.tensor(kept, device=logits.device), float("-inf"))
