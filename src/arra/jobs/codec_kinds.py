"""How each kind of codec is made from `CodecOptions`: one table of those with a network, which are
trained afterwards, and one of those that are fitted at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

from arra.codecs import (
    AvcCodec,
    AvcConfig,
    BinaryCodec,
    BinaryConfig,
    JpegCodec,
    JpegConfig,
    KLCodec,
    KLConfig,
    LFQCodec,
    LFQConfig,
    MultiScaleCodec,
    MultiScaleConfig,
    PatchCodec,
    PatchConfig,
    PixelCodec,
    PixelConfig,
    ScalableCodec,
    ScalableConfig,
    VQCodec,
    VQConfig,
)
from arra.codecs.autoencoder import AutoencoderConfig
from arra.codecs.base import Codec
from arra.codecs.pyramids import DirectConfig, ResidualConfig
from arra.codecs.recipes import scene_autoencoder, scene_training
from arra.codecs.training import CodecTraining
from arra.errors import InputError
from arra.jobs.options import CodecKind, CodecOptions
from arra.orders.pyramid import growing_sizes
from arra.randomness import seeded
from arra.registry import codecs

_CLIPS = frozenset({"avc", "pixels"})
"""Kinds whose rows may be clips."""


def codec_downsample(options: CodecOptions, size: int) -> int:
    """Pixels per code for pictures of `size` pixels; `InputError` unless it divides them."""
    usual = 4 if size <= 32 else 8 if size <= 128 else 16
    found = options.downsample or usual
    if size % found:
        raise InputError(
            f"codec.downsample: {found} does not divide pictures of {size} pixels; choose another "
            "of the two"
        )
    return found


def codec_settings(kind: CodecKind, options: CodecOptions) -> dict[str, Any]:
    """What such a codec is told apart by. Options that came later stand in it only where they say
    something, so that codecs that were made before keep their digest."""
    settings = {"kind": kind, **asdict(options)}
    if options.qp is None:
        del settings["qp"]
    if kind != "kl":
        del settings["dimensions"]
    return settings


def check_kind(kind: CodecKind, frames: int) -> None:
    """`InputError` unless a codec of this kind takes rows of so many frames, and can be made here.

    Before anything is read: what the codec needs would else be missed after minutes.
    """
    if frames > 1 and kind not in _CLIPS:
        raise InputError(
            f"train-codec: {kind} takes pictures, the source gives clips of {frames} frames; take "
            "avc, or pixels, or leave out --clips.frames"
        )
    for module in codecs[kind].needs:
        if find_spec(module) is None:
            raise InputError(f"train-codec: {kind} needs {module}: pip install arra[video]")


# ---- with a network ------------------------------------------------------------------------------


def build_codec(kind: CodecKind, options: CodecOptions, size: int) -> tuple[Codec, CodecTraining]:
    """A fresh codec (its weights a function of the seed) and how it is to be trained."""
    downsample = codec_downsample(options, size)
    stem = options.stem or ("patch" if size <= 128 else "conv")
    if stem == "patch":
        width = options.width or (64 if downsample <= 4 else 128)
        autoencoder = replace(scene_autoencoder(downsample), width=width)
        training = scene_training(options.steps, options.seconds)
    else:
        autoencoder = AutoencoderConfig(
            downsample, width=options.width or 64, blocks=1, decoder_blocks=2
        )
        training = CodecTraining(options.steps, options.seconds)
    training = replace(training, warmup=min(training.warmup, options.steps // 10))
    with seeded(options.seed):
        return BUILDERS[kind](options, autoencoder, size // downsample), training


def _vq(options: CodecOptions, autoencoder: AutoencoderConfig, side: int) -> Codec:
    return VQCodec(VQConfig(autoencoder, options.vocabulary))


def _multiscale(options: CodecOptions, autoencoder: AutoencoderConfig, side: int) -> Codec:
    residual = ResidualConfig(options.vocabulary)
    return MultiScaleCodec(MultiScaleConfig(autoencoder, growing_sizes(side), residual))


def _scalable(options: CodecOptions, autoencoder: AutoencoderConfig, side: int) -> Codec:
    direct = DirectConfig(options.vocabulary)
    return ScalableCodec(ScalableConfig(autoencoder, (side, side), direct))


def _kl(options: CodecOptions, autoencoder: AutoencoderConfig, side: int) -> Codec:
    return KLCodec(KLConfig(autoencoder, options.dimensions))


def _binary(options: CodecOptions, autoencoder: AutoencoderConfig, side: int) -> Codec:
    # noise on the bits makes them robust, but takes longer training than is usual here
    bits, width = _bits("binary", options), autoencoder.width
    return BinaryCodec(BinaryConfig(autoencoder, bits, options.split, width, stochastic=False))


def _lfq(options: CodecOptions, autoencoder: AutoencoderConfig, side: int) -> Codec:
    bits = _bits("lfq", options)
    return LFQCodec(LFQConfig(autoencoder, bits, commitment=0.05, entropy=0.02))


def _bits(kind: str, options: CodecOptions) -> int:
    bits = options.vocabulary.bit_length() - 1
    if 2**bits != options.vocabulary:
        raise InputError(f"codec.vocabulary: {options.vocabulary}, {kind} needs a power of two")
    return bits


BUILDERS: dict[str, Callable[[CodecOptions, AutoencoderConfig, int], Codec]] = {
    "vq": _vq,
    "lfq": _lfq,
    "multiscale": _multiscale,
    "scalable": _scalable,
    "binary": _binary,
    "kl": _kl,
}
"""By kind: a fresh codec of options, autoencoder and codes a side."""


# ---- without one ---------------------------------------------------------------------------------


def fit_codec(
    kind: CodecKind,
    options: CodecOptions,
    size: int,
    pictures: np.ndarray,
    rate: float | None = None,
) -> Codec:
    """A codec without a network, of pictures (N, size, size, 3) uint8, or of clips (N, size, size,
    3 T) shown at `rate` frames a second."""
    return FITTERS[kind](options, size, pictures, rate)


def _patches(options: CodecOptions, size: int, pictures: np.ndarray, rate: float | None) -> Codec:
    config = PatchConfig(codec_downsample(options, size), options.vocabulary)
    return PatchCodec.fit(pictures, config, seed=options.seed)


def _pixels(options: CodecOptions, size: int, pictures: np.ndarray, rate: float | None) -> Codec:
    squares = PixelConfig(codec_downsample(options, size), pictures.shape[-1] // 3)
    if rate is not None:
        squares = replace(squares, rate=rate)
    return PixelCodec.fit(pictures, squares)


def _jpeg(options: CodecOptions, size: int, pictures: np.ndarray, rate: float | None) -> Codec:
    unit = options.downsample or (16 if size >= 64 and size % 16 == 0 else 8)
    if unit not in (8, 16) or size % unit:
        raise InputError(
            f"codec.downsample: {unit}, jpeg takes 8 (4:4:4) or 16 (4:2:0), and pictures of a "
            f"multiple of it; these have {size} pixels"
        )
    side = size // unit
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0" if unit == 16 else "4:4:4"
    config = JpegConfig((side, side), options.quality, subsampling, options.vocabulary)
    return JpegCodec.fit(pictures, config)


def _avc(options: CodecOptions, size: int, pictures: np.ndarray, rate: float | None) -> Codec:
    if size % AvcCodec.downsample or options.downsample not in (None, AvcCodec.downsample):
        raise InputError(
            f"codec.downsample: avc takes 16, and frames of a multiple of it; these have {size} "
            "pixels (--size)"
        )
    config = AvcConfig(
        frames=pictures.shape[-1] // 3,
        grid=(size // AvcCodec.downsample,) * 2,
        vocabulary=options.vocabulary,
    )
    if options.qp is not None:
        config = replace(config, qp=options.qp)
    if rate is not None:
        config = replace(config, rate=max(1, round(rate)))
    return AvcCodec.fit(pictures, config)


FITTERS: dict[str, Callable[[CodecOptions, int, np.ndarray, float | None], Codec]] = {
    "pixels": _pixels,
    "patches": _patches,
    "jpeg": _jpeg,
    "avc": _avc,
}
"""By kind: a codec of options, pixels a side, the rows, and frames a second."""
