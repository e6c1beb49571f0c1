"""Weights cut over processes (FSDP2): how they are cut, who holds what, how the whole comes back.

Every tensor is cut along its first dimension: process r of W holds rows [r * c, (r + 1) * c) of
ceil(rows / W) = c, so that the pieces, one after the other, are the whole.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from arra.errors import InputError
from arra.generators.base import Generator


def allow_sharding_on_cpu(accelerator: Accelerator) -> None:
    """Let accelerate shard over CPU processes, too, where it was launched with FSDP.

    It knows sharding on accelerators only and would go on with whole weights; torch can do it.
    """
    state = accelerator.state
    asked = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if asked and state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
        # In both places, as accelerate itself does: every new state object takes over the second.
        state.distributed_type = DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def shard(joint: nn.Module, accelerator: Accelerator, precision: str) -> None:
    """Cut the weights of `joint` in place and move them to the device, block by block.

    The blocks of the generator are gathered one at a time; what is left (embeddings, head, norms,
    projectors) is gathered as one for the whole forward and backward pass. In bf16 they are
    gathered as bf16, and gradients are added up in float32.

    Every process must hold the same weights before. Raises `InputError` for settings of accelerate
    that are not supported.
    """
    plugin = accelerator.state.fsdp_plugin
    if type(plugin.cpu_offload) is not OffloadPolicy:
        raise InputError("train: fsdp_offload_params is not supported; set it to false")
    if plugin.activation_checkpointing:
        raise InputError(
            "train: set TrainConfig.activation_checkpointing (--activation-checkpointing), and "
            "fsdp_activation_checkpointing to false"
        )
    bf16 = precision == "bf16"
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if bf16 else MixedPrecisionPolicy()
    generator: Generator = joint.generator  # type: ignore[assignment]
    for block in generator.decoder_blocks():
        fully_shard(block, mp_policy=policy, reshard_after_forward=plugin.reshard_after_forward)
    fully_shard(joint, mp_policy=policy)


def is_cut(tensor: Tensor) -> bool:
    """Whether this process holds only some rows of `tensor`."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """The rows that this process holds, in the same memory; of a whole tensor, the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor. All processes must ask for it together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rows_here(tensor: Tensor) -> tuple[int, int]:
    """The rows [start, stop) of the whole that this process holds; a scalar has one."""
    rows = tensor.shape[0] if tensor.ndim else 1
    if not isinstance(tensor, DTensor):
        return 0, rows
    each = -(-rows // tensor.device_mesh.size())
    start = min(tensor.device_mesh.get_local_rank() * each, rows)
    return start, min(start + each, rows)


def cut_like(update: Tensor, parameter: Tensor) -> Tensor:
    """`update`, whole in every process, cut as `parameter` is; nothing is sent."""
    if not isinstance(parameter, DTensor):
        return update
    start, stop = rows_here(parameter)
    return DTensor.from_local(
        update[start:stop],
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


@torch.no_grad()
def gather(target: nn.Module, source: nn.Module) -> None:
    """Copy the weights of the sharded `source` to `target`, whole, in every process.

    One tensor at a time; all processes must call it together.
    """
    into = target.state_dict()
    for name, tensor in source.state_dict().items():
        into[name].copy_(whole(tensor))
