"""Generator and objectives as one module, and the accelerator that runs it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedType
from torch import Tensor, nn

from arra.errors import InputError
from arra.generators.base import Batch, Generator
from arra.objectives.base import Objective
from arra.training.sharding import allow_sharding_on_cpu

_KINDS = {"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "FSDP"}


class Joint(nn.Module):
    """One forward pass from a batch to the losses.

    One module, so that data parallelism, which acts on a forward pass, sees objectives' parameters.
    """

    def __init__(self, generator: Generator, objectives: Sequence[Objective]):
        super().__init__()
        self.generator = generator
        self.objectives = nn.ModuleList(objectives)

    def losses(self) -> list[Objective]:
        """The objectives, in order."""
        return cast(list[Objective], list(self.objectives))

    def weights(self, step: int) -> dict[int, float]:
        """Weight by index of the objectives that count at `step`: only these are evaluated."""
        found = {i: float(loss.weight(step)) for i, loss in enumerate(self.losses())}
        active = {index: weight for index, weight in found.items() if weight != 0}
        if not active:
            raise InputError(f"train: every objective has weight 0 at step {step}")
        return active

    def forward(self, batch: Batch, scales: dict[int, float]) -> tuple[Tensor, dict[int, Tensor]]:
        """Sum of scale * loss over the objectives in `scales`, and their losses, detached."""
        chosen = {index: self.losses()[index] for index in scales}
        layers = sorted({layer for objective in chosen.values() for layer in objective.layers})
        output = self.generator(batch, layers)
        losses = {index: objective(output, batch).float() for index, objective in chosen.items()}
        total = torch.stack([scales[index] * loss for index, loss in losses.items()]).sum()
        return total, {index: loss.detach() for index, loss in losses.items()}


def check_objectives(objectives: Sequence[Objective], depth: int) -> None:
    """`InputError` unless there are objectives, of different names, reading layers that exist."""
    if not objectives:
        raise InputError("train: no objectives; expected at least one, such as NextToken()")
    names = [objective.name for objective in objectives]
    reserved = {"step", "loss", "lr", "grad_norm", "seconds", "data_seconds", "validation"}
    for name in names:
        if names.count(name) > 1 or name in reserved:
            raise InputError(f"train: the objective name {name!r} is taken; names are columns")
    for objective in objectives:
        if wrong := [layer for layer in objective.layers if not 1 <= layer <= depth]:
            raise InputError(
                f"train: objective {objective.name} reads layer {wrong[0]}, expected 1 to {depth}"
            )


def fresh_accelerator(
    precision: str, trackers: Sequence[str], folder: Path, unused_parameters: bool
) -> Accelerator:
    """An accelerator with its own settings, however many there were in this process before.

    The process group, if any, is kept: only what `Accelerator` would refuse to change is reset.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    ddp = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)
    _check_trackers(trackers)
    accelerator = Accelerator(
        mixed_precision={"fp32": "no", "bf16": "bf16"}[precision],
        log_with=list(trackers) or None,
        project_dir=str(folder),
        kwargs_handlers=[ddp],
    )
    allow_sharding_on_cpu(accelerator)
    kind: DistributedType = accelerator.distributed_type
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise InputError("train: FSDP of version 1; run `accelerate launch` with --fsdp_version 2")
    if kind.value not in _KINDS:
        raise InputError(
            f"train: accelerate is configured for {kind.value}; expected whole weights in every "
            "process (--multi_gpu) or FSDP2 (--use_fsdp --fsdp_version 2)"
        )
    return accelerator


def _check_trackers(trackers: Sequence[str]) -> None:
    ready = {str(tracker) for tracker in get_available_trackers()}
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise InputError(f"TrainConfig.trackers: {name!r}, expected some of {known}")
        if name not in ready:
            raise InputError(
                f"TrainConfig.trackers: {name!r} needs a package that is not installed; "
                f"run `pip install {name}` or leave the tracker out"
            )


def checkpointed_activations(generator: Generator) -> AbstractContextManager[None]:
    """The generator's own `checkpointed_activations()`; `InputError` where it has none."""
    offered = getattr(generator, "checkpointed_activations", None)
    if not callable(offered):
        raise InputError(
            f"TrainConfig.activation_checkpointing: {type(generator).__name__} does not offer it"
        )
    return offered()


def try_compile(joint: Joint, attempt: Callable[[], None] | None) -> bool:
    """Compile the generator's blocks, and what objectives have to compile, and run `attempt` with
    them; on failure go back, and say so.

    Without an attempt (sharded weights: a pass that fails half-way leaves them in disorder) failure
    shows in the first step. `generator.compile_blocks()` compiles in place: `module.compile()`, or
    a compiled `forward` on the instance. Compilation happens at the first call only, hence the
    attempt; buffers are left as they were.
    """
    if not callable(getattr(joint.generator, "compile_blocks", None)):
        warnings.warn(f"{type(joint.generator).__name__} has nothing to compile", stacklevel=3)
        return False
    buffers = {name: buffer.clone() for name, buffer in joint.named_buffers()}
    calls = ("forward", "_compiled_call_impl")
    eager = [(m, {c: vars(m)[c] for c in calls if c in vars(m)}) for m in joint.modules()]
    try:
        for part in (joint.generator, *joint.objectives):
            if callable(compile_blocks := getattr(part, "compile_blocks", None)):
                compile_blocks()
        if attempt is not None:
            attempt()
        return True
    except Exception as error:  # whatever the compiler's stack raises: C++ missing, graph breaks
        for module, own in eager:
            for call in calls:
                vars(module).pop(call, None)
            vars(module).update(own)
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(f"not compiled, training goes on without: {reason}", stacklevel=3)
        return False
    finally:
        with torch.no_grad():
            for name, buffer in joint.named_buffers():
                if name in buffers:  # a forward pass may add caches
                    buffer.copy_(buffers[name])
