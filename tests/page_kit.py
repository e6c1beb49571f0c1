"""The code of pages of the documentation: found, made smaller, and run as it stands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import arra.generators  # noqa: F401 - registers
from arra import cli
from arra.registry import generators

# What a reader's machine does in minutes a test must do in seconds.
SMALLER: dict[str, dict[str, str]] = {
    "prepare": {"--codec.steps": "2", "--codec.width": "16", "--encoder.steps": "2"},
    "train": {"--steps": "3", "--llama.width": "32", "--llama.depth": "2", "--llama.heads": "2",
              "--samples": "2", "--precision": "fp32"},
    "generate": {"--count": "2"},
    "evaluate": {"--diversity-prompts": "2", "--reader-steps": "2", "--count": "8"},
}  # fmt: skip
# Commands of a page that are for a person's shell and not for a test.
_ELSEWHERE = ("pip ", "make ", "git ", "cd ", "python ", "accelerate ", "open ")
# Commands of arra that have tests of their own.
_TESTED = ("demo", "reproduce")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language ("python" or "bash") and text of the code blocks of a page; one without a language
    whose first word is arra is bash."""
    found = re.findall(r"^```(python|bash|)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [
        (language or "bash", block) for language, block in found
        if language or block.startswith("arra ")
    ]  # fmt: skip


def commands(block: str) -> list[list[str]]:
    """The arra commands of a block of bash; `ValueError` for a line that is something else."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or line.lstrip().startswith(_ELSEWHERE):
            continue
        if words[0] != "arra":
            raise ValueError(f"not a command of arra: {line}")
        if words[1] not in _TESTED:
            found.append(words[1:])
    return found


def smaller(
    command: list[str], changes: Mapping[str, Mapping[str, str]] = SMALLER, scenes: int = 96
) -> list[str]:
    """The command with its work cut down, otherwise as it stands."""
    words = [re.sub(r"scenes:[\d_]+", f"scenes:{scenes}", word) for word in command]
    for flag, value in changes.get(words[0], {}).items():
        if flag in words:
            words[words.index(flag) + 1] = value
        elif not (flag.startswith("--llama") and "--lm" in words) and _read(flag, words):
            words += [flag, value]
    return words


def _read(flag: str, words: list[str]) -> bool:
    """Whether the generator of a command makes something of an option."""
    if not flag.startswith("--vectors.") or "--generator" not in words:
        return True
    kind = generators[words[words.index("--generator") + 1]]
    return flag.removeprefix("--vectors.").replace("-", "_") in getattr(kind, "reads", ())


def run_bash(block: str, **how: Any) -> None:
    """Run the arra commands of a block, made smaller."""
    for command in commands(block):
        assert cli.run(smaller(command, **how)) == 0, " ".join(command)


def run_python(
    block: str, names: dict[str, object], replacements: tuple[tuple[str, str], ...], page: str
) -> None:
    """Run a block of Python after these replacements; what it defines is left in `names`."""
    for pattern, replacement in replacements:
        block = re.sub(pattern, replacement, block)
    exec(compile(block, page, "exec"), names)
