"""How well a codec does: error of the pictures, and how its codes are used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from arra.codecs.base import Codec
from arra.errors import InputError
from arra.pixels import to_unit


@dataclass(frozen=True)
class CodecReport:
    """How well a codec does on pictures that it was not trained on."""

    mse: float
    """Mean squared error of pixels in [-1, 1]."""
    psnr: float
    """Peak signal-to-noise ratio in dB, 10 log10(4 / mse)."""
    usage: float
    """Share of the codes that occur at all; 0 where codes are vectors."""
    perplexity: float
    """exp of the entropy of the codes: so many equally frequent codes there might be; vectors 0."""
    pictures: int
    """How many pictures were measured."""
    steps: int = 0
    """Optimiser steps of the training, 0 when only measured."""
    seconds: float = 0.0
    """Seconds of the training."""
    history: tuple[dict[str, float], ...] = ()
    """Named losses along the training, each with its "step" and learning rate "lr"."""


@torch.no_grad()
def evaluate_codec(codec: Codec, pictures: Tensor, *, batch: int = 256) -> CodecReport:
    """Measure `decode(encode(pictures))` of uint8 pictures, or of floats in [-1, 1]."""
    if len(pictures) == 0:
        raise InputError("pictures: none to measure the codec on")
    was_training, device = codec.training, codec.device
    codec.eval()
    squared, values = 0.0, 0
    counts = torch.zeros(codec.vocabulary, dtype=torch.int64)
    for start in range(0, len(pictures), batch):
        chunk = pictures[start : start + batch]
        chunk = (chunk if chunk.is_floating_point() else to_unit(chunk, codec.channels)).to(device)
        codes = codec.encode(chunk)
        squared += (codec.decode(codes) - chunk).double().square().sum().item()
        values += chunk.numel()
        if codec.vocabulary:
            counts += torch.bincount(codes.flatten().cpu(), minlength=codec.vocabulary)
    codec.train(was_training)
    share, mse = counts.double() / counts.sum().clamp(min=1), squared / values
    return CodecReport(
        mse=mse,
        psnr=10.0 * math.log10(4.0 / max(mse, 1e-12)),
        usage=float((counts > 0).double().mean()) if codec.vocabulary else 0.0,
        perplexity=math.exp(float(torch.special.entr(share).sum())) if codec.vocabulary else 0.0,
        pictures=len(pictures),
    )
