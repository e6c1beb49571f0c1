"""Which floating-point numbers the forward and backward pass use, and why."""

from __future__ import annotations

import time
from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor

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
    ratio = _seconds(torch.float32) / _seconds(torch.bfloat16)
    reason = f"a bf16 matrix product runs at {ratio:.2f} times the speed of fp32 on this CPU"
    return ("bf16" if ratio > _CLEARLY else "fp32"), reason


def _seconds(dtype: torch.dtype, side: int = 384, repeats: int = 5) -> float:
    """Shortest time of a (side, side) product: the minimum is what the least disturbed run took."""
    generator = torch.Generator().manual_seed(0)
    a: Tensor = torch.randn(side, side, generator=generator).to(dtype)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return min(times[1:])
