"""Tensors of a checkpoint, of which any rows can be read, in however many files they lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arra.errors import InputError
from arra.training.sharding import is_cut, local, rows_here

_PART = re.compile(r".*-(\d{5})-of-(\d{5})\.safetensors")


def file_name(kind: str, rank: int, world: int) -> str:
    """The file of process `rank` of the `world` that write; of a single one it has no number."""
    return f"{kind}{f'-{rank + 1:05d}-of-{world:05d}' if world > 1 else ''}.safetensors"


class Stored(ExitStack):
    """The tensors of one kind ("generator", "optimizer", ...), open within a `with` block.

    The rows of a tensor are those of its part in the first file, then in the second, and so on.
    """

    def __init__(self, folder: Path, kind: str):
        super().__init__()
        self.where = folder / f"{kind}.safetensors"
        self._parts: dict[str, list[tuple[Any, list[int]]]] = {}
        for file in [self.where] if self.where.is_file() else _parts(folder, kind):
            try:
                handle = self.enter_context(safe_open(str(file), framework="pt"))
            except (OSError, SafetensorError) as error:
                raise InputError(f"{file}: cannot be read: {error}") from error
            for name in handle.keys():  # noqa: SIM118 - not a dictionary
                shape = handle.get_slice(name).get_shape()
                self._parts.setdefault(name, []).append((handle, shape))

    @property
    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._parts)

    def shape(self, name: str) -> torch.Size:
        """Shape of the whole tensor."""
        shapes = [shape for _, shape in self._parts[name]]
        rows = [sum(shape[0] for shape in shapes)] if shapes[0] else []
        return torch.Size([*rows, *shapes[0][1:]])

    def expect(self, shapes: Mapping[str, torch.Size]) -> None:
        """`InputError` unless these are the names and shapes of all tensors."""
        wrong = f"{self.where}: does not fit this generator or objectives:"
        for name in shapes.keys() ^ self._parts.keys():
            raise InputError(f"{wrong} {name} is only in {'the run' if name in shapes else 'it'}")
        for name, shape in shapes.items():
            if (found := self.shape(name)) != shape:
                raise InputError(f"{wrong} {name} is {tuple(found)}, expected {tuple(shape)}")

    @torch.no_grad()
    def read_into(self, name: str, tensor: Tensor) -> None:
        """Fill `tensor`, or what this process holds of it."""
        mine, (start, stop) = local(tensor), rows_here(tensor)
        if tensor.ndim == 0:
            handle, _ = self._parts[name][0]
            mine.copy_(handle.get_tensor(name))
            return
        first = 0
        for handle, (rows, *_) in self._parts[name]:
            low, high = max(start, first), min(stop, first + rows)
            if low < high:
                piece = handle.get_slice(name)[low - first : high - first]
                mine[low - start : high - start].copy_(piece)
            first += rows

    def read_like(self, name: str, parameter: Tensor) -> Tensor:
        """The tensor: cut as `parameter` is where it has its shape, otherwise whole."""
        parts = self._parts[name]
        if is_cut(parameter) and parameter.shape == self.shape(name):
            tensor = torch.zeros_like(parameter)
        elif len(parts) == 1:
            return parts[0][0].get_tensor(name)
        else:
            tensor = torch.empty(self.shape(name), dtype=parameter.dtype)
        self.read_into(name, tensor)
        return tensor


def _parts(folder: Path, kind: str) -> list[Path]:
    """The files that several processes wrote, in order; `InputError` where one is missing."""
    found = sorted(folder.glob(f"{kind}-*-of-*.safetensors"))
    places = [match.groups() for file in found if (match := _PART.fullmatch(file.name))]
    if not found or [int(number) for number, _ in places] != list(range(1, len(found) + 1)):
        raise InputError(f"{folder}: files of {kind} are missing")
    return found
