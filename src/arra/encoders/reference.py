"""Encoders that others published: saved as a reference (name and digest), without weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from arra.encoders.base import Encoder
from arra.encoders.preprocessing import Preprocessing
from arra.errors import InputError, ProvenanceError
from arra.files import write_json

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class ReferencedEncoder(Encoder):
    """A published vision model. `__init__` loads it, and compares its digest with the recorded."""

    preprocessing: Preprocessing

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Pixels (B, 3, S, S) float32."""
        return self.preprocessing(images)

    def _settings(self) -> dict[str, Any]:
        return self.identity()  # without the folder's place, like the identity

    def _save_pretrained(self, save_directory: Path) -> None:
        values = {"kind": self.registry.kind, "name": self.registered_name, "config": self.config}
        write_json(save_directory / "config.json", values)

    def _load_weights(self, folder: Path) -> None:
        """Nothing to read: the model was loaded, and its digest compared, by `__init__`."""


def check_digest(model: str, expected: str | None, found: str) -> None:
    """`ProvenanceError` unless the weights are those that were recorded, if any were."""
    if expected not in (None, found):
        raise ProvenanceError(
            f"{model}: its weights have digest {found[:12]}, expected {str(expected)[:12]}; "
            "another model lies there now"
        )


def block_number(layer: int | None, depth: int, field: str, name: str) -> int | None:
    """`layer` counted from 1; `InputError` naming the `field` where there is no such block."""
    if layer is None:
        return None
    if layer == 0 or not -depth <= layer <= depth:
        raise InputError(f"{field}: {layer}, expected 1 to {depth} or -{depth} to -1 for {name}")
    return layer if layer > 0 else depth + 1 + layer
