"""Checkpoints that are whole or not there, hold no pickles, and give back the very same run.

`checkpoints/step-00000100/` holds `generator.safetensors`, `objectives.safetensors` (projectors),
`optimizer.safetensors`, `ema.safetensors` and `state.json`: step, settings of the run, and the
hash of every other file. Where weights are sharded every process writes its own files,
`generator-00001-of-00002.safetensors` and so on, in parallel: the rows of a tensor lie in one after
the other, so that any number of processes, sharded or not, can read them.

Weights that are not trained are not saved: they come from where the model came from. Neither
learning rate nor random state is kept: both are pure functions of the step (`learning_rate`,
`step_seed`).
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from arra.errors import InputError
from arra.files import (
    atomic_file,
    atomic_folder,
    read_json,
    sha256_of_file,
    sha256_of_json,
    write_json,
)
from arra.training.ema import Ema
from arra.training.sharding import is_cut, local
from arra.training.stored import Stored, file_name

FORMAT = 2
_FOLDER = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Progress:
    """What a checkpoint holds of a run: everything that a step changes."""

    generator: nn.Module
    objectives: nn.Module
    optimizers: Sequence[Optimizer]
    ema: Ema | None

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by kind (file) and name, but for those of the optimisers."""
        return {
            "generator": _changing(self.generator),
            "objectives": _changing(self.objectives),
            "ema": self.ema.average if self.ema else {},
        }


def save(
    folder: Path,
    step: int,
    run: dict[str, Any],
    progress: Progress,
    keep: int,
    accelerator: Accelerator | None = None,
) -> None:
    """Write the checkpoint of `step` under `folder`, then drop all but the newest `keep`.

    `run` is plain JSON: what a resumed run must agree with. All processes call it; where weights
    are sharded all of them write, otherwise the main one. Without an accelerator there is one.
    """
    path = folder / f"step-{step:08d}"
    shards = accelerator if accelerator is not None and accelerator.is_fsdp2 else None
    main = accelerator is None or accelerator.is_main_process
    if shards or main:
        moments, rest = _flatten(progress.optimizers)
        contents = {**progress.weights(), "optimizer": moments}
        rank, world = (shards.process_index, shards.num_processes) if shards else (0, 1)
        with _folder_of_all(path, shards) as target:
            digests = []
            for kind, tensors in contents.items():
                file = target / file_name(kind, rank, world)
                mine = {n: local(t) for n, t in tensors.items() if rank == 0 or is_cut(t)}
                with atomic_file(file) as temporary:
                    save_file(separate(mine), str(temporary))
                digests.append(sha256_of_file(file))
            # It waits for all of them, too: nothing is named as written before it is.
            digests = _of_all(digests, shards) if shards else digests
            if main:
                names = [file_name(kind, r, world) for r in range(world) for kind in contents]
                state = {
                    "format": FORMAT,
                    "step": step,
                    "run": run,
                    "digest": sha256_of_json(run),
                    "optimizers": rest,
                    "files": dict(zip(names, digests, strict=True)),
                }
                write_json(target / "state.json", state)
    if main:
        # Old ones go only now that the new one is on the disk.
        for _, old in _numbered(folder)[keep:]:
            if old != path:
                shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _folder_of_all(path: Path, accelerator: Accelerator | None) -> Iterator[Path]:
    """`atomic_folder`, the same for all processes of `accelerator`: the main one makes it."""
    if accelerator is None:
        with atomic_folder(path) as target:
            yield target
        return
    token = torch.zeros(1, dtype=torch.int64, device=accelerator.device)
    if accelerator.is_main_process:
        with atomic_folder(path) as target:
            # The name of a temporary folder ends with eight hexadecimal digits and ".tmp".
            token += int(target.name.split(".")[-2], 16)
            accelerator.reduce(token, reduction="sum")
            yield target
    else:
        token = accelerator.reduce(token, reduction="sum")
        yield path.with_name(f".{path.name}.{int(token):08x}.tmp")


def _of_all(digests: list[str], accelerator: Accelerator) -> list[str]:
    """Hexadecimal digests of all processes, in the order of their ranks."""
    mine = torch.tensor([list(bytes.fromhex(digest)) for digest in digests], dtype=torch.uint8)
    everyone: Tensor = accelerator.gather(mine.to(accelerator.device))
    return [bytes(row).hex() for row in everyone.tolist()]


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


def restore(path: Path, progress: Progress) -> None:
    """Put the contents of a checkpoint in place; `InputError` when they do not fit.

    Each process reads the rows that it holds, whatever the number of those that wrote.
    """
    state = read_json(path / "state.json")
    for kind, tensors in progress.weights().items():
        with Stored(path, kind) as stored:
            stored.expect({name: tensor.shape for name, tensor in tensors.items()})
            for name, tensor in tensors.items():
                stored.read_into(name, tensor)
    _restore_optimizers(progress.optimizers, state["optimizers"], path)


def _changing(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without parameters that are not trained."""
    state = module.state_dict(keep_vars=True)
    frozen = {n for n, t in state.items() if isinstance(t, nn.Parameter) and not t.requires_grad}
    return {name: tensor.detach() for name, tensor in state.items() if name not in frozen}


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


def _restore_optimizers(optimizers: Sequence[Optimizer], rest: list[Any], path: Path) -> None:
    if len(optimizers) != len(rest):
        raise InputError(f"{path}: holds {len(rest)} optimisers, expected {len(optimizers)}")
    with Stored(path, "optimizer") as stored:
        for number, (optimizer, saved) in enumerate(zip(optimizers, rest, strict=True)):
            state = optimizer.state_dict()
            names = [group["param_names"] for group in state["param_groups"]]
            if names != [group["param_names"] for group in saved["groups"]]:
                raise InputError(f"{path}: the optimiser's state is for other parameters")
            entries: dict[int, dict[str, Any]] = {}
            for key, value in saved["values"].items():
                index, _, name = key.partition("/")
                entries.setdefault(int(index), {})[name] = value
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for key in stored.names:
                owner, index, name = key.split("/", 2)
                if int(owner) == number:
                    moment = stored.read_like(key, parameters[int(index)])
                    entries.setdefault(int(index), {})[name] = moment
            # Groups keep their present values: they follow from the configuration and the step.
            optimizer.load_state_dict({"state": entries, "param_groups": state["param_groups"]})
