"""arra: autoregressive generation with representation alignment.

Importing the package is cheap: nothing heavy (torch, transformers) loads until a name that needs it
is used. The names below are those of the tour; the rooms (`arra.codecs`, `arra.encoders`,
`arra.generators`, ...) are ordinary subpackages.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arra.codecs.autoencoder import AutoencoderConfig
    from arra.codecs.lfq import LFQCodec, LFQConfig
    from arra.codecs.training import CodecTraining, train_codec
    from arra.codecs.vq import VQCodec, VQConfig
    from arra.data.pictures import open_pictures
    from arra.data.prepare import prepare
    from arra.data.store import PreparedStore
    from arra.data.tokenizer import train_text_tokenizer
    from arra.encoders import (
        EncoderTraining,
        Preprocessing,
        PretrainedConfig,
        PretrainedEncoder,
        SmallConfig,
        train_encoder,
    )
    from arra.generators.batches import RasterBatches
    from arra.generators.raster import RasterGenerator
    from arra.jobs.sources import sample_pictures
    from arra.objectives.alignment import Alignment
    from arra.objectives.laws import NextToken, ZLoss
    from arra.settings import AlignmentConfig, BatchConfig, LlamaSize, SamplingConfig
    from arra.text_to_image import TextToImage
    from arra.training.config import TrainConfig
    from arra.training.loop import train

try:
    __version__ = version("arra")
except PackageNotFoundError:  # running from a source tree that was never installed
    __version__ = "0.0.0"

_HOMES = {
    "Alignment": "arra.objectives.alignment",
    "AlignmentConfig": "arra.settings",
    "AutoencoderConfig": "arra.codecs.autoencoder",
    "BatchConfig": "arra.settings",
    "CodecTraining": "arra.codecs.training",
    "EncoderTraining": "arra.encoders",
    "LFQCodec": "arra.codecs",
    "LFQConfig": "arra.codecs",
    "LlamaSize": "arra.settings",
    "NextToken": "arra.objectives.laws",
    "PreparedStore": "arra.data.store",
    "Preprocessing": "arra.encoders",
    "PretrainedConfig": "arra.encoders",
    "PretrainedEncoder": "arra.encoders",
    "RasterBatches": "arra.generators.batches",
    "RasterGenerator": "arra.generators.raster",
    "SamplingConfig": "arra.settings",
    "SmallConfig": "arra.encoders",
    "TextToImage": "arra.text_to_image",
    "TrainConfig": "arra.training.config",
    "VQCodec": "arra.codecs",
    "VQConfig": "arra.codecs",
    "ZLoss": "arra.objectives.laws",
    "open_pictures": "arra.data.pictures",
    "prepare": "arra.data.prepare",
    "sample_pictures": "arra.jobs.sources",
    "train": "arra.training.loop",
    "train_codec": "arra.codecs.training",
    "train_encoder": "arra.encoders",
    "train_text_tokenizer": "arra.data.tokenizer",
}

__all__ = [
    "Alignment",
    "AlignmentConfig",
    "AutoencoderConfig",
    "BatchConfig",
    "CodecTraining",
    "EncoderTraining",
    "LFQCodec",
    "LFQConfig",
    "LlamaSize",
    "NextToken",
    "PreparedStore",
    "Preprocessing",
    "PretrainedConfig",
    "PretrainedEncoder",
    "RasterBatches",
    "RasterGenerator",
    "SamplingConfig",
    "SmallConfig",
    "TextToImage",
    "TrainConfig",
    "VQCodec",
    "VQConfig",
    "ZLoss",
    "__version__",
    "open_pictures",
    "prepare",
    "sample_pictures",
    "train",
    "train_codec",
    "train_encoder",
    "train_text_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'arra' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # found here from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
