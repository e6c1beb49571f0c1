"""Keeping the batches of a step whose loss or gradient was not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from arra.files import atomic_file, write_json
from arra.generators.base import Batch
from arra.training.checkpoint import separate


def keep_batches(
    folder: Path, step: int, rank: int, batches: Sequence[Batch], facts: dict[str, float]
) -> list[str]:
    """Write each micro-batch (safetensors) with its step and losses (JSON).

    Returns the names of the facts that are not finite.
    """
    values = {name: v if math.isfinite(v) else str(v) for name, v in facts.items()}
    for micro, batch in enumerate(batches):
        features = {f"features.{name}": tensor for name, tensor in batch.features.items()}
        tensors = {**batch.tensors(), **features}
        name = f"step-{step:08d}-rank{rank}-micro{micro}"
        with atomic_file(folder / f"{name}.safetensors") as temporary:
            save_file(separate(tensors), str(temporary))
        place = {"step": step, "rank": rank, "micro": micro}
        write_json(folder / f"{name}.json", {**place, "values": values})
    return [name for name, value in facts.items() if not math.isfinite(value)]
