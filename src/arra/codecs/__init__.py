"""Signals to codes and back, and how each codec is trained."""

# imported so that they register: a saved codec is found by its name
from arra.codecs.binary import BinaryCodec, BinaryConfig
from arra.codecs.lfq import LFQCodec, LFQConfig
from arra.codecs.multiscale import MultiScaleCodec, MultiScaleConfig
from arra.codecs.native import ChameleonCodec, Emu3Codec, JanusCodec, NativeConfig
from arra.codecs.scalable import ScalableCodec, ScalableConfig
from arra.codecs.vq import VQCodec, VQConfig

__all__ = [
    "BinaryCodec",
    "BinaryConfig",
    "ChameleonCodec",
    "Emu3Codec",
    "JanusCodec",
    "LFQCodec",
    "LFQConfig",
    "MultiScaleCodec",
    "MultiScaleConfig",
    "NativeConfig",
    "ScalableCodec",
    "ScalableConfig",
    "VQCodec",
    "VQConfig",
]
