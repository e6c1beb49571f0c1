"""Training batches of a next-scale generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from arra.errors import InputError
from arra.generators.base import Batch
from arra.generators.batches import IGNORE, Sample, Store, StoreBatches
from arra.orders.pyramid import Pyramid
from arra.settings import BatchConfig


class ScaleBatches(StoreBatches):
    """text r_1 ... r_K: every position of a picture holds the code of its place, and predicts it.

    What a position reads is not its code but what the coarser scales add up to; that is made of the
    codes by the generator. `place` counts the cells of all scales, coarse to fine.
    """

    def __init__(
        self,
        store: Store,
        pyramid: Pyramid,
        config: BatchConfig | None = None,
        features: Sequence[str] | None = None,
    ):
        super().__init__(store, config, features)
        self.pyramid = pyramid
        for name in ("supervise_text", "replay"):
            if value := getattr(self.config, name):
                raise InputError(
                    f"BatchConfig.{name}: {value}, but a next-scale generator predicts no text"
                )

    def _collated(
        self, samples: Sequence[Sample], features: Mapping[str, Tensor], config: BatchConfig
    ) -> Batch:
        made = super()._collated(samples, features, config)
        return replace(made, read=None)  # no position reads one code

    def _sample(self, text: Sequence[int], codes: Sequence[int]) -> Sample:
        self._check(codes)
        length, words = self.pyramid.length, len(text)
        place = [-1] * words + list(range(length))
        target = [IGNORE] * words + list(codes)
        return Sample([*text, *codes], target, place, [-1] * (words + length))

    def _check(self, codes: Sequence[int]) -> None:
        if len(codes) != (length := self.pyramid.length):
            raise InputError(
                f"the store has {len(codes)} codes a picture, the pyramid {length}: prepare it "
                "with the codec of this generator"
            )
