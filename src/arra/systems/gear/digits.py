"""The store of GEAR's claim: crops of digits with the codes and features of that very crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arra.codecs.base import Codec
from arra.encoders.base import Encoder
from arra.experiments.digits import Digits
from arra.pixels import to_unit
from arra.systems.gear.views import picture_features


@dataclass(frozen=True)
class _Rows:
    text_ids: Sequence[Sequence[int]]
    codes: Tensor
    features: Mapping[str, Tensor]


class CropStore:
    """All crops of digits with the codes and features of each: a store in memory.

    Features are those of the very crop that was encoded.
    """

    def __init__(self, known: Digits, codec: Codec, encoder: Encoder, texts: dict[str, list[int]]):
        """`texts` gives the ids of each caption."""
        self._texts = [texts[caption] for caption in known.captions]
        with torch.no_grad():
            chunks = np.array_split(known.pictures, -(-len(known.pictures) // 512))
            self._codes = torch.cat([codec.encode(to_unit(chunk)) for chunk in chunks])
            found = [picture_features(encoder, chunk) for chunk in chunks]
        self._features = {name: torch.cat([f[name] for f in found]) for name in found[0]}

    def __len__(self) -> int:
        return len(self._texts)

    def rows(self, indices: Sequence[int], features: Sequence[str] | None = None) -> _Rows:
        """Text ids, codes and some (for None all) features of some rows."""
        chosen = torch.as_tensor(list(indices))
        names = self._features if features is None else features
        found = {name: self._features[name][chosen] for name in names}
        return _Rows([self._texts[i] for i in indices], self._codes[chosen], found)

    def text_lengths(self) -> np.ndarray:
        """(N,) text ids of every row."""
        return np.array([len(text) for text in self._texts])
