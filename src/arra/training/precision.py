"""Which floating-point numbers the forward and backward pass use, and why."""

from __future__ import annotations

from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env

from arra.precision import autocast, bf16_speed

Resolved = Literal["fp32", "bf16"]

# Casting weights and activations costs time beside the products, so a small gain is no gain.
_CLEARLY = 1.5


def choose_precision(asked: str) -> tuple[Resolved, str]:
    """The precision for `asked` ("auto", "fp32", "bf16") on this machine, and the reason in words.

    The device is the one that accelerate takes: CUDA where there is one, unless ACCELERATE_USE_CPU.
    """
    if asked == "fp32":
        return "fp32", "asked for"
    if asked == "bf16":
        return "bf16", "asked for"
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "CUDA device with bf16"
        return "fp32", "CUDA device without bf16"
    cpu = torch.device("cpu")
    square = torch.randn(384, 384, generator=torch.Generator().manual_seed(0))

    def product(bf16: bool) -> torch.Tensor:
        with autocast(cpu, bf16):
            return square @ square

    ratio = bf16_speed(product, cpu)
    reason = f"a bf16 matrix product runs at {ratio:.2f} times the speed of fp32 on this CPU"
    return ("bf16" if ratio > _CLEARLY else "fp32"), reason
