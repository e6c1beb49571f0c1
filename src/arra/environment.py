"""On what a result was made: the machine, the versions of the packages, the commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TypedDict

import arra

# Used where the installation does not know its own requirements: a source tree on PYTHONPATH.
_MAIN_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "scikit-learn")


class Machine(TypedDict):
    """What a measured time depends on."""

    cpu: str
    """Model of the processor."""
    cores: int
    """Cores that this process may use, which can be fewer than the machine has."""
    memory_gb: float | None
    """Main memory in GiB; None where the system does not say."""
    accelerator: str
    """Name of the GPU, "mps", or "none"."""
    system: str
    """Operating system and architecture."""


def machine_info() -> Machine:
    """The machine that this process runs on. Imports torch, which alone knows the accelerator."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "accelerator": _accelerator(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def machine_class(machine: Machine) -> str:
    """A machine in one short phrase, such as "2 cores, no GPU" or "16 cores, NVIDIA H200"."""
    cores = machine["cores"]
    gpu = "no GPU" if machine["accelerator"] == "none" else machine["accelerator"]
    return f"{cores} core{'' if cores == 1 else 's'}, {gpu}"


def versions() -> dict[str, str]:
    """Versions of Python, arra and what arra requires, by name, and `commit` in a source tree.

    Reads the installed metadata only; nothing heavy is imported.
    """
    found = {"python": platform.python_version(), "arra": arra.__version__}
    for name in _required_packages():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if (revision := commit()) is not None:
        found["commit"] = revision
    return found


def source_tree() -> Path | None:
    """The root of the source tree that arra runs from, or None when it runs from a wheel."""
    root = Path(__file__).resolve().parents[2]
    return (
        root if (root / "pyproject.toml").is_file() and (root / "src" / "arra").is_dir() else None
    )


def commit() -> str | None:
    """The git commit of the source tree, "+changes" added if files differ from it, or None."""
    root = source_tree()
    if root is None or not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        revision = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):  # no git, not a repository, or not ours to read
        return None
    return f"{revision}+changes" if changed else revision


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _required_packages() -> tuple[str, ...]:
    try:
        wanted = requires("arra") or []
    except PackageNotFoundError:
        return _MAIN_PACKAGES
    # A requirement line begins with the name: letters, digits, and "-", "_", "." inside.
    found = [re.match(r"[\w.-]+", line) for line in wanted if "extra ==" not in line]
    return tuple(match.group() for match in found if match)


def _cpu_model() -> str:
    if platform.system() == "Linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
            return done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine() or "unknown"


def _memory_gb() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    return round(size / 2**30, 1)


def _accelerator() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    if torch.backends.mps.is_available():
        return "mps"
    return "none"
