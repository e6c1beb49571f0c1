"""The same recipes with other generators: what comes next is a code, a scale, bits, or vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.binary import BinaryConfig
from arra.codecs.latent import KLConfig
from arra.codecs.multiscale import MultiScaleConfig
from arra.codecs.pyramids import ResidualConfig
from arra.codecs.vq import VQConfig
from arra.errors import InputError
from arra.orders.pyramid import growing_sizes
from arra.settings import LlamaSize, SamplingConfig, ScaleSize, Sizes, VectorOptions


@dataclass(frozen=True)
class Way:
    """What a generator needs to stand beside the raster one: its codec, and its size."""

    generator: str
    """Registered name."""
    codec: Callable[[AutoencoderConfig, int, int], Any]
    """Settings of its codec, given the autoencoder, codes a side and the vocabulary."""
    sizes: Callable[[LlamaSize], Sizes]
    """As many parameters in its blocks as a Llama's of this size."""
    codes: bool = True
    """Whether its units are codes: vectors are drawn without top-p."""

    def changes(
        self, codec: VQConfig, side: int, llama: LlamaSize, judge: str = "judge"
    ) -> Mapping[str, Any]:
        """The codec, and the fields of the plan of training, in place of a raster generator's;
        `judge` is where the setting says how pictures are drawn."""
        return {
            "codec": self.codec(codec.autoencoder, side, codec.vocabulary),
            "plan.generator": self.generator,
            "plan.sizes": self.sizes(llama),
            **({} if self.codes else {f"{judge}.sampling": SamplingConfig(2.0)}),
        }


def _scales(autoencoder: AutoencoderConfig, side: int, vocabulary: int) -> MultiScaleConfig:
    return MultiScaleConfig(autoencoder, growing_sizes(side), ResidualConfig(vocabulary))


def _scale_sizes(llama: LlamaSize) -> Sizes:
    # with large weights for what is read: 504 against 577 bits a picture after 120 steps
    return Sizes(llama, replace(ScaleSize.beside(llama), inputs=10.0))


def _bits(autoencoder: AutoencoderConfig, side: int, vocabulary: int) -> BinaryConfig:
    """As many bits as a code of the vocabulary has, in two halves (ELM, arXiv 2410.16257)."""
    bits = max(2, round(math.log2(vocabulary) / 2) * 2)
    return BinaryConfig(autoencoder, bits, split=2, width=autoencoder.width)


def _vectors(autoencoder: AutoencoderConfig, side: int, vocabulary: int) -> KLConfig:
    return KLConfig(autoencoder, dimensions=2 * autoencoder.downsample)


def _vector_way(generator: str, depth: float, width: float = 1.0, **options: Any) -> Way:
    """A generator of vectors whose blocks are so many times as deep and as wide as a Llama's."""

    def sizes(llama: LlamaSize) -> Sizes:
        step = 2 * llama.heads
        size = replace(
            llama,
            depth=max(2, round(depth * llama.depth)),  # alignment reads the second
            width=max(step, round(width * llama.width / step) * step),
        )
        return Sizes(size, vectors=VectorOptions(**options))

    return Way(generator, _vectors, sizes, codes=False)


WAYS: dict[str, Way] = {
    "scales": Way("scales", _scales, _scale_sizes),
    "bits": Way("grid", _bits, Sizes),
}
"""By the names that studies and corpora have for them, beside the raster generator."""
_VECTOR_WAYS = (
    # half of the blocks in the encoder; a narrow head
    _vector_way("masked-vectors", 0.4, rounds=8, inner=128, repeats=2),
    _vector_way("raster-vectors", 1.0, inner=96, repeats=2, reading=0.0),
    _vector_way("masked-language", 1.0, rounds=8, inner=96, repeats=2, reading=0.0),
    # blocks with adaptive norms are larger, and a head over maps has such blocks, too
    _vector_way("scale-flow", 0.8, 0.75, inner=96, inner_depth=2),
    _vector_way("pyramid-flow", 0.8, 0.75, inner=96, inner_depth=2, stages=2, steps=12, blur=0.5),
    _vector_way("entities", 1.0, 0.8),
    _vector_way("blocks", 1.0, 0.8),
    # captions of scenes hardly ever return, so that a sequence has one picture
    _vector_way("trajectory", 1.0, 0.8, sequence=1),
)
VECTOR_WAYS: dict[str, Way] = {way.generator: way for way in _VECTOR_WAYS}
"""Generators of vectors, of 1.0 to 1.25 million parameters beside a Llama of one million, by their
registered names."""


def way(name: str) -> Way:
    """The way of this name; `InputError` with those that exist."""
    known = WAYS | VECTOR_WAYS
    if name not in known:
        raise InputError(f"generator: {name!r}, expected one of raster, {', '.join(known)}")
    return known[name]
