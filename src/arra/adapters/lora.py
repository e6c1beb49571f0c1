"""LoRA, DoRA and RandLoRA through peft, with the vocabulary's new rows trained in full.

Everything else is frozen. What an adapter computes is peft's; here is which layers it stands on,
which parameters train beside it, and how it is merged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from arra.errors import InputError
from arra.networks.language_model import decoder_blocks
from arra.networks.part import tensors_fingerprint
from arra.networks.rows import TrainedRows, merge_rows, train_rows_only
from arra.networks.tables import token_tables
from arra.randomness import seeded
from arra.settings import AdapterConfig

NAME = "default"


def adapt(lm: PreTrainedModel, config: AdapterConfig, rows: Sequence[int], seed: int) -> None:
    """Freeze `lm` and put adapters on its decoder's linear layers, in place.

    What trains: the adapters, the vocabulary rows of the ids `rows` in embedding and head, and
    whatever modules the model has for picture codes alone. At first the model computes what it did.

    Raises `InputError` when no layer has a name of `config.targets`.
    """
    from peft import get_peft_model

    targets = _targets(lm, config)
    own = token_tables(lm).own()
    with seeded(seed), warnings.catch_warnings():
        # of what is meant so: bases that are not saved, layers whose weights lie transposed
        warnings.simplefilter("ignore")
        get_peft_model(lm, _peft_config(config, targets, seed), adapter_name=NAME)
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_(_is_adapter(name))
    train_rows_only(lm, rows)
    for module in own:
        module.requires_grad_(True)


def _is_adapter(name: str) -> bool:
    """Whether a parameter is one that peft trains: they are named after its methods."""
    return any(part.startswith(("lora_", "randlora_")) for part in name.split("."))


def _targets(lm: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Full names of the linear layers of the decoder blocks, or of those that are asked for."""
    names = {id(module): name for name, module in lm.named_modules()}
    linear = [
        names[id(module)]
        for block in decoder_blocks(lm)
        for module in block.modules()
        if isinstance(module, (nn.Linear, Conv1D))
    ]
    if not config.targets:
        return linear
    found = [name for name in linear if name.rsplit(".", 1)[-1] in config.targets]
    there = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if missing := [one for one in config.targets if one not in there]:
        raise InputError(
            f"AdapterConfig.targets: no layer is named {missing[0]!r}; there are {', '.join(there)}"
        )
    return found


def _peft_config(config: AdapterConfig, targets: list[str], seed: int) -> Any:
    from peft import LoraConfig, RandLoraConfig

    if config.kind == "randlora":
        return RandLoraConfig(
            r=config.rank,
            randlora_alpha=config.alpha or 20 * config.rank,  # type: ignore[arg-type]
            randlora_dropout=config.dropout,
            target_modules=targets,
            projection_prng_key=seed,
            save_projection=False,  # the bases are a function of the seed
        )
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or 2 * config.rank,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=targets,
        use_dora=config.kind == "dora",
    )


def adapter_state(lm: PreTrainedModel) -> dict[str, Tensor]:
    """The trained tensors by name: adapters, vocabulary rows, modules for codes; each once."""
    return {name: p.detach() for name, p in lm.named_parameters() if p.requires_grad}


def load_adapter_state(lm: PreTrainedModel, state: dict[str, Tensor], where: str) -> None:
    """Put in place what `adapter_state` gave; `InputError` when it does not fit."""
    there = {name: p for name, p in lm.named_parameters() if p.requires_grad}
    for name in sorted(there.keys() ^ state.keys()):
        missing = "is missing" if name in there else "has no place in this model"
        raise InputError(f"{where}: the adapter does not fit, {name} {missing}")
    with torch.no_grad():
        for name, parameter in there.items():
            if parameter.shape != state[name].shape:
                shapes = f"{tuple(state[name].shape)}, expected {tuple(parameter.shape)}"
                raise InputError(f"{where}: the adapter does not fit, {name} is {shapes}")
            parameter.copy_(state[name])


def frozen_fingerprint(lm: PreTrainedModel) -> str:
    """Hex digest of what an adapter stands on: all weights that are not trained."""
    frozen = {name: p for name, p in lm.named_parameters() if not p.requires_grad}
    return tensors_fingerprint(frozen)


@torch.no_grad()
def merge(lm: PreTrainedModel) -> None:
    """Add the adapters to the weights, in place and for good: `lm` is a plain model again."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(lm.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            lm.set_submodule(name, module.get_base_layer())
    merge_rows(lm)
    for attribute in ("peft_config", "peft_type", "_hf_peft_config_loaded"):
        if attribute in vars(lm):
            delattr(lm, attribute)
    lm.requires_grad_(True)


@contextmanager
def adapters_off(lm: PreTrainedModel) -> Iterator[None]:
    """Within the block the adapters add nothing; the trained vocabulary rows stay."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in lm.modules() if isinstance(module, BaseTunerLayer)]
    trained = {name for name, p in lm.named_parameters() if p.requires_grad}
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for name, parameter in lm.named_parameters():  # switching changes what asks for gradients
            parameter.requires_grad_(name in trained)


def is_adapted(lm: PreTrainedModel) -> bool:
    """Whether `adapt` was called, and not yet `merge`."""
    return isinstance(lm.get_input_embeddings(), TrainedRows)
