"""Which parameter is updated by which optimiser, and which decays."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from arra.errors import InputError
from arra.training.config import TrainConfig
from arra.training.muon import Muon

# Modules of these names map hidden states to the vocabulary; Muon is not meant for that matrix.
_HEADS = frozenset({"head", "heads", "lm_head", "output_head", "unembedding"})


def build_optimizers(joint: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """Optimisers over the trainable parameters of `joint`, whose child `generator` is the network.

    AdamW [Loshchilov and Hutter, 2019] for everything, or, with optimizer="muon", Muon [Jordan et
    al., 2024] for the generator's hidden matrices and AdamW for the rest. Muon's updates are scaled
    to the size of AdamW's [Liu et al., 2025, section 2.2], so that one learning rate serves both.
    """
    decayed, plain, hidden = [], [], []
    head, tables = _head_parameters(joint), _embeddings(joint)
    for name, parameter, owner in _trainable(joint):
        pair = (name, parameter)
        if not _decays(name, parameter, owner, tables):
            plain.append(pair)
        elif config.optimizer == "muon" and _is_hidden(name, parameter, head):
            hidden.append(pair)
        else:
            decayed.append(pair)
    if not decayed + plain + hidden:
        raise InputError("train: the generator has no trainable parameter")
    built: list[Optimizer] = []
    if hidden:
        built.append(
            Muon(
                hidden,
                lr=config.learning_rate,
                weight_decay=config.weight_decay,
                scale=config.muon_scale,
            )
        )
    elif config.optimizer == "muon":
        raise InputError("TrainConfig.optimizer: 'muon', but the generator has no hidden matrix")
    groups = [
        {"params": pairs, "weight_decay": decay}
        for pairs, decay in ((decayed, config.weight_decay), (plain, 0.0))
        if pairs
    ]
    if groups:
        fused = all(p.device.type in ("cpu", "cuda") for _, p in decayed + plain)
        built.append(
            torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
        )
    return built


def _decays(name: str, parameter: nn.Parameter, owner: nn.Module, tables: set[int]) -> bool:
    """Whether weight decay applies: matrices, but no norm, bias or embedding (tied or not)."""
    if parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False):
        return False
    if "norm" in type(owner).__name__.lower() or "embed" in name.rsplit(".", 1)[-1].lower():
        return False
    return id(parameter) not in tables


def _trainable(joint: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """(name, parameter, module that holds it), each parameter once; checks that it is float32."""
    for name, parameter in joint.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.dtype in (torch.float16, torch.bfloat16):
            raise InputError(
                f"train: parameter {name} is {parameter.dtype}, in which small updates are lost; "
                "expected float32: load the model in float32 (TrainConfig.precision='bf16' makes "
                "the arithmetic bf16) or freeze the parameter"
            )
        yield name, parameter, joint.get_submodule(name.rpartition(".")[0])


def _embeddings(joint: nn.Module) -> set[int]:
    tables = (m.weight for m in joint.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    return {id(table) for table in tables}


def _head_parameters(joint: nn.Module) -> set[int]:
    """Parameters of output layers: modules called so, and what a transformers model names."""
    found: set[int] = set()
    for name, module in joint.named_modules():
        is_head = name.rsplit(".", 1)[-1] in _HEADS
        if is_head:
            found.update(id(parameter) for parameter in module.parameters())
        ask = getattr(module, "get_output_embeddings", None)
        output = ask() if callable(ask) else None
        if isinstance(output, nn.Module):
            found.update(id(parameter) for parameter in output.parameters())
    return found


def _is_hidden(name: str, parameter: nn.Parameter, head: set[int]) -> bool:
    in_generator = name.startswith("generator.") and name.endswith(".weight")
    return in_generator and parameter.ndim == 2 and id(parameter) not in head
