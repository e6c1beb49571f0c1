"""What decides the weights of a run: its settings, its data's beginning, its random numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from arra.errors import InputError
from arra.files import to_plain
from arra.networks.part import tensors_fingerprint
from arra.training.config import FREE_FIELDS, TrainConfig
from arra.training.joint import Joint
from arra.training.report import BatchSource


def identity(
    joint: Joint, batches: BatchSource, config: TrainConfig, precision: str, world: int
) -> dict[str, Any]:
    """Everything known that decides the weights, as plain JSON to compare two runs by.

    How many processes share the micro-batches of a step does not count, only how many there are.
    Weights that are not trained are not in checkpoints: their fingerprint stands here.
    """
    parts = config.accumulation * world
    kept = {name: v for name, v in to_plain(config).items() if name not in FREE_FIELDS}
    del kept["precision"]  # what "auto" was resolved to counts
    if config.schedule == "constant":
        del kept["steps"]  # then the number of steps does not change what happens before them
    first = batches.batch(0, 0, parts)
    found = {
        "TrainConfig": kept,
        "precision": precision,
        "accumulation x processes": parts,
        "objectives": {objective.name: objective.settings() for objective in joint.losses()},
        "generator": to_plain(joint.generator._settings()),
        "first_batch": tensors_fingerprint(
            {
                "tokens": first.tokens,
                "target": first.target,
                "position": first.position,
                **{f"features.{name}": tensor for name, tensor in first.features.items()},
            }
        ),
    }
    if frozen := {n: p for n, p in joint.named_parameters() if not p.requires_grad}:
        found["weights that are not trained"] = tensors_fingerprint(frozen)
    return json.loads(json.dumps(found, default=str))


def check_same_run(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    """Refuse to resume with settings that would change the weights; names the first such field."""
    before, after = _leaves(saved), _leaves(now)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise InputError(
                f"{path}: cannot resume, {name} was {before.get(name)!r} and is now "
                f"{after.get(name)!r}, which makes another run; set it back or use another folder"
            )


def step_seed(*numbers: int) -> int:
    """A seed that depends on all of `numbers` (seed, step, micro-batch)."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))  # torch takes 63 bits on every device


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries by dotted name."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        found.update(_leaves(item, f"{prefix}.{name}" if prefix else name))
    return found
