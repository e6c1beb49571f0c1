"""Handwritten digits as 16 vectors of 4 greys, their captions, and the same by 32 codes.

The 2 x 2 pixels of a vector lose nothing; the codes are the centres of k-means over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arra.data.tokenizer import train_text_tokenizer
from arra.experiments.digits import WORDS, Digits, Judge, MemoryStore
from arra.metrics.understanding import exact_match

GRID = (4, 4)
CHANNELS = 4
CODES = 32
_MEAN, _DEVIATION = 0.305, 0.376  # of the digits' greys between 0 and 1
CAPTIONS = tuple(f"a {word}" for word in WORDS)


def tokenizer() -> PreTrainedTokenizerBase:
    """A new one of the ten captions' words."""
    return train_text_tokenizer(CAPTIONS)


def vectors(pictures: np.ndarray) -> Tensor:
    """(N, 4, 4, 4) of digits (N, 8, 8, 3) uint8, of about zero mean and unit spread."""
    grey = torch.from_numpy(pictures[..., 0]).float()[:, None] / 255.0
    return F.pixel_unshuffle((grey - _MEAN) / _DEVIATION, 2).permute(0, 2, 3, 1).contiguous()


def pictures_of(drawn: Tensor) -> np.ndarray:
    """(N, 8, 8, 3) uint8 of vectors (N, ...)."""
    grid = drawn.view(len(drawn), *GRID, CHANNELS).permute(0, 3, 1, 2)
    grey = F.pixel_shuffle(grid * _DEVIATION + _MEAN, 2)[:, 0]
    return (grey.clamp(0.0, 1.0) * 255).round().byte()[..., None].expand(-1, -1, -1, 3).numpy()


@cache
def codebook() -> Tensor:
    """(32, 4) the centres of the training digits' vectors."""
    from sklearn.cluster import KMeans

    from arra.experiments.digits import digits

    known = vectors(digits()[0].pictures).flatten(0, 2)
    found = KMeans(CODES, n_init=1, random_state=0).fit(known.numpy())
    return torch.from_numpy(found.cluster_centers_).float()


def codes_of(found: Tensor) -> Tensor:
    """(N, 4, 4) int64 the nearest codes of vectors (N, 4, 4, 4)."""
    return torch.cdist(found, codebook()).argmin(dim=-1)


def store_of(known: Digits, text: PreTrainedTokenizerBase, codes: Tensor) -> MemoryStore:
    """Codes or vectors (N, ...) of digits, with their captions."""
    ids = [text.encode(caption, add_special_tokens=False) for caption in CAPTIONS]
    return MemoryStore([ids[label] for label in known.labels], codes)


def asked(count: int) -> list[str]:
    """So many captions of the ten digits in turn."""
    return [CAPTIONS[number % len(CAPTIONS)] for number in range(count)]


def seeds_of(count: int, seed: int) -> list[int]:
    """Seeds of so many pictures; the same for every model."""
    return [seed * 1_000_003 + number for number in range(count)]


def drawn_well(judge: Judge, drawn: Tensor) -> dict[str, float]:
    """Of drawn vectors (N, ...), digits in turn: the Fréchet distance, the share read right."""
    pictures = pictures_of(drawn)
    wanted = np.arange(len(pictures)) % len(WORDS)
    return {
        "frechet": judge.distance(pictures),
        "class frechet": judge.distance_by_class(pictures, wanted),
        "drawn right": float((judge.classes(pictures) == wanted).mean()),
    }


def read_well(said: Sequence[str], digits: Digits) -> float:
    """Share of digits of which exactly the caption was said."""
    return float(exact_match(said, [CAPTIONS[label] for label in digits.labels]).mean())
