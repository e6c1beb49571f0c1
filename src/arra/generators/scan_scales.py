"""Next-scale generation with attention within scales and a scan between them (M-VAR)."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

from transformers import PreTrainedTokenizerBase

from arra.codecs.multiscale import MultiScaleCodec
from arra.generators.scales import ScaleGenerator
from arra.registry import generators
from arra.settings import ScaleSize


@generators.register("scan-scales")
class ScanScaleGenerator(ScaleGenerator):
    """The generator of scales with other mixers (arXiv 2411.10433): "intra+scan" unless the size
    names one of its parts. Cost grows with a scale's cells and not with all that came before."""

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: MultiScaleCodec,
        size: ScaleSize | None = None,
        *,
        seed: int,
        prefix: bool = True,
    ) -> Self:
        """As of the generator of scales; attention to all scales becomes "intra+scan"."""
        size = size or ScaleSize()
        if size.mixer == "attention":
            size = replace(size, mixer="intra+scan")
        return super().from_scratch(tokenizer, codec, size, seed=seed, prefix=prefix)
