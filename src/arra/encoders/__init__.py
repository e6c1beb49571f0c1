"""Frozen representation encoders, whose features hidden states are aligned with."""

from arra.encoders.base import Aggregation, Encoder, Features
from arra.encoders.openclip import OpenClipConfig, OpenClipEncoder
from arra.encoders.preprocessing import Preprocessing
from arra.encoders.pretrained import PretrainedConfig, PretrainedEncoder
from arra.encoders.probe import linear_probe
from arra.encoders.small import SmallConfig, SmallEncoder
from arra.encoders.text import SmallTextConfig, SmallTextEncoder
from arra.encoders.training import EncoderReport, EncoderTraining, TrainedEncoder, train_encoder

__all__ = [
    "Aggregation",
    "Encoder",
    "EncoderReport",
    "EncoderTraining",
    "Features",
    "OpenClipConfig",
    "OpenClipEncoder",
    "Preprocessing",
    "PretrainedConfig",
    "PretrainedEncoder",
    "SmallConfig",
    "SmallEncoder",
    "SmallTextConfig",
    "SmallTextEncoder",
    "TrainedEncoder",
    "linear_probe",
    "train_encoder",
]
