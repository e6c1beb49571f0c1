"""Checkpoints that are whole or not there, hold no pickles, and give back the very same run.

`checkpoints/step-00000100/` holds `generator.safetensors`, `objectives.safetensors` (projectors),
`optimizer.safetensors`, `ema.safetensors` and `state.json`: step, settings of the run, and the
hash of every other file. Neither learning rate nor random state is kept: both are pure functions of
the step (`learning_rate`, `step_seed`).
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from arra.errors import InputError
from arra.files import atomic_folder, read_json, sha256_of_file, sha256_of_json, write_json
from arra.training.ema import Ema

FORMAT = 1
_FOLDER = re.compile(r"step-(\d{8,})")


def save(
    folder: Path,
    step: int,
    run: dict[str, Any],
    generator: nn.Module,
    objectives: nn.Module,
    optimizers: Sequence[Optimizer],
    ema: Ema | None,
    keep: int,
) -> Path:
    """Write the checkpoint of `step` under `folder`, then drop all but the newest `keep`.

    `run` is plain JSON: what a resumed run must agree with.
    """
    path = folder / f"step-{step:08d}"
    moments, rest = _flatten(optimizers)
    with atomic_folder(path) as target:
        contents = {
            "generator": generator.state_dict(),
            "objectives": objectives.state_dict(),
            "optimizer": moments,
            "ema": ema.average if ema else {},
        }
        for name, tensors in contents.items():
            save_file(separate(tensors), str(target / f"{name}.safetensors"))
        state = {
            "format": FORMAT,
            "step": step,
            "run": run,
            "digest": sha256_of_json(run),
            "optimizers": rest,
            "files": {file.name: sha256_of_file(file) for file in sorted(target.iterdir())},
        }
        write_json(target / "state.json", state)
    # Old ones go only now that the new one is on the disk.
    for _, old in _numbered(folder)[keep:]:
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
    return path


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint under `folder`, or None; damaged ones are named in a warning."""
    for _, path in _numbered(folder):
        problem = damage(path)
        if problem is None:
            return path
        warnings.warn(f"checkpoint skipped: {problem}", stacklevel=2)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with the checkpoint folder `path`, or None if it is whole."""
    try:
        state = read_json(path / "state.json")
    except InputError as error:
        return str(error)
    if not isinstance(state, dict) or not isinstance(state.get("files"), dict):
        return f"{path / 'state.json'}: not the state of a checkpoint"
    if state.get("format") != FORMAT:
        return f"{path}: format {state.get('format')!r}, this version reads {FORMAT}"
    for name, digest in state["files"].items():
        file = path / Path(name).name
        if not file.is_file():
            return f"{file}: missing"
        if sha256_of_file(file) != digest:
            return f"{file}: its content is not what was written (cut short or damaged)"
    return None


def clean(folder: Path) -> None:
    """Remove what a process that was killed while writing has left behind."""
    for pattern in (".step-*.tmp", ".step-*.old"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def restore(
    path: Path,
    generator: nn.Module,
    objectives: nn.Module,
    optimizers: Sequence[Optimizer],
    ema: Ema | None,
) -> None:
    """Put the contents of a checkpoint in place; `InputError` when they do not fit."""
    state = read_json(path / "state.json")
    try:
        generator.load_state_dict(load_file(str(path / "generator.safetensors")))
        objectives.load_state_dict(load_file(str(path / "objectives.safetensors")))
        if ema:
            ema.load(load_file(str(path / "ema.safetensors")))
    except (RuntimeError, KeyError) as error:
        raise InputError(f"{path}: does not fit this generator or objectives: {error}") from error
    moments = load_file(str(path / "optimizer.safetensors"))
    _unflatten(optimizers, moments, state["optimizers"], path)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders with their steps, the newest first."""
    if not folder.is_dir():
        return []
    found = [
        (int(match.group(1)), path)
        for path in folder.iterdir()
        if (match := _FOLDER.fullmatch(path.name)) and path.is_dir()
    ]
    return sorted(found, reverse=True)


def separate(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory (tied weights do; safetensors refuses)."""
    seen: set[int] = set()
    out = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        storage = flat.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != flat.numel() * flat.element_size():
            flat = flat.clone()
        seen.add(flat.untyped_storage().data_ptr())
        out[name] = flat
    return out


def _flatten(optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    """Tensors by "optimiser/parameter/key", and per optimiser its groups and other values."""
    tensors: dict[str, Tensor] = {}
    rest = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        values: dict[str, Any] = {}
        for index, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"{number}/{index}/{key}"] = value
                else:
                    values[f"{index}/{key}"] = value
        rest.append({"groups": state["param_groups"], "values": values})
    return tensors, rest


def _unflatten(
    optimizers: Sequence[Optimizer], tensors: dict[str, Tensor], rest: list[Any], path: Path
) -> None:
    if len(optimizers) != len(rest):
        raise InputError(f"{path}: holds {len(rest)} optimisers, expected {len(optimizers)}")
    for number, (optimizer, saved) in enumerate(zip(optimizers, rest, strict=True)):
        state = optimizer.state_dict()
        names = [group["param_names"] for group in state["param_groups"]]
        if names != [group["param_names"] for group in saved["groups"]]:
            raise InputError(f"{path}: the optimiser's state is for other parameters")
        entries: dict[int, dict[str, Any]] = {}
        for key, value in saved["values"].items():
            index, _, name = key.partition("/")
            entries.setdefault(int(index), {})[name] = value
        for key, tensor in tensors.items():
            owner, index, name = key.split("/", 2)
            if int(owner) == number:
                entries.setdefault(int(index), {})[name] = tensor
        # Groups keep their present values: they follow from the configuration and the step.
        optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
