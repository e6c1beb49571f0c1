"""Which floating-point numbers the forward and backward pass use, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env

from arra.precision import bf16_speed

Resolved = Literal["fp32", "bf16"]

# bf16 rounds more, so it has to be worth it, beyond what a timing is uncertain by.
_CLEARLY = 1.1


def choose_precision(asked: str, attempt: Callable[[bool], object]) -> tuple[Resolved, str]:
    """The precision for `asked` ("auto", "fp32", "bf16") on this machine, and the reason in words.

    `attempt(bf16)` is a forward and backward pass of what is to be trained: on a CPU "auto" times
    it both ways, for what casts cost beside the products differs from model to model. The device is
    the one that accelerate takes: CUDA where there is one, unless ACCELERATE_USE_CPU.
    """
    if asked == "fp32":
        return "fp32", "asked for"
    if asked == "bf16":
        return "bf16", "asked for"
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "CUDA device with bf16"
        return "fp32", "CUDA device without bf16"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # each would time for itself and might disagree
        return "fp32", "several processes on CPUs; bf16 has to be asked for"
    ratio = bf16_speed(attempt, torch.device("cpu"), repeats=3)
    reason = f"a pass in bf16 runs at {ratio:.2f} times the speed of fp32 on this CPU"
    return ("bf16" if ratio > _CLEARLY else "fp32"), reason
