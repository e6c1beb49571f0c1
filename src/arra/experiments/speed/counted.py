"""What a call costs besides time: operations of its matrix products, memory at its peak."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from arra.errors import ArraError


def operations(call: Callable[[], object]) -> float:
    """Operations of the matrix products and convolutions in a call; a multiply-add counts two."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return float(counter.get_total_flops())


def peak_memory(function: Callable[..., Any], *arguments: str) -> float:
    """MiB that a new process takes at most while it calls an importable function with texts."""
    script = (
        "import importlib, sys\n"
        "from arra.experiments.speed.counted import _peak\n"
        "getattr(importlib.import_module(sys.argv[1]), sys.argv[2])(*sys.argv[3:])\n"
        "print(_peak())"
    )
    command = [sys.executable, "-c", script, function.__module__, function.__name__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArraError(f"{function.__name__} failed in a process of its own:\n{done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def _peak() -> float:
    """MiB that this process has held at most."""
    try:
        # Not getrusage, which on Linux remembers the process that started this one.
        with open("/proc/self/status") as status:
            line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except FileNotFoundError:
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 1024
