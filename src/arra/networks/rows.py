"""New rows of a language model's vocabulary: made, and trained while the old ones stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from arra.errors import InputError
from arra.networks.language_model import embedding_table
from arra.randomness import seeded
from arra.settings import RowInit


@torch.no_grad()
def extend_vocabulary(
    lm: PreTrainedModel, size: int, new: Sequence[int], how: RowInit, seed: int
) -> None:
    """Room for `size` token ids, in place, and fresh rows for the ids `new`.

    A model with more rows than tokens keeps all of them: ids beyond the last token are free to be
    used, and nothing shrinks. Where embedding and head are two tables, each gets rows of its own
    kind. The old rows, and with them what the model says about text, are not touched.
    """
    if len(embedding_table(lm)) < size:
        with seeded(seed):  # every row in `new` is made below; this is for those that are not
            lm.resize_token_embeddings(size, mean_resizing=False)
    table, head = embedding_table(lm), lm.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(lm).__name__} has no output embeddings: not a language model?")
    if len(head.weight) != len(table):
        raise InputError(
            f"language model: {len(table)} embedding rows, but its head has {len(head.weight)}"
        )
    ids = torch.tensor(sorted(new), dtype=torch.int64, device=table.device)
    if not len(ids):
        return
    known = torch.ones(len(table), dtype=torch.bool, device=table.device)
    known[int(ids.min()) :] = False  # behind the last token stand rows that were never used
    tables = [table] if head.weight is table else [table, head.weight]
    with seeded(seed):
        for one in tables:
            one[ids] = _fresh_rows(one[known], len(ids), how)
        if getattr(head, "bias", None) is not None:
            head.bias[ids] = head.bias[known].mean()


def _fresh_rows(old: Tensor, count: int, how: RowInit) -> Tensor:
    """(count, D) rows: near the mean of the `old` ones, or spread as they are."""
    mean, spread = old.float().mean(dim=0), old.float().std(dim=0)
    noise = torch.randn(count, old.shape[1]).to(old.device) * spread
    # a little noise: rows that are equal would be one row for the first step
    return (mean + (0.05 if how == "mean" else 1.0) * noise).to(old.dtype)


PAINT = 3.0
"""How much larger a code's appearance is than the random part of its row (1, 3 and 7.5 were tried
on digit scenes: 3 learnt fastest)."""


@torch.no_grad()
def paint_rows(lm: PreTrainedModel, offset: int, appearance: Tensor) -> None:
    """Add a random projection of each code's appearance (codes, d), of the size of the rows, to the
    rows from `offset` on."""
    table = embedding_table(lm)
    rows = table[offset : offset + len(appearance)]
    width = appearance.shape[1]
    projection = torch.randn(width, table.shape[1], device=table.device) / width**0.5
    rows += PAINT * rows.std() * (appearance.to(table.device, table.dtype) @ projection)


class TrainedRows(nn.Module):
    """An embedding or a head some of whose rows are parameters of their own.

    The rest is frozen and gets no gradient, no optimiser state and no copy: what it holds cannot
    change. Stands in place of the module that it wraps; `weight` is the whole table.
    """

    ids: Tensor

    def __init__(self, base: nn.Module, ids: Tensor, rows: nn.Parameter):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.embed_rows = rows
        self.register_buffer("ids", ids, persistent=False)

    @property
    def weight(self) -> Tensor:
        """(V, D) the table as it now is; a copy that no gradient passes."""
        table: Any = self.base.weight
        return table.detach().index_copy(0, self.ids, self.embed_rows.detach().to(table.dtype))

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The wrapped module with the trained rows in its table."""
        table: Any = self.base.weight
        table[self.ids] = self.embed_rows.to(table.dtype)
        return self.base


class TrainedEmbedding(TrainedRows):
    """(…,) ids to (…, D) vectors, scaled as the wrapped embedding scales (Gemma)."""

    place: Tensor

    def __init__(self, base: nn.Module, ids: Tensor, rows: nn.Parameter):
        super().__init__(base, ids, rows)
        place = torch.full((len(self.base.weight),), -1, device=ids.device)  # type: ignore[arg-type]
        place[ids] = torch.arange(len(ids), device=ids.device)
        self.register_buffer("place", place, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        old = self.base(tokens)
        place = self.place[tokens]
        new = F.embedding(place.clamp(min=0), self.embed_rows).to(old.dtype)
        scale = getattr(self.base, "embed_scale", None)
        new = new if scale is None else new * torch.as_tensor(scale).to(new)
        return torch.where((place >= 0)[..., None], new, old)


class TrainedHead(TrainedRows):
    """(…, D) states to (…, V) logits."""

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.base(hidden)
        bias: Any = getattr(self.base, "bias", None)
        new = F.linear(hidden, self.embed_rows, None if bias is None else bias[self.ids])
        return logits.index_copy(-1, self.ids, new.to(logits.dtype))


def train_rows_only(lm: PreTrainedModel, ids: Sequence[int]) -> None:
    """Put `TrainedRows` in place of embedding and head; a tied pair shares its trained rows."""
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    table = embedding_table(lm)
    chosen = torch.tensor(sorted(set(ids)), dtype=torch.int64, device=table.device)
    rows = nn.Parameter(table.detach()[chosen].clone())
    lm.set_input_embeddings(TrainedEmbedding(embedding, chosen, rows))
    if head.weight is not table:
        rows = nn.Parameter(head.weight.detach()[chosen].clone())
    lm.set_output_embeddings(TrainedHead(head, chosen, rows))


def merge_rows(lm: PreTrainedModel) -> None:
    """Undo `train_rows_only`: the trained rows become rows of the tables."""
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    if isinstance(embedding, TrainedEmbedding):
        lm.set_input_embeddings(embedding.merged())
    if isinstance(head, TrainedHead):
        lm.set_output_embeddings(head.merged())
