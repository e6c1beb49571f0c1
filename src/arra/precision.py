"""Arithmetic in bf16: when it is on, and whether it pays on the machine at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch


def autocast(device: torch.device, bf16: bool) -> AbstractContextManager:
    """bf16 autocast on `device`, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()


def native_precision() -> Literal["fp32", "bf16"]:
    """bf16 where the processor at hand multiplies such numbers in its hardware, else fp32.

    GPUs by their own word; of CPUs those with AVX-512 BF16 or AMX. It does not time: the arms of
    one experiment must not decide differently.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(bool(asked()) for name in names if (asked := getattr(torch.cpu, name, None)))
    return "bf16" if native else "fp32"


def bf16_speed(attempt: Callable[[bool], object], device: torch.device, repeats: int = 4) -> float:
    """How many times as fast `attempt(True)`, which uses bf16, runs as `attempt(False)`.

    Of each the shortest of `repeats` times after one to warm up: what the least disturbed run took.
    """

    def once(bf16: bool) -> float:
        _wait(device)
        start = time.perf_counter()
        attempt(bf16)
        _wait(device)
        return time.perf_counter() - start

    best = {bf16: min([once(bf16) for _ in range(repeats + 1)][1:]) for bf16 in (False, True)}
    return best[False] / best[True]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
