"""What sees what in a batch, as Hugging Face models take it."""

from __future__ import annotations

import torch
from torch import Tensor

from arra.generators.base import Batch
from arra.orders.layout import visible


def attention(batch: Batch) -> tuple[Tensor | None, Tensor | None]:
    """Attention mask and positions for a Hugging Face model.

    Rows of one sample each that start at the first column need neither: padding on the right is
    never seen by what stands before it. Otherwise (packed rows, padding on the left, tokens that
    are taken back) the rule of the layout is written out: (R, 1, T, T) bool, and the positions (R,
    T).
    """
    segment = batch.segment
    if batch.dies is not None:  # positions go back: what has a moment of its own is the column
        column = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
        return visible(segment, column, batch.dies)[:, None], batch.position
    real = segment >= 0
    alone = (segment == segment[:, :1]) | ~real
    if bool((alone.all(dim=1) & real[:, 0]).all()):
        return None, None
    # in a raster every position looks at the moment of its place in its own sample
    sees = visible(segment, batch.position)
    return sees[:, None], batch.position
