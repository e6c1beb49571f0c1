"""What a call costs besides time: operations of its matrix products, memory at its peak.

Memory is that of a process of its own, as Linux counts it; elsewhere there is no such figure (NaN).
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
    return _in_own_process("_peak_of", function, arguments)


def added_memory(function: Callable[..., Callable[[], Any]], *arguments: str) -> float:
    """MiB that the call which an importable function returns adds to a new process at most.

    Pages of mapped files that the call's result still holds do not count: they are the system's
    cache, and go when somebody needs the room.
    """
    return _in_own_process("_added_by", function, arguments)


def resident_memory(process: int | str = "self") -> float:
    """MiB that a process (its id) has in memory now; NaN where the system does not tell."""
    if not Path(f"/proc/{process}/status").exists():
        return math.nan
    return _status("VmRSS", process)


def _in_own_process(what: str, function: Callable[..., Any], arguments: tuple[str, ...]) -> float:
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    script = (
        "import importlib, sys\n"
        "from arra.experiments.speed import counted\n"
        "function = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])\n"
        "print(getattr(counted, sys.argv[1])(function, *sys.argv[4:]))"
    )
    names = [what, function.__module__, function.__name__, *arguments]
    command = [sys.executable, "-c", script, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArraError(f"{function.__name__} failed in a process of its own:\n{done.stderr}")
    return float(done.stdout.splitlines()[-1])


def _peak_of(function: Callable[..., Any], *arguments: str) -> float:
    function(*arguments)
    return _status("VmHWM")


def _added_by(function: Callable[..., Callable[[], Any]], *arguments: str) -> float:
    call = function(*arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew from here on
    before = _status("VmRSS") - _status("RssFile")
    result = call()
    added = _status("VmHWM") - _status("RssFile") - before
    del result  # what it maps had to stay until here
    return max(0.0, added)


def _status(name: str, process: int | str = "self") -> float:
    """MiB of a process, this one unless it is named, as Linux counts them.

    Not getrusage, which remembers the process that started this one.
    """
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024
