"""Building and loading the decoder's CPU kernels: once for each machine, kept in a cache folder.

One C++ file without any library's headers compiles within seconds. Without a compiler, or where
`ARRA_NATIVE=0`, the decoder written in torch serves instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path

from filelock import FileLock

from arra.files import atomic_file
from arra.networks.decoding.llama import Unsupported

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math")
BUILD_SECONDS = 4.0
"""What building takes on a small machine: part of the estimate of when it pays."""

build_seconds = 0.0
"""Seconds that building took in this process; 0 where it was built before."""


def cache_folder() -> Path:
    """Where built kernels are kept: `ARRA_CACHE`, or arra/ in the user's cache folder."""
    given = os.environ.get("ARRA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "arra"


def built() -> bool:
    """Whether the kernels can be loaded without building them."""
    command = _compiler()
    return command is not None and _target(command).is_file()


def library() -> ctypes.CDLL:
    """The kernels, built if they are not; `Unsupported` says why there are none."""
    found = _library(_compiler())
    if isinstance(found, str):
        raise Unsupported(found)
    return found


@cache
def _library(command: str | None) -> ctypes.CDLL | str:
    """The kernels or why there are none: what failed once is not tried again."""
    global build_seconds
    if command is None:
        return "there is no C++ compiler (c++, g++ or clang++)"
    target = _target(command)
    try:
        if not target.is_file():
            began = time.perf_counter()
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):
                if not target.is_file():
                    _build(command, target)
            build_seconds = time.perf_counter() - began
        return ctypes.CDLL(str(target))
    except (OSError, Unsupported) as error:
        return f"{target}: {error}"


def _compiler() -> str | None:
    if os.environ.get("ARRA_NATIVE") == "0":
        return None
    names = [os.environ.get("CXX"), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


@cache
def _target(command: str) -> Path:
    """One file for each source, compiler and kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    told = (SOURCE.read_text(encoding="utf-8"), FLAGS, command, platform.machine())
    digest = hashlib.sha256(repr((*told, processor)).encode()).hexdigest()[:16]
    return cache_folder() / f"decoder-{digest}.so"


def _build(command: str, target: Path) -> None:
    with atomic_file(target) as temporary:
        for threads in (("-fopenmp",), ()):  # Apple's compiler has no OpenMP: one thread then
            options = [*FLAGS, "-fPIC", "-shared", *threads, str(SOURCE), "-o", str(temporary)]
            done = subprocess.run([command, *options], capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
        raise Unsupported(f"{command} could not build it: {done.stderr.strip()[-400:]}")
