"""What stands before a picture: vectors of a class, of a caption's tokens, or of a text encoder.

One id, the null id, stands for the missing caption of classifier-free guidance.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from arra.errors import InputError


class TokenCondition(nn.Module):
    """Learned embeddings of ids below `text`, of the null id `text`, and of places if it has any.

    With ids that are classes and without places it is the class embedding of LlamaGen.
    """

    def __init__(self, text: int, width: int, longest: int = 0):
        super().__init__()
        self.table = nn.Embedding(text + 1, width)
        self.places = nn.Embedding(longest, width) if longest else None

    def forward(self, ids: Tensor, position: Tensor) -> Tensor:
        """(R, T, D) of ids and of their positions within the caption, (R, T) each."""
        vectors = self.table(ids)
        if self.places is None:
            return vectors
        longest = self.places.num_embeddings
        if int(position.max()) >= longest:
            raise InputError(
                f"a caption of {int(position.max()) + 1} tokens: this model takes {longest}"
            )
        return vectors + self.places(position)


class FeatureCondition(nn.Module):
    """What a frozen text encoder says of every token, through Linear-GELU-Linear without biases.

    The null condition is random features, drawn once and saved with the weights, never trained
    (LlamaGen): a model that reads others instead of them cannot be guided. The encoder itself is no
    part of the weights; it is saved beside them.
    """

    null: Tensor

    def __init__(self, features: int, width: int, text: int, nulls: int):
        super().__init__()
        self.text = text
        self.inside = nn.Linear(features, width, bias=False)
        self.outside = nn.Linear(width, width, bias=False)
        self.register_buffer("null", torch.randn(nulls, features) / features**0.5)
        self._encoder: list[Any] = []  # in a list: no submodule, so neither trained nor saved

    @property
    def encoder(self) -> Any:
        """A text encoder of transformers; `InputError` where none was given."""
        if not self._encoder:
            raise InputError("this generator reads features of text, but was given no text encoder")
        return self._encoder[0]

    def attach(self, encoder: nn.Module) -> None:
        """Take features from `encoder`, frozen."""
        self._encoder[:] = [encoder.eval().requires_grad_(False)]

    def forward(self, ids: Tensor, position: Tensor, owner: Tensor) -> Tensor:
        """(R, T, D) of ids and positions; `owner` (R, T) says whose caption it is, -1: nobody's."""
        read = torch.zeros(*ids.shape, self.null.shape[1], device=ids.device)
        null = (owner >= 0) & (ids == self.text)
        read[null] = self.null[position[null]].to(read.dtype)
        spoken = (owner >= 0) & ~null
        if bool(spoken.any()):
            read[spoken] = self._features(ids[spoken], position[spoken], owner[spoken])
        return self.outside(F.gelu(self.inside(read), approximate="tanh"))

    @torch.no_grad()
    def _features(self, ids: Tensor, position: Tensor, owner: Tensor) -> Tensor:
        """(n, F) of n tokens that belong to some captions."""
        encoder = self.encoder.to(ids.device)
        names, row = owner.unique(return_inverse=True)
        shape = (len(names), int(position.max()) + 1)
        padded = torch.zeros(shape, dtype=torch.int64, device=ids.device)
        mask = torch.zeros(shape, dtype=torch.int64, device=ids.device)
        padded[row, position], mask[row, position] = ids, 1
        with torch.autocast(ids.device.type, enabled=False):
            found = encoder(input_ids=padded, attention_mask=mask).last_hidden_state
        return found[row, position].float()


class Captions(nn.Module):
    """Captions as words that stand before a picture, and as one vector, their mean, that sets norms
    (as class embeddings do in VAR). An empty caption has no words and a learned vector, the null
    condition of guidance."""

    def __init__(self, text: int, width: int, longest: int):
        """`text` entries of the tokenizer, captions of `longest` tokens at most."""
        super().__init__()
        self.table, self.places = nn.Embedding(text, width), nn.Embedding(longest, width)
        self.null = nn.Parameter(torch.empty(width).normal_(std=0.02))
        for table in (self.table, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, D) words and (B, D) vectors of ids (B, P), of which `real` (B, P) bool count."""
        words = self.table(ids.masked_fill(~real, 0)) * real[..., None]
        count = real.sum(dim=1, keepdim=True)
        mean = torch.where(count > 0, words.sum(dim=1) / count.clamp(min=1), self.null)
        if ids.shape[1] and int(count.max()) > (longest := self.places.num_embeddings):
            raise InputError(f"a caption of {int(count.max())} tokens: this model takes {longest}")
        position = (real.cumsum(dim=1) - 1).clamp(min=0)
        return words + self.places(position), mean
