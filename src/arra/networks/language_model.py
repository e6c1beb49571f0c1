"""What a Hugging Face causal language model must tell: its blocks, head and hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from arra.errors import InputError


def load_causal_lm(name: str | Path, **options: Any) -> PreTrainedModel:
    """`AutoModelForCausalLM.from_pretrained`, with weights where arithmetic expects them.

    transformers maps the file into memory, so that weights begin at addresses that depend on the
    length of its header; some CPU kernels then add in another order. Copies begin at aligned
    addresses, as those of a model made from scratch do: the same weights give the same bits.
    """
    lm = AutoModelForCausalLM.from_pretrained(name, **options)
    for parameter in lm.parameters():
        parameter.data = parameter.data.clone()
    return lm


def decoder_blocks(lm: PreTrainedModel) -> nn.ModuleList:
    """The decoder blocks of a causal language model, in order.

    They are found as the one `ModuleList` that has `num_hidden_layers` entries in the text decoder.
    """
    config = lm.config.get_text_config()
    depth = config.num_hidden_layers
    decoder = lm.get_decoder() if hasattr(lm, "get_decoder") else lm.base_model
    found = [
        module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if not found:
        raise InputError(f"{type(lm).__name__}: no list of its {depth} decoder blocks was found")
    return found[0]


def embedding_table(lm: PreTrainedModel) -> nn.Parameter:
    """(rows, D) the input embedding; it has room for as many token ids as rows."""
    table = lm.get_input_embeddings().weight
    assert isinstance(table, nn.Parameter)
    return table


_NOTES = frozenset({"transformers_version", "_name_or_path", "architectures", "dtype"})


def model_settings(lm: PreTrainedModel) -> dict[str, Any]:
    """The configuration that, beside the weights, says what the model computes (dropout, too).

    Without what transformers notes in it: versions, file names and types of the last saving; and
    without what has its default value, so that a release with a new field makes no other model.
    """

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {str(name): kept(item) for name, item in value.items() if name not in _NOTES}

    return kept(lm.config.to_diff_dict())


@contextmanager
def hidden_states(lm: PreTrainedModel, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Within the block, forward passes fill the yielded dictionary: layer -> (B, T, D).

    Layer 1 is the output of the first decoder block (the embeddings would be layer 0); the last
    layer is given before the final norm. Only what is asked for is kept.
    """
    blocks = decoder_blocks(lm)
    for layer in layers:
        if not 1 <= layer <= len(blocks):
            raise InputError(f"layer {layer}: expected 1 to {len(blocks)}, the number of blocks")
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[nn.Module, tuple, Tensor | tuple], None]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [blocks[layer - 1].register_forward_hook(keep(layer)) for layer in set(layers)]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def compile_blocks(lm: PreTrainedModel) -> None:
    """Compile the training pass of every decoder block; equal blocks share the compiled code.

    The forward is replaced, not the module: hooks stay outside of the compiled region, and the
    names of the weights do not change. In evaluation mode the plain forward runs, because decoding
    with a growing cache would compile every length anew.
    """
    for block in decoder_blocks(lm):
        block.forward = _compiled_in_training(block)


def _compiled_in_training(block: nn.Module) -> Callable[..., Any]:
    plain = block.forward
    compiled = torch.compile(plain)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(*args, **kwargs) if block.training else plain(*args, **kwargs)

    return forward


def head_logits(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(M, V) logits of (M, D) final, normalised hidden states, with the model's own scaling."""
    head = lm.get_output_embeddings()
    if head is None:
        raise InputError(f"{type(lm).__name__} has no output embeddings: not a language model?")
    logits = head(hidden)
    config = lm.config.get_text_config()
    if (scale := getattr(config, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (scaling := getattr(config, "logits_scaling", None)) is not None:  # Granite
        logits = logits / scaling
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = cap * torch.tanh(logits / cap)
    return logits
