"""`Part`: a module with a configuration that is saved, loaded and identified by its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from safetensors.torch import load_file, save_file
from torch import nn

from arra.errors import InputError
from arra.files import atomic_folder, read_json, restore_folder, write_json
from arra.randomness import seeded
from arra.registry import Registry


class Part(nn.Module, ModelHubMixin):
    """A module built from one frozen dataclass, `cls.Config`, kept as `self.config`.

    A part is saved as a folder with `config.json` (registry, registered name, configuration) and
    `model.safetensors`. Subclasses take the configuration as the only argument of `__init__`,
    register themselves in `cls.registry` and offer `tiny()` for the contract tests.
    """

    registry: ClassVar[Registry]
    registered_name: ClassVar[str]
    Config: ClassVar[type]
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules of an extra without which no instance can be made."""
    config: Any

    def __init__(self, config: Any):
        super().__init__()
        if not isinstance(config, self.Config):
            raise TypeError(f"{type(self).__name__} takes a {self.Config.__qualname__}")
        self.config = config

    @classmethod
    def seeded(cls, config: Any, seed: int) -> Self:
        """A part whose random initial weights are a function of `config` and `seed` alone.

        `cls(config)` draws them from torch's global generator, wherever that may stand.
        """
        with seeded(seed):
            return cls(config)

    @classmethod
    def tiny(cls) -> Self:
        """A small instance, the same each time, for tests."""
        return cls.seeded(cls.Config(), 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        for tensor in self.state_dict().values():
            return tensor.device
        return torch.device("cpu")

    def fingerprint(self) -> str:
        """Hex digest of name, configuration and weights: equal parts, equal fingerprints."""
        digest = hashlib.sha256(self.registered_name.encode())
        digest.update(json.dumps(self._settings(), sort_keys=True, default=str).encode())
        digest.update(weights_fingerprint(self).encode())
        return digest.hexdigest()

    def _settings(self) -> dict[str, Any]:
        """The part of the configuration that, beside the weights, says what the part does."""
        return dataclasses.asdict(self.config)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the part to a folder, whole or not at all."""
        with atomic_folder(save_directory) as folder:
            self._save_pretrained(folder)

    def _save_pretrained(self, save_directory: Path) -> None:
        write_json(
            save_directory / "config.json",
            {"kind": self.registry.kind, "name": self.registered_name, "config": self.config},
        )
        # clone: tensors that share memory (tied weights, views) cannot be written as they are
        state = {k: v.detach().cpu().contiguous().clone() for k, v in self.state_dict().items()}
        save_file(state, str(save_directory / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Any:  # type: ignore[override]
        """Load a part from a folder, or from a Hugging Face repository name.

        Called on a room's base class (say `Codec`) it gives whichever registered class was saved.
        Raises `InputError` when the folder holds another kind of part or does not fit its weights.
        """
        folder = Path(source)
        restore_folder(folder)
        if not folder.is_dir():
            if folder.is_absolute() or str(source).count("/") != 1:
                raise InputError(f"{source}: no such folder, nor a repository name (owner/name)")
            folder = Path(snapshot_download(str(source), **kwargs))
        saved = read_json(folder / "config.json")
        if not isinstance(saved, dict) or saved.get("kind") != cls.registry.kind:
            found = saved.get("kind") if isinstance(saved, dict) else None
            raise InputError(f"{folder}: holds {found!r}, expected a {cls.registry.kind}")
        actual = cls.registry[saved["name"]]
        if not issubclass(actual, cls):
            raise InputError(f"{folder}: holds a {saved['name']}, expected {cls.registered_name}")
        config = config_from_plain(actual.Config, saved["config"], where=folder)
        part = actual.seeded(config, 0)  # the weights are overwritten: nobody's randomness is used
        part._load_weights(folder)
        return part.eval()

    def _load_weights(self, folder: Path) -> None:
        """Read the weights; a part that saves none (a mere reference) overrides this."""
        try:
            self.load_state_dict(load_file(str(folder / "model.safetensors")))
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"{folder}: the weights do not fit the configuration: {error}"
            ) from error


def weights_fingerprint(module: nn.Module) -> str:
    """Hex digest of the names, types, shapes and values of a module's weights."""
    return tensors_fingerprint(module.state_dict())


def tensors_fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{flat.dtype}{tuple(flat.shape)}".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def config_from_plain(config_class: type, values: dict[str, Any], where: str | Path) -> Any:
    """A configuration dataclass from JSON values; nested dataclasses and tuples are restored.

    Raises `InputError` naming the field that is unknown.
    """
    import typing

    hints = typing.get_type_hints(config_class)
    known = {f.name for f in dataclasses.fields(config_class)}
    if unknown := sorted(set(values) - known):
        raise InputError(
            f"{where}: unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}"
        )
    restored = {}
    for name, value in values.items():
        hint = hints[name]
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if len(options) == 1 and type(None) in typing.get_args(hint):  # X | None
            hint = options[0]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            value = config_from_plain(hint, value, where)  # type: ignore[arg-type]
        elif isinstance(value, list) and typing.get_origin(hint) is tuple:
            value = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        restored[name] = value
    return config_class(**restored)
