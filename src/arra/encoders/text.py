"""A small caption encoder: the other tower of contrastive training, later an image-text score."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError
from arra.networks.part import Part
from arra.registry import Registry, text_encoders

_UNKNOWN = 0


def words_of(caption: str) -> list[str]:
    """Lower-case words, and punctuation marks one by one."""
    return re.findall(r"\w+|[^\w\s]", caption.lower())


def vocabulary_of(captions: Iterable[str], most: int = 4096) -> tuple[str, ...]:
    """The `most` frequent words of the captions, the more frequent first, ties by alphabet."""
    counts = Counter(word for caption in captions for word in words_of(caption))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:most])


@dataclass(frozen=True)
class SmallTextConfig:
    """Size of a small caption encoder."""

    vocabulary: tuple[str, ...] = ("a",)
    """The words it knows; all others are read as one unknown word."""
    width: int = 64
    """Width of the transformer."""
    depth: int = 1
    """Transformer blocks."""
    longest: int = 48
    """Words read of a caption; the rest is cut off."""
    dim: int = 128
    """Length of the caption vector: that of the picture encoder's CLS."""

    def __post_init__(self) -> None:
        if not self.vocabulary or len(set(self.vocabulary)) != len(self.vocabulary):
            raise InputError("SmallTextConfig.vocabulary: expected at least one word, none twice")
        if self.width < 32 or self.width % 32:
            raise InputError(f"SmallTextConfig.width: {self.width}, expected a multiple of 32")


@text_encoders.register("small")
class SmallTextEncoder(Part):
    """Word embeddings, a tiny transformer, a mean over words, a projection."""

    registry: ClassVar[Registry] = text_encoders
    Config = SmallTextConfig
    config: SmallTextConfig

    def __init__(self, config: SmallTextConfig):
        super().__init__(config)
        self._index = {word: i for i, word in enumerate(config.vocabulary, start=_UNKNOWN + 1)}
        self.embed = nn.Embedding(len(config.vocabulary) + 1, config.width)
        self.position = nn.Parameter(torch.randn(config.longest, config.width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.width // 32,
                4 * config.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.dim)

    def forward(self, captions: Sequence[str]) -> Tensor:
        """(B, dim) vectors of captions, not normalised, with gradient."""
        rows = [self._ids(caption) for caption in captions]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(self.device)
        padding = ids < 0
        x = self.embed(ids.clamp_min(0)) + self.position[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, src_key_padding_mask=padding)
        x = self.norm(x).masked_fill(padding[..., None], 0.0)
        return self.project(x.sum(dim=1) / (~padding).sum(dim=1, keepdim=True))

    def _ids(self, caption: str) -> Tensor:
        ids = [self._index.get(word, _UNKNOWN) for word in words_of(caption)]
        return torch.tensor(ids[: self.config.longest] or [_UNKNOWN])

    @torch.no_grad()
    def score(self, cls: Tensor, captions: Sequence[str]) -> Tensor:
        """(B,) cosine of captions and the CLS vectors (B, dim) of pictures.

        The vectors must come from the encoder trained together with this one. Between -1 and 1, to
        be read as CLIP-score is; scores of two training runs cannot be compared.
        """
        if len(captions) != len(cls):
            raise InputError(f"captions: {len(captions)}, expected one per picture ({len(cls)})")
        return F.cosine_similarity(cls.to(self.device).float(), self(captions), dim=-1)
