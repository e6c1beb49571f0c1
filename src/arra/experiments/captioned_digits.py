"""Handwritten digits as 16 vectors of 4 greys, with captions of two words; and the same by 32
codes, the centres of k-means over the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digit_codes import store_of
from arra.experiments.digit_vectors import Greys
from arra.experiments.digits import WORDS, Digits, MemoryStore, digits
from arra.metrics.understanding import exact_match

GRID = (4, 4)
CHANNELS = 4
CODES = 32
GREYS = Greys(2, mean=0.305, deviation=0.376)
"""Vectors of about zero mean and unit spread."""
CAPTIONS = tuple(f"a {word}" for word in WORDS)


def tokenizer() -> PreTrainedTokenizerBase:
    """A new one of the ten captions' words."""
    return train_text_tokenizer(CAPTIONS)


@cache
def codebook() -> Tensor:
    """(32, 4) the centres of the training digits' vectors."""
    from sklearn.cluster import KMeans

    known = GREYS.of(digits()[0].pictures).flatten(0, 2)
    found = KMeans(CODES, n_init=1, random_state=0).fit(known.numpy())
    return torch.from_numpy(found.cluster_centers_).float()


def codes_of(vectors: Tensor) -> Tensor:
    """(N, 4, 4) int64 the nearest codes of vectors (N, 4, 4, 4)."""
    return torch.cdist(vectors, codebook()).argmin(dim=-1)


def captioned(known: Digits, text: PreTrainedTokenizerBase, codes: Tensor) -> MemoryStore:
    """Codes or vectors (N, ...) of digits, with their captions."""
    ids = [text.encode(caption, add_special_tokens=False) for caption in CAPTIONS]
    return store_of(known, codes, dict(zip(WORDS, ids, strict=True)))


def read_well(said: Sequence[str], known: Digits) -> float:
    """Share of digits of which exactly the caption was said."""
    return float(exact_match(said, [CAPTIONS[label] for label in known.labels]).mean())
