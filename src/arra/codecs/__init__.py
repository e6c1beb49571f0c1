"""Signals to codes and back, and how each codec is trained."""

# imported so that they register: a saved codec is found by its name
from arra.codecs.avc import AvcCodec, AvcConfig
from arra.codecs.binary import BinaryCodec, BinaryConfig
from arra.codecs.jpeg import JpegCodec, JpegConfig
from arra.codecs.latent import (
    DiffusersCodec,
    DiffusersConfig,
    KLCodec,
    KLConfig,
    PixelCodec,
    PixelConfig,
)
from arra.codecs.lfq import LFQCodec, LFQConfig
from arra.codecs.multiscale import MultiScaleCodec, MultiScaleConfig
from arra.codecs.native import ChameleonCodec, Emu3Codec, JanusCodec, NativeConfig
from arra.codecs.patches import PatchCodec, PatchConfig
from arra.codecs.scalable import ScalableCodec, ScalableConfig
from arra.codecs.vq import VQCodec, VQConfig

__all__ = [
    "AvcCodec",
    "AvcConfig",
    "BinaryCodec",
    "BinaryConfig",
    "ChameleonCodec",
    "DiffusersCodec",
    "DiffusersConfig",
    "Emu3Codec",
    "JanusCodec",
    "JpegCodec",
    "JpegConfig",
    "KLCodec",
    "KLConfig",
    "LFQCodec",
    "LFQConfig",
    "MultiScaleCodec",
    "MultiScaleConfig",
    "NativeConfig",
    "PatchCodec",
    "PatchConfig",
    "PixelCodec",
    "PixelConfig",
    "ScalableCodec",
    "ScalableConfig",
    "VQCodec",
    "VQConfig",
]
